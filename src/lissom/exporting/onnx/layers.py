"""A quantized network as an ONNX file computes it: integers, and the nodes that round and widen.

Layers and roundings become what writes these nodes, by changing their class, so a quantized network
itself knows nothing of ONNX.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...language.grid import NEAR, by_filter
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
from ..floats import HeldRounding, hold_roundings

OPSET = 21  # the first with DequantizeLinear of every type that is written here


class IntegerRounding(HeldRounding):
    """A rounding of inputs that is written as QuantizeLinear and DequantizeLinear.

    Integers below 8 bits are clipped between the two, as integers, which leaves the convolution
    before it an integer one in every runtime.
    """

    zero_type: ClassVar[torch.dtype] = torch.uint8

    def forward(self, x: Tensor) -> Tensor:
        if self.off:
            return x
        if self.sign:
            above = node("GreaterOrEqual", [x, torch.tensor(NEAR)], torch.bool, x.shape)
            ends = [torch.tensor(end, dtype=torch.uint8) for end in (self.top, 0)]
            q = node("Where", [above, *ends], torch.uint8, x.shape)
        else:
            q = node("QuantizeLinear", [x, self.q_scale, self.q_zero], torch.uint8, x.shape)
            if self.top < 255:
                ends = [torch.tensor(end, dtype=torch.uint8) for end in (0, self.top)]
                q = node("Clip", [q, *ends], torch.uint8, x.shape)
        return node("DequantizeLinear", [q, self.q_step, self.q_zero], torch.float32, x.shape)


class IntegerLayer(QuantizedLayer):
    """A layer whose weights are int8 and whose bias is int32."""

    weight_q: Tensor  # int8 (out ...), or (in out) where MatMulInteger reads it
    weight_scale: Tensor  # (out)
    weight_zero: Tensor  # int8 (out), mostly zeros; none where the layer reads floats
    weight_shift: Tensor  # (out 1 ...): there, what a zero point takes away
    bias_q: Tensor  # int32 (out)
    bias_scale: Tensor  # (out)
    bias_float: Tensor  # (out), where the layer reads floats

    @property
    def at_run_time(self) -> bool:
        """Whether what the layer reads is rounded when the file runs."""
        return self.own is not None and self.own.grid.at_run_time

    def hold(self) -> None:
        """Hold weights as int8 and bias as int32."""
        assert self.rounding is not None
        codes, scale, bias = self.integers()
        whole = self.rounding.stored(codes)
        zeros = self.rounding.zeros()
        step = self.step()
        self.register_buffer("weight_q", whole.t().contiguous() if self.at_run_time else whole)
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

    def whole(self, x: Tensor, *more: Any, **named: Any) -> Tensor:
        if self.at_run_time:
            return self.product_at_run_time(x)
        if self.own is not None:
            x = self.own(x)
        return self.computed(x, self.widened(), self.bias_widened(), *more, **named)

    def widened(self) -> Tensor:
        """Return the weight, as the layer holds it, widened from its integers."""
        return self.dequantized(axis=0)

    def dequantized(self, axis: int) -> Tensor:
        """Return the weight as a DequantizeLinear node over its integers, whose filters lie along `axis`.

        That of weights which meet floats has no zero point: so the export knows it (weights.py).
        """
        zero = self._buffers.get("weight_zero")
        given = [self.weight_q, self.weight_scale, *([] if zero is None else [zero])]
        weight = node(
            "DequantizeLinear", given, torch.float32, self.weight_q.shape, attrs={"axis": axis}
        )
        shift = self._buffers.get("weight_shift")
        return weight if shift is None else weight - shift

    def bias_widened(self) -> Tensor | None:
        """Return the bias, as a DequantizeLinear node where it is integers."""
        if "bias_q" not in self._buffers:
            return self._buffers.get("bias_float")
        given = [self.bias_q, self.bias_scale]
        return node("DequantizeLinear", given, torch.float32, self.bias_q.shape, attrs={"axis": 0})

    def product_at_run_time(self, x: Tensor) -> Tensor:
        """Write the integer product of inputs (... in), rounded when the file runs, and the weight.

        The nodes are those that ONNX Runtime makes one DynamicQuantizeMatMul of.
        """
        q, step, zero = torch.onnx.ops.symbolic_multi_out(
            "DynamicQuantizeLinear",
            [x],
            dtypes=[torch.uint8, torch.float32, torch.uint8],
            shapes=[x.shape, [], []],
            version=11,
        )
        zeros = self._buffers.get("weight_zero")
        given = [q, self.weight_q, zero, *([] if zeros is None else [zeros])]
        shape = [*x.shape[:-1], self.weight_q.shape[1]]
        total = node("MatMulInteger", given, torch.int32, shape, version=10)
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
    """A transposed convolution whose weights are integers, mostly held as ONNX has them (in out ...).

    DequantizeLinear takes one scale for each place of an axis. With groups, a place of axis 1 is
    a filter of each group, and these have scales of their own; so such weights are dequantized as
    (out in/groups ...) and put in order as floats, which is exact. No runtime here has integer
    kernels that this would keep from use. Weights with zero points are written so, too: OpenVINO
    2026.4 computes wrong numbers with zero points along axis 1.
    """

    groups: int

    def hold(self) -> None:
        super().hold()
        assert self.rounding is not None
        self.along_axis_1 = self.groups == 1 and self.rounding.zeros() is None
        if self.along_axis_1:
            self.weight_q = self.as_held(self.weight_q).contiguous()

    def widened(self) -> Tensor:
        return self.dequantized(axis=1) if self.along_axis_1 else self.as_held(super().widened())


class IntegerConvTranspose1d(IntegerTransposed, QuantizedConvTranspose1d):
    """A transposed convolution over one axis whose weights are integers."""


class IntegerConvTranspose2d(IntegerTransposed, QuantizedConvTranspose2d):
    """A transposed convolution whose weights are integers."""


class IntegerConvTranspose3d(IntegerTransposed, QuantizedConvTranspose3d):
    """A transposed convolution over three axes whose weights are integers."""


class IntegerLinear(IntegerLayer, QuantizedLinear):
    """A linear layer in integers."""


class IntegerEmbedding(IntegerLayer, QuantizedEmbedding):
    """A table of int8, of which only the rows that are looked up are widened."""

    def hold(self) -> None:
        super().hold()
        self.weight_scale = self.weight_scale[:, None]  # looked up as the rows are

    def whole(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        codes = self.rows(self.weight_q, x, torch.int8)
        y = codes.to(torch.float32) * self.rows(self.weight_scale, x, torch.float32)
        shift = self._buffers.get("weight_shift")
        return y if shift is None else y - self.rows(shift, x, torch.float32)

    def rows(self, table: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Write the node that looks rows (... features) of a table (n features) up."""
        return node("Gather", [table, x], dtype, [*x.shape, table.shape[1]], attrs={"axis": 0})


