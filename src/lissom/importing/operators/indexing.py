"""Slices, gathers and scatters, concatenation, padding."""

from __future__ import annotations

import operator
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..build import Op
from ..values import Constant, Sizes, computed
from .shapes import open_batch, reshaped
from .windows import last_first

AXIS_END = 2**31 - 1  # end of a slice that runs to the end of the axis


def concat(op: Op) -> Any:
    """Call cat. Sizes are concatenated as numbers."""
    axis = op.get("axis", 1)
    values = [op.raw(index) for index in range(len(op))]
    known = all(isinstance(value, (Sizes, Constant)) and op.rank(value) == 1 for value in values)
    if known and any(isinstance(value, Sizes) for value in values):
        rows = [op.sizes(index) for index in range(len(op))]
        return op.row_of([*chain.from_iterable(rows)])
    tensors = [op.tensor(value) for value in values]
    if len(tensors) == 1:
        return tensors[0]
    return op.call(torch.cat, with_same_batch(op, tensors, axis), axis)


def with_same_batch(op: Op, tensors: list[Any], axis: int) -> list[Any]:
    """Return tensors of the same batch size: those of batch 1 are expanded if another one is open."""
    if axis in (0, -op.rank(tensors[0])) or op.build.fixed_batch != 1:
        return tensors
    open_tensor = next((t for t in tensors if op.shape(t)[0] != op.shape(t, 1)[0]), None)
    if open_tensor is None:
        return tensors
    batch = op.size(open_tensor, 0)
    return [
        op.call(Tensor.expand, t, [batch, *[-1] * (op.rank(t) - 1)])
        if op.shape(t)[0] == 1 == op.shape(t, 1)[0]
        else t
        for t in tensors
    ]


