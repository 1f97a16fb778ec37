"""Reductions over axes, largest places, running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..build import Op
from ..values import Sizes


def over(function: Callable[..., Any]) -> Callable[[Op], Any]:
    """Return the operator that reduces with a function over axes, all of them where none is given."""

    def call(op: Op) -> Any:
        value = op.raw(0)
        if isinstance(value, Sizes) and function is prod:
            return product(op, value)
        x = op.tensor(value)
        axes = op.integers("axes", 1)
        if not axes and op.get("noop_with_empty_axes", 0):
            return unreduced(op, x, function)
        dims = tuple(axes or range(op.rank(x)))
        return op.call(function, x, dims, keepdim=bool(op.get("keepdims", 1)))

    return call


def unreduced(op: Op, x: Any, function: Callable[..., Any]) -> Any:
    """Return what a reduction over no axis makes of each number."""
    return op.call(function, op.call(torch.unsqueeze, x, 0), (0,), keepdim=False)


def product(op: Op, value: Sizes) -> Any:
    """Multiply sizes."""
    import operator

    total: Any = 1
    for part in value.parts:
        total = op.number(operator.mul, total, part)
    return op.row_of([total], single=not op.get("keepdims", 1))


def prod(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Multiply over several axes."""
    for dim in sorted((dim % x.ndim for dim in dims), reverse=True):
        x = x.prod(dim, keepdim=keepdim)
    return x


def sum_of_squares(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Add squares."""
    return torch.sum(x * x, dims, keepdim=keepdim)


def sum_of_sizes(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Add absolute values."""
    return torch.sum(x.abs(), dims, keepdim=keepdim)


def length(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Return the root of the sum of squares."""
    return torch.sqrt(torch.sum(x * x, dims, keepdim=keepdim))


def log_sum(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Return the logarithm of the sum."""
    return torch.log(torch.sum(x, dims, keepdim=keepdim))


def place_of(function: Callable[..., Any]) -> Callable[[Op], Any]:
    """Return the operator that finds the place of the largest or smallest number."""

    def call(op: Op) -> Any:
        if op.get("select_last_index", 0):
            raise ValueError("select_last_index other than 0 is not known")
        return op.call(function, op[0], op.get("axis", 0), keepdim=bool(op.get("keepdims", 1)))

    return call


def top(op: Op) -> Any:
    """Call topk."""
    count = op.node.attributes.get("k")
    count = int(op.numbers(1)[0]) if count is None else count
    largest = bool(op.get("largest", 1))
    return op.calls(torch.topk, op[0], count, op.get("axis", -1), largest)


def running_sum(op: Op) -> Any:
    """Call cumsum; backwards, and without the number itself, where the node says so."""
    x = op[0]
    axis = int(op.numbers(1)[0])
    backwards = bool(op.get("reverse", 0))
    if backwards:
        x = op.call(torch.flip, x, (axis,))
    total = op.call(torch.cumsum, x, axis)
    total = op.call(torch.Tensor.to, total, op.dtype(x))
    if op.get("exclusive", 0):
        total = op.call(torch.sub, total, x)
    return op.call(torch.flip, total, (axis,)) if backwards else total


OPERATORS: dict[str, Callable[[Op], Any]] = {
    "ReduceMean": over(torch.mean),
    "ReduceSum": over(torch.sum),
    "ReduceMax": over(torch.amax),
    "ReduceMin": over(torch.amin),
    "ReduceProd": over(prod),
    "ReduceL1": over(sum_of_sizes),
    "ReduceL2": over(length),
    "ReduceSumSquare": over(sum_of_squares),
    "ReduceLogSum": over(log_sum),
    "ReduceLogSumExp": over(torch.logsumexp),
    "ArgMax": place_of(torch.argmax),
    "ArgMin": place_of(torch.argmin),
    "TopK": top,
    "CumSum": running_sum,
}
