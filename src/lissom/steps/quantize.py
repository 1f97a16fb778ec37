"""Quantize weights and activations to few bits."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.grid import grid_of
from ..language.method import arg
from ..language.step import Step
from ..surgery.quantization.bits import (
    Precision,
    PrecisionPlan,
    Precisions,
    at_least,
    plan_precision,
    precision_of,
    without_saturation,
)

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context
    from ..surgery.quantization.calibrate import RangeStats
    from ..surgery.quantization.dataflow import DataFlow
    from ..trees import Tree

CLUSTERED = (
    "the weights are clustered, and the values of a codebook can only be rounded to the nearest; "
    "leave rounding= out"
)
DEFAULT_STEPS = 500
Conflict = tuple[str, str]  # a setting that has no effect beside the others, and why


@dataclass(frozen=True)
class Quantize(Step):
    """Quantize weights and activations to 8 bits or fewer.

    Followed by a learning step this is quantization-aware training, with fake quantization in the
    forward pass; otherwise it is post-training quantization. `inputs` are the activations that
    layers read. Any bits of weights go with any bits of inputs. 32 leaves either float; with both
    at 32 the network does not change, so that a set of bits such as {4, 8, 32} can include it.
    Without `grid`, 5 bits and more use uniform (measured range) and fewer use lsq (learned scale);
    weights of 1 bit use binary.

    layers:     convolutions, transposed ones too, linear layers and embeddings
    weights:    integers of at most 8 bits, times one scale per filter, in every exported file; of
                an embedding, per row
    batch-norm: folded into the layer before it; in training it stays a batch-norm after the rounded
                weights, in inference it is multiplied into scales and biases
    additions:  the operands and their sum share one scale, the largest of theirs, so runtimes
                that round before the addition give the same result as those that do not
    other:      the inputs of additions and other operations have 8 bits; with inputs=32, "binary"
                or "dynamic" they stay float. The outputs of the network stay float.
    tokens:     in a network with LayerNorm or RMSNorm, sums, normalization and softmax stay float;
                scaled queries and keys have 8 bits; `smooth` (SmoothQuant) is on

    weights="auto" chooses 8 to 2 bits for each layer between the first and the last: the least
    error within `size`, or the fewest bytes within `drop`. If the network is quantized already, it
    keeps its weights and batch-norm statistics, and ranges are measured again. With
    inputs="dynamic" only linear layers and embeddings are quantized and no range is measured;
    samples are then needed only for `rounding` and `correct`.

    Also known as: post-training quantization (PTQ), quantization-aware training (QAT), fake
    quantization, AdaRound for rounding="learned", BRECQ for rounding="blocks", bias correction for
    correct=True, mixed precision for weights="auto", dynamic quantization for inputs="dynamic".
    Source: Jacob et al. 2017, Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, https://arxiv.org/abs/1712.05877; Nagel et al. 2020, Up or
    Down? Adaptive Rounding for Post-Training Quantization, https://arxiv.org/abs/2004.10568; Li et
    al. 2021, BRECQ, https://arxiv.org/abs/2102.05426; Nagel et al. 2019, Data-Free Quantization
    Through Weight Equalization and Bias Correction, https://arxiv.org/abs/1906.04721, section 4.2,
    for correct; Xiao et al. 2022, SmoothQuant, https://arxiv.org/abs/2211.10438, for smooth.
    """

    version: ClassVar[int] = 15
    leaves: ClassVar[str] = "quantized"

    weights: Literal[1, 2, 3, 4, 5, 6, 7, 8, 32, "ternary", "binary", "auto"] = arg(
        "weight bits; 32 = float; auto = 8 to 2 per layer, within `size` or `drop`"
    )
    inputs: Literal[1, 2, 3, 4, 5, 6, 7, 8, 32, "ternary", "binary", "dynamic"] = arg(
        "activation bits; 32 = float; dynamic = 8, over the range of each call", 8
    )
    _: KW_ONLY
    grid: str | None = arg(
        "values to round weights to, and inputs where it fits; None = by the bits",
        None,
        menu="grids",
    )
    inputs_grid: str | None = arg(
        "values to round inputs to, if they differ from `grid`", None, menu="grids"
    )
    range: str | None = arg(
        "how input ranges are measured; None = percentile for 8 bits, mse below",
        None,
        menu="ranges",
    )
    samples: int = arg("calibration samples, from the training data", 512, low=1, high=1_000_000)
    first: Literal[2, 3, 4, 5, 6, 7, 8, 32] = arg("minimum bits of the first layer; 32 = float", 8)
    last: Literal[2, 3, 4, 5, 6, 7, 8, 32] = arg("minimum bits of the last layer; 32 = float", 8)
    rounding: Literal["nearest", "learned", "blocks"] = arg(
        "nearest; learned = AdaRound; blocks = AdaRound per residual block (BRECQ)", "nearest"
    )
    steps: int = arg(
        "updates for each layer or block whose rounding is learned",
        DEFAULT_STEPS,
        low=1,
        high=1_000_000,
    )
    correct: bool | None = arg(
        "bias correction: undo the shift of each output's mean; None = linear layers of networks "
        "with layer normalization, from one pass",
        None,
    )
    reduce_range: bool | None = arg(
        "use 7 weight bits instead of 8; None = only if this CPU has no VNNI", None
    )
    size: float | None = arg(
        "with auto: maximum size of all weights, relative to float", None, above=0, below=1
    )
    drop: float | None = arg(
        "with auto: maximum drop of the first metric on validation data", None, low=0, below=1
    )
    keep: str = arg("layers to keep float: glob patterns, comma-separated", "")
    only: str = arg("layers to quantize: glob patterns, comma-separated; empty = all", "")
    smooth: bool = arg(
        "SmoothQuant where layer normalization or attention feeds linear layers", True
    )
    fold: bool = arg("fold batch-norm into the preceding layer; False = a separate operation", True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if [self.size is None, self.drop is None].count(False) != int(self.weights == "auto"):
            raise LissomError(
                'quantize: weights="auto" needs exactly one of size and drop, as in '
                'quantize("auto", size=0.15); other weights take neither'
            )
        if conflict := self.conflict():
            setting, reason = conflict
            raise LissomError(f"quantize({setting}): {reason}")

    def refuses(self, earlier: tuple[Step, ...]) -> str | None:
        if self.rounding != "nearest" and any(step.leaves == "cluster" for step in earlier):
            return CLUSTERED
        return super().refuses(earlier)

    def conflict(self) -> Conflict | None:
        """Return the first setting that has no effect beside the others, and why; None if all do."""
        return (
            self._grid_conflict()
            or self._rounding_conflict()
            or self._integer_conflict()
            or self._dynamic_conflict()
        )

    def _grid_conflict(self) -> Conflict | None:
        """Return a grid or a range for values whose bits leave no choice of it."""
        weights_grid, inputs_grid = (
            text and grid_of(text).name() for text in (self.grid, self.inputs_grid)
        )
        if self.weights in ("ternary", "binary") and weights_grid not in (None, self.weights):
            return f'grid="{self.grid}"', (
                f'weights of "{self.weights}" are a grid of their own, which '
                f'grid="{self.weights}(...)" sets up; inputs_grid= is for inputs'
            )
        if isinstance(self.inputs, str) and inputs_grid not in (None, self.inputs):
            return f'inputs_grid="{self.inputs_grid}"', (
                f'inputs of "{self.inputs}" are a grid of their own, '
                f'which inputs_grid="{self.inputs}(...)" sets up'
            )
        if self.inputs == 32 and (self.inputs_grid or self.range):
            name = "inputs_grid" if self.inputs_grid else "range"
            reason = "inputs of 32 bits are not rounded; 1 to 8 bits fit"
            return f'{name}="{getattr(self, name)}"', reason
        return None

    def _rounding_conflict(self) -> Conflict | None:
        """Return a setting that would learn or correct a rounding that there is not."""
        if self.weights == 32 and (self.rounding != "nearest" or self.correct):
            setting = "correct=True" if self.correct else f'rounding="{self.rounding}"'
            return setting, "weights of 32 bits are not rounded; 2 to 8 bits fit"
        if self.rounding == "nearest" and self.steps != DEFAULT_STEPS:
            reason = 'the nearest value needs none; rounding="learned" and "blocks" do'
            return f"steps={self.steps}", reason
        return None

    def _integer_conflict(self) -> Conflict | None:
        """Return a setting for integers of which no layer has any."""
        weights, inputs = self.precisions()
        ends = [at_least(weights, bits) for bits in (self.first, self.last)]
        if self.reduce_range and (
            inputs is None or all(found is None or found.bits != 8 for found in (weights, *ends))
        ):
            reason = "no layer has integers of 8 bits for weights and integers for inputs"
            return "reduce_range=True", reason
        grid = self.grid and grid_of(self.grid).name()
        if self.weights == 32 and grid and (inputs is None or grid != inputs.grid.name()):
            reason = "weights of 32 bits are not rounded; inputs_grid= is for inputs"
            return f'grid="{self.grid}"', reason
        return None

    def _dynamic_conflict(self) -> Conflict | None:
        """Return a setting that ranges found at run time leave no use for."""
        if not self.at_run_time:
            return None
        if self.weights == 32:
            cure = 'integers fit, as in quantize(8, "dynamic")'
            return 'inputs="dynamic"', f"weights of 32 bits were given; {cure}"
        if self.range is not None:
            reason = 'ranges are found at each call with inputs="dynamic"; leave range out'
            return f'range="{self.range}"', reason
        return None

    @property
    def at_run_time(self) -> bool:
        """Whether the ranges of inputs are found at each call."""
        inputs = self.precisions()[1]
        return inputs is not None and inputs.grid.at_run_time

    @property
    def rounds_nothing(self) -> bool:
        """Whether weights and inputs both stay float, so that a set of bits can include no change."""
        return self.weights == 32 and self.inputs == 32

    def weight_precision(self, bits: int | str) -> Precision | None:
        """Return the precision of weights with a number of bits, None for 32."""
        grid = self.grid if self.grid is not None and grid_of(self.grid).of_weights else None
        return precision_of(8 if bits == "auto" else bits, grid, "weights", "quantize(grid=...)")

    def precisions(self) -> tuple[Precision | None, Precision | None]:
        """Return the precisions of weights and of inputs; None for 32 bits."""
        shared_grid = None
        if self.grid is not None and self.inputs not in ("binary", "ternary", 32):
            grid = grid_of(self.grid)
            if grid.for_inputs_too and not (grid.below_8_bits and self.inputs == 8):
                shared_grid = self.grid
        inputs_grid = self.inputs_grid or shared_grid
        inputs = precision_of(self.inputs, inputs_grid, "inputs", "quantize(inputs_grid=...)")
        return self.weight_precision(self.weights), inputs

    def choices(self) -> dict[int, Precision | None]:
        """Return the precisions that weights="auto" chooses from, by their bits."""
        from ..surgery.quantization.mixed import BIT_CHOICES

        grids = {str(bits): self.weight_precision(bits) for bits in BIT_CHOICES}
        inputs: Precisions = dict.fromkeys(grids, self.precisions()[1])
        safe = without_saturation(grids, inputs, self.reduce_range)
        return {int(bits): grid for bits, grid in safe.items()}

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Rehearse with rounding to the nearest: an untrained network has no accuracy to recover."""
        plain = replace(self, rounding="nearest", correct=False, steps=DEFAULT_STEPS)
        return (replace(plain, weights=8, drop=None) if self.drop is not None else plain)(
            model, ctx
        )

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        from ..surgery.coverage import tell_left_out
        from ..surgery.quantization.float_sites import without_float_sites
        from ..surgery.quantization.output_shift import check_output_shift
        from ..surgery.quantization.prepare import insert_rounding
        from ..surgery.quantization.recover import recover
        from ..surgery.quantization.site_ranges import SiteRanges
        from ..trees import first, length

        if self.rounds_nothing:
            ctx.notes.append(
                f"{ctx.where}: weights and inputs of 32 bits are not rounded; the network is what it was"
            )
            return model
        ctx = ctx.in_float32(model)
        ctx.finite(model)
        batches = self.calibration_batches(ctx)
        samples = sum(map(length, batches))
        model, flow, left = self.quantizable(model, batches, ctx)
        before = copy.deepcopy(model)
        seen = self.ranges_seen(model, batches, flow)
        flow, float_inputs = without_float_sites(flow, seen, ctx)
        plan = self.plan(model, flow, left, ctx, float_inputs)
        ranges = SiteRanges(seen, flow, ctx, self.range, samples, self.samples)
        bounds_of = cache(ranges.of)
        if self.weights == "auto":
            from ..surgery.quantization.mixed import Mixture, mix_bits

            mixture = Mixture(plan, model, ctx, self.choices(), self.size, self.drop)
            mix_bits(mixture, flow, batches[0], bounds_of, self.weight_precision)
        quantized, bounds = insert_rounding(model, flow, plan, bounds_of)
        ranges.note_unsettled()
        recover(quantized.eval(), before, flow, batches, ctx, self)
        eight = self.weights == self.inputs == 8
        check_output_shift(before, quantized.eval(), first(batches[0], 32), ctx, eight=eight)
        rounded = sum(layer.has_rounding for layer in quantized.layers())
        tell_left_out(ctx, rounded, left)
        ctx.facts.update(
            quantized=rounded, layers=plan.rows(), left_float=left, ranges=bounds, images=samples
        )
        return quantized.eval()

    def ranges_seen(
        self, model: nn.Module, batches: list[Tree], flow: DataFlow
    ) -> dict[str, RangeStats]:
        """Return the statistics of every site; none if inputs stay float or ranges are dynamic."""
        from ..surgery.quantization.calibrate import observe_ranges

        if self.at_run_time or self.inputs == 32:
            return {}
        calls = flow.calls
        return observe_ranges(
            model, batches, flow.sites, flow.layers_without_site, calls=calls, by_module=not calls
        )

    def calibration_batches(self, ctx: Context) -> list[Tree]:
        """Return the calibration samples in batches, or only the example if no samples are needed.

        Raises LissomError if samples are needed and there are none.
        """
        from ..trees import length

        batches = [images for images in ctx.images(self.samples) if length(images)]
        if not batches and self.at_run_time and self.rounding == "nearest" and not self.correct:
            batches = [ctx.example]
        if not batches:
            raise LissomError(f"{ctx.where}: there are no calibration images")
        return batches

    def quantizable(
        self, model: nn.Module, batches: list[Tree], ctx: Context
    ) -> tuple[nn.Module, DataFlow, dict[str, str]]:
        """Return the network with layers that can be rounded, its data flow, and why the other
        layers stay float.
        """
        from ..surgery.quantization.prepare import unrounded
        from ..surgery.quantization.quantizable import make_quantizable
        from ..surgery.transform import holding

        model = unrounded(model)
        if self.rounding != "nearest" and "cluster" in holding(model):
            raise LissomError(f"{ctx.where}: {CLUSTERED}")
        smooth_for = self.precisions() if self.smooth and batches[0] is not ctx.example else None
        return model, *make_quantizable(model, batches, ctx, self.fold, smooth_for, self.range)

    def plan(
        self,
        model: nn.Module,
        flow: DataFlow,
        left: dict[str, str],
        ctx: Context,
        float_inputs: list[str],
    ) -> PrecisionPlan:
        """Return the precision of every layer and site; `float_inputs` are layers that read floats."""
        from torch import nn

        from ..surgery.coverage import AT_RUN_TIME, choose_by_patterns
        from ..surgery.quantization.layer_bits import layer_precisions
        from ..surgery.quantization.quantizable import quantizable_layers

        layers = quantizable_layers(model, flow, left, ctx.where)
        wanted = choose_by_patterns(layers, left, self.only, self.keep, ctx.where)
        weights, inputs = layer_precisions(layers, self.precisions(), self.first, self.last, left)
        inputs.update(dict.fromkeys(float_inputs))
        if self.at_run_time:
            others = [
                name
                for name, layer in layers.items()
                if name in wanted and not isinstance(layer, (nn.Linear, nn.Embedding))
            ]
            left.update(dict.fromkeys(others, AT_RUN_TIME))
            wanted -= set(others)
        for name in layers.keys() - wanted:
            weights[name] = inputs[name] = None
        safe = without_saturation(weights, inputs, self.reduce_range)
        if self.reduce_range is None and safe != weights:
            ctx.notes.append(
                f"{ctx.where}: weights of 8 bits became 7, since this processor has no VNNI and its sums "
                "would saturate; reduce_range=False keeps 8"
            )
        if not any((*safe.values(), *inputs.values())):
            raise LissomError(
                f"{ctx.where}: no layer is left to quantize: {len(layers)} there are, all kept float by "
                f"first, last, keep or only{', or no linear layer' if self.at_run_time else ''}"
            )
        rest = None
        if self.inputs not in (32, "binary") and not self.at_run_time:
            grid = grid_of(self.grid or "uniform")
            rest = Precision(grid if grid.anywhere else grid_of("uniform"), 8)
        return plan_precision(safe, inputs, flow, rest)
