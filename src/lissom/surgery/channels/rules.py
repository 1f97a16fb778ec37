"""What each operation does to the labels of channels.

A rule may declare more labels equal than need be, never fewer: what is equal is cut together, which
is always exact. Activations are (n c ...) for convolutions, pooling and batch-norm, (... c) for
linear layers. Where an operation mixes channels (a reduction, a softmax, a product of two
activations, a normalisation over some of them), its rule declares these equal and does not give up.
So attention heads, groups of a group norm and channels that a shuffle interleaves become units by
themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..trace import Op
from .axes import same, thin, varies
from .labels import Labels
from .products import heads, linear, product
from .refusals import computed, unknown

MOVES = set(
    """
    permute transpose t split split_with_sizes chunk slice select unsqueeze squeeze expand clone
    alias detach unbind contiguous pixel_shuffle pixel_unshuffle unsafe_split unsafe_chunk
    narrow flip roll repeat index index_select im2col movedim unfold
    """.split()
)
VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "view_as"}
SPLITS = {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"}
POINTWISE = set(
    """
    relu sigmoid tanh hardtanh hardswish hardsigmoid silu gelu elu leaky_relu mish softplus
    clamp clamp_min clamp_max neg abs square sqrt rsqrt reciprocal exp log erf sign round
    dropout native_dropout bernoulli pow add sub rsub mul div maximum minimum hardshrink
    log_sigmoid_forward fill where lerp sin cos _prelu_kernel masked_fill zeros_like ones_like
    full_like rand_like empty_like _to_copy gt ge lt le eq ne logical_not addcmul relu6 celu
    selu lift_fresh zero
    """.split()
)
NORMS = {
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "batch_norm",
}
POOLS = set(
    """
    max_pool2d_with_indices max_pool2d avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d
    adaptive_max_pool2d avg_pool3d max_pool3d_with_indices _adaptive_avg_pool3d reflection_pad1d
    reflection_pad2d replication_pad2d upsample_nearest1d upsample_nearest2d upsample_bilinear2d
    _upsample_nearest_exact2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    upsample_linear1d upsample_trilinear3d upsample_nearest3d grid_sampler_2d roi_align
    """.split()
)
ZEROS_ADD_NOTHING = {"sum", "linalg_vector_norm"}
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
ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
}
Rule = Callable[["Labels", "Op"], None]


def move(labels: Labels, op: Op) -> None:
    """Move labels as the data moves: by the operation itself. Numbers to index with are no data."""

    def swap(value: Any) -> Any:
        if isinstance(value, Tensor):
            channels = labels.find(value)
            return same(value, 0) if channels is None else channels.expand(value.shape)
        return value

    args = [swap(op.args[0]), *op.args[1:]]
    settings = {k: v for k, v in op.kwargs.items() if k != "memory_format"}
    if op.name == "im2col":  # PyTorch has it for floating-point numbers alone
        moved = op.func(args[0].double(), *args[1:], **settings).long()
    else:
        moved = op.func(*args, **settings)
    pieces = [moved] if isinstance(moved, Tensor) else list(moved)
    if op.name in SPLITS and len({p.shape for p in pieces}) == 1 and labels.makers(args[0]):
        labels.split |= labels.makers(args[0])
        if labels.tied & labels.makers(args[0]):
            for one, two in pairwise(pieces):
                labels.equal(one, two)
    for tensor, channels in zip(op.outputs, pieces, strict=True):
        labels[tensor] = channels


def view(labels: Labels, op: Op) -> None:
    """Reshape labels; where axes are merged in another order than channels were made in, tie what
    interleaves.

    A channel shuffle merges (n g) after g blocks of n changed places with them: the network's code
    then counts on every block keeping the same n, so the g channels of each n are cut together.
    """
    channels = labels.find(op.args[0])
    shape = op.outputs[0].shape
    if channels is None:
        return unknown(labels, op)
    channels = channels.expand(op.args[0].shape)
    for dims in _merges(channels.shape, shape):
        dims = [d for d in dims if channels.shape[d] > 1 and varies(channels, d)]
        if len(dims) > 1:
            first = channels
            for dim in set(range(channels.ndim)) - set(dims):
                first = first.narrow(dim, 0, 1)
            if bool((first.flatten().diff() < 0).any()):
                labels.tie(channels, dims[1:])
    labels[op.outputs[0]] = channels.reshape(shape)
    return None


def shuffle(labels: Labels, op: Op) -> None:
    """Shuffle channels: those that stand at one place in every group stay together, as in `view`."""
    x = labels[op.args[0]]
    groups = op.args[1]
    tied = labels.tie(x.unflatten(1, (groups, -1)), [1])
    labels[op.outputs[0]] = tied.transpose(1, 2).flatten(1, 2)


def _merges(before: torch.Size, after: torch.Size) -> list[list[int]]:
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
        i = i + 1
        j = j + 1
    return merges


def cat(labels: Labels, op: Op) -> None:
    """Concatenate labels; axes along which all of them repeat stay short. Positions put together
    hold the same channels.
    """
    tensors = op.args[0]
    dim = (op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)) % op.outputs[0].ndim
    parts = []
    for tensor in tensors:
        channels = labels.find(tensor)
        if tensor.shape != (0,):  # an empty tensor may be of any shape
            channels = (torch.tensor(0) if channels is None else channels).expand(tensor.shape)
            parts.append(channels.unsqueeze(dim) if op.name == "stack" else channels)
    for d in range(op.outputs[0].ndim):
        if d != dim and all(p.stride(d) == 0 for p in parts):
            parts = [p.narrow(d, 0, 1) for p in parts]
    if not any(varies(p, dim) for p in parts):
        firsts = [p.narrow(dim, 0, 1) for p in parts if p.shape[dim]]
        if any(any(varies(p, d) for d in range(p.ndim)) for p in firsts):
            for other in firsts[1:]:
                labels.equal(firsts[0], other)
            parts = [firsts[0].expand(p.shape) for p in parts]
    labels[op.outputs[0]] = torch.cat(parts, dim).expand(op.outputs[0].shape)


def pointwise(labels: Labels, op: Op) -> None:
    """Element by element: what meets must be the same channel, unless one number meets all channels."""
    shape = op.outputs[0].shape
    known = [labels[t] for t in op.inputs() if t in labels]
    widest = max((f.expand(shape) for f in known), key=lambda f: thin(f)[0].numel())
    varying = [d for d in range(-len(shape), 0) if varies(widest, d)]
    for tensor in op.inputs():
        channels = labels.find(tensor, widest)
        if (
            channels is None
            and tensor.numel() > 1
            and any(-d <= tensor.ndim and tensor.shape[d] > 1 and tensor.stride(d) for d in varying)
        ):
            return unknown(
                labels, op, f"a tensor that is no parameter of one axis enters '{op.name}'"
            )
        if channels is not None and channels.numel() >= 1:
            if varying and all(-d > channels.ndim or channels.shape[d] == 1 for d in varying):
                labels.freeze(channels, "it gates every channel of another activation")
            else:
                labels.equal(widest, channels.expand(shape))
    for tensor in op.outputs:
        labels[tensor] = widest.expand(tensor.shape)
    return None


def pool(labels: Labels, op: Op) -> None:
    """Mix positions: each channel must fill all the positions it is mixed over."""
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


def gated(labels: Labels, op: Op) -> None:
    """Multiply the first half of an axis by what the second half gates: both halves lose the same."""
    first, second = labels[op.args[0]].chunk(2, op.args[1] if len(op.args) > 1 else -1)
    labels.equal(first, second)
    labels[op.outputs[0]] = first


def write(labels: Labels, op: Op) -> None:
    """Write into a part of an activation: what is written takes the place of the same channel."""
    into, what = op.args[:2]
    if into not in labels:
        return unknown(labels, op, "it is written into a tensor that the code makes")
    channels = labels.find(what, labels[into])
    if channels is not None:
        labels.equal(labels[into], channels.expand(into.shape))
    elif what.numel() > 1:
        return unknown(labels, op, "a tensor that is no parameter of one axis is written into it")
    labels[op.outputs[0]] = labels[into]
    return None


def unpool(labels: Labels, op: Op) -> None:
    """Put pooled numbers back where another activation had its largest: channel by channel."""
    x, places = op.args[:2]
    if x not in labels or places not in labels:
        return unknown(labels, op)
    labels.equal(labels[x], labels[places])
    return pool(labels, op)


def pad(labels: Labels, op: Op) -> None:
    """Pad positions with a number; channels padded with it are the code's own."""
    channels = labels[op.args[0]]
    amounts = op.args[1]
    out = op.outputs[0]
    for k in range(len(amounts) // 2):
        dim = channels.ndim - 1 - k
        before = amounts[2 * k]
        after = amounts[2 * k + 1]
        if before < 0 or after < 0:
            return unknown(labels, op)
        if before or after:
            if not varies(channels, dim):  # every position is alike, those padded as well
                channels = channels.narrow(dim, 0, 1).expand(
                    *channels.shape[:dim],
                    channels.shape[dim] + before + after,
                    *channels.shape[dim + 1 :],
                )
            else:
                zero = torch.zeros((), dtype=torch.long)
                ends = [
                    zero.expand(*channels.shape[:dim], n, *channels.shape[dim + 1 :])
                    for n in (before, after)
                ]
                channels = torch.cat([ends[0], channels, ends[1]], dim)
    labels[out] = channels.expand(out.shape)
    return None


def reduce(labels: Labels, op: Op) -> None:
    """Reduce over axes: what is reduced together is cut together."""
    channels = labels[op.args[0]]
    out = op.outputs[0]
    place = REDUCTIONS[op.name]
    axes = op.args[place] if len(op.args) > place else op.kwargs.get("dim")
    if (
        axes is None
        or isinstance(axes, (bool, torch.dtype))
        or (isinstance(axes, (list, tuple)) and not axes)
    ):
        return unknown(labels, op)
    dims = sorted(d % channels.ndim for d in (axes if isinstance(axes, (list, tuple)) else [axes]))
    over = [d for d in range(channels.ndim) if varies(channels, d)]
    if over and op.name in ZEROS_ADD_NOTHING and set(over) <= set(dims):
        # one number, of no channel, to which zeros add nothing; whether they are zeros, a trial
        # shows
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
    """Normalise over an axis: everything along it depends on everything."""
    labels[op.outputs[0]] = labels.tie(labels[op.args[0]], [op.args[1]])


def convolution(labels: Labels, op: Op) -> None:
    """Read the labels of channels at axis 1 and make new ones; groups hold equal counts."""
    x, weight, bias, *_, transposed, _, groups = op.args[:9]
    name = labels.trace.names.get(weight)
    if name is None and bias is None and _filters_each_alike(labels, op):
        labels[op.outputs[0]] = labels.tie(labels[x], range(2, x.ndim))[..., :1, :1].expand(
            op.outputs[0].shape
        )
        return None
    if name is None or (bias is not None and bias not in labels.trace.names) or x not in labels:
        return computed(labels, op, "the weights of a convolution are computed")
    channels = labels[x]
    layer = name.rpartition(".")[0]
    out = op.outputs[0]
    if channels.ndim != out.ndim:
        return unknown(labels, op)
    entering = labels.tie(channels, [0, *range(2, channels.ndim)])[0].reshape(
        channels.shape[1], -1
    )[:, 0]
    filters, readers = (1, 0) if transposed else (0, 1)
    if groups == 1:
        leaving = labels.fresh(out.shape[1], layer)
        labels.use(name, filters, "out", leaving)
        labels.use(name, readers, "in", entering)
    elif x.shape[1] == groups:  # depthwise: what a channel makes goes with it
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


def _filters_each_alike(labels: Labels, op: Op) -> bool:
    """Return whether one constant filter, repeated, runs over every channel: a blur."""
    x = op.args[0]
    weight = op.args[1]
    groups = op.args[8]
    return (
        x in labels
        and weight not in labels
        and x.ndim == 4
        and groups == x.shape[1] == op.outputs[0].shape[1]
        and torch.equal(weight, weight[:1].expand_as(weight))
    )


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
    row = labels.tie(channels, [0, *range(2, channels.ndim)])[0].reshape(channels.shape[1], -1)[
        :, 0
    ]
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
    """Normalise groups of channels: a group goes as a whole."""
    channels = labels[op.args[0]]
    groups = op.args[6]
    if op.args[1] is None or any(t not in labels.trace.names for t in op.args[1:3]):
        return unknown(labels, op, "a group-norm without scales of its own")
    row = labels.tie(channels, [0, *range(2, channels.ndim)])[0].reshape(channels.shape[1], -1)[
        :, 0
    ]
    labels.tie(row.view(groups, -1), [1])
    labels.use(labels.trace.names[op.args[1]], 0, "scale", row)
    labels.use(labels.trace.names[op.args[2]], 0, "vector", row)
    labels[op.outputs[0]] = channels
    return None


def layer_norm(labels: Labels, op: Op) -> None:
    """Normalise over the last axes: what is averaged there cannot lose a part and stay the same."""
    channels = labels[op.args[0]]
    if any(varies(channels, channels.ndim - 1 - k) for k in range(len(op.args[1]))):
        labels.freeze(channels, "layer normalisation averages over its channels")
    labels[op.outputs[0]] = channels


RULES: dict[str, Rule] = {
    "convolution": convolution,
    "_convolution": convolution,
    "addmm": linear,
    "linear": linear,
    "mm": linear,
    "glu": gated,
    "copy_": write,
    "cat": cat,
    "stack": cat,
    "bmm": product,
    "matmul": product,
    "constant_pad_nd": pad,
    "_softmax": softmax,
    "_log_softmax": softmax,
    "softmax": softmax,
    "channel_shuffle": shuffle,
    "native_channel_shuffle": shuffle,
    "max_unpool2d": unpool,
    "max_unpool3d": unpool,
    "native_group_norm": group_norm,
    "native_layer_norm": layer_norm,
    **dict.fromkeys(MOVES, move),
    **dict.fromkeys(VIEWS, view),
    **dict.fromkeys(NORMS, batch_norm),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(REDUCTIONS, reduce),
    **dict.fromkeys(ATTENTION, heads),
    **dict.fromkeys(POINTWISE, pointwise),
    **{f"{name}_": pointwise for name in POINTWISE},
}
