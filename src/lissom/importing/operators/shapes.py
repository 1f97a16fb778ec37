"""Operators that change the shape of a tensor but not its numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from ..build import Op
from ..values import Constant, Sizes, run_in_both_traces


def reshape(op: Op) -> Any:
    """Call reshape, or the more specific function that does the same.

    The size that contains the fixed batch of the file becomes open.
    """
    value = op.raw(0)
    attribute = op.get("shape")  # before opset 5
    keeps_zeros = bool(op.get("allowzero", 0))
    sizes = list(attribute) if attribute is not None else op.sizes(1)
    if isinstance(value, Sizes) and all(isinstance(part, int) for part in sizes) and len(sizes) < 2:
        return Sizes(value.parts, single=not sizes)
    x = op.tensor(value)
    sizes = replace_zeros(op, x, sizes, keeps_zeros=keeps_zeros)
    if isinstance(x, Constant):
        return Constant(op.call(Tensor.reshape, x, sizes).tensor, x.source)
    sizes = open_batch(op, x, sizes)
    return reshaped(op, x, sizes)


def reshaped(op: Op, x: fx.Node, sizes: list[Any]) -> Any:
    """Call flatten, unflatten, channel_shuffle or transpose if possible, otherwise reshape.

    All but reshape show which axes stay as they are.
    """
    shapes_before = [op.shape(x, which) for which in (0, 1)]
    shapes_after = [
        list(result.shape) for result in run_in_both_traces(torch.reshape, (x, sizes), {})
    ]
    if (groups := find_channel_shuffle(op, x, shapes_after[0])) is not None:
        return op.call(torch.channel_shuffle, *groups)
    if (matrices := find_transposed_matrices(op, x, shapes_after)) is not None:
        return op.call(torch.transpose, matrices, -2, -1)
    sizes_before = list(zip(*shapes_before, strict=True))
    sizes_after = list(zip(*shapes_after, strict=True))
    first = common_prefix_length(sizes_before, sizes_after)
    last = common_prefix_length(sizes_before[first:][::-1], sizes_after[first:][::-1])
    old_sizes = sizes_before[first : len(sizes_before) - last]
    new_sizes = sizes_after[first : len(sizes_after) - last]
    if not old_sizes and not new_sizes:
        return x
    if first and (not old_sizes or not new_sizes):  # axes of size 1 after another axis
        first -= 1
        old_sizes = [sizes_before[first], *old_sizes]
        new_sizes = [sizes_after[first], *new_sizes]
    if len(new_sizes) == 1 and len(old_sizes) > 1:
        end = first + len(old_sizes) - 1
        ends = () if end == op.rank(x) - 1 else (end,)
        return op.call(torch.flatten, x, first, *ends)
    varying = [
        index
        for index, (first_size, second_size) in enumerate(new_sizes)
        if first_size != second_size
    ]
    if len(old_sizes) == 1 and len(new_sizes) > 1 and len(varying) < 2:
        parts = [size for size, _ in new_sizes]
        free = free_part(parts, last=first == op.rank(x) - 1)
        parts[varying[0] if varying else free] = -1
        return op.call(torch.unflatten, x, first, tuple(parts))
    return op.call(torch.reshape, x, sizes)


def find_transposed_matrices(op: Op, x: fx.Node, wanted: list[list[int]]) -> fx.Node | None:
    """Return the matrices that reshape, permute and reshape only transpose; None for other nodes.

    `x` is the permute.
    """
    if x.target is not torch.permute or x.args[1] != (0, 2, 1):
        return None
    merged: Any = x.args[0]
    if merged.op != "call_function" or merged.target not in (torch.flatten, torch.reshape):
        return None
    source: Any = merged.args[0]
    shapes = [op.shape(source, which) for which in (0, 1)]
    same = all(shape[-2:] == op.shape(merged)[-2:] for shape in shapes)
    fits = [[*shape[:-2], *shape[:-3:-1]] for shape in shapes] == wanted
    return source if same and fits else None


def free_part(parts: list[int], *, last: bool) -> int:
    """Return the part of a split axis whose size changes if channels are pruned.

    For the last axis, that of a transformer, it is the heads: the second to last part. For the
    channels of a convolution it is the channels of each group: the last part.

    >>> free_part([3, 4, 16], last=True), free_part([2, 58], last=False)
    (1, 1)
    """
    if set(parts[1:]) == {1}:
        return 0
    return len(parts) - 2 if last else len(parts) - 1


def common_prefix_length(one: list[Any], other: list[Any]) -> int:
    """Return the length of the common prefix of two lists."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def find_channel_shuffle(op: Op, x: fx.Node, wanted: list[int]) -> tuple[fx.Node, int] | None:
    """Return input and groups of the channel shuffle that reshape, permute and reshape compute.

    `x` is the permute. None for other nodes.
    """
    if x.target is not torch.permute or x.args[1] != (0, 2, 1, 3, 4):
        return None
    unflattened: Any = x.args[0]
    if not isinstance(unflattened, fx.Node) or unflattened.target not in (
        torch.unflatten,
        torch.reshape,
    ):
        return None
    source: Any = unflattened.args[0]
    fits = op.shape(source) == wanted and op.rank(unflattened) == 5
    return (source, op.shape(unflattened)[1]) if fits else None


