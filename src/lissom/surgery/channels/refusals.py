"""Operations that are not followed: their inputs and outputs are not cut, and the reason is kept."""

from __future__ import annotations

from ..trace import Op
from .axes import same
from .labels import Labels


def unknown(labels: Labels, op: Op, reason: str = "") -> None:
    """Declare that the inputs and outputs of an operation must not be cut."""
    for tensor in op.inputs():
        if tensor in labels:
            labels.freeze(labels[tensor], reason or f"'{op.name}' is not followed")
    for tensor in op.outputs:
        labels[tensor] = same(tensor, 0)


def computed(labels: Labels, op: Op, reason: str) -> None:
    """Declare that inputs and outputs must not be cut, and record the reason for the layer.

    The layer is the module that returned the output. The trace shows no use of its parameters.
    """
    labels.left.update(
        {
            layer: reason
            for layer, output in labels.trace.returned.items()
            if output is op.outputs[0]
        }
    )
    unknown(labels, op, reason)
