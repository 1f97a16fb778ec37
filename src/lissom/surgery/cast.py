"""Layers whose weights are stored in 16 bits and computed with as float32.

The float32 parameter stays, so that a layer learns as before; what it computes with is that parameter rounded.
Source: Micikevicius et al. 2017, Mixed Precision Training, https://arxiv.org/abs/1710.03740, section 3.1.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import Layer, Masked, MaskedConv2d, MaskedLinear, held, hold_zeros

Kind = Literal["bf16", "fp16"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class CastLayer(nn.Module):
    """What a convolution and a linear layer stored in 16 bits share; made by changing a layer's class."""

    weight: Tensor
    kind: Kind
    masked: bool  # whether zeros stay zero in training

    def prepare(self, kind: Kind, masked: bool = False) -> None:
        """Set what the class of a layer that has just been changed expects."""
        self.kind, self.masked = kind, masked

    def settings(self) -> dict[str, Any]:
        """Return what a rebuilt layer must be told."""
        return {"kind": self.kind, "masked": self.masked}

    def train(self, mode: bool = True) -> Any:
        """Go to training, where a mask's zeros stay zero, or to inference."""
        hold_zeros(self, mode and self.masked)
        return super().train(mode)

    def stored(self, x: Tensor) -> Tensor:
        """Return the weight (out ...) at the values that 16 bits hold; the gradient is that of the weight itself."""
        weight = held(self)
        if weight.dtype == TYPES[self.kind]:  # in a file
            return weight.to(x.dtype)
        found = rounded(weight, self.kind)
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return found
        return found + (weight - weight.detach())  # is what was found to the bit, as w + (found - w) need not be


def rounded(weight: Tensor, kind: Kind) -> Tensor:
    """Return a weight (out ...) rounded to 16 bits, in its own type; beyond what fp16 holds, the largest that it does."""
    top = torch.finfo(TYPES[kind]).max
    return weight.detach().clamp(-top, top).to(TYPES[kind]).to(weight.dtype)


class CastConv2d(CastLayer, nn.Conv2d):
    """A convolution whose weights are stored in 16 bits."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.stored(x), self.bias)


class CastLinear(CastLayer, nn.Linear):
    """A linear layer whose weights are stored in 16 bits."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.stored(x), self.bias)


def cast_layer(layer: Layer, kind: Kind) -> None:
    """Make a convolution or linear layer, masked or not, one that is stored in 16 bits, in place."""
    masked = isinstance(layer, Masked)
    layer.__class__ = CastConv2d if isinstance(layer, nn.Conv2d) else CastLinear
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
        conv, training = isinstance(layer, nn.Conv2d), layer.training
        classes: tuple[type, type] = (MaskedConv2d, MaskedLinear) if layer.masked else (nn.Conv2d, nn.Linear)
        hold_zeros(layer, False)
        layer.__class__ = classes[0] if conv else classes[1]
        del layer.__dict__["kind"], layer.__dict__["masked"]
        layer.train(training)
    return kinds


def halved(model: nn.Module) -> None:
    """Let layers hold their weights in 16 bits, in place, for the export that comes next."""
    for layer in model.modules():
        if isinstance(layer, CastLayer):
            layer.weight = nn.Parameter(rounded(layer.weight, layer.kind).to(TYPES[layer.kind]), requires_grad=False)
