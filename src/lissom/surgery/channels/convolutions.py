"""The rule of convolutions: they read the labels of their inputs and make new labels."""

from __future__ import annotations

import torch

from ..trace import Op
from .labels import Labels
from .refusals import computed, unknown


def convolution(labels: Labels, op: Op) -> None:
    """Read the labels of channels at axis 1 and make new ones. Groups must keep equal counts."""
    x, weight, bias, *_, transposed, _, groups = op.args[:9]
    name = labels.trace.names.get(weight)
    out = op.outputs[0]
    if name is None and bias is None and is_blur(labels, op):
        labels[out] = labels.tie(labels[x], range(2, x.ndim))[..., :1, :1].expand(out.shape)
        return None
    if name is None or (bias is not None and bias not in labels.trace.names) or x not in labels:
        return computed(labels, op, "the weights of a convolution are computed")
    channels = labels[x]
    layer = name.rpartition(".")[0]
    if channels.ndim != out.ndim:
        return unknown(labels, op)
    entering = labels.along(channels, 1)
    filters, readers = (1, 0) if transposed else (0, 1)
    if groups == 1:
        leaving = labels.fresh(out.shape[1], layer)
        labels.use(name, filters, "out", leaving)
        labels.use(name, readers, "in", entering)
    elif x.shape[1] == groups:  # depthwise: an input channel and its outputs are cut together
        leaving = entering.repeat_interleave(out.shape[1] // groups)
        labels.use(name, 0, "out", entering if transposed else leaving)
    else:
        leaving = labels.fresh(out.shape[1], layer)
        labels.blocks += [(leaving, groups), (entering, groups)]
        labels.use(name, filters, "out", leaving.view(groups, -1) if transposed else leaving)
        labels.use(name, readers, "in", entering if transposed else entering.view(groups, -1))
    if bias is not None:
        labels.use(labels.trace.names[bias], 0, "vector", leaving)
    labels[out] = leaving.view(1, -1, *[1] * (channels.ndim - 2)).expand(out.shape)
    return None


def is_blur(labels: Labels, op: Op) -> bool:
    """Return whether a convolution applies the same constant filter to every channel."""
    x, weight = op.args[:2]
    groups = op.args[8]
    return (
        x in labels
        and weight not in labels
        and x.ndim == 4
        and groups == x.shape[1] == op.outputs[0].shape[1]
        and torch.equal(weight, weight[:1].expand_as(weight))
    )
