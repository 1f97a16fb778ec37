"""Rules of normalization layers."""

from __future__ import annotations

from torch import Tensor

from ..trace import Op
from .axes import varies
from .labels import Labels
from .refusals import unknown

NORMS = {
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "batch_norm",
}


def batch_norm(labels: Labels, op: Op) -> None:
    """Normalise each channel by itself."""
    x = op.args[0]
    tensors = op.args[1:5]
    if any(
        isinstance(t, Tensor) and t not in labels.trace.names and labels.find(t) is None
        for t in tensors
    ):
        return unknown(labels, op, "the scales of a batch-norm are computed")
    channels = labels[x]
    row = labels.along(channels, 1)
    for k, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            continue
        if tensor in labels.trace.names:
            labels.use(labels.trace.names[tensor], 0, "vector" if k else "scale", row)
        else:
            labels.equal(labels[tensor], row)
    labels[op.outputs[0]] = channels
    return None


def group_norm(labels: Labels, op: Op) -> None:
    """Normalise groups of channels. A group can only be cut as a whole."""
    channels = labels[op.args[0]]
    groups = op.args[6]
    if op.args[1] is None or any(t not in labels.trace.names for t in op.args[1:3]):
        return unknown(labels, op, "a group-norm without scales of its own")
    row = labels.along(channels, 1)
    labels.tie(row.view(groups, -1), [1])
    labels.use(labels.trace.names[op.args[1]], 0, "scale", row)
    labels.use(labels.trace.names[op.args[2]], 0, "vector", row)
    labels[op.outputs[0]] = channels
    return None


def layer_norm(labels: Labels, op: Op) -> None:
    """Normalise over the last axes. Channels there cannot be cut, as this would change the mean."""
    channels = labels[op.args[0]]
    if any(varies(channels, channels.ndim - 1 - k) for k in range(len(op.args[1]))):
        labels.freeze(channels, "layer normalisation averages over its channels")
    labels[op.outputs[0]] = channels