CLASSES: dict[type[QuantizedLayer], type[IntegerLayer]] = {
    QuantizedConv1d: IntegerConv1d,
    QuantizedConv2d: IntegerConv2d,
    QuantizedConv3d: IntegerConv3d,
    QuantizedConvTranspose1d: IntegerConvTranspose1d,
    QuantizedConvTranspose2d: IntegerConvTranspose2d,
    QuantizedConvTranspose3d: IntegerConvTranspose3d,
    QuantizedLinear: IntegerLinear,
    QuantizedEmbedding: IntegerEmbedding,
}


def node(
    kind: str,
    given: list[Tensor],
    dtype: torch.dtype,
    shape: Any,
    version: int = OPSET,
    attrs: dict[str, Any] | None = None,
) -> Tensor:
    """Write a node of this kind, of one output."""
    found: Tensor = torch.onnx.ops.symbolic(
        kind, given, attrs=attrs or {}, dtype=dtype, shape=shape, version=version
    )
    return found


def round_in_integers(network: QuantizedNetwork) -> None:
    """Let a network hold integers, in place; from then on it can only be exported."""
    for layer in network.layers():
        if layer.rounding is None:
            layer.make_plain(*layer.in_inference())
            continue
        layer.__class__ = CLASSES[type(layer)]
        assert isinstance(layer, IntegerLayer)
        layer.hold()
    hold_roundings(network, IntegerRounding)
