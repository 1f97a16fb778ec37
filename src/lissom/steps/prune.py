"""Cut whole channels out of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.method import arg
from ..language.parse_methods import method_of
from ..language.step import Step

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context
    from ..surgery.channels.budget import WidthSearch
    from ..surgery.channels.evidence import Labelled
    from ..surgery.channels.network_groups import NetworkGroups
    from ..trees import Tree


# reasons that need no note: the user or the network's interface asks for them
EXPECTED_REASONS = ("an output of the network", "the input of the network", "keep='", "only='")


@dataclass(frozen=True)
class Prune(Step):
    """Remove the least important channels, together with everything that depends on them.

    `amount` is the fraction to remove of all channels, parameters or multiply-adds, or of the
    latency measured on a target. Channels coupled by a residual add, a concatenation or a depthwise
    convolution are removed together and count once. Channels are removed in whole multiples, those
    of the lowest mean importance first, until the result is nearest to `amount`. Raises LissomError
    if `amount` cannot be reached to within one multiple.

    Each layer keeps at least one multiple and the fraction `floor` of its channels. A layer no
    wider than one multiple is left whole. A grouped convolution keeps equally many channels in each
    group, but not necessarily the same ones. Layers whose channels cannot be traced through the
    network are left whole and named in the record.

    A check on real samples compares the pruned network with the network whose channels are zeroed
    instead. Batch-norm statistics are then measured again.

    Also known as: structured pruning, channel pruning, filter pruning.
    Source: Li et al. 2016, Pruning Filters for Efficient ConvNets,
    https://arxiv.org/abs/1608.08710; Fang et al. 2023, DepGraph: Towards Any Structural Pruning,
    https://arxiv.org/abs/2301.12900, for removing coupled channels together; Fang et al. 2024,
    Isomorphic Pruning for Vision Models, https://arxiv.org/abs/2407.04616, for ranking within
    layers of one kind.
    """

    version: ClassVar[int] = 3
    cannot_follow: ClassVar = {
        "quantized": "a quantized network is not cut; prune before quantize",
        "cast": "a network whose weights are stored in 16 bits is not cut; prune before cast",
        "cluster": "a network whose weights are clustered is not cut; prune before cluster",
    }
    compares: ClassVar[bool] = True

    amount: float = arg("fraction to remove, measured in `of`", above=0, below=1)
    of: Literal["channels", "params", "macs", "latency"] = arg(
        "what `amount` is a fraction of", "channels"
    )
    by: str = arg("importance measure that ranks channels", "l1", menu="importance")
    scope: Literal["global", "local", "isomorphic"] = arg(
        "rank across all layers, within each layer, or within layers of one kind", "global"
    )
    per: Literal["channel", "cost"] = arg(
        "rank by importance, or by importance per cost saved", "channel"
    )
    multiple: int | Literal["auto"] = arg(
        "keep channels in multiples of this; auto benchmarks layers on `on`", 8, low=1, high=1024
    )
    floor: float = arg("smallest fraction of channels to keep in each layer", 0.1, low=0, below=1)
    rounds: int = arg(
        "prune in this many equal parts, ranking again before each", 1, low=1, high=1000
    )
    keep: str = arg("layers to leave whole: glob patterns, comma-separated", "")
    only: str = arg("layers to prune, with those coupled to them: glob patterns; empty = all", "")
    recalibrate: bool = arg(
        "measure batch-norm statistics again on training samples afterwards", True
    )
    samples: int = arg(
        "training samples for importance and batch-norm statistics", 512, low=1, high=1_000_000
    )
    on: str = arg("target on which latency is measured", "onnxruntime", menu="targets")

    @property
    def times_latency(self) -> bool:
        return self.of == "latency" or self.multiple == "auto"

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Cut without using the data, to find out whether the amount can be reached."""
        if self.of == "latency":
            from ..surgery.channels.latency import reachable

            reachable(self.width_search(model, ctx, ctx.labelled(2)), self.amount, ctx.where)
            return model
        self.cut(model, ctx, self.width_search(model, ctx, ctx.labelled(2)), self.amount)
        return model

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        from ..surgery.channels.recalibrate import recalibrate_and_record
        from ..surgery.coverage import tell_left_out

        remaining = 1.0  # fraction of what there was before the first round
        for round_number in range(1, self.rounds + 1):
            share = 1 - (1 - self.amount * round_number / self.rounds) / remaining
            last = round_number == self.rounds
            if share > 0:  # earlier rounds may have removed more than their part
                search = self.width_search(model, ctx, ctx.labelled(self.samples))
                if self.of == "latency":
                    remaining *= 1 - self.cut_to_latency(model, ctx, search, share)
                else:
                    remaining *= 1 - self.cut(model, ctx, search, share, remaining, last)
            if self.recalibrate:
                recalibrate_and_record(model, ctx, self.samples, tell=last)
        whole = {
            name: why
            for name, why in ctx.facts["left_whole"].items()
            if not why.startswith((*EXPECTED_REASONS, "in part: "))
        }
        cut = set[str]().union(*(group["layers"] for group in ctx.facts.get("groups", ())))
        tell_left_out(ctx, cut, whole, "whole")
        ctx.facts["amount"] |= {"asked": round(self.amount, 6), "removed": round(1 - remaining, 6)}
        if self.of != "latency" and abs(1 - remaining - self.amount) > 0.02:
            ctx.notes.append(
                f"{ctx.where}: {1 - remaining:.3f} of the {self.of} were removed instead of "
                f"{self.amount:.3g}; multiples of {ctx.facts['multiple']} and the floor allow "
                "nothing nearer"
            )
        return model

    def groups(self, model: nn.Module, ctx: Context) -> NetworkGroups:
        """Return the groups that can be cut, without those that `keep` and `only` leave whole.

        Raises LissomError if none is left.
        """
        from torch import nn

        from ..surgery.channels.group import layers_in
        from ..surgery.channels.trial_cut import cuttable
        from ..surgery.coverage import EMBEDDINGS, FUSED_LAYERS
        from ..surgery.names import matching
        from ..surgery.plain_layers import make_plain_and_note
        from ..surgery.states import check_states

        check_states(self, model, ctx.where)
        make_plain_and_note(model, ctx)
        groups = cuttable(model, ctx.example)
        makers = layers_in(groups.cuttable_groups, "out")  # of any kind
        layers = [
            name
            for name, m in model.named_modules()
            if name in makers
            or isinstance(m, (nn.modules.conv._ConvNd, nn.Linear, *FUSED_LAYERS, *EMBEDDINGS))
        ]
        keep = matching(layers, self.keep, f"{ctx.where}: keep")
        only = matching(layers, self.only, f"{ctx.where}: only") if self.only else set(layers)
        allowed = []
        for group in groups.cuttable_groups:
            of_group = set(group.layers("out"))
            if of_group & keep or not of_group & only:
                groups.left_whole.update(
                    dict.fromkeys(
                        of_group,
                        f"keep='{self.keep}'" if of_group & keep else f"only='{self.only}'",
                    )
                )
            else:
                allowed.append(group)
        if not allowed:
            reasons = "; ".join(f"{k}: {v}" for k, v in list(groups.left_whole.items())[:3])
            raise LissomError(
                f"{ctx.where}: nothing in this network can be cut ({reasons or 'it has no layers'})"
            )
        cut = layers_in(allowed, "out")
        groups.left_whole = {
            name: f"in part: {why}" if name in cut else why
            for name, why in groups.left_whole.items()
        }
        groups.cuttable_groups = allowed
        return groups

    def width_search(self, model: nn.Module, ctx: Context, labelled: Labelled) -> WidthSearch:
        """Find the groups that can be cut, rank their units, and return the widths to choose from."""
        from ..surgery.channels.budget import WidthSearch, cost_of, width_steps_of, widths_of
        from ..surgery.channels.evidence import Evidence
        from ..surgery.loss import loss_of

        groups = self.groups(model, ctx)
        score = method_of("importance", self.by)
        loss = loss_of(model, ctx)
        evidence = Evidence(model, groups.cuttable_groups, lambda: labelled, loss, ctx.seed)
        scores = []
        ranked = []
        errors = []
        for group in groups.cuttable_groups:
            try:
                scores.append(score(group, evidence).detach().cpu())
            except LissomError as error:
                # such as a layer without a norm; other layers can still be ranked
                errors.append(error)
                groups.left_whole.update(dict.fromkeys(group.layers("out"), str(error)))
            else:
                ranked.append(group)
        if not ranked:
            raise errors[0]
        groups.cuttable_groups = ranked
        multiple = (
            self.multiple
            if isinstance(self.multiple, int)
            else ctx.clock_on(self.on).multiple(model, ctx.example)
        )
        first = first_widths(ctx)  # the floor is a fraction of the widths before the first round
        widths = [
            widths_of(group, multiple, self.floor * first.get(group.name, group.size) / group.size)
            for group in groups.cuttable_groups
        ]
        ctx.facts.update(multiple=multiple, left_whole=groups.left_whole)
        cost = (
            ctx.clock_on(self.on).predictor(model, ctx.example, groups.cuttable_groups)
            if self.of == "latency"
            else cost_of(self.of, model, groups.cuttable_groups, ctx.example)
        )
        steps = width_steps_of(
            scores, widths, groups.cuttable_groups, self.scope, cost if self.per == "cost" else None
        )
        return WidthSearch(
            groups.cuttable_groups,
            scores,
            widths,
            steps,
            cost,
            groups.uses_16_bits,
            groups.makes_decisions,
            groups.depends_on_size,
        )

    def cut(
        self,
        model: nn.Module,
        ctx: Context,
        search: WidthSearch,
        amount: float,
        remaining: float = 1.0,
        last: bool = True,
    ) -> float:
        """Cut the network in place to the widths nearest to `amount`, and return the fraction
        removed.

        `remaining` is the fraction that earlier rounds left. Any round but the last may find
        nothing small enough to cut. Raises LissomError if `amount` cannot be reached.
        """
        widths = (
            search.uniform_widths(amount)
            if self.scope == "local" and self.of == "channels"
            else search.widths_for(amount)
        )
        if search.removed(widths) == 0:  # the same share of every layer is less than one multiple
            widths = search.widths_for(amount)
        removed = search.removed(widths)
        most = search.max_removed
        grain = search.resolution(widths)
        if (removed == 0 and last and remaining == 1) or amount > most + grain:
            least = search.min_removed
            raise LissomError(
                f"{ctx.where}: {self.amount:.3g} of the {self.of} cannot be "
                "removed; with multiple="
                f"{ctx.facts['multiple']} and floor={self.floor:g} this network can lose "
                f"{1 - remaining * (1 - least):.3g} to {1 - remaining * (1 - most):.3g} of them"
            )
        ctx.facts.setdefault("amount", {"of": self.of, "most": round(most, 4)})
        if removed:
            cut_and_compare(model, ctx, search, widths)
        return removed

    def cut_to_latency(
        self, model: nn.Module, ctx: Context, search: WidthSearch, amount: float
    ) -> float:
        """Cut the network in place so that its measured latency falls by the fraction `amount`.

        Return the fraction by which it fell.
        """
        from ..surgery.channels.latency import LATENCY_TOLERANCE, widths_for_latency

        cut = widths_for_latency(
            model, search, amount, ctx.clock_on(self.on), ctx.example, ctx.where
        )
        # that before the first round
        before_ms = ctx.facts.get("amount", {}).get("before_ms", cut.before_ms)
        ctx.facts["amount"] = {
            "of": "latency",
            "asked": round(amount, 6),
            "removed": round(cut.removed, 4),
            "predicted": cut.predicted,
            "before_ms": before_ms,
            "after_ms": cut.after_ms,
            "measured": cut.measured,
        }
        if abs(cut.removed - amount) > LATENCY_TOLERANCE:
            ctx.notes.append(
                f"{ctx.where}: the latency fell by {cut.removed:.3f} instead of {amount:.3g}; no "
                "cut that was measured came nearer"
            )
        cut_and_compare(model, ctx, search, cut.widths)
        return cut.removed


