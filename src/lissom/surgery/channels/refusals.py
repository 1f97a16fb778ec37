"""Operations that are not followed: their inputs and outputs are not cut, and the reason is kept."""

from __future__ import annotations

import torch

from ..trace import Op
from .axes import same, thin
from .labels import Labels


def unknown(labels: Labels, op: Op, reason: str = "") -> None:
    """Declare that the inputs and outputs of an operation must not be cut."""
    reason = reason or f"'{op.name}' is not followed"
    label = labels.frozen_label(reason)
    known = [labels[tensor] for tensor in op.inputs() if tensor in labels]
    for channels in known:
        labels.freeze(channels, reason)
    if known:  # what reads the outputs stays for an earlier reason if the inputs do
        labels.equal(thin(known[0])[0].reshape(-1)[:1], torch.tensor([label]))
    for tensor in op.outputs:
        labels[tensor] = same(tensor, label)


def computed(labels: Labels, op: Op, reason: str) -> None:
    """Declare that inputs and outputs must not be cut, and record the reason for the layer.

    The layer is the module that returned the output. The trace shows no use of its parameters.
    """
    labels.left_whole.update(
        {
            layer: reason
            for layer, output in labels.trace.returned.items()
            if output is op.outputs[0]
        }
    )
    unknown(labels, op, reason)
