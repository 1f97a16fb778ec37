"""Shapes, constants, casts and selection. Sizes stay numbers unless they depend on the batch."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

from ..build import Op
from ..values import Constant, Sizes

# types of ONNX; 16-bit floats are computed in 32 bits
TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,
    11: torch.float64,
    16: torch.float32,
}


def shape(op: Op) -> Any:
    """Return the sizes of a tensor."""
    value = op.raw(0)
    count = op.rank(value)
    axes = range(count)[slice(op.get("start", 0), op.get("end", count))]
    if isinstance(value, Sizes):
        return Constant(torch.tensor(op.shape(value)))
    if not axes:
        return Constant(torch.zeros(0, dtype=torch.int64))
    return op.row_of([op.size(value, axis) for axis in axes])


def size(op: Op) -> Any:
    """Return the number of elements of a tensor."""
    total: Any = 1
    for axis in range(op.rank(op[0])):
        total = op.number(operator.mul, total, op.size(op[0], axis))
    return op.row_of([total], single=True)


def constant(op: Op) -> Any:
    """Return a constant of the file."""
    if isinstance(tensor := op.get("value"), Tensor):
        return Constant(tensor)
    for name, kind in (("value_float", torch.float32), ("value_int", torch.int64)):
        for numbers in (op.get(name), op.get(f"{name}s")):
            if numbers is not None:
                return Constant(torch.tensor(numbers, dtype=kind))
    raise ValueError("expected numbers")


def constant_of_shape(op: Op) -> Any:
    """Return a tensor filled with one number."""
    value = op.get("value", torch.zeros(1))
    return op.call(torch.full, tuple(op.sizes(0)), value.reshape(()).item(), dtype=value.dtype)


def range_of(op: Op) -> Any:
    """Call arange. Raises ValueError if start, limit or step is not a single number."""
    numbers = []
    for index in range(3):
        if len(part := op.sizes(index)) != 1:
            raise ValueError("expected single numbers")
        numbers.append(part[0])
    values = [op.raw(index) for index in range(3)]
    dtype = next((op.dtype(value) for value in values if isinstance(value, Constant)), torch.int64)
    return op.call(torch.arange, *numbers, dtype=dtype)


def cast(op: Op) -> Any:
    """Convert a tensor to another type. Raises ValueError if the type is not known."""
    wanted = TYPES.get(op.get("to", 1))
    if wanted is None:
        raise ValueError(f"type {op.get('to', 1)} is not known")
    return convert_type(op, op.raw(0), wanted)


def cast_like(op: Op) -> Any:
    """Convert a tensor to the type of another one."""
    return convert_type(op, op.raw(0), op.dtype(op.raw(1)))


def convert_type(op: Op, value: Any, dtype: torch.dtype) -> Any:
    """Return a value in a type; the value itself if it has that type."""
    if isinstance(value, Sizes):
        if dtype in (torch.int32, torch.int64):
            all_integers = all(isinstance(number_in_first_trace(part), int) for part in value.parts)
            return (
                value
                if all_integers
                else Sizes(tuple(op.number(int, part) for part in value.parts), value.single)
            )
        if dtype.is_floating_point:
            return Sizes(
                tuple(op.number(operator.mul, part, 1.0) for part in value.parts), value.single
            )
    value = op.tensor(value)
    if op.dtype(value) == dtype:
        return value
    return op.call(Tensor.to, value, dtype)


def number_in_first_trace(part: Any) -> Any:
    """Return the number that a size is in the first trace."""
    return part.meta["stand_ins"][0] if hasattr(part, "meta") else part


def identity(op: Op) -> Any:
    """Return the input itself."""
    return op.raw(0)


def where(op: Op) -> Any:
    """Select from two tensors by a condition."""
    condition, yes, no = (op.raw(index) for index in range(3))
    if isinstance(condition, Constant) and any(isinstance(v, Sizes) for v in (yes, no)):
        picks = condition.tensor.reshape(-1).tolist()
        rows = [parts_of(value, len(picks)) for value in (yes, no)]
        if rows[0] is not None and rows[1] is not None:
            return op.row_of(
                [a if pick else b for pick, a, b in zip(picks, rows[0], rows[1], strict=True)],
                single=condition.tensor.ndim == 0,
            )
    return op.call(torch.where, op[0], op[1], op[2])


def parts_of(value: Any, count: int) -> list[Any] | None:
    """Return the `count` numbers of sizes or of a constant, or None. A single one is repeated."""
    parts = list(value.parts) if isinstance(value, Sizes) else None
    if isinstance(value, Constant) and value.tensor.ndim < 2:
        parts = value.tensor.reshape(-1).tolist()
    if parts is not None and len(parts) == 1:
        parts = parts * count
    return parts if parts is not None and len(parts) == count else None


def is_infinite(op: Op) -> Any:
    """Return where numbers are infinite, of both signs, of one or of none."""
    negative = bool(op.get("detect_negative", 1))
    positive = bool(op.get("detect_positive", 1))
    if negative and positive:
        return op.call(torch.isinf, op[0])
    if not negative and not positive:
        return op.call(torch.zeros_like, op[0], dtype=torch.bool)
    return op.call(torch.eq, op[0], math.inf if positive else -math.inf)


OPERATORS = {
    "Shape": shape,
    "Size": size,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Range": range_of,
    "Cast": cast,
    "CastLike": cast_like,
    "Identity": identity,
    "Where": where,
    "IsInf": is_infinite,
}
