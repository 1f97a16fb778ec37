"""Layers whose zeros stay zero while they learn, and which weights a mask takes.

The zeros are the mask: nothing else is stored. In training a layer uses its weight times the mask
(weight != 0), so the gradient at a zero is 0 and weight decay acts on 0; in inference it is the
plain layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..trees import Tree, called, first
from . import layers
from .layers import PLAIN, PlainLayer, torch_class


def hold_zeros(layer: nn.Module, hold: bool) -> None:
    """Begin or end to hold the zeros of `layer.weight` where they are now, by a buffer that is
    never saved.
    """
    if hold:
        assert isinstance(layer.weight, Tensor)
        layer.register_buffer("mask", layer.weight.detach() != 0, persistent=False)
    else:
        layer._buffers.pop("mask", None)
        layer._non_persistent_buffers_set.discard("mask")


def held(layer: nn.Module) -> Tensor:
    """Return the weight of a layer; of one that holds its zeros, cut off from the gradient there.

    w * mask, written as a choice: a product is a call that quantization sees, as it would one of
    the user's own.
    """
    assert isinstance(layer.weight, Tensor)
    mask = layer._buffers.get("mask")
    if (
        mask is None
        and torch.is_grad_enabled()
        and getattr(layer, "masked", isinstance(layer, Masked))
    ):
        mask = layer.weight.detach() != 0  # it learns in eval mode
    return layer.weight if mask is None else torch.where(mask, layer.weight, 0.0)


class Masked(PlainLayer):
    """What a masked convolution and a masked linear layer share; made by changing a layer's class."""

    mask: Tensor  # (out in ...), there only in training

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Tensor:
        return self.computed(input, held(self), self.bias, *more, **named)

    def train(self, mode: bool = True) -> Any:
        """Go to training, where what is zero now stays zero, or to inference."""
        hold_zeros(self, mode)
        return super().train(mode)


class MaskedConv1d(Masked, layers.PlainConv1d):
    """A convolution over one axis whose zero weights stay zero."""


class MaskedConv2d(Masked, layers.PlainConv2d):
    """A convolution whose zero weights stay zero."""


class MaskedConv3d(Masked, layers.PlainConv3d):
    """A convolution over three axes whose zero weights stay zero."""


class MaskedLinear(Masked, layers.PlainLinear):
    """A linear layer whose zero weights stay zero."""


class MaskedConvTranspose1d(Masked, layers.PlainConvTranspose1d):
    """A transposed convolution over one axis whose zero weights stay zero."""


class MaskedConvTranspose2d(Masked, layers.PlainConvTranspose2d):
    """A transposed convolution over height and width whose zero weights stay zero."""


class MaskedConvTranspose3d(Masked, layers.PlainConvTranspose3d):
    """A transposed convolution over three axes whose zero weights stay zero."""


CLASSES: dict[type, type[Masked]] = {
    nn.Conv1d: MaskedConv1d,
    nn.Conv2d: MaskedConv2d,
    nn.Conv3d: MaskedConv3d,
    nn.Linear: MaskedLinear,
    nn.ConvTranspose1d: MaskedConvTranspose1d,
    nn.ConvTranspose2d: MaskedConvTranspose2d,
    nn.ConvTranspose3d: MaskedConvTranspose3d,
}


def bare(layer: nn.Module) -> bool:
    """Return whether the weight of a layer is used as it is, or masked; not rounded, nor cast, nor
    computed.
    """
    kind = torch_class(layer)
    return kind is not None and type(layer) in (kind, PLAIN[kind], CLASSES[kind])


