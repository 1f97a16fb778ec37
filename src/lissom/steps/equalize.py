"""Give the channels between two layers equal ranges of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import LissomError
from ..language.method import arg
from ..language.step import Step

if TYPE_CHECKING:
    from torch import nn

    from ..language.context import Context


@dataclass(frozen=True)
class Equalize(Step):
    """Scale the channels between two layers so that what makes each and what reads it have weights of equal range.

    s = sqrt(r1 / r2), r1 = max|w| of the filter that makes the channel, r2 = max|w| of what reads it
    first layer: w' = w / s, b' = b / s;  second: w' = w * s.  Afterwards both ranges are sqrt(r1 * r2).
    Batch-norm is folded first. Pairs are layers with nothing between them but what keeps a positive factor of a
    channel: ReLU, leaky ReLU, PReLU, pooling, means over space, flattening. Pairs that share a layer are swept until
    the scales settle. The outputs stay the same to float rounding, which a gate checks on real images. It helps
    where a layer has one scale for all its filters; biases grow with their filters, and nothing absorbs them.
    Source: Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.1.
    """

    version: ClassVar[int] = 2

    sweeps: int = arg("most sweeps over all pairs; fewer where the scales have settled", 40, low=1, high=10_000)

    def refuses(self, earlier: tuple[Step, ...]) -> str | None:
        if any(step.name() == "quantize" for step in earlier):
            return "the weights are quantized already; equalize before quantize"
        return None

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        from ..surgery.compare import gate_same
        from ..surgery.fold import folded
        from ..surgery.plain_layers import settle_plain
        from ..surgery.quantization.equalize import equalized, pairs
        from ..surgery.quantization.network import Quantized

        if isinstance(model, Quantized):
            raise LissomError(f"{ctx.where}: the weights are quantized already; equalize before quantize")
        ctx = ctx.in_float32(model, double=False)
        ctx.finite(model)
        settle_plain(model, ctx)
        before = copy.deepcopy(model)
        ctx.facts["folded"] = folded(model, ctx.example)
        found = pairs(model, ctx.example)
        ctx.facts["equalized"] = equalized(model, found, self.sweeps)
        if not found:
            ctx.notes.append(f"{ctx.where}: no two layers follow each other through ReLU, pooling and the like alone, so "
                             "there was nothing to equalize")
        gate_same(ctx, "equalized = unequalized", before, model, ctx.batch(32),
                      lambda net, example: (folded(net, example), equalized(net, pairs(net, example), self.sweeps)))
        return model
