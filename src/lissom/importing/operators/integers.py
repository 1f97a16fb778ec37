"""QuantizeLinear and DequantizeLinear on weights and on inputs of the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..build import Op
from ..values import Constant

FLOAT32 = 1  # type of ONNX
# types of a QuantizeLinear by number in ONNX; 0 is that of the zero point, uint8 without one
INTEGER_TYPES = {0: torch.uint8, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16}


def dequantize(op: Op) -> Any:
    """Dequantize integers. A dequantized constant keeps its name in the file."""
    codes = op[0]
    check_floats(op, "output_dtype")
    if op.get("block_size", 0):
        raise ValueError("scales of blocks are not known")
    axis = op.get("axis", 1)
    if not isinstance(codes, Constant):
        return dequantize_activation(op, codes, axis)
    scale = broadcast_along(op.constant(1), codes.tensor, axis)
    values = codes.tensor.to(torch.float32)
    if op.optional(2) is not None:
        values = values - broadcast_along(op.constant(2), codes.tensor, axis).to(torch.float32)
    return Constant((values * scale).to(torch.float32), codes.source)


def dequantize_activation(op: Op, codes: fx.Node, axis: int) -> Any:
    """Dequantize integers that the network computes or takes as input."""
    shape_stand_in = torch.empty(op.shape(codes), device="meta")
    values = op.call(torch.Tensor.to, codes, torch.float32)
    if op.optional(2) is not None:
        zero = broadcast_along(op.constant(2), shape_stand_in, axis).to(torch.float32)
        values = op.call(torch.sub, values, Constant(zero))
    return op.call(
        torch.mul, values, Constant(broadcast_along(op.constant(1), shape_stand_in, axis))
    )


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
    limits = torch.iinfo(zero.dtype)
    steps = (x.tensor / broadcast_along(op.constant(1), x.tensor, axis)).round()
    codes = (steps + broadcast_along(zero, x.tensor, axis)).clamp(limits.min, limits.max)
    return Constant(codes.to(zero.dtype), x.source)


def zero_point(op: Op) -> torch.Tensor:
    """Return the zero point of a QuantizeLinear. Raises ValueError if its type is not known."""
    kind = op.get("output_dtype", 0)
    if kind not in INTEGER_TYPES:
        raise ValueError(f"output_dtype {kind} is not known")
    if op.optional(2) is None:
        return torch.zeros((), dtype=INTEGER_TYPES[kind])
    zero = op.constant(2)
    if kind and zero.dtype != INTEGER_TYPES[kind]:
        raise ValueError(
            f"output_dtype {kind} differs from the type of its zero point, {zero.dtype}"
        )
    return zero


def check_floats(op: Op, name: str) -> None:
    """Raise ValueError if an attribute is another type than 32-bit floats, the default."""
    if op.get(name, 0) not in (0, FLOAT32):
        raise ValueError(f"{name} {op.get(name, 0)} is not known")


def broadcast_along(row: torch.Tensor, tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Return one number, or one per position of an axis, shaped to broadcast over a tensor.

    Raises ValueError if there are not as many numbers as positions.
    """
    if row.numel() == 1:
        return row.reshape(())
    if row.numel() != tensor.shape[axis]:
        expected = tensor.shape[axis]
        raise ValueError(f"expected {expected} numbers for axis {axis}, got {row.numel()}")
    shape = [1] * tensor.ndim
    shape[axis] = -1
    return row.reshape(shape)


OPERATORS = {"DequantizeLinear": dequantize, "QuantizeLinear": quantize}
