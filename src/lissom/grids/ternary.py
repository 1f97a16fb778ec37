"""Rounding to three values: -a, 0 and a."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.grid import (
    Codes,
    Grid,
    by_filter,
    centred,
    need_inputs,
    per_filter,
    scaled,
    sloped,
    through,
)
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import GridTensors


@dataclass(frozen=True)
class Ternary(Grid):
    """Round weights to -a, 0 or a, with one a per filter, and inputs to -s, 0 or s.

    weight: (out in h w), inputs: (n ...)
    weights: t = sign(w) where |w| > d, else 0    d = threshold * mean|w| of the filter
             value = a t                          a = mean|w| where t != 0, 1 with scale=False
    gap=r:   t = sign(w) where |w| >= d, 0 where |w| <= r d, else the previous t,
             which stops weights near d from flickering
    inputs:  value = s clamp(round(x / s), -1, 1)    s = the larger end of the measured range
             value = s clamp(round(x / s), 0, 2)     s = half the upper end, where all x >= 0

    Gradient, with g = dL/dvalue:
    weights: dL/dw = g                 by default, as in the paper
             dL/dw = a h(w) g          with `gradient`; through_scale=True adds, where t != 0,
                                       the gradient through a: sign(w) sum(t g) / count(t != 0)
    inputs:  dL/dx = h((x - m) / s) g  m = the middle of the range
    ste:      h(v) = 1, the straight-through estimator
    saturate: h(v) = 1 where |v| < 1, else 0; the default for inputs
    soft:     h(v) = max(0, 1 - |v|)

    centre=True subtracts from each weight the mean over the input channels and clips the result to
    [-1, 1]. Raises LissomError with centre=True if filters have only one input channel.

    Also known as: ternary weight networks (TWN), ternarization.
    Source: Li, Zhang and Liu 2016, Ternary Weight Networks, https://arxiv.org/abs/1605.04711; for
    gap and centre, https://github.com/666DZY666/micronet, which has the gap with scale=False.
    Differs: the weights are centered in the forward pass, and gradients flow through that.
    """

    of_weights: ClassVar[tuple[int, ...]] = (2,)
    of_inputs: ClassVar[tuple[int, ...]] = (2,)
    private: ClassVar[bool] = True
    value_bits: ClassVar[float] = log2(3)

    threshold: float = arg(
        "weights smaller than this times mean |w| of the filter become 0", 0.7, above=0, high=3
    )
    scale: bool = arg("scale -1 and 1 by mean |w| of the filter's nonzero weights", True)
    gap: float | None = arg(
        "keep the previous value above gap * threshold; None = no gap",
        None,
        above=0,
        below=1,
    )
    gradient: Literal["ste", "saturate", "soft"] | None = arg(
        "surrogate gradient of rounding; None = 1 for weights, saturate for inputs",
        None,
        late=True,
    )
    centre: bool = arg(
        "subtract the weights' mean over the input channels and clip to [-1, 1]", False, late=True
    )
    through_scale: bool = arg("also pass the gradient through the scale", False, late=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.through_scale and (not self.scale or self.gradient is None):
            why = (
                "plus and minus that stand for 1 have no scale; leave it out"
                if not self.scale
                else "the gradient of the weight itself knows no scale; gradient='ste' is that of the product"
            )
            raise LissomError(f"ternary(through_scale=True): {why}")

    def hold_weights(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        if self.centre:
            need_inputs(weight, "ternary(centre=True)")
        if self.gap is None:
            return {}
        return {"before": self._plain(self._centred(weight.detach()))[0]}

    def _centred(self, weight: Tensor) -> Tensor:
        return centred(weight.float()) if self.centre else weight.float()

    def _plain(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return signs (out ...) and thresholds (out ...) without a gap."""
        size = weight.float().abs()
        bound = by_filter(self.threshold * per_filter(size).mean(1), weight)
        return weight.sign() * (size > bound), bound

    def codes(self, weight: Tensor, bits: int, held: GridTensors) -> tuple[Tensor, Tensor]:
        import torch

        weight = self._centred(weight)
        codes, bound = self._plain(weight)
        size = weight.abs()
        if self.gap is not None:
            between = (size > self.gap * bound) & (size < bound)
            codes = torch.where(between, held["before"], weight.sign() * (size >= bound))
            held["before"].copy_(codes)
        if not self.scale:
            return codes, torch.ones(len(weight), device=weight.device)
        nonzero = per_filter(codes != 0)
        scale = (per_filter(size) * nonzero).sum(1) / nonzero.sum(1).clamp_min(1)
        return codes, scale.clamp_min(1e-12)

    def weights(self, weight: Tensor, bits: int, held: GridTensors) -> Tensor:
        w = self._centred(weight)
        codes, scale = self.codes(weight.detach(), bits, held)
        if self.gradient is None:
            return w + (codes * by_filter(scale, w) - w).detach()
        return scaled(
            codes, scale, w.abs() if self.through_scale else None, sloped(w, self.gradient)
        )

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        import torch

        # after a ReLU nothing is below 0, so the three values start at 0
        size, zero = (max(-low, high), 1) if low < 0 else (high / 2, 0)
        return {
            "scale": torch.tensor(max(size, 1e-8)),
            "zero_point": torch.tensor(zero, dtype=torch.int32),
        }

    def inputs(self, x: Tensor, bits: int, held: GridTensors) -> Tensor:
        from ..surgery.quantization.kernels import equal_steps

        scale = held["scale"]
        zero = int(held["zero_point"])
        if self.gradient in (None, "saturate"):
            return equal_steps(x, scale, zero, 2)
        return through(
            equal_steps(x.detach(), scale, zero, 2),
            scale * sloped(x / scale - (1 - zero), self.gradient),
        )

    def input_codes(self, bits: int, held: GridTensors) -> Codes:
        return Codes(held["scale"], int(held["zero_point"]), 2, held["scale"])
