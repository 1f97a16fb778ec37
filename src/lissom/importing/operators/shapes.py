"""What changes the shape of a tensor and none of its numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from ..build import Op
from ..values import Constant, Sizes, followed


def reshape(op: Op) -> Any:
    """Call reshape, or flatten where that is what it does.

    A first size that is the batch the file was made for becomes any batch.
    """
    value = op.raw(0)
    wanted = op.get("shape")  # before opset 5
    sizes = list(wanted) if wanted is not None else op.sizes(1)
    if isinstance(value, Sizes) and all(isinstance(part, int) for part in sizes) and len(sizes) < 2:
        return Sizes(value.parts, single=not sizes)
    x = op.tensor(value)
    if isinstance(x, Constant):
        return Constant(op.call(Tensor.reshape, x, copied_sizes(op, x, sizes)).tensor, x.source)
    sizes = with_batch(op, x, copied_sizes(op, x, sizes))
    return reshaped(op, x, sizes)


def reshaped(op: Op, x: fx.Node, sizes: list[Any]) -> Any:
    """Call what keeps most axes as they are: flatten, unflatten, channel_shuffle, else reshape."""
    befores = [op.shape(x, which) for which in (0, 1)]
    afters = [list(result.shape) for result in followed(torch.reshape, (x, sizes), {})]
    if (groups := shuffled(op, x, afters[0])) is not None:
        return op.call(torch.channel_shuffle, *groups)
    pairs = list(zip(*befores, strict=True))
    wanted = list(zip(*afters, strict=True))
    first = common(pairs, wanted)
    last = common(pairs[first:][::-1], wanted[first:][::-1])
    old = pairs[first : len(pairs) - last]
    new = wanted[first : len(wanted) - last]
    if not old and not new:
        return x
    if first and (not old or not new):  # axes of one behind another axis
        first -= 1
        old = [pairs[first], *old]
        new = [wanted[first], *new]
    if len(new) == 1 and len(old) > 1:
        end = first + len(old) - 1
        ends = () if end == op.rank(x) - 1 else (end,)
        return op.call(torch.flatten, x, first, *ends)
    moving = [place for place, (one, two) in enumerate(new) if one != two]
    if len(old) == 1 and len(new) > 1 and len(moving) < 2:
        parts = [one for one, _ in new]
        if moving:
            parts[moving[0]] = -1
        elif set(parts[1:]) == {1}:
            parts[0] = -1
        return op.call(torch.unflatten, x, first, tuple(parts))
    return op.call(torch.reshape, x, sizes)


def common(one: list[Any], other: list[Any]) -> int:
    """Return how many elements two lists begin with alike."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def shuffled(op: Op, x: fx.Node, wanted: list[int]) -> tuple[fx.Node, int] | None:
    """Return what of a channel shuffle the last of three nodes is: its input and groups."""
    if x.target is not torch.permute or x.args[1] != (0, 2, 1, 3, 4):
        return None
    apart: Any = x.args[0]
    if not isinstance(apart, fx.Node) or apart.target not in (torch.unflatten, torch.reshape):
        return None
    source: Any = apart.args[0]
    fits = op.shape(source) == wanted and op.rank(apart) == 5
    return (source, op.shape(apart)[1]) if fits else None


def copied_sizes(op: Op, x: Constant | fx.Node, sizes: list[Any]) -> list[Any]:
    """Return sizes with those of the input in the place of zeros."""
    if op.get("allowzero", 0):
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
    """Return whether a size is that number."""
    return isinstance(part, int) and part == number


def with_batch(op: Op, x: fx.Node, sizes: list[Any]) -> list[Any]:
    """Return sizes of which the first is open, where it is written down and the batch is in it."""
    shapes = [op.shape(x, which) for which in (0, 1)]
    if not sizes or shapes[0] == shapes[1] or not all(isinstance(part, int) for part in sizes):
        return sizes
    if shapes[0][0] == shapes[1][0] or shapes[0][1:] != shapes[1][1:]:
        return sizes  # another axis than the first is open
    batch = op.build.fixed_batch
    if batch is None or sizes[0] == -1:
        return sizes
    count = math.prod(shapes[0]) * batch // op.build.batches[0]  # for the batch of the file
    rest = list(sizes)
    if -1 in rest:
        rest[rest.index(-1)] = count // max(1, -math.prod(rest))
    inner = max(1, math.prod(rest[1:]))
    fits = rest[0] * inner == count and (count // batch) % inner == 0
    return [-1, *rest[1:]] if fits else sizes


def flatten(op: Op) -> Any:
    """Call flatten from an axis on; what lies before it is one axis."""
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
    """Leave out axes of one."""
    value = op.raw(0)
    axes = op.integers("axes", 1)
    if isinstance(value, Sizes):
        return Sizes(value.parts, single=True) if len(value.parts) == 1 else value
    if axes is None:
        axes = [axis for axis, size in enumerate(op.shape(value)) if size == 1]
    if any(op.shape(value)[axis] != 1 for axis in axes):
        raise ValueError(f"axes {axes!s:.80} of {op.shape(value)!s:.80} are not all 1")
    return op.call(torch.squeeze, value, tuple(axes))


def unsqueeze(op: Op) -> Any:
    """Put in axes of one."""
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
    """Repeat along axes of one."""
    x = op[0]
    sizes = op.sizes(1)
    # the last axes meet, and a size of 1 keeps what is there
    missing = len(sizes) - op.rank(x)
    whole = [1] * -missing + sizes
    kept = [
        -1
        if axis >= missing and (is_number(size, 1) or is_number(size, have(op, x, axis, missing)))
        else size
        for axis, size in enumerate(whole)
    ]
    return op.call(Tensor.expand, x, kept)


def have(op: Op, x: Constant | fx.Node, axis: int, missing: int) -> int:
    """Return the size that an axis of the wider shape has in the tensor."""
    return op.shape(x)[axis - max(0, missing)]


def tile(op: Op) -> Any:
    """Repeat along all axes."""
    return op.call(Tensor.repeat, op[0], op.sizes(1))


def depth_to_space(op: Op) -> Any:
    """Call pixel_shuffle; of the other order of channels, what it is made of."""
    block = op.get("blocksize", 1)
    mode = op.get("mode", "DCR")
    if mode == "CRD":
        return op.call(torch.pixel_shuffle, op[0], block)
    if mode != "DCR":
        raise ValueError(f"mode {mode!r:.40} is not known")
    x = op.call(torch.unflatten, op[0], 1, (block * block, -1))
    turned = op.call(torch.flatten, op.call(torch.transpose, x, 1, 2), 1, 2)
    return op.call(torch.pixel_shuffle, turned, block)


def space_to_depth(op: Op) -> Any:
    """Call pixel_unshuffle, and put channels in the order of ONNX."""
    block = op.get("blocksize", 1)
    x = op.call(torch.pixel_unshuffle, op[0], block)
    apart = op.call(torch.unflatten, x, 1, (-1, block * block))
    return op.call(torch.flatten, op.call(torch.transpose, apart, 1, 2), 1, 2)


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
