"""Layers and activations on an 8-bit grid: simulated in float, learnable, and exported as integers.

The simulation and the exported file use the same numbers. Weights are signed, symmetric, one scale for each
filter: q = clamp(round(w / s), -127, 127). Activations are unsigned, one scale and zero point for each tensor:
q = clamp(round(x / s) + z, 0, 255). The gradient passes where x is inside the range, and is 0 outside.
Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877; Bengio et al. 2013, https://arxiv.org/abs/1308.3432.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import LissomError
from .masks import held, hold_zeros

LEVELS = 127  # of the weights on either side of 0

_T = torch.Tensor
SITES: dict[Any, str] = {
    kind: word for word, kinds in {
        "conv": (torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d),
        "linear": (F.linear, torch.addmm, torch.matmul, _T.matmul, _T.__matmul__),
        "add": (torch.add, _T.add, _T.add_, _T.__add__, _T.__iadd__, _T.__radd__, torch.sub, _T.__sub__),
        "mul": (torch.mul, _T.mul, _T.mul_, _T.__mul__, _T.__imul__, _T.__rmul__),
        "cat": (torch.cat, torch.concat, torch.stack),
        "norm": (F.batch_norm, torch.batch_norm, F.layer_norm, F.group_norm),
        "relu": (F.relu, torch.relu, torch.relu_, _T.relu, _T.relu_, F.relu6, F.hardtanh),
        "act": (F.silu, F.hardswish, F.hardsigmoid, F.gelu, F.leaky_relu, F.elu, F.prelu, F.mish, torch.sigmoid,
                _T.sigmoid, F.sigmoid, torch.tanh, _T.tanh, F.softmax, torch.softmax, _T.softmax),
        "maxpool": (F.max_pool2d, F.adaptive_max_pool2d, torch.max_pool2d),
        "pool": (F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, _T.mean, F.interpolate),
    }.items() for kind in kinds}
PASSES: set[Any] = {  # what hands values on unchanged: the grid of its input is that of its output
    torch.flatten, _T.flatten, _T.view, _T.reshape, torch.reshape, _T.permute, torch.permute, _T.transpose,
    torch.transpose, _T.squeeze, torch.squeeze, _T.unsqueeze, torch.unsqueeze, _T.contiguous, F.dropout, F.dropout2d,
    _T.__getitem__, torch.chunk, _T.chunk, torch.split, _T.split, _T.expand, _T.detach, _T.clone, torch.clone}


def affine(low: float, high: float) -> tuple[float, int]:
    """Return scale and zero point of the unsigned 8-bit grid over [low, high], widened to hold 0.

    >>> affine(-55.0, 200.0)
    (1.0, 55)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 1e-8)
    return scale, max(0, min(255, round(-low / scale)))


