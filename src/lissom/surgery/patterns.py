"""Which weights a mask sets to zero: single weights, blocks, or N:M sparsity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pattern:
    """Cells of `size` weights along `axis`: `keep` weights of each stay, or all or none.

    >>> Pattern(2, axis=1).cells(torch.arange(8).view(2, 4))
    tensor([[0, 1],
            [2, 3],
            [4, 5],
            [6, 7]])
    """

    size: int = 1
    axis: int = 0
    keep: int | None = None

    def misfit(self, layer: nn.Module) -> str | None:
        """Return why the weight of `layer` does not divide into cells, or None."""
        if self.size > 1 and isinstance(layer, nn.modules.conv._ConvTransposeNd):
            return (
                "a transposed convolution has its inputs where others have their outputs; "
                "single weights fit"
            )
        assert isinstance(layer.weight, Tensor)
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
        """Return the index in the flattened weight of each value of each cell: (cells size)."""
        return self.cells(torch.arange(weight.numel()).view(weight.shape))


def smallest(weights: list[Tensor], pattern: Pattern, amount: float) -> list[Tensor]:
    """Return for each weight a boolean mask of the values to zero, ranked over all weights.

    In N:M cells these are all but the N largest; else round(amount * cells) cells with the smallest
    mean |w|. Of equal ones the first are zeroed.
    """
    if not weights:
        return []
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