@dataclass(frozen=True)
class Pattern:
    """Where zeros may lie: cells of `size` weights along `axis`, of each of which `keep` stay, or
    all or none.

    >>> Pattern(2, axis=1).cells(torch.arange(8).view(2, 4))
    tensor([[0, 1],
            [2, 3],
            [4, 5],
            [6, 7]])
    """

    size: int = 1
    axis: int = 0
    keep: int | None = None

    def misfit(self, layer: nn.modules.conv._ConvNd | nn.Linear) -> str | None:
        """Say why the weight of `layer` does not divide into cells, or None."""
        if self.size > 1 and isinstance(layer, nn.modules.conv._ConvTransposeNd):
            return (
                "a transposed convolution has its inputs where others have their outputs; "
                "single weights fit"
            )
        length = layer.weight.shape[self.axis]
        if self.axis == 0:
            length //= getattr(layer, "groups", 1)  # filters of two groups read different inputs
        if length % self.size:
            return f"its {length} {'inputs' if self.axis else 'outputs'} are no multiple of {self.size}"
        return None

    def cells(self, weight: Tensor) -> Tensor:
        """Return the values of a weight (out in ...) cell by cell: (cells size)."""
        return (
            weight.unflatten(self.axis, (-1, self.size))
            .movedim(self.axis + 1, -1)
            .reshape(-1, self.size)
        )

    def places(self, weight: Tensor) -> Tensor:
        """Return for each cell where its values are in the flattened weight: (cells size)."""
        return self.cells(torch.arange(weight.numel()).view(weight.shape))


def maskable(
    model: nn.Module, example: Tree, pattern: Pattern
) -> tuple[dict[str, list[PlainLayer]], dict[str, str]]:
    """Return the layers that can hold zeros, those with one weight under one name, and why the others cannot.

    A layer must be of a class that can be changed and must be called, on `example` (n ...), as
    itself: a forward that reads the weight of a layer alone would not meet the mask.
    """
    reached: set[nn.Module] = set()
    mode = model.training
    hooks = [
        m.register_forward_pre_hook(lambda layer, _: reached.add(layer)) for m in model.modules()
    ]
    try:
        with torch.no_grad():
            called(model.eval(), first(example, 1))
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    found: dict[str, list[Any]] = {}
    left: dict[str, str] = {}
    seen: set[int] = set()
    for name, layer in model.named_modules():
        if torch_class(layer) is None:
            continue
        weight = layer._parameters["weight"]
        owners = [m for m in model.modules() if any(p is weight for p in m._parameters.values())]
        if not bare(layer):
            left[name] = f"{type(layer).__name__} holds its weight otherwise already"
        elif not reached.issuperset(owners):
            left[name] = "it, or one with the same weight, is not called as a layer"
        elif not all(map(bare, owners)):
            left[name] = "its weight is also that of a layer of another kind"
        elif reason := pattern.misfit(layer):
            left[name] = reason
        elif id(weight) not in seen:
            seen.add(id(weight))
            found[name] = owners
    return found, left


def smallest(weights: list[Tensor], pattern: Pattern, amount: float) -> list[Tensor]:
    """Return for each weight a boolean that marks what to set to zero, ranked over all of them together.

    Of N:M cells all but the N largest; else round(amount * cells) cells with the smallest mean |w|.
    Of equal ones the first go.
    """
    cells = [pattern.cells(w.detach().float().cpu().abs()) for w in weights]
    if pattern.keep is not None:
        rows = [c.argsort(dim=1, stable=True)[:, : pattern.size - pattern.keep] for c in cells]
        chosen = [
            torch.zeros_like(c, dtype=torch.bool).scatter_(1, r, True)
            for c, r in zip(cells, rows, strict=True)
        ]
    else:
        ranks = torch.cat([c.mean(1) for c in cells])
        gone = torch.zeros(len(ranks), dtype=torch.bool)
        gone[ranks.argsort(stable=True)[: round(amount * len(ranks))]] = True
        chosen = [g[:, None].expand(-1, pattern.size) for g in gone.split([len(c) for c in cells])]
    marked = []
    for weight, choice in zip(weights, chosen, strict=True):
        flat = torch.zeros(weight.numel(), dtype=torch.bool)
        flat[pattern.places(weight)] = choice
        marked.append(flat.view(weight.shape))
    return marked