def replace_zeros(
    op: Op, x: Constant | fx.Node, sizes: list[Any], *, keeps_zeros: bool
) -> list[Any]:
    """Return sizes with zeros replaced by the sizes of the input, unless zeros are kept."""
    if keeps_zeros:
        return sizes
    return [
        op.call(Tensor.size, x, axis)
        if is_number(part, 0) and not isinstance(x, Constant)
        else op.shape(x)[axis]
        if is_number(part, 0)
        else part
        for axis, part in enumerate(sizes)
    ]


def is_number(part: Any, number: int) -> bool:
    """Return whether a size is a certain number."""
    return isinstance(part, int) and part == number


def open_batch(op: Op, x: fx.Node, sizes: list[Any]) -> list[Any]:
    """Return sizes in which -1 replaces the size that contains the fixed batch of the file.

    The numbers of elements before and after the batch stay the same.
    """
    before = op.shape(x)
    open_axes = [axis for axis, size in enumerate(before) if size != op.shape(x, 1)[axis]]
    batch = op.build.fixed_batch
    if batch is None or len(open_axes) != 1 or not all(isinstance(part, int) for part in sizes):
        return sizes
    axis = open_axes[0]
    count = math.prod(before) * batch // op.build.batches[0]  # as the file has it
    full_sizes = list(sizes)
    if -1 in full_sizes:
        full_sizes[full_sizes.index(-1)] = count // max(1, -math.prod(full_sizes))
    if math.prod(full_sizes) != count:
        return sizes
    size_before = op.size_before_batch_in(x)
    outer = math.prod(before[:axis]) * size_before
    times = before[axis] // op.build.batches[0] // size_before
    index = batch_index(full_sizes, outer, times, math.prod(before[axis + 1 :]))
    if index is None:
        return sizes
    op.size_before_batch = max(1, outer // math.prod(full_sizes[:index]))
    return [*full_sizes[:index], -1, *full_sizes[index + 1 :]]


def batch_index(sizes: list[int], outer: int, times: int, inner: int) -> int | None:
    """Return the index of the size that contains the batch, None if none does.

    There are `outer` elements before the batch and `inner` after it; `times` is the size that the
    batch was merged with. The best size has as many elements before and after it as the batch, the
    next best on one side.

    >>> batch_index([17, 1, 3, 48], 17, 1, 144), batch_index([17, 48], 17, 1, 48)
    (1, 0)
    >>> batch_index([1, 4, 17, 12], 1, 4, 204), batch_index([17, 1, 48], 17, 1, 48)
    (0, 1)
    """
    begins = [k for k in range(len(sizes)) if math.prod(sizes[:k]) == outer]
    ends = [k for k in range(len(sizes)) if math.prod(sizes[k + 1 :]) == inner]
    both = [k for k in begins if k in ends]
    split = [k for k in begins if (times * inner) % math.prod(sizes[k + 1 :]) == 0]
    first = [*split, *both, *ends] if times > 1 else [*both, *ends, *split]
    return next(iter(first), None)


def flatten(op: Op) -> Any:
    """Flatten to a matrix: the axes before `axis`, and `axis` and all after it."""
    x = op[0]
    axis = op.get("axis", 1)
    axis = axis + op.rank(x) if axis < 0 else axis
    if axis == 1 and op.rank(x) > 1:
        return op.call(torch.flatten, x, 1)
    if axis == 0:
        return op.call(torch.reshape, x, [1, -1])
    if axis == op.rank(x):
        return op.call(torch.reshape, x, [-1, 1])
    return op.call(torch.flatten, op.call(torch.flatten, x, axis), 0, axis - 1)


def transpose(op: Op) -> Any:
    """Call permute."""
    x = op[0]
    axes = op.get("perm", list(range(op.rank(x)))[::-1])
    if sorted(axes) != list(range(op.rank(x))):
        raise ValueError(f"perm {axes!s:.80} does not fit {op.rank(x)} axes")
    return x.permuted(axes) if isinstance(x, Constant) else op.call(torch.permute, x, tuple(axes))


def squeeze(op: Op) -> Any:
    """Remove axes of size 1."""
    value = op.raw(0)
    axes = op.integers("axes", 1)
    if isinstance(value, Sizes):
        return Sizes(value.parts, single=True) if len(value.parts) == 1 else value
    if axes is None:
        axes = [axis for axis, size in enumerate(op.shape(value)) if size == 1]
    for which in (0, 1):
        sizes = op.shape(value, which)
        if any(sizes[axis] != 1 for axis in axes):
            raise ValueError(f"axes {axes!s:.80} of {sizes!s:.80} are not all 1")
    return op.call(torch.squeeze, value, tuple(axes))


def unsqueeze(op: Op) -> Any:
    """Insert axes of size 1."""
    value = op.raw(0)
    axes = op.integers("axes", 1) or []
    if isinstance(value, Sizes):
        if value.single and axes in ([0], [-1]):
            return Sizes(value.parts)
        value = op.tensor(value)
    rank = op.rank(value) + len(axes)
    for axis in sorted(axis + rank if axis < 0 else axis for axis in axes):
        value = op.call(torch.unsqueeze, value, axis)
    return value


def expand(op: Op) -> Any:
    """Broadcast a tensor to a shape."""
    x = op[0]
    sizes = op.sizes(1)
    # shapes are aligned at the last axis, and a size of 1 keeps that of the tensor
    missing = len(sizes) - op.rank(x)
    all_sizes = [1] * -missing + sizes
    expanded_sizes = [
        -1
        if axis >= missing
        and (is_number(size, 1) or is_number(size, size_of_axis(op, x, axis, missing)))
        else size
        for axis, size in enumerate(all_sizes)
    ]
    return op.call(Tensor.expand, x, expanded_sizes)


def size_of_axis(op: Op, x: Constant | fx.Node, axis: int, missing: int) -> int:
    """Return the size in the tensor of an axis of the longer shape."""
    return op.shape(x)[axis - max(0, missing)]


def tile(op: Op) -> Any:
    """Repeat along all axes."""
    return op.call(Tensor.repeat, op[0], op.sizes(1))


def depth_to_space(op: Op) -> Any:
    """Call pixel_shuffle. For mode DCR the channels are reordered first."""
    block = op.get("blocksize", 1)
    mode = op.get("mode", "DCR")
    if mode == "CRD":
        return op.call(torch.pixel_shuffle, op[0], block)
    if mode != "DCR":
        raise ValueError(f"mode {mode!r:.40} is not known")
    x = op.call(torch.unflatten, op[0], 1, (block * block, -1))
    flat = op.call(torch.flatten, op.call(torch.transpose, x, 1, 2), 1, 2)
    return op.call(torch.pixel_shuffle, flat, block)


def space_to_depth(op: Op) -> Any:
    """Call pixel_unshuffle, then reorder the channels as in ONNX."""
    block = op.get("blocksize", 1)
    x = op.call(torch.pixel_unshuffle, op[0], block)
    unflattened = op.call(torch.unflatten, x, 1, (-1, block * block))
    return op.call(torch.flatten, op.call(torch.transpose, unflattened, 1, 2), 1, 2)


OPERATORS = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
