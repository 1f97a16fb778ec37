"""Equally spaced values over the range of the inputs in each call.

A file cannot know this range. So the grid stores nothing, belongs to one layer instead of a
rounding site, and the file computes that layer as one integer product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.grid import Codes, InputGrid

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import GridTensors


@dataclass(frozen=True)
class Dynamic(InputGrid):
    """Round inputs of linear layers to 8 bits over the range found in each call.

    inputs: (n ...), one scale and zero point for the whole tensor
    s = (max(x, 0) - min(x, 0)) / 255        1 where that is 0
    z = round(-min(x, 0) / s)
    q = clamp(round(x / s) + z, 0, 255)      value = (q - z) s
    dvalue/dx = 1, the straight-through estimator

    No calibration samples are needed. The rounding of a value depends on all other values in the
    call, so also on the other samples of the batch. Only linear layers have such integer kernels.

    Also known as: dynamic quantization, dynamic range quantization.
    Source: ONNX, DynamicQuantizeLinear,
    https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html, for the formula.
    """

    of_inputs: ClassVar[tuple[int, ...]] = (8,)
    for_inputs_too: ClassVar[bool] = True
    private: ClassVar[bool] = True
    at_run_time: ClassVar[bool] = True

    def inputs(self, x: Tensor, bits: int, held: GridTensors) -> Tensor:
        import torch

        if not x.numel():
            return x
        y = x.detach().float()
        low = y.amin().clamp(max=0)
        high = y.amax().clamp(min=0)
        scale = (high - low) / 255
        scale = torch.where(scale > 0, scale, 1.0)
        zero = (-low / scale).round().clamp(0, 255)
        values = (((y / scale).round() + zero).clamp(0, 255) - zero) * scale
        values = values.to(x.dtype)
        return values + (x - x.detach()) if x.requires_grad else values

    def input_codes(self, bits: int, held: GridTensors) -> Codes:
        raise TypeError("dynamic: the scale of inputs is not known before the call")
