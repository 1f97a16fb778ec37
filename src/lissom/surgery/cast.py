"""Layers whose weights are stored in 16 bits and computed with as float32.

The float32 parameter stays, so that a layer learns as before; what it computes with is that
parameter rounded.
Source: Micikevicius et al. 2017, Mixed Precision Training, https://arxiv.org/abs/1710.03740,
section 3.1.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import layers
from .layers import PlainLayer, back, torch_class
from .masks import CLASSES as MASKED
from .masks import Masked, held, hold_zeros

Kind = Literal["bf16", "fp16"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class CastLayer(PlainLayer):
    """What a convolution and a linear layer stored in 16 bits share; made by changing a layer's class."""

    kind: Kind
    masked: bool  # whether zeros stay zero in training

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Tensor:
        return self.computed(input, self.stored(input), self.bias, *more, **named)

    def prepare(self, kind: Kind, masked: bool = False) -> None:
        """Set what the class of a layer that has just been changed expects."""
        self.kind = kind
        self.masked = masked

    def settings(self) -> dict[str, Any]:
        """Return what a rebuilt layer must be told."""
        return {"kind": self.kind, "masked": self.masked}

    def train(self, mode: bool = True) -> Any:
        """Go to training, where a mask's zeros stay zero, or to inference."""
        hold_zeros(self, mode and self.masked)
        return super().train(mode)

    def stored(self, x: Tensor) -> Tensor:
        """Return the weight (out ...) at the values that 16 bits hold; the gradient is that of the
        weight itself.
        """
        weight = held(self)
        if weight.dtype == TYPES[self.kind]:  # in a file
            return weight.to(x.dtype)
        found = rounded(weight, self.kind)
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return found
        # is what was found to the bit, as w + (found - w) need not be
        return found + (weight - weight.detach())


def rounded(weight: Tensor, kind: Kind) -> Tensor:
    """Return a weight (out ...) rounded to 16 bits, in its own type; beyond what fp16 holds, the
    largest that it does.
    """
    top = torch.finfo(TYPES[kind]).max
    return weight.detach().clamp(-top, top).to(TYPES[kind]).to(weight.dtype)


class CastConv1d(CastLayer, layers.PlainConv1d):
    """A convolution over one axis whose weights are stored in 16 bits."""


class CastConv2d(CastLayer, layers.PlainConv2d):
    """A convolution whose weights are stored in 16 bits."""


class CastConv3d(CastLayer, layers.PlainConv3d):
    """A convolution over three axes whose weights are stored in 16 bits."""


class CastLinear(CastLayer, layers.PlainLinear):
    """A linear layer whose weights are stored in 16 bits."""


class CastConvTranspose1d(CastLayer, layers.PlainConvTranspose1d):
    """A transposed convolution over one axis whose weights are stored in 16 bits."""


class CastConvTranspose2d(CastLayer, layers.PlainConvTranspose2d):
    """A transposed convolution over height and width whose weights are stored in 16 bits."""


class CastConvTranspose3d(CastLayer, layers.PlainConvTranspose3d):
    """A transposed convolution over three axes whose weights are stored in 16 bits."""


CLASSES: dict[type, type[CastLayer]] = {
    nn.Conv1d: CastConv1d,
    nn.Conv2d: CastConv2d,
    nn.Conv3d: CastConv3d,
    nn.Linear: CastLinear,
    nn.ConvTranspose1d: CastConvTranspose1d,
    nn.ConvTranspose2d: CastConvTranspose2d,
    nn.ConvTranspose3d: CastConvTranspose3d,
}


def cast_layer(layer: nn.Module, kind: Kind) -> None:
    """Make a convolution or linear layer, masked or not, one that is stored in 16 bits, in place."""
    masked = isinstance(layer, Masked)
    plain = torch_class(layer)
    assert plain is not None
    layer.__class__ = CLASSES[plain]
    assert isinstance(layer, CastLayer)
    layer.prepare(kind, masked)
    layer.train(layer.training)


def uncast(model: nn.Module) -> set[Kind]:
    """Make layers stored in 16 bits plain or masked again, in place, with the values that they had there.

    Return what they were stored in.
    """
    kinds: set[Kind] = set()
    for layer in list(model.modules()):
        if not isinstance(layer, CastLayer):
            continue
        kinds.add(layer.kind)
        with torch.no_grad():  # in place: layers that share a weight go on sharing it
            layer.weight.copy_(rounded(layer.weight, layer.kind))
        plain = torch_class(layer)
        training = layer.training
        assert plain is not None
        hold_zeros(layer, False)
        layer.__class__ = MASKED[plain] if layer.masked else back(layer)  # type: ignore[assignment]
        del layer.__dict__["kind"], layer.__dict__["masked"]
        layer.train(training)
    return kinds


def halved(model: nn.Module) -> None:
    """Let layers hold their weights in 16 bits, in place, for the export that comes next."""
    for layer in model.modules():
        if isinstance(layer, CastLayer):
            layer.weight = nn.Parameter(
                rounded(layer.weight, layer.kind).to(TYPES[layer.kind]), requires_grad=False
            )
