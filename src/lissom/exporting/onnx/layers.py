"""Layers and roundings that write a quantized network to ONNX, as integers with Q/DQ nodes.

A layer or rounding gets the class that writes its nodes only for the export, so quantized networks
know nothing of ONNX.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...language.grid import ZERO_TOLERANCE, by_filter
from ...surgery.quantization.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose1d,
    QuantizedConvTranspose2d,
    QuantizedConvTranspose3d,
    QuantizedEmbedding,
    QuantizedLayer,
    QuantizedLinear,
)
from ...surgery.quantization.network import QuantizedNetwork
from ..floats import ExportedRounding, convert_roundings

OPSET = 21  # the first whose DequantizeLinear takes every type used here


class IntegerRounding(ExportedRounding):
    """A rounding of inputs, written as QuantizeLinear and DequantizeLinear.

    Integers of fewer than 8 bits are clipped between the two, as integers, so that the convolution
    before them still runs in integers in every runtime.
    """

    zero_type: ClassVar[torch.dtype] = torch.uint8

    def forward(self, x: Tensor) -> Tensor:
        if self.off:
            return x
        if self.sign:
            above = write_node(
                "GreaterOrEqual", [x, torch.tensor(ZERO_TOLERANCE)], torch.bool, x.shape
            )
            pair = [torch.tensor(code, dtype=torch.uint8) for code in (self.top, 0)]
            q = write_node("Where", [above, *pair], torch.uint8, x.shape)
        else:
            q = write_node("QuantizeLinear", [x, self.q_scale, self.q_zero], torch.uint8, x.shape)
            if self.top < 255:
                pair = [torch.tensor(code, dtype=torch.uint8) for code in (0, self.top)]
                q = write_node("Clip", [q, *pair], torch.uint8, x.shape)
        return write_node("DequantizeLinear", [q, self.q_step, self.q_zero], torch.float32, x.shape)


class IntegerLayer(QuantizedLayer):
    """A layer whose weights are int8 and whose bias is int32."""

    weight_q: Tensor  # int8 (out ...), or (in out) for MatMulInteger
    weight_scale: Tensor  # (out)
    weight_zero: Tensor  # int8 (out), mostly zeros; absent if the layer reads floats
    weight_shift: Tensor  # (out 1 ...): zero point * scale, if the layer reads floats
    bias_q: Tensor  # int32 (out)
    bias_scale: Tensor  # (out)
    bias_float: Tensor  # (out), if the layer reads floats

    @property
    def at_run_time(self) -> bool:
        """Whether the range of the layer's input is found when the file runs."""
        return self.own_input_rounding is not None and self.own_input_rounding.grid.at_run_time

    def register_buffers(self) -> None:
        """Store weights as int8 and bias as int32, or as float if the layer reads floats."""
        assert self.rounding is not None
        codes, scale, bias = self.integers()
        integers = self.rounding.stored(codes)
        zeros = self.rounding.zeros()
        step = self.step()
        self.register_buffer(
            "weight_q", integers.t().contiguous() if self.at_run_time else integers
        )
        self.register_buffer("weight_scale", scale)
        if step is not None or (self.at_run_time and zeros is not None):
            zeros = torch.zeros_like(scale) if zeros is None else zeros
            self.register_buffer("weight_zero", zeros.to(torch.int8))
        elif zeros is not None:
            self.register_buffer("weight_shift", by_filter(zeros * scale, codes))
        if bias is not None and step is not None:
            self.register_buffer("bias_scale", scale * step)
            self.register_buffer("bias_q", (bias / (scale * step).double()).round().to(torch.int32))
        elif bias is not None:
            self.register_buffer("bias_float", bias.float())

    def forward_quantized(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        if self.at_run_time:
            return self.write_run_time_product(x)
        if self.own_input_rounding is not None:
            x = self.own_input_rounding(x)
        return self.computed(x, self.dequantized_weight(), self.dequantized_bias(), *more, **named)

    def dequantized_weight(self) -> Tensor:
        """Return the dequantized weight, in the layout of the layer."""
        return self.dequantize_node(axis=0)

    def dequantize_node(self, axis: int) -> Tensor:
        """Return the weight as a DequantizeLinear of its integers, with filters along `axis`.

        If the layer reads floats, the node has no zero point: fold_scales_at_load knows it by that.
        """
        zero = self._buffers.get("weight_zero")
        inputs = [self.weight_q, self.weight_scale, *([] if zero is None else [zero])]
        weight = write_node(
            "DequantizeLinear", inputs, torch.float32, self.weight_q.shape, attrs={"axis": axis}
        )
        shift = self._buffers.get("weight_shift")
        return weight if shift is None else weight - shift

    def dequantized_bias(self) -> Tensor | None:
        """Return the bias, as a DequantizeLinear node if it is int32."""
        if "bias_q" not in self._buffers:
            return self._buffers.get("bias_float")
        inputs = [self.bias_q, self.bias_scale]
        return write_node(
            "DequantizeLinear", inputs, torch.float32, self.bias_q.shape, attrs={"axis": 0}
        )

    def write_run_time_product(self, x: Tensor) -> Tensor:
        """Write the integer product of the weight and inputs (... in) that are rounded at run time.

        ONNX Runtime fuses these nodes into one DynamicQuantizeMatMul.
        """
        q, step, zero = torch.onnx.ops.symbolic_multi_out(
            "DynamicQuantizeLinear",
            [x],
            dtypes=[torch.uint8, torch.float32, torch.uint8],
            shapes=[x.shape, [], []],
            version=11,
        )
        zeros = self._buffers.get("weight_zero")
        inputs = [q, self.weight_q, zero, *([] if zeros is None else [zeros])]
        shape = [*x.shape[:-1], self.weight_q.shape[1]]
        total = write_node("MatMulInteger", inputs, torch.int32, shape, version=10)
        y: Tensor = total.to(torch.float32) * (step * self.weight_scale)
        bias = self._buffers.get("bias_float")
        return y if bias is None else y + bias


class IntegerConv1d(IntegerLayer, QuantizedConv1d):
    """A convolution over one axis in integers."""


class IntegerConv2d(IntegerLayer, QuantizedConv2d):
    """A convolution in integers."""


class IntegerConv3d(IntegerLayer, QuantizedConv3d):
    """A convolution over three axes in integers."""


class IntegerTransposed(IntegerLayer):
    """A transposed convolution whose weights are integers, usually in ONNX's layout (in out ...).

    DequantizeLinear takes one scale per index of an axis. With groups, an index of axis 1 is one
    filter of each group, and these have different scales. Such weights are therefore dequantized as
    (out in/groups ...) and rearranged as floats, which is exact. No runtime here has integer
    kernels that this would prevent. Weights with zero points are written this way too: OpenVINO
    2026.4 computes wrong numbers with zero points along axis 1.
    """

    groups: int

    def register_buffers(self) -> None:
        super().register_buffers()
        assert self.rounding is not None
        self.filters_on_axis_1 = self.groups == 1 and self.rounding.zeros() is None
        if self.filters_on_axis_1:
            self.weight_q = self.as_held(self.weight_q).contiguous()

    def dequantized_weight(self) -> Tensor:
        return (
            self.dequantize_node(axis=1)
            if self.filters_on_axis_1
            else self.as_held(super().dequantized_weight())
        )


class IntegerConvTranspose1d(IntegerTransposed, QuantizedConvTranspose1d):
    """A transposed convolution over one axis whose weights are integers."""


class IntegerConvTranspose2d(IntegerTransposed, QuantizedConvTranspose2d):
    """A transposed convolution whose weights are integers."""


class IntegerConvTranspose3d(IntegerTransposed, QuantizedConvTranspose3d):
    """A transposed convolution over three axes whose weights are integers."""


class IntegerLinear(IntegerLayer, QuantizedLinear):
    """A linear layer in integers."""


class IntegerEmbedding(IntegerLayer, QuantizedEmbedding):
    """An int8 table. Only the rows that are looked up are dequantized."""

    def register_buffers(self) -> None:
        super().register_buffers()
        self.weight_scale = self.weight_scale[:, None]  # looked up like the rows

    def forward_quantized(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        codes = self.look_up_rows(self.weight_q, x, torch.int8)
        y = codes.to(torch.float32) * self.look_up_rows(self.weight_scale, x, torch.float32)
        shift = self._buffers.get("weight_shift")
        return y if shift is None else y - self.look_up_rows(shift, x, torch.float32)

    def look_up_rows(self, table: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Write a node that looks up rows (... features) of a table (n features)."""
        return write_node(
            "Gather", [table, x], dtype, [*x.shape, table.shape[1]], attrs={"axis": 0}
        )


INTEGER_CLASSES: dict[type[QuantizedLayer], type[IntegerLayer]] = {
    QuantizedConv1d: IntegerConv1d,
    QuantizedConv2d: IntegerConv2d,
    QuantizedConv3d: IntegerConv3d,
    QuantizedConvTranspose1d: IntegerConvTranspose1d,
    QuantizedConvTranspose2d: IntegerConvTranspose2d,
    QuantizedConvTranspose3d: IntegerConvTranspose3d,
    QuantizedLinear: IntegerLinear,
    QuantizedEmbedding: IntegerEmbedding,
}


def write_node(
    kind: str,
    inputs: list[Tensor],
    dtype: torch.dtype,
    shape: Any,
    version: int = OPSET,
    attrs: dict[str, Any] | None = None,
) -> Tensor:
    """Write a node of this kind with one output."""
    output: Tensor = torch.onnx.ops.symbolic(
        kind, inputs, attrs=attrs or {}, dtype=dtype, shape=shape, version=version
    )
    return output


def round_in_integers(network: QuantizedNetwork) -> None:
    """Turn the layers and roundings of a network into ones that write integers, in place.

    Afterwards the network can only be exported.
    """
    for layer in network.layers():
        if layer.rounding is None:
            layer.make_plain(*layer.in_inference())
            continue
        layer.__class__ = INTEGER_CLASSES[type(layer)]
        assert isinstance(layer, IntegerLayer)
        layer.register_buffers()
    convert_roundings(network, IntegerRounding)
