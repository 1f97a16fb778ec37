"""Stochastic depth: blocks are skipped at random, in networks that have places for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import LissomError


class DropPath(nn.Module):
    """Set a branch to zero for a share `rate` of samples, and scale up the rest, in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        stays = torch.empty((len(x), *[1] * (x.ndim - 1)), dtype=x.dtype, device=x.device)
        return x * stays.bernoulli_(1 - self.rate).div_(1 - self.rate)


def set_drop_path(model: nn.Module, rate: float) -> Callable[[], None]:
    """Set how often each block is skipped, from 0 for the first to `rate` for the last.

    rate of block i of n, counted from 0 = rate * i / (n - 1)
    Returns a function that undoes it. Places are timm's (`drop_path`) and torchvision's
    (StochasticDepth). Source: Huang et al. 2016, Deep Networks with Stochastic Depth,
    https://arxiv.org/abs/1603.09382. Differs: EfficientNets of both libraries divide by n, so their
    last block is skipped a little less often. Raises LissomError for a network without a place.
    """
    blocks = [block for block in model.modules() if places_in(block)]
    if not blocks:
        raise LissomError(
            "drop_path: this network has no place for stochastic depth, as drop_path of timm's and "
            "StochasticDepth of torchvision's networks are"
        )
    before = []
    for place, block in enumerate(blocks):
        for name in places_in(block):
            before.append((block, name, getattr(block, name)))
            path = DropPath(rate * place / max(1, len(blocks) - 1))
            setattr(block, name, path.train(block.training))

    def undo() -> None:
        for block, name, value in before:
            if value is None:  # PyTorch stores None as a plain attribute, not among the modules
                delattr(block, name)
            setattr(block, name, value)

    return undo


def places_in(block: nn.Module) -> list[str]:
    """Return the names of a block's places for stochastic depth."""
    names = [
        name
        for name, child in block.named_children()
        if type(child).__name__ == "StochasticDepth"
        or (name.startswith("drop_path") and isinstance(child, (nn.Identity, DropPath)))
        or hasattr(child, "drop_prob")
    ]
    empty = "drop_path" in vars(block) and block.drop_path is None
    return ["drop_path"] if empty else names
