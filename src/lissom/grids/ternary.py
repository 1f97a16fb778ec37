"""Three values: minus, nothing, plus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from ..language.grid import Codes, Grid, by_filter, centred, need_inputs, per_filter, scaled, sloped, through
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import Held


@dataclass(frozen=True)
class Ternary(Grid):
    """Set the small weights of each filter to 0 and the others to plus or minus one value; inputs to -s, 0 or s.

    w: d = threshold * mean|w|; t = 1 where w > d, -1 where w < -d, else 0; value = a t, a = mean of |w| where t != 0
    with gap = r: t = 1 where w >= d, -1 where w <= -d, 0 where |w| <= r d, else what it was before (which stops
    weights near d from flickering)
    x: q = clamp(round(x / s), -1, 1), s the larger end of the measured range; 0, s or 2 s where nothing is below 0
    gradient of weights: that of w itself, as in the paper; with gradient= that of the product a t: a g h(w), h of ste 1, of
    saturate 1 where |w| < 1, else 0, of soft max(0, 1 - |w|); with through_scale=True and sign(w) sum(t g) / count(t != 0)
    where t != 0, that of a
    gradient of inputs: that of x inside the range, else 0, as is that of saturate; of ste g; of soft
    g max(0, 1 - |x - m| / s), m the middle of the range
    With centre=True each weight is used less its mean over the inputs, then clipped to [-1, 1].
    Source: Li, Zhang and Liu 2016, Ternary Weight Networks, https://arxiv.org/abs/1605.04711; the gap and centring are those
    of https://github.com/666DZY666/micronet, which has the gap with scale=False. Differs: centring is done on use, and
    learned through.
    """

    of_weights: ClassVar[tuple[int, ...]] = (2,)
    of_inputs: ClassVar[tuple[int, ...]] = (2,)

    threshold: float = arg("the size below which a weight becomes 0, in means of |w|", 0.7, above=0, high=3)
    scale: bool = arg("plus and minus stand for a value of each filter, not for 1", True)
    gap: float | None = arg("where between 0 and the threshold the old value begins to be kept; None for no gap", None,
                            above=0, below=1)
    gradient: Literal["ste", "saturate", "soft"] | None = arg(
        "what stands for the gradient of the three values; None: of weights that of the weight itself, of inputs saturate",
        None, late=True)
    centre: bool = arg("weights lose their mean over the inputs and are clipped to [-1, 1]", False, late=True)
    through_scale: bool = arg("weights learn through the value that plus and minus stand for, too", False, late=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.through_scale and (not self.scale or self.gradient is None):
            why = "plus and minus that stand for 1 have no scale; leave it out" if not self.scale else \
                "the gradient of the weight itself knows no scale; gradient='ste' is that of the product"
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

    def codes(self, weight: Tensor, bits: int, held: Held) -> tuple[Tensor, Tensor]:
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
        kept = per_filter(codes != 0)
        scale = (per_filter(size) * kept).sum(1) / kept.sum(1).clamp_min(1)
        return codes, scale.clamp_min(1e-12)

    def weights(self, weight: Tensor, bits: int, held: Held) -> Tensor:
        w = self._centred(weight)
        codes, scale = self.codes(weight.detach(), bits, held)
        if self.gradient is None:
            return w + (codes * by_filter(scale, w) - w).detach()
        return scaled(codes, scale, w.abs() if self.through_scale else None, sloped(w, self.gradient))

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        import torch

        size, zero = (max(-low, high), 1) if low < 0 else (high / 2, 0)  # of what a ReLU gives nothing is below 0
        return {"scale": torch.tensor(max(size, 1e-8)), "zero_point": torch.tensor(zero, dtype=torch.int32)}

    def inputs(self, x: Tensor, bits: int, held: Held) -> Tensor:
        from ..surgery.quantization.kernels import equal_steps

        scale, zero = held["scale"], int(held["zero_point"])
        if self.gradient in (None, "saturate"):
            return equal_steps(x, scale, zero, 2)
        return through(equal_steps(x.detach(), scale, zero, 2), scale * sloped(x / scale - (1 - zero), self.gradient))

    def input_codes(self, bits: int, held: Held) -> Codes:
        return Codes(held["scale"], int(held["zero_point"]), 2, held["scale"])