def first_widths(ctx: Context) -> dict[str, int]:
    """Return the number of units of each group before the first round, empty if there was none."""
    return {g["name"]: g["before"] for g in ctx.facts.get("groups", ())}


def cut_and_compare(model: nn.Module, ctx: Context, search: WidthSearch, widths: list[int]) -> None:
    """Cut `model` in place to these widths of each group, and compare it with itself with the same
    channels zeroed.
    """
    from ..surgery.channels.slice import slice_channels, zero_channels
    from ..surgery.compare import difference_from, record_outputs
    from ..surgery.small import smaller

    cut = search.cut(widths)
    first = first_widths(ctx)
    ctx.facts["groups"] = [
        {"name": g.name, "layers": g.layers("out"), "before": first.get(g.name, g.size), "after": w}
        for g, w in zip(search.groups, widths, strict=True)
    ]
    images = ctx.batch(8)
    # small images prove the same in less time
    if not search.depends_on_size and (small := smaller(images)) is not None:
        images = small
    zero_channels(model, cut)  # the reference, computed before the same channels are removed
    model_and_images = in_comparison_precision(model, images, search.uses_16_bits)
    wanted = record_outputs(*model_and_images, record_decisions=search.makes_decisions)
    slice_channels(model, cut)
    try:
        model_and_images = in_comparison_precision(model, images, search.uses_16_bits)
        difference = difference_from(wanted, *model_and_images)
    except Exception as error:
        # whatever the user's forward raises on a width that no trial used
        raise LissomError(
            f"{ctx.where}: the network cannot run after this cut ({str(error).splitlines()[0]}); "
            "keep= leaves "
            "layers whole"
        ) from error
    ctx.gate("sliced = masked", difference, 1e-3)


def in_comparison_precision(
    model: nn.Module, images: Tree, uses_16_bits: bool
) -> tuple[nn.Module, Tree]:
    """Return the network and its inputs for a comparison: in float64 if its forward rounds to 16
    bits, as autocast does.
    """
    import copy

    from torch import float64

    from ..trees import in_float

    if not uses_16_bits:
        return model, images
    return copy.deepcopy(model).double(), in_float(images, float64)