def split(op: Op) -> Any:
    """Call split, or chunk if all parts are equal."""
    x = op[0]
    axis = op.get("axis", 0)
    sizes = op.integers("split", 1)
    outputs = len(op.node.outputs)
    count = op.get("num_outputs", outputs)
    if count != outputs:
        raise ValueError(f"expected num_outputs={outputs}, got {count}")
    total = op.shape(x)[axis]
    if sizes is None:
        size = -(-total // count)
        sizes = [min(size, total - size * index) for index in range(count)]
    if len(set(sizes)) == 1 and sum(sizes) == total:
        return op.calls(torch.chunk, x, len(sizes), axis)
    return op.calls(torch.split, x, sizes, axis)


def slice_tensor(op: Op) -> Any:
    """Slice a tensor along some axes."""
    value = op.raw(0)
    starts, ends, axes, steps = slice_bounds(op)
    if isinstance(value, Sizes):
        if axes in ([0], [-1]) and isinstance(starts[0], int) and isinstance(ends[0], int):
            return op.row_of(list(value.parts[slice(starts[0], ends[0], steps[0])]))
        value = op.tensor(value)
    x = value
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        positive_axis = axis + op.rank(x) if axis < 0 else axis
        if step == 0 or not 0 <= positive_axis < op.rank(x):
            raise ValueError(f"axis {axis} and step {step} do not fit {op.rank(x)} axes")
        x = slice_axis(op, x, positive_axis, start, end, step)
    return x


def slice_bounds(op: Op) -> tuple[list[Any], list[Any], list[int], list[int]]:
    """Return starts, ends, axes and steps, which are attributes before opset 10."""
    if op.get("starts") is not None:
        starts, ends = op.get("starts", [0]), op.get("ends", [0])
    else:
        starts = op.sizes(1)
        ends = op.sizes(2)
    axes = op.integers("axes", 3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = None if op.optional(4) is None else [int(step) for step in op.numbers(4)]
    return starts, ends, axes, steps or [1] * len(starts)


def slice_axis(op: Op, x: Any, axis: int, start: Any, end: Any, step: int) -> Any:
    """Slice along one axis. For a negative step the axis is flipped first."""
    size = op.shape(x)[axis]
    if step < 0:
        if not (isinstance(start, int) and isinstance(end, int)) or op.shape(x, 1)[axis] != size:
            raise ValueError("steps backwards over a size that is not known")
        first, last, _ = slice(start, end if end > -AXIS_END else None, step).indices(size)
        x = op.call(torch.flip, x, (axis,))
        start, end, step = size - 1 - first, size - 1 - last, -step
    if (
        isinstance(end, int)
        and end >= min(size, AXIS_END)
        and (end >= AXIS_END or op.shape(x, 1)[axis] == size)
    ):
        end = None
    if isinstance(start, int) and start <= -AXIS_END:
        start = 0
    if start == 0 and end is None and step == 1:
        return x
    return op.call(operator.getitem, x, (*[slice(None)] * axis, slice(start, end, step)))


def pad(op: Op) -> Any:
    """Call pad."""
    x = op[0]
    attribute = op.get("pads")  # before opset 11
    pads = list(attribute) if attribute is not None else op.sizes(1)
    value: Any = op.numbers(2)[0] if op.optional(2) is not None else op.get("value", 0.0)
    rank = op.rank(x)
    axes = (
        [int(axis) for axis in op.numbers(3)] if op.optional(3) is not None else list(range(rank))
    )
    if len(pads) != 2 * len(axes):
        raise ValueError(f"expected {2 * len(axes)} pads, got {len(pads)}")
    pairs = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        pairs[axis] = (pads[index], pads[index + len(axes)])
    first = next((k for k, pair in enumerate(pairs) if pair != (0, 0)), rank)
    mode = MODES.get(op.get("mode", "constant"))
    if first == rank:
        return x
    if mode is None:
        raise ValueError(f"mode {op.get('mode', 'constant')!r:.40} is not known")
    if mode == "constant":
        return op.call(F.pad, x, last_first(pairs[first:]), value=value)
    # PyTorch reflects only the last one to three axes, after two or one others
    kept_axes = 2 if first >= 2 and rank > 2 else 1
    if first < kept_axes or not 1 <= rank - kept_axes <= 3:
        raise ValueError(f"mode {mode} on axis {first} of {rank} is not known")
    return op.call(F.pad, x, last_first(pairs[kept_axes:]), mode=mode)


MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def gather(op: Op) -> Any:
    """Gather along an axis: a number of sizes, an embedding, one position or several."""
    value = op.raw(0)
    axis = op.get("axis", 0)
    if isinstance(value, Sizes):
        parts = [value.parts[int(index)] for index in op.numbers(1)]
        return op.row_of(parts, single=op.rank(op.raw(1)) == 0)
    indices = op[1]
    if axis == 0 and (same := all_in_order(op, value, indices)) is not None:
        return same
    if isinstance(indices, Constant):
        if indices.tensor.ndim == 0:
            return op.call(torch.select, value, axis, int(indices.tensor))
        return index_axis(op, value, axis, wrap_negative(op, value, indices, axis))
    if isinstance(value, Constant) and axis == 0 and op.rank(value) == 2 and op.is_float(value):
        rows, width = op.shape(value)
        return op.layer(lambda: nn.Embedding(rows, width), as_int64(op, indices), weight=value)
    return index_axis(op, value, axis, as_int64(op, indices))


def all_in_order(op: Op, value: Any, indices: Any) -> Any:
    """Return a tensor in another shape if the indices are 0, 1, 2, ... of all its numbers in a row;
    None for other indices.

    PyTorch's exporter writes `as_strided` so, which it meets where an example in channels_last
    passes a global average pooling.
    """
    if not isinstance(value, fx.Node) or op.rank(value) != 1 or op.rank(indices) < 2:
        return None
    flattened = value.target in (torch.flatten, torch.reshape)
    source: Any = value.args[0] if flattened else value
    counts = [op.shape(value, which)[0] for which in (0, 1)]
    if isinstance(indices, Constant):  # of a file for a fixed batch
        counts = [counts[0] * (op.build.fixed_batch or 0) // op.build.batches[0]]
    for which, count in enumerate(counts):
        found = computed(indices, which)
        if found is None or not torch.equal(found.flatten(), torch.arange(count)):
            return None
    if isinstance(indices, Constant):
        return reshaped(op, source, open_batch(op, source, op.shape(indices)))
    first, second = (op.shape(indices, which) for which in (0, 1))
    sizes = [a if a == b else -1 for a, b in zip(first, second, strict=True)]
    return reshaped(op, source, sizes) if sizes.count(-1) < 2 else None


def as_int64(op: Op, indices: Any) -> Any:
    """Return indices as int64, which PyTorch requires."""
    return indices if op.dtype(indices) == torch.int64 else op.call(Tensor.to, indices, torch.int64)


def index_axis(op: Op, value: Any, axis: int, indices: Any) -> Any:
    """Gather positions of an axis. The axes of `indices` replace it."""
    axis = axis + op.rank(value) if axis < 0 else axis
    if op.rank(indices) == 1:
        return op.call(torch.index_select, value, axis, indices)
    return op.call(operator.getitem, value, (*[slice(None)] * axis, indices))


def gather_elements(op: Op) -> Any:
    """Call gather."""
    axis = op.get("axis", 0)
    indices = wrap_negative(op, op[0], op[1], axis)
    return op.call(torch.gather, op[0], axis, indices)


def wrap_negative(op: Op, x: Any, indices: Any, axis: int) -> Any:
    """Return indices of an axis with negative ones counted from its beginning."""
    indices = as_int64(op, indices)
    if isinstance(indices, Constant) and not bool((indices.tensor < 0).any()):
        return indices
    return op.call(torch.remainder, indices, op.size(x, axis))


def gather_nd(op: Op) -> Any:
    """Gather elements or slices by their indices on the first axes."""
    if op.get("batch_dims", 0):
        raise ValueError("batch_dims other than 0 are not known")
    return op.call(operator.getitem, op[0], indices_by_axis(op))


def indices_by_axis(op: Op) -> tuple[Any, ...]:
    """Return the indices in the second input for each of the first axes of the first input.

    Raises ValueError if these are more than it has axes.
    """
    indices = as_int64(op, op[1])
    count = op.shape(indices)[-1]
    if count > op.rank(op[0]):
        raise ValueError(f"{count} places for {op.rank(op[0])} axes")
    return tuple(op.call(torch.select, indices, -1, index) for index in range(count))


def scatter_elements(op: Op) -> Any:
    """Call scatter."""
    axis = op.get("axis", 0)
    indices = wrap_negative(op, op[0], op[1], axis)
    reduction = op.get("reduction", "none")
    if reduction == "none":
        return op.call(torch.scatter, op[0], axis, indices, op[2])
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r:.40} is not known")
    return op.call(torch.scatter_reduce, op[0], axis, indices, op[2], REDUCTIONS[reduction])


REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_nd(op: Op) -> Any:
    """Write elements or slices at indices of the first axes."""
    if op.get("reduction", "none") not in ("none", "add"):
        raise ValueError(f"reduction {op.get('reduction', 'none')!r:.40} is not known")
    adds = op.get("reduction", "none") == "add"
    return op.call(torch.index_put, op[0], indices_by_axis(op), op[2], adds)


def one_hot(op: Op) -> Any:
    """Return rows of an off value with an on value at one position."""
    depth = int(op.numbers(1)[0])
    values = op.constant(2)
    axis = op.get("axis", -1)
    indices = op.call(torch.unsqueeze, as_int64(op, op[0]), -1)
    from_end = op.call(torch.add, indices, depth)
    indices = op.call(torch.where, op.call(torch.lt, indices, 0), from_end, indices)
    hot = op.call(torch.eq, indices, op.call(torch.arange, depth))
    if axis not in (-1, op.rank(hot) - 1):
        hot = op.call(torch.movedim, hot, -1, axis)
    return op.call(torch.where, hot, Constant(values[1]), Constant(values[0]))


def triangle(op: Op) -> Any:
    """Keep the upper or lower triangle."""
    diagonal = int(op.numbers(1)[0]) if op.optional(1) is not None else 0
    return op.call(torch.triu if op.get("upper", 1) else torch.tril, op[0], diagonal)


OPERATORS = {
    "Concat": concat,
    "Split": split,
    "Slice": slice_tensor,
    "Pad": pad,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterElements": scatter_elements,
    "Scatter": scatter_elements,
    "ScatterND": scatter_nd,
    "OneHot": one_hot,
    "Trilu": triangle,
}
