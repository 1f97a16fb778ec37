"""Quantized networks in PyTorch's integer operators, which ExecuTorch's XNNPACK reads.

XNNPACK reads no ONNX. It has no integer kernels for activations that are not 8 bits, for linear
layers behind a reshape and for convolutions whose outputs are read as floats. These stay float, and
so do all other linear layers.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..language.grid import by_filter
from ..surgery.quantization.layers import QuantizedConv1d, QuantizedConv2d, QuantizedLayer
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.rounding import Rounding

CODE_SHIFT = 128  # from uint8 to int8, the only type that XNNPACK has

RELUS = ("aten.relu", "aten.hardtanh", "aten.clamp")


class IntegerRounding(Rounding):
    """A rounding of activations to int8 and back to float, made by changing a rounding's class."""

    step_size: float
    zero: int

    def forward(self, x: Tensor) -> Tensor:
        settings = (self.step_size, self.zero, -128, 127, torch.int8)
        codes: Tensor = torch.ops.quantized_decomposed.quantize_per_tensor(x, *settings)
        values: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(codes, *settings)
        return values


class IntegerConvolution(QuantizedLayer):
    """A convolution that dequantizes its int8 weights, made by changing a layer's class."""

    codes: Tensor  # int8 (out ...)
    scales: Tensor  # (out)
    zeros: Tensor  # int64 (out)
    floats: Tensor | None  # bias (out)

    def forward_quantized(self, x: Tensor) -> Tensor:
        if self.own_input_rounding is not None:
            x = self.own_input_rounding(x)
        weight = (self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)
        return self.computed(
            x, torch.ops.quantized_decomposed.dequantize_per_channel(*weight), self.floats
        )

    def make_float(self) -> None:
        """Become a float convolution with the same weights."""
        weight = self.codes * by_filter(self.scales, self.codes)
        bias = self.floats
        for name in ("codes", "scales", "zeros", "floats"):
            delattr(self, name)
        self.make_plain(weight, bias)


class IntegerConv1d(IntegerConvolution, QuantizedConv1d):
    """A convolution over one axis, which ExecuTorch runs as one over two."""


class IntegerConv2d(IntegerConvolution, QuantizedConv2d):
    """A convolution over two axes."""


INTEGER_CLASSES: dict[type[QuantizedLayer], type[IntegerConvolution]] = {
    QuantizedConv1d: IntegerConv1d,
    QuantizedConv2d: IntegerConv2d,
}


def prepare_integer_convolutions(network: QuantizedNetwork) -> bool:
    """Prepare a network for an export in which convolutions run in integers. Return False, with
    nothing done, if none can.

    All activations must be rounded to 8 bits. Linear layers become float layers whose weights lie
    on their grid.
    """
    import torchao.quantization.pt2e  # noqa: F401  registers the operators

    roundings = [network.grid_of(site) for site in network.grids]
    if not roundings or any(
        rounding.grid.at_run_time or rounding.bits != 8 for rounding in roundings
    ):
        return False
    codes = [rounding.input_codes() for rounding in roundings]
    if any(code.sign or code.top != 255 for code in codes):
        return False
    for layer in network.layers():
        if (
            type(layer) in INTEGER_CLASSES
            and layer.rounding is not None
            and layer.step() is not None
            and layer.rounding.zeros() is None
        ):  # XNNPACK's weights have no zero points
            integers, scale, bias = layer.integers()
            buffers: dict[str, Any] = {
                "codes": integers.to(torch.int8),
                "scales": scale,
                "zeros": torch.zeros(len(scale), dtype=torch.int64),
                "floats": None if bias is None else bias.float(),
            }
            for name, value in buffers.items():
                layer.register_buffer(name, value)
            layer.__class__ = INTEGER_CLASSES[type(layer)]
            layer.norm = layer.rounding = None
            layer.drop_transforms()
            # the file must hold only the integers
            layer.weight = nn.Parameter(torch.zeros(()), requires_grad=False)
        else:
            layer.make_plain(*layer.in_inference())
    for rounding, code in zip(roundings, codes, strict=True):
        rounding.__class__ = IntegerRounding
        rounding.step_size = float(code.step)  # type: ignore[assignment]
        rounding.zero = int(code.zero) - CODE_SHIFT  # type: ignore[assignment]
    return True


def convolutions_read_as_floats(program: torch.export.ExportedProgram) -> set[str]:
    """Return the integer convolutions of an exported network whose outputs are not all rounded, for
    example because the network returns them.

    XNNPACK has no kernel for them, and ExecuTorch has none for their weights.
    """
    buffer_names = program.graph_signature.inputs_to_buffers
    layers = set[str]()
    for node in program.graph.nodes:
        if str(node.target) == "quantized_decomposed.dequantize_per_channel.default":
            readers = chain.from_iterable(map(readers_past_relu, node.users))
            if any(
                str(reader.target) != "quantized_decomposed.quantize_per_tensor.default"
                for reader in readers
            ):
                layers.add(buffer_names[node.args[0].name].removesuffix(".codes"))
    return layers


def readers_past_relu(node: torch.fx.Node) -> list[torch.fx.Node]:
    """Return the nodes that read the output of a node, or of the ReLU after it."""
    readers = list[torch.fx.Node]()
    for user in node.users:
        readers += readers_past_relu(user) if str(user.target).startswith(RELUS) else [user]
    return readers
