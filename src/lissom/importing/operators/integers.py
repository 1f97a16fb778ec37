"""Weights that are integers with a scale."""

from __future__ import annotations

from typing import Any

import torch

from ..build import Op
from ..values import Constant


def dequantize(op: Op) -> Any:
    """Return the floats that constant integers stand for; they keep the name of the integers."""
    whole = op[0]
    if not isinstance(whole, Constant):
        raise ValueError("integers that are computed are not known; export the network in float")
    if op.get("block_size", 0):
        raise ValueError("scales of blocks are not known")
    axis = op.get("axis", 1)
    scale = along(op.constant(1), whole.tensor, axis)
    values = whole.tensor.to(torch.float32)
    if op.optional(2) is not None:
        values = values - along(op.constant(2), whole.tensor, axis).to(torch.float32)
    return Constant((values * scale).to(torch.float32), whole.source)


def along(row: torch.Tensor, tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Return one number, or one for each place of an axis, as it meets a tensor."""
    if row.numel() == 1:
        return row.reshape(())
    shape = [1] * tensor.ndim
    shape[axis] = -1
    return row.reshape(shape)


OPERATORS = {"DequantizeLinear": dequantize}
