"""Choose the blocks to drop: one after another, the one with the least error for what it saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..trees import Tree, run_on_copied_inputs, values_in
from .count import layer_macs, parameters
from .depth import drop, put_back
from .modes import in_mode


@dataclass(frozen=True)
class Dropped:
    """A block, and what is removed and lost together with those dropped before it.

    removed: fraction of the network's cost
    error: mean square change of the outputs, relative to that of the outputs; None if not measured
    """

    name: str
    removed: float
    error: float | None


class BlockSearch:
    """The blocks of a network, what each saves, and the error without them."""

    def __init__(
        self, model: nn.Module, blocks: Sequence[str], of: str, example: Tree, images: Tree
    ) -> None:
        self.model = in_mode(model)
        self.blocks = blocks
        self.images = images
        self.saved = {name: self._saved(name, of, example) for name in blocks}
        self.most = sum(self.saved.values())
        self.least = min(self.saved.values(), default=0.0)

    def _saved(self, name: str, of: str, example: Tree) -> float:
        """Return the fraction of the network's cost that a block is."""
        if of == "blocks":
            return 1 / len(self.blocks)
        cost: Callable[[], int] = {
            "params": lambda: parameters(self.model),
            "macs": lambda: layer_macs(self.model, example)[""],
        }[of]
        whole = cost()
        block = drop(self.model, name)
        try:
            return 1 - cost() / max(whole, 1)
        finally:
            put_back(self.model, name, block)

    def chosen(self, amount: float) -> list[Dropped]:
        """Return the blocks to drop, in order, so that about `amount` of the cost is removed."""
        rows = list[Dropped]()
        blocks = dict[str, nn.Module]()
        plain = None if self.images is None else self._outputs()
        try:
            while len(rows) < len(self.blocks):
                removed = rows[-1].removed if rows else 0.0
                options = [
                    Dropped(name, removed + self.saved[name], self._error(name, plain))
                    for name in self.blocks
                    if name not in blocks
                ]
                best = min(options, key=lambda row: (row.error or 0.0) / max(row.removed, 1e-9))
                if rows and abs(best.removed - amount) >= abs(removed - amount):
                    break
                rows.append(best)
                blocks[best.name] = drop(self.model, best.name)
        finally:
            for name, block in blocks.items():
                put_back(self.model, name, block)
        return rows

    def _outputs(self) -> torch.Tensor:
        with torch.no_grad():
            return values_in(run_on_copied_inputs(self.model, self.images))

    def _error(self, name: str, plain: torch.Tensor | None) -> float | None:
        """Return the error of the network without a block, besides those that are dropped already."""
        if plain is None:
            return None
        block = drop(self.model, name)
        try:
            outputs = self._outputs()
        finally:
            put_back(self.model, name, block)
        if outputs.shape != plain.shape:  # a detector may find another number of boxes
            return float("inf")
        size = float(plain.square().mean())
        return float((outputs - plain).square().mean()) / max(size, 1e-12)
