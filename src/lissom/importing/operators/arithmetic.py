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
from .activations import shortest_decimal, unary


def binary(
    function: Callable[..., Any], on_sizes: Callable[..., Any] | None = None
) -> Callable[[Op], Any]:
    """Return the operator that calls a function on two inputs; `on_sizes` is its form for sizes."""

    def call(op: Op) -> Any:
        if on_sizes is not None and (sizes := apply_to_sizes(op, on_sizes)) is not None:
            return sizes
        x = op[0]
        y = op[1]
        # a constant number becomes a literal; functions take one only as second argument
        if isinstance(y, Constant) and not isinstance(x, Constant):
            return op.call(function, x, literal_of(y))
        if isinstance(x, Constant) and not isinstance(y, Constant) and function in COMMUTATIVE:
            return op.call(function, y, literal_of(x))
        return op.call(function, x, y)

    return call


def literal_of(constant: Constant) -> Any:
    """Return the number in a tensor of one element and at most one axis, else the constant itself."""
    tensor = constant.tensor
    if tensor.numel() != 1 or tensor.ndim > 1 or tensor.dtype == torch.bool:
        return constant
    number = tensor.item()
    return shortest_decimal(number) if tensor.dtype == torch.float32 else number


def apply_to_sizes(op: Op, function: Callable[..., Any]) -> Value | None:
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
        parts = [number_if_equal(part) for part in parts]
    return op.row_of(parts, single)


def number_if_equal(part: Any) -> Any:
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
    if (sizes := apply_to_sizes(op, quotient)) is not None:
        return sizes
    x = op[0]
    y = op[1]
    if not op.is_float(x):
        return op.call(torch.div, x, y, rounding_mode="trunc")
    return op.call(
        torch.div,
        x,
        literal_of(y) if isinstance(y, Constant) and not isinstance(x, Constant) else y,
    )


def quotient(x: Any, y: Any) -> Any:
    """Return a quotient. Two integers give an integer; as sizes are not negative, // rounds right."""
    return x // y if isinstance(x, int) and isinstance(y, int) else x / y


def power(op: Op) -> Any:
    """Raise to a power. The result has the type of the base."""
    x = op[0]
    y = op[1]
    exponent = literal_of(y) if isinstance(y, Constant) else y
    out = op.call(torch.pow, x, exponent)
    base_type = op.dtype(x)
    return out if op.dtype(out) == base_type else op.call(torch.Tensor.to, out, base_type)


def modulo(op: Op) -> Any:
    """Compute the remainder, with the sign of the divisor, or with fmod=1 that of the dividend."""
    return op.call(torch.fmod if op.get("fmod", 0) else torch.remainder, op[0], op[1])


def variadic(function: Callable[..., Any]) -> Callable[[Op], Any]:
    """Return the operator that combines all inputs with a function of two."""
    return lambda op: reduce(
        lambda x, y: op.call(function, x, y), [op[index] for index in range(1, len(op))], op[0]
    )


def mean(op: Op) -> Any:
    """Take the mean of several tensors."""
    return op.call(torch.div, variadic(torch.add)(op), float(len(op)))


def bit_shift(op: Op) -> Any:
    """Shift bits."""
    left = op.get("direction", "") == "LEFT"
    return op.call(torch.bitwise_left_shift if left else torch.bitwise_right_shift, op[0], op[1])


COMPARISONS = {operator.eq, operator.gt, operator.ge, operator.lt, operator.le}
COMMUTATIVE = {torch.add, torch.mul}
OPERATORS: dict[str, Callable[[Op], Any]] = {
    "Add": binary(torch.add, operator.add),
    "Sub": binary(torch.sub, operator.sub),
    "Mul": binary(torch.mul, operator.mul),
    "Div": division,
    "Pow": power,
    "Mod": modulo,
    "Equal": binary(torch.eq, operator.eq),
    "Greater": binary(torch.gt, operator.gt),
    "GreaterOrEqual": binary(torch.ge, operator.ge),
    "Less": binary(torch.lt, operator.lt),
    "LessOrEqual": binary(torch.le, operator.le),
    "And": binary(torch.logical_and),
    "Or": binary(torch.logical_or),
    "Xor": binary(torch.logical_xor),
    "Not": unary(torch.logical_not),
    "BitwiseAnd": binary(torch.bitwise_and),
    "BitwiseOr": binary(torch.bitwise_or),
    "BitwiseXor": binary(torch.bitwise_xor),
    "BitwiseNot": unary(torch.bitwise_not),
    "BitShift": bit_shift,
    "Max": variadic(torch.maximum),
    "Min": variadic(torch.minimum),
    "Sum": variadic(torch.add),
    "Mean": mean,
    "Abs": unary(torch.abs),
    "Neg": unary(torch.neg),
    "Sqrt": unary(torch.sqrt),
    "Reciprocal": unary(torch.reciprocal),
    "Exp": unary(torch.exp),
    "Log": unary(torch.log),
    "Floor": unary(torch.floor),
    "Ceil": unary(torch.ceil),
    "Round": unary(torch.round),
    "Sign": unary(torch.sign),
    "Erf": unary(torch.erf),
    "IsNaN": unary(torch.isnan),
    "Sin": unary(torch.sin),
    "Cos": unary(torch.cos),
    "Tan": unary(torch.tan),
    "Sinh": unary(torch.sinh),
    "Cosh": unary(torch.cosh),
    "Asin": unary(torch.asin),
    "Acos": unary(torch.acos),
    "Atan": unary(torch.atan),
    "Asinh": unary(torch.asinh),
    "Acosh": unary(torch.acosh),
    "Atanh": unary(torch.atanh),
}
