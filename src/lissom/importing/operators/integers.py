"""QuantizeLinear and DequantizeLinear on weights and on inputs of the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..build import Op
from ..values import Constant

FLOAT = 1  # type of ONNX
# types of a QuantizeLinear by number in ONNX; 0 is that of the zero point, uint8 without one
INTEGERS = {0: torch.uint8, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16}


def dequantize(op: Op) -> Any:
    """Dequantize integers. A dequantized constant keeps its name in the file."""
    whole = op[0]
    check_floats(op, "output_dtype")
    if op.get("block_size", 0):
        raise ValueError("scales of blocks are not known")
    axis = op.get("axis", 1)
    if not isinstance(whole, Constant):
        return computed(op, whole, axis)
    scale = along(op.constant(1), whole.tensor, axis)
    values = whole.tensor.to(torch.float32)
    if op.optional(2) is not None:
        values = values - along(op.constant(2), whole.tensor, axis).to(torch.float32)
    return Constant((values * scale).to(torch.float32), whole.source)


def computed(op: Op, whole: fx.Node, axis: int) -> Any:
    """Dequantize integers that the network computes or takes as input."""
    like = torch.empty(op.shape(whole), device="meta")
    values = op.call(torch.Tensor.to, whole, torch.float32)
    if op.optional(2) is not None:
        zero = along(op.constant(2), like, axis).to(torch.float32)
        values = op.call(torch.sub, values, Constant(zero))
    return op.call(torch.mul, values, Constant(along(op.constant(1), like, axis)))


def quantize(op: Op) -> Any:
    """Quantize a constant. Raises ValueError for activations, whose rounding was removed before."""
    x = op[0]
    if not isinstance(x, Constant):
        raise ValueError("rounding other than between layers is not known")
    check_floats(op, "precision")
    if op.get("block_size", 0):
        raise ValueError("scales of blocks are not known")
    zero = zero_point(op)
    axis = op.get("axis", 1)
    ends = torch.iinfo(zero.dtype)
    steps = (x.tensor / along(op.constant(1), x.tensor, axis)).round()
    whole = (steps + along(zero, x.tensor, axis)).clamp(ends.min, ends.max)
    return Constant(whole.to(zero.dtype), x.source)


def zero_point(op: Op) -> torch.Tensor:
    """Return the zero point of a QuantizeLinear. Raises ValueError if its type is not known."""
    kind = op.get("output_dtype", 0)
    if kind not in INTEGERS:
        raise ValueError(f"output_dtype {kind} is not known")
    if op.optional(2) is None:
        return torch.zeros((), dtype=INTEGERS[kind])
    zero = op.constant(2)
    if kind and zero.dtype != INTEGERS[kind]:
        raise ValueError(
            f"output_dtype {kind} differs from the type of its zero point, {zero.dtype}"
        )
    return zero


def check_floats(op: Op, name: str) -> None:
    """Raise ValueError if an attribute is another type than 32-bit floats, the default."""
    if op.get(name, 0) not in (0, FLOAT):
        raise ValueError(f"{name} {op.get(name, 0)} is not known")


def along(row: torch.Tensor, tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Return one number, or one per position of an axis, shaped to broadcast over a tensor.

    Raises ValueError if there are not as many numbers as positions.
    """
    if row.numel() == 1:
        return row.reshape(())
    if row.numel() != tensor.shape[axis]:
        wanted = tensor.shape[axis]
        raise ValueError(f"expected {wanted} numbers for axis {axis}, got {row.numel()}")
    shape = [1] * tensor.ndim
    shape[axis] = -1
    return row.reshape(shape)


OPERATORS = {"DequantizeLinear": dequantize, "QuantizeLinear": quantize}
