"""Sliding windows of convolutions and pooling: kernel, strides, dilations, padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...surgery.layers import halves, missing, same_pads
from ..build import Op
from ..values import Value


@dataclass
class Window:
    """A sliding window. Each list has one number per axis.

    With `opened`, padding depends on an open size: it is computed at run time, not in the lists.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    opened: bool = False
    upper: bool = False  # whether the larger half of an odd padding is at the end of the axis

    @property
    def extents(self) -> list[int]:
        """Return the number of places on each axis from the first to the last that it reads."""
        pairs = zip(self.kernel, self.dilations, strict=True)
        return [(size - 1) * dilation + 1 for size, dilation in pairs]

    @property
    def is_symmetric(self) -> bool:
        """Whether padding is known, symmetric on each axis, and never negative."""
        same = self.before == self.after and min(self.before, default=0) >= 0
        return same and not self.opened

    def padded(self, op: Op, x: Value, value: float = 0.0) -> Any:
        """Return `x` (n c ...) with the padding around it."""
        if self.opened:
            return op.call(same_padded, x, self.extents, self.strides, self.upper, value=value)
        return op.call(F.pad, x, last_first(zip(self.before, self.after, strict=True)), value=value)


def last_first(pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return pairs in the order of F.pad: those of the last axis first.

    >>> last_first([(1, 2), (3, 4)])
    [3, 4, 1, 2]
    """
    return [*chain.from_iterable(reversed([*pairs]))]


def window_of(op: Op, kernel: list[int], x: Value, *, transposed: bool = False) -> Window:
    """Return the window of an operator on `x` (n c ...), of a transposed convolution if `transposed`.

    Raises ValueError if its attributes are not known or do not fit.
    """
    axes = len(kernel)
    if op.rank(x) != axes + 2:
        raise ValueError(f"a kernel of {axes} axes meets an input of {op.rank(x)}")
    strides = list_attribute(op, "strides", [1] * axes)
    dilations = list_attribute(op, "dilations", [1] * axes)
    if min([*kernel, *strides, *dilations]) < 1:
        raise ValueError(f"expected positive sizes, got {kernel}, {strides}, {dilations}")
    window = Window(kernel, strides, dilations, [0] * axes, [0] * axes)
    auto_pad = op.get("auto_pad", "NOTSET")
    pads = list_attribute(op, "pads", [0] * 2 * axes)  # without effect beside another auto_pad
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        window.upper = auto_pad == "SAME_UPPER"
        for axis in range(axes):
            total = same_padding(op, window, x, axis, transposed=transposed)
            if total is None:
                window.opened = True
            else:
                window.before[axis], window.after[axis] = halves(total, window.upper)
    elif auto_pad == "NOTSET":
        window.before = pads[:axes]
        window.after = pads[axes:]
    elif auto_pad != "VALID":
        raise ValueError(f"auto_pad {auto_pad!r:.40} is not known")
    return window


def list_attribute(op: Op, name: str, default: list[int]) -> list[int]:
    """Return a list attribute. Raises ValueError if it is not as long as its default."""
    values: list[Any] = op.get(name, default)
    if len(values) != len(default):
        raise ValueError(f"expected {len(default)} {name}, got {len(values)}")
    return values


def same_padding(op: Op, window: Window, x: Value, axis: int, *, transposed: bool) -> int | None:
    """Return the total padding of an axis with which the output size is ceil(size / stride).

    None if it depends on an open size.
    """
    extent = window.extents[axis]
    stride = window.strides[axis]
    if transposed:
        return max(0, extent - stride)
    sizes = {op.shape(x, trace)[axis + 2] for trace in (0, 1)}
    if stride == 1 or extent == 1 or len(sizes) == 1:
        return missing(sizes.pop(), extent, stride)
    return None


def same_padded(
    x: Tensor, extents: list[int], strides: list[int], upper: bool, value: float = 0.0
) -> Tensor:
    """Return `x` (n c ...) with padding for its size: a window then gives ceil(size / stride)
    places on each axis.
    """
    pads = same_pads(x.shape[2:], extents, strides, [1] * len(extents), upper=upper)
    return F.pad(x, pads, value=value)
