"""A layer of any width, once or several times in a row, as an ONNX file in float or in 8 bits that
a runtime can time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..surgery.trace import Op

INPUT_SCALE = 1 / 32  # of 8-bit inputs: four standard deviations fill their range
ZERO_POINT = 128


@dataclass(frozen=True)
class Layer:
    """The facts of a convolution, or of a linear layer (kernel ()), that its latency depends on."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    size: tuple[int, ...] = ()  # of the input: positions
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    bits: int = 32  # of weights, inputs and outputs: 32 or 8
    copies: int = 1  # each reads the output of the one before

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample, without regard to padding."""
        weights = self.inputs * self.outputs * math.prod(self.kernel) // self.groups
        strides = 1 if self.transposed else math.prod(self.stride)
        return weights * math.prod(self.size) // strides

    def with_widths(self, inputs: float, outputs: float) -> Layer:
        """Return the layer with other widths, rounded so that all groups are equally wide."""
        if self.groups > 1 and self.groups == self.inputs:  # depthwise
            width = max(1, round(inputs))
            return replace(
                self, inputs=width, outputs=width * (self.outputs // self.inputs), groups=width
            )
        step = self.groups
        return replace(
            self,
            inputs=max(step, round(inputs / step) * step),
            outputs=max(step, round(outputs / step) * step),
        )

    @property
    def repeatable(self) -> bool:
        """Whether the layer keeps the number of positions, so that copies can follow each other."""
        spread = zip(self.kernel, self.dilation, self.padding, strict=True)
        keeps = all((k - 1) * d == 2 * p for k, d, p in spread)
        return keeps and not self.transposed and set(self.stride) <= {1}

    def onnx_file(self) -> bytes:
        """Return the layer as an ONNX file with random weights.

        Layers of 8 bits take and make unsigned integers, as in the middle of a quantized network.
        Every second copy has inputs and outputs swapped.
        """
        nodes = list[Any]()
        tensors = dict[str, np.ndarray]()
        layer = self
        value = "x"
        for k in range(self.copies):
            output = "y" if k == self.copies - 1 else f"y{k}"
            made, held = (layer._quantized if self.bits == 8 else layer._float)(value, output)
            nodes += made
            tensors |= held
            layer = layer.with_widths(layer.outputs, layer.inputs)
            value = output
        kind = TensorProto.UINT8 if self.bits == 8 else TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "layer",
            [helper.make_tensor_value_info("x", kind, self.input_shape)],
            [helper.make_tensor_value_info("y", kind, None)],
            [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model).SerializeToString()

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1, self.inputs, *self.size) if self.kernel else (*self.size, self.inputs)

    def _random_weight(self) -> np.ndarray:
        if not self.kernel:
            shape: tuple[int, ...] = (self.inputs, self.outputs)
        elif self.transposed:
            shape = (self.inputs, self.outputs // self.groups, *self.kernel)
        else:
            shape = (self.outputs, self.inputs // self.groups, *self.kernel)
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def _float(self, x: str, y: str, w: str = "") -> tuple[list[Any], dict[str, np.ndarray]]:
        """Return the node that computes y from x, and its weight, unless `w` names one."""
        weight = w or f"{y}_weight"
        if not self.kernel:
            node = helper.make_node("MatMul", [x, weight], [y])
        else:
            node = helper.make_node(
                "ConvTranspose" if self.transposed else "Conv",
                [x, weight],
                [y],
                strides=self.stride,
                pads=[*self.padding, *self.padding],
                dilations=self.dilation,
                group=self.groups,
            )
        return [node], {} if w else {weight: self._random_weight()}

    def _quantized(self, x: str, y: str) -> tuple[list[Any], dict[str, np.ndarray]]:
        """Return the nodes that compute y from x, both integers, and their tensors. The weight has
        a scale for each output.
        """
        weight = self._random_weight()
        axis = 1 if self.transposed or not self.kernel else 0  # of the outputs
        others = tuple(k for k in range(weight.ndim) if k != axis)
        scale = np.abs(weight).max(others, keepdims=True) / 127
        spread = math.sqrt(weight.size / weight.shape[axis])  # y's, relative to x's
        tensors = {
            f"{y}_integers": np.rint(weight / scale).astype(np.int8),
            f"{y}_weight_scale": scale.reshape(-1).astype(np.float32),
            f"{y}_weight_zero": np.zeros(scale.size, np.int8),
            f"{y}_x_scale": np.array(INPUT_SCALE, np.float32),
            f"{y}_scale": np.array(INPUT_SCALE * spread, np.float32),
            f"{y}_zero": np.array(ZERO_POINT, np.uint8),
        }
        integers, weight_scale, weight_zero, x_scale, y_scale, zero = tensors
        layer, _ = self._float(f"{y}_x_float", f"{y}_float", w=f"{y}_weight")
        nodes = [
            helper.make_node("DequantizeLinear", [x, x_scale, zero], [f"{y}_x_float"]),
            helper.make_node(
                "DequantizeLinear",
                [integers, weight_scale, weight_zero],
                [f"{y}_weight"],
                axis=axis,
            ),
            *layer,
            helper.make_node("QuantizeLinear", [f"{y}_float", y_scale, zero], [y]),
        ]
        return nodes, tensors

    def random_input(self) -> np.ndarray:
        """Return a random input of the layer."""
        x = np.random.default_rng(1).standard_normal(self.input_shape)
        if self.bits == 8:
            return np.clip(np.rint(x / INPUT_SCALE) + ZERO_POINT, 0, 255).astype(np.uint8)
        return x.astype(np.float32)


def layer_of(op: Op) -> Layer:
    """Return the layer of a recorded convolution or matrix product."""
    x = op.args[0] if op.name in ("convolution", "linear") else op.args[-2]
    out = op.outputs[0]
    if op.name != "convolution":
        return Layer(x.shape[-1], out.shape[-1], size=tuple(x.shape[:-1]))
    _, weight, _, stride, padding, dilation, transposed, _, groups = op.args[:9]
    return Layer(
        x.shape[1],
        out.shape[1],
        tuple(weight.shape[2:]),
        tuple(x.shape[2:]),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        bool(transposed),
    )
