"""Choose the blocks to drop: one after another, the one with the least error for what it saves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..trees import Tree, run_on_copied_inputs, values_in
from .count import layer_macs, parameters
from .depth import drop, put_back
from .modes import in_mode

if TYPE_CHECKING:
    from ..language.context import Clock


@dataclass(frozen=True)
class Dropped:
    """A block, and what is removed and lost together with those dropped before it.

    removed: fraction of the network's cost
    error: mean square change of the outputs, relative to that of the outputs
    """

    name: str
    removed: float
    error: float


def shares(model: nn.Module, blocks: Sequence[str], of: str, example: Tree) -> dict[str, float]:
    """Return the fraction of a network's blocks, params or macs that each block is."""
    if of == "blocks":
        return dict.fromkeys(blocks, 1 / max(len(blocks), 1))
    whole, *rest = [
        parameters(each) if of == "params" else layer_macs(each, example)[""]
        for each in without_each(model, blocks)
    ]
    return {name: 1 - cost / max(whole, 1) for name, cost in zip(blocks, rest, strict=True)}


def latency_shares(
    model: nn.Module, blocks: Sequence[str], example: Tree, clock: Clock
) -> dict[str, float]:
    """Return the fraction of a network's latency that each block is: how much faster the network is
    without it, all measured in turns.
    """
    whole, *rest = clock.latencies(without_each(model, blocks), example)
    return {name: max(0.0, 1 - ms / whole) for name, ms in zip(blocks, rest, strict=True)}


def without_each(model: nn.Module, blocks: Sequence[str]) -> Iterator[nn.Module]:
    """Yield a network, then the same network without each of some blocks in turn."""
    yield model
    for name in blocks:
        block = drop(model, name)
        try:
            yield model
        finally:
            put_back(model, name, block)


class BlockSearch:
    """The blocks of a network, the share of its cost that each saves, and the error without them."""

    def __init__(self, model: nn.Module, saved: Mapping[str, float], images: Tree) -> None:
        self.model = in_mode(model)
        self.images = images
        self.saved = saved

    def chosen(self, amount: float) -> list[Dropped]:
        """Return the blocks to drop, in order, so that about `amount` of the cost is removed."""
        rows = list[Dropped]()
        blocks = dict[str, nn.Module]()
        plain = self._outputs()
        try:
            while len(rows) < len(self.saved):
                options = self._options(amount, rows, plain)
                if not options:
                    break
                best = min(options, key=lambda row: row.error / row.removed)
                rows.append(best)
                blocks[best.name] = drop(self.model, best.name)
        finally:
            for name, block in blocks.items():
                put_back(self.model, name, block)
        return rows

    def _options(
        self, amount: float, rows: Sequence[Dropped], plain: torch.Tensor
    ) -> list[Dropped]:
        """Return the blocks that may go next: the first of all saves anything, each further one
        brings the result nearer to `amount`.
        """
        removed = rows[-1].removed if rows else 0.0
        distance = abs(removed - amount) if rows else math.inf
        options = list[Dropped]()
        for name, saved in self.saved.items():
            if saved <= 0 or abs(removed + saved - amount) >= distance:
                continue
            if name in (row.name for row in rows):
                continue
            with suppress(Exception):  # the user's forward may not run without several blocks
                options.append(Dropped(name, removed + saved, self._error(name, plain)))
        return options

    def _outputs(self) -> torch.Tensor:
        with torch.no_grad():
            return values_in(run_on_copied_inputs(self.model, self.images))

    def _error(self, name: str, plain: torch.Tensor) -> float:
        """Return the error of the network without a block, besides those that are dropped already."""
        block = drop(self.model, name)
        try:
            outputs = self._outputs()
        finally:
            put_back(self.model, name, block)
        if outputs.shape != plain.shape:  # a detector may find another number of boxes
            return float("inf")
        size = float(plain.square().mean())
        return float((outputs - plain).square().mean()) / max(size, 1e-12)
