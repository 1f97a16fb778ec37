"""Sliding windows of convolutions and pooling: kernel, strides, dilations, padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..build import Op
from ..values import Value


@dataclass
class Window:
    """A sliding window. Each field has one number per axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]

    @property
    def even(self) -> bool:
        """Whether padding is symmetric on each axis, and none is negative."""
        return self.before == self.after and min(self.before, default=0) >= 0

    def around(self) -> list[int]:
        """Return the padding in the order of F.pad: the last axis first."""
        return last_first(zip(self.before, self.after, strict=True))


def last_first(pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return pairs in the order of F.pad: those of the last axis first.

    >>> last_first([(1, 2), (3, 4)])
    [3, 4, 1, 2]
    """
    return [*chain.from_iterable(reversed([*pairs]))]


def window_of(op: Op, kernel: list[int], x: Value, *, turned: bool = False) -> Window:
    """Return the window of an operator on `x` (n c ...), of a transposed convolution if `turned`.

    Raises ValueError if its attributes are not known or do not fit.
    """
    axes = len(kernel)
    if op.rank(x) != axes + 2:
        raise ValueError(f"a kernel of {axes} axes meets an input of {op.rank(x)}")
    strides = row(op, "strides", [1] * axes)
    dilations = row(op, "dilations", [1] * axes)
    if min([*kernel, *strides, *dilations]) < 1:
        raise ValueError(f"expected positive sizes, got {kernel}, {strides}, {dilations}")
    window = Window(kernel, strides, dilations, [0] * axes, [0] * axes)
    how = op.get("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(axes):
            total = same_padding(op, window, x, axis, turned=turned)
            window.before[axis] = total // 2 if how == "SAME_UPPER" else total - total // 2
            window.after[axis] = total - window.before[axis]
    elif how == "NOTSET":
        pads = row(op, "pads", [0] * 2 * axes)
        window.before = pads[:axes]
        window.after = pads[axes:]
    elif how != "VALID":
        raise ValueError(f"auto_pad {how!r:.40} is not known")
    return window


def row(op: Op, name: str, default: list[int]) -> list[int]:
    """Return a list attribute. Raises ValueError if it is not as long as its default."""
    values: list[Any] = op.get(name, default)
    if len(values) != len(default):
        raise ValueError(f"expected {len(default)} {name}, got {len(values)}")
    return values


def same_padding(op: Op, window: Window, x: Value, axis: int, *, turned: bool) -> int:
    """Return the total padding of an axis with which the output size is ceil(size / stride).

    Raises ValueError if it depends on an open size.
    """
    reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1
    stride = window.strides[axis]
    if turned:
        return max(0, reach - stride)
    totals = set()
    for which in (0, 1):
        size = op.shape(x, which)[axis + 2]
        totals.add(max(0, (-(-size // stride) - 1) * stride + reach - size))
    if len(totals) > 1:
        raise ValueError("its padding depends on the size of the input, which is not given")
    return totals.pop()
