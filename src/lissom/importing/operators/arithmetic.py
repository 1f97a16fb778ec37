"""Arithmetic, comparisons and logic, element by element."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import fx

from ..build import Op
from ..values import Constant, Sizes, Value
from .activations import plain, shortest


def two(
    function: Callable[..., Any], on_sizes: Callable[..., Any] | None = None
) -> Callable[[Op], Any]:
    """Return the operator that calls a function on two inputs; `on_sizes` is its form for sizes."""

    def call(op: Op) -> Any:
        if on_sizes is not None and (sizes := of_sizes(op, on_sizes)) is not None:
            return sizes
        x = op[0]
        y = op[1]
        # a constant number becomes a literal; functions take one only as second argument
        if isinstance(y, Constant) and not isinstance(x, Constant):
            return op.call(function, x, number_in(y))
        if isinstance(x, Constant) and not isinstance(y, Constant) and function in TURNS:
            return op.call(function, y, number_in(x))
        return op.call(function, x, y)

    return call


def number_in(constant: Constant) -> Any:
    """Return the number in a tensor of one element and at most one axis, else the constant itself."""
    tensor = constant.tensor
    if tensor.numel() != 1 or tensor.ndim > 1 or tensor.dtype == torch.bool:
        return constant
    number = tensor.item()
    return shortest(number) if tensor.dtype == torch.float32 else number


def of_sizes(op: Op, function: Callable[..., Any]) -> Value | None:
    """Return the result of an elementwise function of sizes; None if an input is a tensor."""
    values = [op.raw(0), op.raw(1)]
    if not any(isinstance(value, Sizes) for value in values):
        return None
    rows = [parts_in(value) for value in values]
    if any(row is None for row in rows):
        return None
    first, second = rows
    assert first is not None and second is not None
    count = max(len(first), len(second))
    first, second = (row * count if len(row) == 1 else row for row in (first, second))
    single = all(op.rank(value) == 0 for value in values)
    parts = [op.number(function, a, b) for a, b in zip(first, second, strict=True)]
    if function in COMPARISONS:
        parts = [settled(part) for part in parts]
    return op.row_of(parts, single)


def settled(part: Any) -> Any:
    """Return the result of a comparison if both traces agree, otherwise its node."""
    if not isinstance(part, fx.Node):
        return part
    first, second = part.meta["stand_ins"]
    return first if first == second else part


def parts_in(value: Value) -> list[Any] | None:
    """Return the numbers of sizes, or of a constant with at most one axis; None for other values."""
    if isinstance(value, Sizes):
        return list(value.parts)
    if isinstance(value, Constant) and value.tensor.ndim < 2:
        return list(value.tensor.reshape(-1).tolist())
    return None


def division(op: Op) -> Any:
    """Divide. Integers are rounded towards zero."""
    if (sizes := of_sizes(op, divided)) is not None:
        return sizes
    x = op[0]
    y = op[1]
    if not op.is_float(x):
        return op.call(torch.div, x, y, rounding_mode="trunc")
    return op.call(
        torch.div, x, number_in(y) if isinstance(y, Constant) and not isinstance(x, Constant) else y
    )


def divided(x: Any, y: Any) -> Any:
    """Return a quotient. Two integers give an integer; as sizes are not negative, // rounds right."""
    return x // y if isinstance(x, int) and isinstance(y, int) else x / y


def power(op: Op) -> Any:
    """Raise to a power. The result has the type of the base."""
    x = op[0]
    y = op[1]
    exponent = number_in(y) if isinstance(y, Constant) else y
    out = op.call(torch.pow, x, exponent)
    wanted = op.dtype(x)
    return out if op.dtype(out) == wanted else op.call(torch.Tensor.to, out, wanted)


def modulo(op: Op) -> Any:
    """Compute the remainder, with the sign of the divisor, or with fmod=1 that of the dividend."""
    return op.call(torch.fmod if op.get("fmod", 0) else torch.remainder, op[0], op[1])


def many(function: Callable[..., Any]) -> Callable[[Op], Any]:
    """Return the operator that combines all inputs with a function of two."""
    return lambda op: reduce(
        lambda x, y: op.call(function, x, y), [op[place] for place in range(1, len(op))], op[0]
    )


def mean(op: Op) -> Any:
    """Take the mean of several tensors."""
    return op.call(torch.div, many(torch.add)(op), float(len(op)))


def bit_shift(op: Op) -> Any:
    """Shift bits."""
    left = op.get("direction", "") == "LEFT"
    return op.call(torch.bitwise_left_shift if left else torch.bitwise_right_shift, op[0], op[1])


COMPARISONS = {operator.eq, operator.gt, operator.ge, operator.lt, operator.le}
TURNS = {torch.add, torch.mul}
OPERATORS: dict[str, Callable[[Op], Any]] = {
    "Add": two(torch.add, operator.add),
    "Sub": two(torch.sub, operator.sub),
    "Mul": two(torch.mul, operator.mul),
    "Div": division,
    "Pow": power,
    "Mod": modulo,
    "Equal": two(torch.eq, operator.eq),
    "Greater": two(torch.gt, operator.gt),
    "GreaterOrEqual": two(torch.ge, operator.ge),
    "Less": two(torch.lt, operator.lt),
    "LessOrEqual": two(torch.le, operator.le),
    "And": two(torch.logical_and),
    "Or": two(torch.logical_or),
    "Xor": two(torch.logical_xor),
    "Not": plain(torch.logical_not),
    "BitwiseAnd": two(torch.bitwise_and),
    "BitwiseOr": two(torch.bitwise_or),
    "BitwiseXor": two(torch.bitwise_xor),
    "BitwiseNot": plain(torch.bitwise_not),
    "BitShift": bit_shift,
    "Max": many(torch.maximum),
    "Min": many(torch.minimum),
    "Sum": many(torch.add),
    "Mean": mean,
    "Abs": plain(torch.abs),
    "Neg": plain(torch.neg),
    "Sqrt": plain(torch.sqrt),
    "Reciprocal": plain(torch.reciprocal),
    "Exp": plain(torch.exp),
    "Log": plain(torch.log),
    "Floor": plain(torch.floor),
    "Ceil": plain(torch.ceil),
    "Round": plain(torch.round),
    "Sign": plain(torch.sign),
    "Erf": plain(torch.erf),
    "IsNaN": plain(torch.isnan),
    "Sin": plain(torch.sin),
    "Cos": plain(torch.cos),
    "Tan": plain(torch.tan),
    "Sinh": plain(torch.sinh),
    "Cosh": plain(torch.cosh),
    "Asin": plain(torch.asin),
    "Acos": plain(torch.acos),
    "Atan": plain(torch.atan),
    "Asinh": plain(torch.asinh),
    "Acosh": plain(torch.acosh),
    "Atanh": plain(torch.atanh),
}
