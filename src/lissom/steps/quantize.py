"""Put weights and activations on 8-bit grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import LissomError
from ..menu import menu
from ..method import arg
from ..step import Step

if TYPE_CHECKING:
    from torch import nn

    from ..context import Context


@dataclass(frozen=True)
class Quantize(Step):
    """Round weights to signed 8 bits for each filter and activations to unsigned 8 bits for each tensor.

    w: s = max|w| / 127, q = clamp(round(w / s), -127, 127)
    x: s = (high - low) / 255, z = round(-low / s), q = clamp(round(x / s) + z, 0, 255)
    What an addition adds and its sum share one s, the largest of theirs: then adding rounds nothing, and a runtime
    that rounds before it gives the same as one that does not. Batch-norm is folded first. [low, high] comes from
    training images by `range`. What the network returns stays
    float. Followed by a learning step this is quantization-aware training; alone it is post-training quantization.
    Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877.
    """

    bits: Literal[8] = arg("bits of weights and activations")
    range: str = arg("how the range of an activation is chosen", "percentile", menu="ranges")
    images: int = arg("training images from which ranges are measured", 512, low=1, high=1_000_000)

    def refuses(self, earlier: tuple[Step, ...]) -> str | None:
        if any(isinstance(step, Quantize) for step in earlier):
            return "the network is quantized already"
        return None

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        import copy

        from torch import isfinite, nn

        from ..surgery.calibrate import observed, wiring
        from ..surgery.fold import folded
        from ..surgery.masks import Masked, MaskedConv2d, MaskedLinear
        from ..surgery.quantized import Quantized, QuantizedConv2d, QuantizedLinear, Quantizer
        from ..surgery.slim import difference

        before = copy.deepcopy(model)
        folded(model, ctx.example)
        batches = ctx.images(self.images)
        if not batches or not len(batches[0]):
            raise LissomError(f"{ctx.where}: there are no calibration images")
        if not all(isfinite(p).all() for p in model.parameters()):
            raise LissomError(f"{ctx.where}: the weights hold NaN or infinity")
        ctx.gate("folded = unfolded", difference(before, model, batches[0][:32]), 1e-3)
        wires = wiring(model, ctx.example)
        seen = observed(model, batches, wires.sites)
        pick = menu("ranges").make(self.range)
        bounds = {site: pick(found) for site, found in seen.items()}
        wrapped, left = Quantized(model, wires.sites, wires.calls), {}
        for site, (low, high) in bounds.items():
            wrapped.grids[site] = Quantizer(low, high)
        for tied in wires.sums:
            grids = [found for found in map(wrapped.grid, tied) if found is not None]
            for found in grids:
                found.scale.fill_(max(float(other.scale) for other in grids))
        swap: dict[type, type] = {nn.Conv2d: QuantizedConv2d, MaskedConv2d: QuantizedConv2d,
                                  nn.Linear: QuantizedLinear, MaskedLinear: QuantizedLinear}
        for name, layer in model.named_modules():
            if type(layer) in swap and name in wires.inputs:
                masked, layer.__class__ = isinstance(layer, Masked), swap[type(layer)]
                layer.masked, layer.site = masked, wires.inputs[name]
                grid = wrapped.grid(layer.site) if layer.site else None
                layer.rescale(float(grid.scale) if grid else None)
            elif isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
                left[name] = f"{type(layer).__name__} is not a plain Conv2d or Linear" if name in wires.inputs \
                    else "it was not called through its own weights"
        if not wrapped.layers():
            raise LissomError(f"{ctx.where}: the network has no Conv2d or Linear layer that can be quantized")
        ctx.facts.update(quantized=len(wrapped.layers()), left_float=left, ranges=bounds, images=sum(map(len, batches)))
        return wrapped.eval()
