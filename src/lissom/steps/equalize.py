"""Equalize the weight ranges of the channels between two layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.method import arg
from ..language.step import Step

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context


@dataclass(frozen=True)
class Equalize(Step):
    """Rescale the channels between two layers so that the weight ranges of both match.

    s = sqrt(r1 / r2)                      r1 = max|w| of the filter that produces the channel
                                           r2 = max|w| of the weights that read it
    first layer:  w' = w / s, b' = b / s
    second layer: w' = w s                 both ranges are then sqrt(r1 r2)

    The outputs stay the same up to float rounding; this is checked on real samples. Batch-norm is
    folded first. Two layers are a pair if only the second reads the first, through operations that
    keep a positive factor of a channel: ReLU, leaky ReLU, PReLU, pooling, means over space,
    flattening. Pairs that share a layer are swept until the scales converge.

    It helps if all filters of a layer share one scale. Biases are scaled with their filters and are
    not absorbed.

    In a transformer, channels of a normalization that are far larger than the others are divided,
    and the weights that read them multiplied, by s = max|X|^alpha / max|W|^(1 - alpha). alpha is
    chosen for the least error of layers with 8 bits. `quantize` does the same by default.

    Also known as: cross-layer equalization (CLE), weight equalization, SmoothQuant.
    Source: Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias
    Correction, https://arxiv.org/abs/1906.04721, section 4.1; Xiao et al. 2022, SmoothQuant,
    https://arxiv.org/abs/2211.10438.
    """

    version: ClassVar[int] = 3
    cannot_follow: ClassVar = {
        "quantized": "the weights are quantized already; equalize before quantize",
        "cluster": "the weights are clustered already; equalize before cluster",
        "cast": "the weights are stored in 16 bits already; equalize before cast",
    }

    sweeps: int = arg(
        "maximum number of sweeps over all pairs; fewer if the scales converge",
        40,
        low=1,
        high=10_000,
    )
    smooth: bool = arg(
        "SmoothQuant where layer normalization or attention feeds linear layers", True
    )
    samples: int = arg(
        "calibration samples by which smooth chooses alpha", 128, low=1, high=1_000_000
    )

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        from ..surgery.compare import gate_same
        from ..surgery.fold import fold_batchnorms
        from ..surgery.plain_layers import make_plain_and_note
        from ..surgery.quantization.bits import precision_of
        from ..surgery.quantization.equalize import equalize_pairs, pairs
        from ..surgery.quantization.smooth import smooth_network
        from ..surgery.states import check_states

        check_states(self, model, ctx.where)
        ctx = ctx.in_float32(model, double=False)
        ctx.finite(model)
        make_plain_and_note(model, ctx)
        before = copy.deepcopy(model)
        ctx.facts["folded"] = fold_batchnorms(model, ctx.example)
        linked = pairs(model, ctx.example)
        ctx.facts["equalized"] = equalize_pairs(model, linked, self.sweeps)
        gate_same(
            ctx,
            "equalized = unequalized",
            before,
            model,
            ctx.batch(32),
            lambda net, example: (
                fold_batchnorms(net, example),
                equalize_pairs(net, pairs(net, example), self.sweeps),
            ),
        )
        if self.smooth:
            eight = (
                precision_of(8, None, "weights", ctx.where),
                precision_of(8, None, "inputs", ctx.where),
            )
            smooth_network(model, ctx.images(self.samples), ctx, eight)
        if not linked and "smoothed" not in ctx.facts:
            ctx.notes.append(
                f"{ctx.where}: no two layers follow each other through ReLU, pooling and the like "
                "alone, and no normalization of tokens feeds linear layers unevenly, so there was "
                "nothing to equalize"
            )
        return model
