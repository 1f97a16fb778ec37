"""Train with a sparsity penalty, so that unneeded channels shrink."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import LissomError
from ..language.method import arg
from ..language.training import updates_after
from ..learning.step import Learning

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from ..language.context import Context
    from ..language.training import Batch
    from ..surgery.channels.group import Group


@dataclass(frozen=True)
class Sparsify(Learning):
    """Train with a sparsity penalty, so that unneeded channels shrink before pruning.

    bn:    loss = task loss + weight * sum |gamma|
    group: loss = task loss + weight * sum over channels u of ||w[u]||
    grow:  loss = task loss + weight * progress * sum over channels u of g[u] / 2 * ||w[u]||^2
    gamma:    scales of all batch-norms
    w[u]:     group: all parameters that are removed with channel u; grow: its filters and scales
    g[u]:     from 0 for the largest channel of its group to 1 for the smallest
    progress: from 0 to 1 over the step

    Raises LissomError if the network has no batch-norm scales (bn) or no channel that can be
    pruned (group, grow).

    Also known as: network slimming for on="bn", group lasso for on="group", growing regularization
    (GReg) for on="grow", sparsity regularization, penalty on weights.
    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming,
    https://arxiv.org/abs/1708.06519; Yuan and Lin 2006, Model Selection and Estimation in
    Regression with Grouped Variables, for the group lasso, with the groups of Fang et al. 2023,
    DepGraph: Towards Any Structural Pruning, https://arxiv.org/abs/2301.12900; Wang et al. 2021,
    Neural Pruning via Growing Regularization, https://arxiv.org/abs/2012.09243.
    Differs: grow penalizes all channels except the largest, since it does not know how many will be
    removed.
    """

    version: ClassVar[int] = 4
    cannot_follow: ClassVar = {
        "cast": "no channel is cut once weights are stored in 16 bits; sparsify before cast",
        "cluster": "no channel is cut once weights are clustered; sparsify before cluster",
    }

    weight: float = arg(
        "penalty strength, per unit of |gamma|, norm, or half squared norm", above=0, high=10
    )
    epochs: int = arg("training epochs", low=1, high=100_000)
    _: KW_ONLY
    on: Literal["bn", "group", "grow"] = arg(
        "penalty on batch-norm scales, on whole channels, or growing on small channels", "bn"
    )
    lr: float = arg(
        "peak learning rate; adamw needs about a hundredth of sgd's", 0.05, above=0, high=10
    )

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Raise if the network has nothing to make sparse."""
        if self.on == "bn":
            self._scales(model, ctx)
        else:
            self._groups(model, ctx)
        return super().rehearse(model, ctx)

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        schedule = PenaltySchedule(ctx.updates(self.epochs, self.batch))
        penalty, sizes = (
            self._slimming(model, ctx) if self.on == "bn" else self._lasso(model, ctx, schedule)
        )
        before = sizes()
        ctx.learn(model, self.train_settings(self.epochs), terms=(penalty,), stateful=[schedule])
        ctx.facts["sparsified"] = {
            "of": "|gamma|" if self.on == "bn" else "norm of a channel",
            **histogram(before, sizes()),
        }
        return model

    def _slimming(
        self, model: nn.Module, ctx: Context
    ) -> tuple[Callable[..., Tensor], Callable[[], Tensor]]:
        from torch import cat, stack

        scales = self._scales(model, ctx)

        def penalty(_: nn.Module, __: Batch) -> Tensor:
            return self.weight * stack([s.abs().sum() for s in scales]).sum()

        return penalty, lambda: cat([s.detach().abs().cpu() for s in scales])

    def _lasso(
        self, model: nn.Module, ctx: Context, schedule: PenaltySchedule
    ) -> tuple[Callable[..., Tensor], Callable[[], Tensor]]:
        from torch import cat, stack

        groups = self._groups(model, ctx)
        tensors = dict(model.named_parameters(remove_duplicate=False))
        roles = ("out", "in", "scale", "vector") if self.on == "group" else ("out", "scale")

        def squares() -> list[Tensor]:
            return [group.sums(tensors, roles, 2) for group in groups]

        def penalty(_: nn.Module, batch: Batch) -> Tensor:
            sums = squares()
            if self.on == "group":
                return self.weight * stack([s.clamp_min(1e-12).sqrt().sum() for s in sums]).sum()
            progress = schedule.progress(batch.share)
            return (
                self.weight
                * progress
                / 2
                * stack([(s * relative_gap(s)).sum() for s in sums]).sum()
            )

        return penalty, lambda: cat([s.detach().sqrt().cpu() for s in squares()])

    def _groups(self, model: nn.Module, ctx: Context) -> list[Group]:
        from ..surgery.channels.trial_cut import cuttable
        from ..surgery.states import check_states

        check_states(self, model, ctx.where)
        groups = cuttable(model, ctx.example).cuttable_groups
        if not groups:
            raise LissomError(
                f"{ctx.where}: no channels of this network can be pruned, so there is nothing to "
                "make sparse; `lissom inspect` shows why"
            )
        return groups

    @staticmethod
    def _scales(model: nn.Module, ctx: Context) -> list[Tensor]:
        from torch import nn

        scales: list[Tensor] = [
            m.weight
            for m in model.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm)
            and m.weight is not None
            and m.weight.requires_grad
        ]
        if not scales:
            raise LissomError(
                f"{ctx.where}: expected batch-norm scales that are trained, got none; "
                'on="group" needs none'
            )
        return scales


class PenaltySchedule:
    """The progress of a growing penalty: from 0 to 1 over a number of updates."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.taken: float = 0

    def progress(self, share: float = 1.0) -> float:
        """Advance by a share of an update and return the progress: the same for all its parts."""
        self.taken = updates_after(self.taken, share)
        return min(1.0, math.ceil(self.taken) / self.steps)

    def memory(self) -> float:
        """Return the number of updates so far, for a checkpoint."""
        return self.taken

    def recall(self, memory: float) -> None:
        """Restore the number of updates that `memory` returned."""
        self.taken = memory


def relative_gap(squares: Tensor) -> Tensor:
    """Return each norm's relative gap to the largest: 0 for the largest, 1 for the smallest."""
    norms = squares.detach().sqrt()
    return (norms.max() - norms) / (norms.max() - norms.min()).clamp_min(1e-12)


def histogram(before: Tensor, after: Tensor, bins: int = 40) -> dict[str, Any]:
    """Return histograms of two sets of sizes over the same `bins` from 0 to the largest, and the
    share of each set below a hundredth of the largest.
    """
    import torch

    top = max(float(before.max()), float(after.max()), 1e-12)
    counts = [
        torch.histc(values.float(), bins, 0, top).int().tolist() for values in (before, after)
    ]
    small = [round(float((values < 0.01 * top).float().mean()), 4) for values in (before, after)]
    return {"top": top, "before": counts[0], "after": counts[1], "below_a_hundredth": small}
