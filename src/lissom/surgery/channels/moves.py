"""Rules of operations that only move numbers: labels move the same way."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..trace import Op
from .axes import same, varies
from .labels import Labels
from .refusals import unknown

MOVES = set(
    """
    permute transpose t split split_with_sizes chunk slice select unsqueeze squeeze expand clone
    alias detach unbind contiguous pixel_shuffle pixel_unshuffle unsafe_split unsafe_chunk
    narrow flip roll repeat index index_select im2col movedim unfold
    """.split()
)
VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "view_as"}
SPLITS = {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"}


def move(labels: Labels, op: Op) -> None:
    """Run the operation on the labels of its first argument, with its other arguments as recorded."""
    moving = op.args[0]
    if isinstance(moving, Tensor):
        channels = labels.find(moving)
        moving = same(moving, 0) if channels is None else channels.expand(moving.shape)
    args = [moving, *op.args[1:]]
    settings = {k: v for k, v in op.kwargs.items() if k != "memory_format"}
    if op.name == "im2col":  # takes only floating-point tensors
        moved = op.func(args[0].double(), *args[1:], **settings).long()
    else:
        moved = op.func(*args, **settings)
    pieces = [moved] if isinstance(moved, Tensor) else list(moved)
    if op.name in SPLITS and len({p.shape for p in pieces}) == 1 and labels.makers(args[0]):
        labels.split_layers |= labels.makers(args[0])
        if labels.tied & labels.makers(args[0]):
            for one, two in pairwise(pieces):
                labels.equal(one, two)
    for tensor, channels in zip(op.outputs, pieces, strict=True):
        labels[tensor] = channels


def view(labels: Labels, op: Op) -> None:
    """Reshape labels; tie channels that a merge of axes interleaves.

    A channel shuffle transposes (g n) to (n g) and merges both axes. The network's code then
    assumes that each of the g blocks has the same n, so the g channels of each n are cut together.
    """
    channels = labels.find(op.args[0])
    shape = op.outputs[0].shape
    if channels is None:
        return unknown(labels, op)
    channels = channels.expand(op.args[0].shape)
    for dims in merged_axes(channels.shape, shape):
        dims = [d for d in dims if channels.shape[d] > 1 and varies(channels, d)]
        if len(dims) > 1:
            first = channels
            for dim in set(range(channels.ndim)) - set(dims):
                first = first.narrow(dim, 0, 1)
            if bool((first.flatten().diff() < 0).any()):
                labels.tie(channels, dims[1:])
    labels[op.outputs[0]] = channels.reshape(shape)
    return None


def merged_axes(before: torch.Size, after: torch.Size) -> list[list[int]]:
    """Return the runs of axes of `before` that become one axis of `after`."""
    merges = []
    i = 0
    j = 0
    while i < len(before) and j < len(after):
        start = i
        ends = j
        left = before[i]
        right = after[j]
        while left != right:
            if left < right:
                i += 1
                left *= before[i]
            else:
                j += 1
                right *= after[j]
        if i > start and j == ends:
            merges.append(list(range(start, i + 1)))
        i += 1
        j += 1
    return merges


def shuffle(labels: Labels, op: Op) -> None:
    """Shuffle channels. Those at the same index of every group are cut together, as in `view`."""
    x = labels[op.args[0]]
    groups = op.args[1]
    tied = labels.tie(x.unflatten(1, (groups, -1)), [1])
    labels[op.outputs[0]] = tied.transpose(1, 2).flatten(1, 2)


def cat(labels: Labels, op: Op) -> None:
    """Concatenate labels. If the axis is one of positions, all parts must hold the same channels."""
    tensors = op.args[0]
    dim = (op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)) % op.outputs[0].ndim
    parts = []
    for tensor in tensors:
        channels = labels.find(tensor)
        if tensor.shape != (0,):  # an empty tensor may be of any shape
            channels = (torch.tensor(0) if channels is None else channels).expand(tensor.shape)
            parts.append(channels.unsqueeze(dim) if op.name == "stack" else channels)
    for d in range(op.outputs[0].ndim):  # axes along which all parts repeat stay short
        if d != dim and all(p.stride(d) == 0 for p in parts):
            parts = [p.narrow(d, 0, 1) for p in parts]
    if not any(varies(p, dim) for p in parts):
        firsts = [p.narrow(dim, 0, 1) for p in parts if p.shape[dim]]
        if any(any(varies(p, d) for d in range(p.ndim)) for p in firsts):
            for other in firsts[1:]:
                labels.equal(firsts[0], other)
            parts = [firsts[0].expand(p.shape) for p in parts]
    labels[op.outputs[0]] = torch.cat(parts, dim).expand(op.outputs[0].shape)


def pad(labels: Labels, op: Op) -> None:
    """Pad with a constant. Positions take their neighbours' labels; added channels must stay."""
    channels = labels[op.args[0]]
    amounts = op.args[1]
    out = op.outputs[0]
    for k in range(len(amounts) // 2):
        dim = channels.ndim - 1 - k
        before = amounts[2 * k]
        after = amounts[2 * k + 1]
        if before < 0 or after < 0:
            return unknown(labels, op)
        if not before and not after:
            continue
        if varies(channels, dim):
            channels = torch.constant_pad_nd(channels, [0, 0] * k + [before, after])
        else:  # all positions hold the same channels, and so do the added ones
            shape = list(channels.shape)
            shape[dim] += before + after
            channels = channels.narrow(dim, 0, 1).expand(shape)
    labels[out] = channels.expand(out.shape)
    return None
