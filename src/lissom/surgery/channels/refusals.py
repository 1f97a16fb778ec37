"""Operations that are not followed: nothing that enters or leaves them is cut, with the reason."""

from __future__ import annotations

from ..trace import Op
from .axes import same
from .labels import Labels


def unknown(labels: Labels, op: Op, reason: str = "") -> None:
    """Let nothing that enters or leaves be cut."""
    for tensor in op.inputs():
        if tensor in labels:
            labels.freeze(labels[tensor], reason or f"'{op.name}' is not followed")
    for tensor in op.outputs:
        labels[tensor] = same(tensor, 0)


def computed(labels: Labels, op: Op, reason: str) -> None:
    """Let nothing that enters or leaves be cut, and name the layer, of whose own parameters the
    trace shows no use.
    """
    labels.left.update(
        {
            layer: reason
            for layer, output in labels.trace.returned.items()
            if output is op.outputs[0]
        }
    )
    unknown(labels, op, reason)
