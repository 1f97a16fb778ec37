"""Drop whole residual blocks out of a network."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError, counted
from ..language.method import arg
from ..language.step import Step

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context
    from ..trees import Tree

TOLERANCE = 0.02  # of the amount, within which there is no note


@dataclass(frozen=True)
class Drop(Step):
    """Remove the residual blocks that the outputs depend on least.

    The network gets shallower. A residual block adds its input to what it computes from it:
    y = x + f(x), or relu(x + f(x)). A dropped block returns its input. Blocks whose output has
    another shape than their input stay.

    `amount` is the fraction to remove of these blocks, of all parameters or multiply-adds, or of
    the latency measured on a target. Blocks are dropped one after another, each time the one with
    the least error for what it saves:

    error = |outputs without the blocks - outputs|^2 / |outputs|^2, over `samples` training samples

    until the result is nearest to `amount`. Raises LissomError if the network has no such block, or
    if all of them together are less than `amount` by more than half a block.

    On CPUs every layer costs time of its own, so a shallower network is often faster than one of
    the same multiply-adds with narrower layers. Train afterwards.

    A check on real samples compares the network with the one whose blocks run and are bypassed.
    Batch-norm statistics are then measured again.

    Also known as: depth pruning, block pruning, layer pruning, layer dropping, layer removal.
    Source: Veit et al. 2016, Residual Networks Behave Like Ensembles of Relatively Shallow
    Networks, https://arxiv.org/abs/1605.06431; Chen and Zhao 2018, Shallowing Deep Networks,
    https://doi.org/10.1109/TPAMI.2018.2874634.
    Differs: blocks are ranked by the outputs without them, together with those dropped before.
    """

    version: ClassVar[int] = 1
    cannot_follow: ClassVar = {
        "quantized": "blocks of a quantized network are not dropped; drop before quantize",
    }
    compares: ClassVar[bool] = True

    amount: float = arg("fraction to remove, measured in `of`", above=0, high=1)
    of: Literal["blocks", "params", "macs", "latency"] = arg(
        "what `amount` is a fraction of", "blocks"
    )
    keep: str = arg("blocks to leave in: glob patterns, comma-separated", "")
    only: str = arg("blocks that may be dropped: glob patterns, comma-separated; empty = all", "")
    recalibrate: bool = arg(
        "measure batch-norm statistics again on training samples afterwards", True
    )
    samples: int = arg("training samples for errors and batch-norm statistics", 128, low=1)
    on: str = arg("target on which latency is measured", "onnxruntime", menu="targets")

    @property
    def times_latency(self) -> bool:
        return self.of == "latency"

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Find out whether the amount can be reached, without measuring latency. The network stays
        whole: later steps may name any of its blocks.
        """
        from ..surgery.depth_search import shares

        blocks = self.blocks(model, ctx)
        of = "blocks" if self.of == "latency" else self.of
        self.check_reach(shares(model, blocks, of, ctx.example), ctx)
        return model

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        from ..surgery.channels.recalibrate import recalibrate_and_record
        from ..surgery.compare import gate_same
        from ..surgery.depth import drop, skipping

        ctx.finite(model)
        blocks = self.blocks(model, ctx)
        images = ctx.batch(self.samples)
        before = copy.deepcopy(model)
        dropped = self.drop_blocks(model, ctx, self.saved(model, ctx, blocks), images)
        if self.of == "latency":
            self.measure(before, model, ctx)

        def drop_all(network: nn.Module, _: Tree) -> None:
            for name in dropped:
                drop(network, name)

        gate_same(
            ctx, "dropped = bypassed", skipping(before, dropped), model, ctx.batch(8), drop_all
        )
        if self.recalibrate:
            recalibrate_and_record(model, ctx, self.samples)
        return model

    def blocks(self, model: nn.Module, ctx: Context) -> list[str]:
        """Return the blocks that may be dropped, and record why others may not.

        Raises LissomError if there are none.
        """
        from ..surgery.depth import residual_blocks, runs_without
        from ..surgery.names import matching
        from ..surgery.states import check_states

        check_states(self, model, ctx.where)
        found = residual_blocks(model, ctx.example)
        if not found:
            raise LissomError(
                f"{ctx.where}: this network has no residual block: none of its modules adds its "
                "input to what it computes from it; prune makes layers narrower instead"
            )
        keep = matching(found, self.keep, f"{ctx.where}: keep")
        only = matching(found, self.only, f"{ctx.where}: only") if self.only else set(found)
        kept = dict[str, str]()
        for name in found:
            if name in keep or name not in only:
                kept[name] = f"keep='{self.keep}'" if name in keep else f"only='{self.only}'"
            elif reason := runs_without(model, name, ctx.example):
                kept[name] = reason
        if len(kept) == len(found):
            reasons = "; ".join(f"{name}: {why}" for name, why in list(kept.items())[:3])
            raise LissomError(f"{ctx.where}: no block can be dropped ({reasons})")
        ctx.facts["kept"] = kept
        return [name for name in found if name not in kept]

    def saved(self, model: nn.Module, ctx: Context, blocks: list[str]) -> dict[str, float]:
        """Return the fraction of the network's cost that each block is."""
        from ..surgery.depth_search import latency_shares, shares

        if self.of == "latency":
            return latency_shares(model, blocks, ctx.example, ctx.clock_on(self.on))
        return shares(model, blocks, self.of, ctx.example)

    def drop_blocks(
        self, model: nn.Module, ctx: Context, saved: dict[str, float], images: Tree
    ) -> list[str]:
        """Drop blocks in place until `amount` is nearest, and return their names. `saved` is the
        fraction of the cost that each is.

        Raises LissomError if `amount` cannot be reached.
        """
        from ..surgery.depth import drop
        from ..surgery.depth_search import BlockSearch

        self.check_reach(saved, ctx)
        chosen = BlockSearch(model, saved, images).chosen(self.amount)
        for row in chosen:
            drop(model, row.name)
        ctx.facts["dropped_blocks"] = [
            {
                "block": row.name,
                "removed": round(row.removed, 6),
                "error": row.error if isfinite(row.error) else None,
            }
            for row in chosen
        ]
        ctx.facts["amount"] = {
            "of": self.of,
            "asked": round(self.amount, 6),
            "removed": round(chosen[-1].removed, 6),
            "most": round(sum(saved.values()), 4),
        }
        if self.of != "latency":
            self.note_distance(ctx)
        return [row.name for row in chosen]

    def check_reach(self, saved: dict[str, float], ctx: Context) -> None:
        """Raise LissomError if all blocks together are less than `amount`, by more than half a
        block.
        """
        most = sum(saved.values())
        least = min(saved.values())
        if most <= 0 or self.amount > most + least / 2:
            raise LissomError(
                f"{ctx.where}: {self.amount:.3g} of the {self.of} cannot be removed; this network "
                f"can lose {least:.3g} to {most:.3g} of them, in "
                f"{counted(len(saved), 'block')}"
            )

    def measure(self, before: nn.Module, after: nn.Module, ctx: Context) -> None:
        """Measure the latency of the network before and after in turns, and record it."""
        clock = ctx.clock_on(self.on)
        before_ms, after_ms = clock.latencies([before, after], ctx.example)
        ctx.facts["amount"] |= {
            "predicted": ctx.facts["amount"]["removed"],
            "removed": round(1 - after_ms / before_ms, 4),
            "before_ms": round(before_ms, 4),
            "after_ms": round(after_ms, 4),
        }
        self.note_distance(ctx)

    def note_distance(self, ctx: Context) -> None:
        """Add a note if what was removed is far from the amount."""
        removed = ctx.facts["amount"]["removed"]
        if abs(removed - self.amount) > TOLERANCE:
            ctx.notes.append(
                f"{ctx.where}: {removed:.3f} of the {self.of} were removed instead of "
                f"{self.amount:.3g}; blocks are dropped whole"
            )
