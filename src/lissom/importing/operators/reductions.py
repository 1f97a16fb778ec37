"""Reductions over axes, argmax, topk, cumulative sums."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from ..build import Op
from ..values import Sizes


def reduction(function: Callable[..., Any]) -> Callable[[Op], Any]:
    """Return the operator that reduces with a function over the given axes, by default all."""

    def call(op: Op) -> Any:
        value = op.raw(0)
        axes = op.integers("axes", 1)
        keep = bool(op.get("keepdims", 1))
        no_axes_do_nothing = op.get("noop_with_empty_axes", 0)
        if isinstance(value, Sizes) and function is prod:
            return product_of_sizes(op, value, single=not keep)
        x = op.tensor(value)
        if not axes and no_axes_do_nothing:
            return reduce_no_axis(op, x, function)
        return op.call(function, x, tuple(axes or range(op.rank(x))), keepdim=keep)

    return call


def reduce_no_axis(op: Op, x: Any, function: Callable[..., Any]) -> Any:
    """Apply a reduction to each number by itself, as over no axis."""
    return op.call(function, op.call(torch.unsqueeze, x, 0), (0,), keepdim=False)


def product_of_sizes(op: Op, value: Sizes, *, single: bool) -> Any:
    """Return the product of sizes."""
    total: Any = 1
    for part in value.parts:
        total = op.number(operator.mul, total, part)
    return op.row_of([total], single)


def prod(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Return the product over several axes."""
    for dim in sorted((dim % x.ndim for dim in dims), reverse=True):
        x = x.prod(dim, keepdim=keepdim)
    return x


def sum_of_squares(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Return the sum of squares."""
    return torch.sum(x * x, dims, keepdim=keepdim)


def sum_of_magnitudes(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Return the sum of absolute values."""
    return torch.sum(x.abs(), dims, keepdim=keepdim)


def l2_norm(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Return the square root of the sum of squares."""
    return torch.sqrt(torch.sum(x * x, dims, keepdim=keepdim))


def log_sum(x: torch.Tensor, dims: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """Return the logarithm of the sum."""
    return torch.log(torch.sum(x, dims, keepdim=keepdim))


def arg_reduction(function: Callable[..., Any]) -> Callable[[Op], Any]:
    """Return the operator that finds the index of the largest or smallest number."""

    def call(op: Op) -> Any:
        x = op[0]
        axis = op.get("axis", 0)
        keep = bool(op.get("keepdims", 1))
        if not op.get("select_last_index", 0):
            return op.call(function, x, axis, keepdim=keep)
        index = op.call(function, op.call(torch.flip, x, (axis,)), axis, keepdim=keep)
        return op.call(torch.rsub, index, op.number(operator.sub, op.size(x, axis), 1))

    return call


def top_k(op: Op) -> Any:
    """Call topk."""
    count = op.get("k")
    count = int(op.numbers(1)[0]) if count is None else count
    largest = bool(op.get("largest", 1))
    return op.calls(torch.topk, op[0], count, op.get("axis", -1), largest)


def running_sum(op: Op) -> Any:
    """Call cumsum, backwards with reverse=1, without the number itself with exclusive=1."""
    x = op[0]
    axis = int(op.numbers(1)[0])
    is_reversed = bool(op.get("reverse", 0))
    if is_reversed:
        x = op.call(torch.flip, x, (axis,))
    total = op.call(torch.cumsum, x, axis)
    total = op.call(torch.Tensor.to, total, op.dtype(x))
    if op.get("exclusive", 0):
        total = op.call(torch.sub, total, x)
    return op.call(torch.flip, total, (axis,)) if is_reversed else total


OPERATORS: dict[str, Callable[[Op], Any]] = {
    "ReduceMean": reduction(torch.mean),
    "ReduceSum": reduction(torch.sum),
    "ReduceMax": reduction(torch.amax),
    "ReduceMin": reduction(torch.amin),
    "ReduceProd": reduction(prod),
    "ReduceL1": reduction(sum_of_magnitudes),
    "ReduceL2": reduction(l2_norm),
    "ReduceSumSquare": reduction(sum_of_squares),
    "ReduceLogSum": reduction(log_sum),
    "ReduceLogSumExp": reduction(torch.logsumexp),
    "ArgMax": arg_reduction(torch.argmax),
    "ArgMin": arg_reduction(torch.argmin),
    "TopK": top_k,
    "CumSum": running_sum,
}
