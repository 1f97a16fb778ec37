"""Cut whole channels out of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import LissomError
from ..menu import menu
from ..method import arg
from ..step import Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..context import Context
    from ..surgery.groups import Group


@dataclass(frozen=True)
class Prune(Step):
    """Cut the channels that a score ranks lowest, with everything that depends on them.

    Channels that a residual add, a concatenation or a depthwise convolution ties together are cut together and
    count once. Each layer keeps a multiple of `multiple` channels, the nearest to what the ranking says (a tie
    goes up), at least one multiple and at least `floor` of its channels; a layer that is not wider than one
    multiple is left whole. What cannot be followed through the network is left whole and named in the record.
    A gate checks on real images that the cut network does what the same network does with those channels zeroed.
    Source: Li et al. 2016, https://arxiv.org/abs/1608.08710; Fang et al. 2023, DepGraph,
    https://arxiv.org/abs/2301.12900, for cutting coupled layers together.
    """

    amount: float = arg("fraction of channels removed", above=0, below=1)
    by: str = arg("how channels are ranked", "l1", menu="scores")
    scope: Literal["global", "local"] = arg("rank all layers together, or each by itself", "global")
    multiple: int = arg("channels are kept in multiples of this", 8, low=1, high=1024)
    floor: float = arg("least fraction of channels kept in each layer", 0.1, low=0, below=1)

    def refuses(self, earlier: tuple[Step, ...]) -> str | None:
        if any(step.name() == "quantize" for step in earlier):
            return "a quantized network is not cut; prune before quantize"
        return None

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        from ..surgery.probe import cuttable
        from ..surgery.slim import difference, masked, sliced

        groups = cuttable(model, ctx.example)
        if not groups.free:
            reasons = "; ".join(f"{k}: {v}" for k, v in list(groups.left.items())[:3])
            raise LissomError(f"{ctx.where}: nothing in this network can be cut ({reasons or 'it has no layers'})")
        tensors = dict([*model.named_parameters(), *model.named_buffers()])
        score = menu("scores").make(self.by)
        ranks = [score(group, tensors) for group in groups.free]
        widths = self.widths([(g.size, r) for g, r in zip(groups.free, ranks, strict=True)])
        self._reachable(groups.free, widths, ctx)
        cut = [(g, lowest(r, g.size - w)) for g, r, w in zip(groups.free, ranks, widths, strict=True)]
        ctx.facts["groups"] = [{"name": g.name, "layers": g.layers("out"), "before": g.size, "after": w}
                               for g, w in zip(groups.free, widths, strict=True)]
        ctx.facts["left_whole"] = groups.left
        before, images = copy.deepcopy(model), ctx.batch(16)
        masked(before, cut)
        sliced(model, cut)
        ctx.gate("sliced = masked", difference(before, model, images), 1e-3)
        return model

    def widths(self, layers: list[tuple[int, Tensor]]) -> list[int]:
        """Return how many channels each layer keeps, given each layer's width and scores.

        With scope="global" the threshold is the one at which, after rounding to multiples and floors, the
        number of channels removed comes nearest to what was asked for.
        """
        import torch

        if self.scope == "local":
            return [self.rounded(size, (1 - self.amount) * size) for size, _ in layers]
        every = torch.cat([ranks for _, ranks in layers]).sort().values
        wanted = (1 - self.amount) * len(every)

        def kept(count: int) -> list[int]:
            bar = every[count] if count < len(every) else float("inf")
            return [self.rounded(size, int((ranks >= bar).sum())) for size, ranks in layers]

        low, high = 0, len(every)
        while high - low > 1:  # the number kept falls as the threshold rises
            middle = (low + high) // 2
            low, high = (middle, high) if sum(kept(middle)) >= wanted else (low, middle)
        return min((kept(low), kept(high)), key=lambda widths: abs(sum(widths) - wanted))

    def rounded(self, size: int, kept: float) -> int:
        """Return how many of `size` channels stay where a ranking says `kept`.

        >>> [Prune(0.5).rounded(64, k) for k in (60, 30.5, 28, 1)], Prune(0.5).rounded(6, 3)
        ([64, 32, 32, 8], 6)
        """
        least = max(self.multiple, self.floor * size)
        least = -(-int(-(-least // 1)) // self.multiple) * self.multiple
        nearest = int(kept / self.multiple + 0.5) * self.multiple
        return min(size, max(nearest, least))

    def _reachable(self, groups: list[Group], widths: list[int], ctx: Context) -> None:
        """Refuse an amount far from what floors and multiples allow; note a smaller miss."""
        total = sum(g.size for g in groups)
        most = 1 - sum(self.rounded(g.size, 0) for g in groups) / total
        found = 1 - sum(widths) / total
        ctx.facts["amount"] = {"asked": self.amount, "removed": round(found, 4), "most": round(most, 4)}
        if found == 0 or self.amount > most + self.multiple / total:
            raise LissomError(f"{ctx.where}: {self.amount:g} of the channels cannot be removed; with "
                              f"multiple={self.multiple} and floor={self.floor:g} this network can lose at most "
                              f"{most:.3g} of {total} channels")
        if abs(found - self.amount) > 0.02:
            ctx.notes.append(f"{ctx.where}: {found:.3f} of the channels were removed, the nearest that multiples of "
                             f"{self.multiple} and the floor allow to {self.amount:g}")


def lowest(ranks: Tensor, count: int) -> Tensor:
    """Return a boolean that marks the `count` lowest scores; of equal ones the last."""
    import torch

    marked = torch.zeros(len(ranks), dtype=torch.bool)
    marked[ranks.argsort(descending=True, stable=True)[len(ranks) - count:]] = True
    return marked
