"""Rules of pooling, reductions and softmax."""

from __future__ import annotations

import torch

from ..trace import Op
from .axes import varies
from .labels import Labels
from .refusals import unknown

POOLS = set(
    """
    max_pool2d_with_indices max_pool2d avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d
    adaptive_max_pool2d avg_pool3d max_pool3d_with_indices _adaptive_avg_pool3d reflection_pad1d
    reflection_pad2d replication_pad2d upsample_nearest1d upsample_nearest2d upsample_bilinear2d
    _upsample_nearest_exact2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    upsample_linear1d upsample_trilinear3d upsample_nearest3d grid_sampler_2d roi_align
    """.split()
)
REDUCTIONS = {
    "mean": 1,
    "sum": 1,
    "amax": 1,
    "amin": 1,
    "var": 1,
    "std": 1,
    "logsumexp": 1,
    "linalg_vector_norm": 2,
}
ZEROS_ADD_NOTHING = {"sum", "linalg_vector_norm"}


def pool(labels: Labels, op: Op) -> None:
    """Mix positions. The positions that are mixed must all hold the same channels."""
    channels = labels[op.args[0]]
    out = op.outputs[0]
    if channels.ndim < 3:
        return unknown(labels, op)
    first = labels.tie(channels, range(2, channels.ndim))[
        (slice(None), slice(None), *[slice(0, 1)] * (channels.ndim - 2))
    ]
    for tensor in op.outputs:
        fits = tensor.shape[:2] == out.shape[:2]
        labels[tensor] = (first if fits else torch.tensor(0)).expand(tensor.shape)
    return None


def unpool(labels: Labels, op: Op) -> None:
    """Unpool channel by channel, at the positions where another activation had its maxima."""
    x, places = op.args[:2]
    if x not in labels or places not in labels:
        return unknown(labels, op)
    labels.equal(labels[x], labels[places])
    return pool(labels, op)


def reduce(labels: Labels, op: Op) -> None:
    """Reduce over axes. Channels that are reduced together are cut together."""
    channels = labels[op.args[0]]
    out = op.outputs[0]
    place = REDUCTIONS[op.name]
    axes = op.args[place] if len(op.args) > place else op.kwargs.get("dim")
    if type(axes) is int:
        axes = [axes]
    if not isinstance(axes, (list, tuple)) or not axes:  # as in var(x, unbiased), sum(x, dtype=...)
        return unknown(labels, op)
    dims = sorted(d % channels.ndim for d in axes)
    over = [d for d in range(channels.ndim) if varies(channels, d)]
    if over and op.name in ZEROS_ADD_NOTHING and set(over) <= set(dims):
        # a number of no channel. Removing zeros does not change it; the trial shows whether cut
        # channels are zero there
        return None
    first = labels.tie(channels, dims)
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    if out.ndim < channels.ndim:
        for dim in reversed(dims):
            first = first.squeeze(dim)
    labels[out] = first.expand(out.shape)
    return None


def softmax(labels: Labels, op: Op) -> None:
    """Normalise over an axis. All channels along it are cut together."""
    labels[op.outputs[0]] = labels.tie(labels[op.args[0]], [op.args[1]])
