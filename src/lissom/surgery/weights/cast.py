"""Weights that are stored in 16 bits and used as float32.

The float32 parameter stays, so a layer learns as before; it computes with that parameter rounded.
Source: Micikevicius et al. 2017, Mixed Precision Training, https://arxiv.org/abs/1710.03740,
section 3.1.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..layers import CompressedLayer, bake_transforms, compress
from ..transform import Stored, WeightTransform

Kind = Literal["bf16", "fp16"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Cast(WeightTransform):
    """Round a weight to the nearest 16-bit float."""

    place: ClassVar[int] = 2
    options: ClassVar = {"kind": ("bf16", "fp16")}

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def hold(self, weight: Tensor, learning: bool) -> None:
        """Do nothing: the rounded value depends only on the weight itself."""

    def transformed(self, weight: Tensor) -> Tensor:
        """Return the weight rounded to 16 bits; the gradient passes to the weight unchanged."""
        if weight.dtype == TYPES[self.kind]:  # for an export
            return weight.float()
        value = rounded(weight, self.kind)
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return value
        # exactly `value`, which w + (value - w) need not be
        return value + (weight - weight.detach())

    def stored(self, before: Stored) -> Stored:
        if not before.values.is_floating_point():  # the codebook is cast, not the indices into it
            return before._replace(book_bits=16)
        values = rounded(before.values, self.kind).to(TYPES[self.kind])
        return before._replace(values=values, bits=16, sign_bits=16)


def rounded(weight: Tensor, kind: Kind) -> Tensor:
    """Return a weight (out ...) rounded to 16 bits, in its own dtype.

    Values beyond the range of fp16 become its largest.
    """
    top = torch.finfo(TYPES[kind]).max
    return weight.detach().clamp(-top, top).to(TYPES[kind]).to(weight.dtype)


def kinds_of(model: nn.Module) -> set[Kind]:
    """Return the 16-bit types in which weights of the network are stored."""
    return {part.kind for part in model.modules() if isinstance(part, Cast)}


def bake_but_cast(model: nn.Module) -> None:
    """Bake all transforms of weights except casts, in place, for the export that follows.

    Cast weights are held in 16 bits, and widened whenever the layer computes.
    """
    casts = {
        layer: layer.transforms["cast"]
        for layer in model.modules()
        if isinstance(layer, CompressedLayer) and "cast" in layer.transforms
    }
    bake_transforms(model)
    for layer, cast in casts.items():
        assert isinstance(cast, Cast)
        compress(layer).add_transform(cast)
        layer.weight = nn.Parameter(layer.weight.detach().to(TYPES[cast.kind]), requires_grad=False)