class Quantizer(nn.Module):
    """Round an activation to its grid: `scale` (float32) and `zero_point` (int32), both of one element."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        scale, zero = affine(low, high)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(zero, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            zero = self.zero_point.to(torch.uint8)
            q = torch.onnx.ops.symbolic("QuantizeLinear", [x, self.scale, zero], dtype=torch.uint8, shape=x.shape,
                                        version=21)
            return torch.onnx.ops.symbolic("DequantizeLinear", [q, self.scale, zero], dtype=torch.float32,
                                           shape=x.shape, version=21)
        if torch.compiler.is_exporting():  # torch.export has no fused form that can be saved
            q = (x / self.scale).round().add(self.zero_point).clamp(0, 255)
            return (q - self.zero_point) * self.scale
        y = torch.fake_quantize_per_tensor_affine(x.float(), self.scale, self.zero_point, 0, 255)
        return y.to(x.dtype)


class _QuantizedLayer(nn.Module):
    """What a convolution and a linear layer with 8-bit weights share; made by changing a layer's class."""

    weight: Tensor
    bias: Any
    weight_scale: Tensor  # (out)
    weight_q: Tensor  # the integers, there only in a network that is being exported
    weight_zero: Tensor
    bias_q: Tensor
    bias_scale: Tensor
    site: str | None  # whose grid the input lies on; None where there is none or it differs from call to call
    input_scale: float | None = None  # that grid's
    masked: bool = False  # whether its zeros stay zero in training

    def settings(self) -> dict[str, Any]:
        """Return what a rebuilt layer must be told."""
        return {"site": self.site, "input_scale": self.input_scale, "masked": self.masked}

    def train(self, mode: bool = True) -> Any:
        """Go to training or inference; what training changed last counts in inference."""
        if self.training and not mode:
            self.rescale()
        hold_zeros(self, mode and self.masked)
        return super().train(mode)

    def rescale(self, input_scale: float | None = None) -> None:
        """Set the scale of each filter from its largest weight.

        A filter of tiny weights beside a real bias gets a scale at which that bias still fits int32.
        """
        self.input_scale = input_scale = input_scale or self.input_scale
        with torch.no_grad():
            scale = self.weight.detach().float().flatten(1).abs().amax(1) / LEVELS
            if self.bias is not None and input_scale:
                scale = torch.maximum(scale, self.bias.detach().float().abs() / (input_scale * 2.0**30))
            self.register_buffer("weight_scale", scale.clamp_min(1e-12))

    def on_grid(self) -> Tensor:
        """Return the weights (out ...) rounded to their grid; under training the scale follows them."""
        if torch.onnx.is_in_onnx_export():
            return torch.onnx.ops.symbolic("DequantizeLinear", [self.weight_q, self.weight_scale, self.weight_zero],
                                           attrs={"axis": 0}, dtype=torch.float32, shape=self.weight.shape, version=21)
        if self.training:
            self.rescale()
        zero = torch.zeros_like(self.weight_scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(held(self).float(), self.weight_scale, zero, 0, -LEVELS, LEVELS)

    def bias_on_grid(self) -> Tensor | None:
        """Return the bias, rounded to a multiple of input scale times weight scale, as the int32 of an exported file.

        Left as it is under training. Without this rounding one activation in some hundreds ends one step beside
        that of the file, and answers begin to differ.
        """
        if torch.onnx.is_in_onnx_export() and self.bias is not None and hasattr(self, "bias_q"):
            return torch.onnx.ops.symbolic("DequantizeLinear", [self.bias_q, self.bias_scale], attrs={"axis": 0},
                                           dtype=torch.float32, shape=self.bias.shape, version=21)
        if self.bias is None or self.training or not self.input_scale:
            return self.bias
        scale = self.weight_scale * self.input_scale
        return (self.bias.double() / scale.double()).round().float() * scale

    def freeze_integers(self, input_scale: Tensor | None) -> None:
        """Hold the weights as int8 and the bias as int32 buffers, for the export that comes next."""
        scale = self.weight_scale.view(-1, *[1] * (self.weight.ndim - 1))
        q = (self.weight.detach() / scale).round().clamp(-LEVELS, LEVELS)
        self.register_buffer("weight_q", q.to(torch.int8))
        self.register_buffer("weight_zero", torch.zeros_like(self.weight_scale, dtype=torch.int8))
        if self.bias is not None and input_scale is not None:
            self.register_buffer("bias_scale", self.weight_scale * input_scale)
            self.register_buffer("bias_q", (self.bias.detach().double() / self.bias_scale.double()).round().to(torch.int32))


class QuantizedConv2d(_QuantizedLayer, nn.Conv2d):
    """A convolution whose weights are rounded to 8 bits, one scale for each filter."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.on_grid(), self.bias_on_grid())


class QuantizedLinear(_QuantizedLayer, nn.Linear):
    """A linear layer whose weights are rounded to 8 bits, one scale for each output."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.on_grid(), self.bias_on_grid())


def make_plain(layer: nn.Module) -> None:
    """Turn a quantized layer back into one of the original class, in place."""
    layer.__class__ = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear


class Sites(TorchFunctionMode):
    """Call `visit` with the name and result of every call that makes new values: conv1, relu1, add1, ...

    Calls are named by kind and order, so the user's forward needs no change and no tracing. `visit` returns
    what the network goes on with. `passed` is called with the tensors of calls that only hand values on.
    """

    def __init__(self, visit: Callable[[str, tuple[Any, ...], Tensor], Tensor],
                 passed: Callable[[Any, tuple[Any, ...], Any], None] | None = None) -> None:
        super().__init__()
        self.visit, self.passed, self.counts = visit, passed, Counter[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = SITES.get(func)
        if kind is None or not isinstance(out, Tensor) or not out.is_floating_point() or out.ndim < 2:
            if self.passed is not None:
                self.passed(func, (*args, *(kwargs or {}).values()), out)
            return out
        self.counts[kind] += 1
        return self.visit(f"{kind}{self.counts[kind]}", (*args, *(kwargs or {}).values()), out)


class Quantized(nn.Module):
    """A network whose activations are rounded where `sites` says: the user's own forward, untouched.

    `sites` maps a site to the site whose grid it uses, usually itself; max-pooling uses that of its input.
    `calls` says how often each kind of call is made; a forward that makes others is refused.
    """

    def __init__(self, network: nn.Module, sites: dict[str, str], calls: dict[str, int]) -> None:
        super().__init__()
        self.network = network
        self.shared, self.calls = dict(sites), dict(calls)
        self.grids = nn.ModuleDict({name: Quantizer() for name, own in sites.items() if name == own})

    def description(self) -> dict[str, dict[str, Any]]:
        """Return what a rebuilt wrapper must be told."""
        return {"sites": dict(self.shared), "calls": dict(self.calls)}

    def grid(self, site: str) -> Quantizer | None:
        """Return the quantizer that rounds at a site, if there is one."""
        found = self.grids[self.shared[site]] if site in self.shared else None
        assert found is None or isinstance(found, Quantizer)
        return found

    def forward(self, x: Tensor) -> Tensor:
        def visit(name: str, _: tuple[Any, ...], out: Tensor) -> Tensor:
            grid = self.grid(name)
            return out if grid is None else grid(out)

        first = self.grid("input")
        if first is not None:
            x = first(x)
        with Sites(visit) as made:
            outputs: Tensor = self.network(x)
        if made.counts != self.calls:
            changed = sorted(k for k in made.counts.keys() | self.calls if made.counts[k] != self.calls.get(k, 0))
            raise LissomError(f"quantized network: it makes other calls than when it was quantized ({', '.join(changed)}), "
                              "so that activations would meet the wrong grids. Parts that only training runs, such as "
                              "stochastic depth, have to be switched off before quantize")
        return outputs

    def layers(self) -> list[_QuantizedLayer]:
        """Return the layers whose weights are quantized."""
        return [m for m in self.modules() if isinstance(m, _QuantizedLayer)]

    def freeze_weights(self) -> None:
        """Prepare an export in float: weights on their grid in layers of the original class."""
        for layer in self.layers():
            weight, bias = layer.on_grid().detach(), layer.bias_on_grid()
            layer.weight, layer.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias.detach())
            make_plain(layer)

    def freeze_integers(self) -> None:
        """Prepare an export: integers in place of float weights. The network is for exporting alone then."""
        for layer in self.layers():
            grid = self.grid(layer.site) if layer.site else None
            layer.freeze_integers(None if grid is None else grid.scale)
