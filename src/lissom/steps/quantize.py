"""Put weights and activations on grids of few bits."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import LissomError, listed
from ..language.menu import menu
from ..language.method import arg, method_of
from ..language.step import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from ..language.context import Context
    from ..surgery.quantization.bits import Plan, Spec
    from ..surgery.quantization.calibrate import Seen
    from ..surgery.quantization.dataflow import Wiring
    from ..trees import Tree

FAR = 0.5  # of the largest output: 8 bits move outputs by a tenth of that
LOST = 2.0  # likewise: single bits that have not learned move them by less


@dataclass(frozen=True)
class Quantize(Step):
    """Round weights and activations to grids of 8 bits or fewer, in the one form that every runtime then runs.

    Any bits of weights go with any bits of inputs; 32 leaves either float, and both at 32 the network as it was, so that a
    space of bits can hold what is not quantized. Without `grid`, 5 bits and more are equal
    steps over a measured range (uniform), fewer have steps that are learned (lsq). Weights have one scale for each
    filter and are integers of 8 bits or fewer in every export. What an addition adds and its sum share one
    scale, the largest of theirs: then adding rounds nothing, and a runtime that rounds before it gives the same as
    one that does not. What adds and other calls read has 8 bits where inputs are a number of bits; else it stays float.
    Batch-norm goes into the layer before it: in training it stays as it is behind the rounded weights, in inference
    it is multiplied into scales and biases. What the network returns stays float.
    Followed by a learning step this is quantization-aware training; alone it is post-training quantization. Given a
    quantized network, weights and statistics go on, ranges are measured anew.
    With inputs="dynamic" linear layers alone are quantized, no range is measured and no image is needed.
    Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877.
    """

    version: ClassVar[int] = 7

    weights: Literal[1, 2, 3, 4, 5, 6, 7, 8, 32, "ternary", "binary", "auto"] = arg(
        "bits of weights; 32 leaves them float, auto chooses for each layer, 8 to 2, within size or drop")
    inputs: Literal[1, 2, 3, 4, 5, 6, 7, 8, 32, "ternary", "binary", "dynamic"] = arg(
        "bits of what layers read, likewise; dynamic: 8 bits over the range that each call shows", 8)
    _: KW_ONLY
    grid: str | None = arg("the values that weights are rounded to, and inputs where it can; None for the usual one", None,
                           menu="grids")
    inputs_grid: str | None = arg("the values that inputs are rounded to, where it is another grid", None, menu="grids")
    range: str | None = arg("how the range of inputs is chosen; None for percentile, below 8 bits for mse", None,
                            menu="ranges")
    images: int = arg("training images from which ranges are measured", 512, low=1, high=1_000_000)
    first: Literal[2, 3, 4, 5, 6, 7, 8, 32] = arg("least bits of the first layer; 32 leaves it float", 8)
    last: Literal[2, 3, 4, 5, 6, 7, 8, 32] = arg("least bits of the last layer; 32 leaves it float", 8)
    rounding: Literal["nearest", "learned", "blocks"] = arg(
        "each weight to the nearest value; learned: up or down as the layer's output on the images then errs least; "
        "blocks: as that of the residual block around it does", "nearest")
    steps: int = arg("steps of learning for each layer or block whose rounding is learned", 500, low=1, high=1_000_000)
    correct: bool = arg("shift biases by what rounding moves the mean of each output", False)
    reduce_range: bool | None = arg("weights of 7 bits where they would have 8, so that sums on a processor without VNNI "
                                    "do not saturate; None where this one has none", None)
    size: float | None = arg("with auto: bytes of all weights over their bytes in float, at most; least noise within", None,
                             above=0, below=1)
    drop: float | None = arg("with auto: how far the first score may fall on validation images, with the fewest bytes", None,
                             low=0, below=1)
    keep: str = arg("layers left float, glob patterns with commas between", "")
    only: str = arg("the only layers quantized, glob patterns with commas between; all if empty", "")
    fold: bool = arg("batch-norm goes into the layer before it; else it is a call like others", True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if [self.size is None, self.drop is None].count(False) != int(self.weights == "auto"):
            raise LissomError('quantize: weights="auto" goes with one of size and drop, as in quantize("auto", size=0.15), '
                              "and these with nothing else")
        if idle := self.idle():
            raise LissomError(f"quantize({idle}")
        if not self.at_run_time:
            return
        if self.weights == 32:
            raise LissomError('quantize(inputs="dynamic"): weights of 32 bits were given; integers fit, as in '
                              'quantize(8, "dynamic")')
        if self.range is not None:
            raise LissomError(f'quantize(range="{self.range}"): ranges are found at each call with inputs="dynamic"; leave '
                              "range out")

    def idle(self) -> str | None:
        """Return the setting that would change nothing beside the others, and what would, None where all count."""
        from ..surgery.quantization.bits import at_least

        grid, own = ((text or "").partition("(")[0] for text in (self.grid, self.inputs_grid))
        if isinstance(self.weights, str) and self.weights != "auto" and grid not in ("", self.weights):
            return (f'grid="{self.grid}"): weights of "{self.weights}" are a grid of their own, which '
                    f'grid="{self.weights}(...)" sets up; inputs_grid= is for inputs')
        if isinstance(self.inputs, str) and own not in ("", self.inputs):
            return (f'inputs_grid="{self.inputs_grid}"): inputs of "{self.inputs}" are a grid of their own, which '
                    f'inputs_grid="{self.inputs}(...)" sets up')
        if self.inputs == 32 and (self.inputs_grid or self.range):
            word = "inputs_grid" if self.inputs_grid else "range"
            return f'{word}="{getattr(self, word)}"): inputs of 32 bits are not rounded; 1 to 8 bits fit'
        if self.weights == 32 and (self.rounding != "nearest" or self.correct):
            word = "correct=True" if self.correct else f'rounding="{self.rounding}"'
            return f"{word}): weights of 32 bits are not rounded; 2 to 8 bits fit"
        if self.rounding == "nearest" and self.steps != 500:
            return f"steps={self.steps}): the nearest value needs none; rounding=\"learned\" and \"blocks\" do"
        weights, inputs = self.specs()
        ends = [at_least(weights, bits) for bits in (self.first, self.last)]
        if self.reduce_range and (inputs is None or all(found is None or found.bits != 8 for found in (weights, *ends))):
            return "reduce_range=True): no layer has integers of 8 bits for weights and integers for inputs"
        if self.weights == 32 and grid and (inputs is None or grid != inputs.grid.partition("(")[0]):
            return f'grid="{self.grid}"): weights of 32 bits are not rounded; inputs_grid= is for inputs'
        return None

    @property
    def at_run_time(self) -> bool:
        """Whether the ranges of inputs are found at each call."""
        inputs = self.specs()[1]
        return inputs is not None and inputs.at_run_time

    def of_bits(self, bits: int | str) -> Spec | None:
        """Return the grid of weights with so many bits."""
        from ..surgery.quantization.bits import spec

        kind = None if self.grid is None else menu("grids")[self.grid.partition("(")[0]]
        own = self.grid if kind is not None and kind.of_weights else None
        return spec(8 if bits == "auto" else bits, own, "weights", "quantize(grid=...)")

    def safe(self, weights: Mapping[str, Spec | None], inputs: Mapping[str, Spec | None]) -> dict[str, Spec | None]:
        """Return grids of weights with 7 bits in place of 8, where reduce_range says so and inputs are integers too."""
        from ..surgery.quantization.bits import reduced, saturates

        reduces = saturates() if self.reduce_range is None else self.reduce_range
        return {name: reduced(found) if reduces and inputs[name] is not None else found for name, found in weights.items()}

    def choices(self) -> dict[int, Spec | None]:
        """Return the grids of weights that weights="auto" chooses from, by their bits."""
        from ..surgery.quantization.mixed import CHOICES

        grids = {str(bits): self.of_bits(bits) for bits in CHOICES}
        safe = self.safe(grids, dict.fromkeys(grids, self.specs()[1]))
        return {int(bits): grid for bits, grid in safe.items()}

    def specs(self) -> tuple[Spec | None, Spec | None]:
        """Return the grids of weights and of inputs."""
        from ..surgery.quantization.bits import ALIKE, spec

        kind = None if self.grid is None else menu("grids")[self.grid.partition("(")[0]]
        name = "" if kind is None else kind.name()
        meant = name in ALIKE and self.inputs not in ("binary", "ternary", 32)
        alike = self.grid if meant and (self.inputs != 8 or name != "lsq") else None  # 8 bits need no learned steps
        return (self.of_bits(self.weights),
                spec(self.inputs, self.inputs_grid or alike, "inputs", "quantize(inputs_grid=...)"))

    @property
    def rounds_nothing(self) -> bool:
        """Whether weights and inputs stay as they are: the end of a space of bits that stands for no quantization."""
        return self.weights == 32 and self.inputs == 32

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Round to the nearest: an untrained network has nothing to be brought back to."""
        plain = replace(self, rounding="nearest", correct=False, steps=500)
        return (replace(plain, weights=8, drop=None) if self.drop is not None else plain)(model, ctx)

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        from ..surgery.compare import difference
        from ..surgery.coverage import tell_left_out
        from ..surgery.quantization.calibrate import observed
        from ..surgery.quantization.prepare import rounded
        from ..surgery.quantization.reconstruct import corrected, learned_rounding
        from ..trees import first, length

        if self.rounds_nothing:
            ctx.notes.append(f"{ctx.where}: weights and inputs of 32 bits are not rounded; the network is what it was")
            return model
        ctx = ctx.in_float32(model)
        ctx.finite(model)
        batches = self.shown(ctx)
        model, wires, left = self.ready(model, batches, ctx)
        before = copy.deepcopy(model)
        plan = self.plan(model, wires, left, ctx)
        measured = not self.at_run_time and (plan.sites or plan.own)
        seen = observed(model, batches, wires.sites, wires.lost, wires.calls) if measured else {}
        bounds_of = cache(lambda site, spec: self.bounds(seen[site], spec, site, ctx, wires, sum(map(length, batches))))
        if self.weights == "auto":
            from ..surgery.quantization.mixed import Mixture, mix_bits

            mixture = Mixture(plan, model, ctx, self.choices(), self.size, self.drop)
            mix_bits(mixture, wires, batches[0], bounds_of, self.of_bits)
        whole, bounds = rounded(model, wires, plan, bounds_of)
        if self.rounding != "nearest":
            done = learned_rounding(whole.eval(), before, list(wires.inputs), batches, self.steps, ctx.seed,
                                    by_block=self.rounding == "blocks")
            if not done:
                raise LissomError(f'{ctx.where}: no layer has weights of equal steps, whose rounding could be learned; '
                                  'rounding="nearest" is what its grid has')
            ctx.facts["rounded"] = done
        if self.correct:
            ctx.facts["corrected"] = corrected(whole.eval(), before, list(wires.inputs), batches)
        moved = difference(before, whole.eval(), first(batches[0], 32))
        if moved != moved:  # those of the network itself are finite, as the last gate has seen
            raise LissomError(f"{ctx.where}: expected finite outputs, got infinity or NaN; a value that the network's code "
                              "divides by may have been rounded to 0; keep= leaves the layers before it float")
        if not moved <= (FAR if self.weights == self.inputs == 8 else LOST):
            ctx.notes.append(f"{ctx.where}: rounding moved the outputs by {moved:.0%} of the largest, which is far more "
                             "than it should; `lissom explain` names the layers at fault, and learning may mend them")
        count = sum(any((layer.rounding, layer.own, layer.feed)) for layer in whole.layers())
        tell_left_out(ctx, count, left)
        ctx.facts.update(quantized=count, layers=plan.rows(), left_float=left, ranges=bounds,
                         images=sum(map(length, batches)))
        return whole.eval()

    def ready(self, model: nn.Module, batches: list[Tree], ctx: Context) -> tuple[nn.Module, Wiring, dict[str, str]]:
        """Return the network with layers that can be rounded, who reads whose values, and why other layers stay."""
        import copy

        from ..surgery.cast import uncast
        from ..surgery.compare import gate_same
        from ..surgery.coverage import unable
        from ..surgery.plain_layers import settle_plain
        from ..surgery.quantization.dataflow import loose_modules, wiring
        from ..surgery.quantization.layers import CLASSES
        from ..surgery.quantization.prepare import prepared, unrounded
        from ..trees import first, some_of

        model = unrounded(model)
        uncast(model)
        own = settle_plain(model, ctx)
        before, one = copy.deepcopy(model), first(ctx.example, 1)
        loose = loose_modules(model, [one, first(batches[0], 8), first(batches[-1], 1)])
        shown = one if loose is None else some_of(batches)  # what one sample does not reach may be reached by others
        left = prepared(model, shown, self.fold)
        unable(model, ctx.example, left, own, CLASSES)
        gate_same(ctx, "folded = unfolded", before, model, first(batches[0], 32),
                      lambda net, example: prepared(net, example, self.fold), shown)
        if loose:
            parts = listed(name.replace("-", ".") or "the network" for name in sorted(loose))
            ctx.notes.append(f"{ctx.where}: the calls that {parts} makes depend on the data, and stay float")
        return model, wiring(model, shown, loose), left

    def shown(self, ctx: Context) -> list[Tree]:
        """Return the calibration samples in batches; the example where nothing is measured on it."""
        from ..trees import length

        batches = [images for images in ctx.images(self.images) if length(images)]
        if not batches and self.at_run_time and self.rounding == "nearest" and not self.correct:
            batches = [ctx.example]
        if not batches:
            raise LissomError(f"{ctx.where}: there are no calibration images")
        return batches

    def plan(self, model: nn.Module, wires: Wiring, left: dict[str, str], ctx: Context) -> Plan:
        """Decide which grid every layer and every site gets."""
        from ..surgery.coverage import AT_RUN_TIME, FIRST, LAST, chosen, told
        from ..surgery.quantization.bits import Spec, at_least, planned
        from ..surgery.quantization.layers import QuantizedLayer

        names = [name for name in wires.inputs if isinstance(model.get_submodule(name), QuantizedLayer)]
        if not names:
            why = told(ctx.where, 0, left, "float") or f"{ctx.where}: there is no convolution or linear layer"
            raise LissomError(f"{why}; no layer can be quantized")
        wanted = chosen(names, left, self.only, self.keep, ctx.where)
        weights: dict[str, Spec | None] = dict.fromkeys(names, self.specs()[0])
        inputs: dict[str, Spec | None] = dict.fromkeys(names, self.specs()[1])
        for name, bits in ((names[0], self.first), (names[-1], self.last)):
            weights[name], inputs[name] = at_least(weights[name], bits), at_least(inputs[name], bits)
            if bits == 32:
                left[name] = FIRST if name == names[0] else LAST
        if self.at_run_time:
            from torch import nn

            apart = [name for name in wanted if not isinstance(model.get_submodule(name), nn.Linear)]
            left.update(dict.fromkeys(apart, AT_RUN_TIME))
            wanted -= set(apart)
        for name in set(names) - wanted:
            weights[name] = inputs[name] = None
        before, weights = weights, self.safe(weights, inputs)
        if self.reduce_range is None and weights != before:
            ctx.notes.append(f"{ctx.where}: weights of 8 bits became 7, since this processor has no VNNI and its sums "
                             "would saturate; reduce_range=False keeps 8")
        if not any((*weights.values(), *inputs.values())):
            raise LissomError(f"{ctx.where}: no layer is left to quantize: {len(names)} there are, all kept float by "
                              f"first, last, keep or only{', or no linear layer' if self.at_run_time else ''}")
        usual = self.grid if self.grid is not None and self.grid.startswith("uniform") else "uniform"
        rest = Spec(usual, 8) if self.inputs not in (32, "binary") and not self.at_run_time else None
        return planned(weights, inputs, wires, rest)

    def bounds(self, seen: Seen, spec: Spec, site: str, ctx: Context, wires: Wiring, count: int) -> tuple[float, float]:
        """Return the range of a site, and note where half of the images would have given quite another."""
        pick: Any = method_of("ranges", self.range or ("percentile" if spec.bits > 7 else "mse"))
        top = 2**spec.bits - 1
        (low, high), (less, more) = pick(seen, top), pick(seen.half(), top)
        if count == 1:
            said = f"{ctx.where}: ranges of one image do not show whether they have settled; more images= would"
            ctx.notes += [] if said in ctx.notes else [said]
        elif abs((high - low) - (more - less)) > 0.15 * (high - low):
            layers = sorted(name for name in wires.readers.get(site, ()) if name)[:3]
            more_images = "" if count < self.images else "more images= or "
            what = f"{' and '.join(layers)} read" if layers else f"{wires.makers.get(site, site)} returned"
            ctx.notes.append(f"{ctx.where}: the range of what {what} has not settled "
                             f"({low:.3g} to {high:.3g}, of half the {count} images {less:.3g} to {more:.3g}); "
                             f"{more_images}a percentile would steady it")
        return low, high
