"""Three values: minus, nothing, plus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..method import arg
from ._grid import Codes, Grid, by_filter, per_filter

if TYPE_CHECKING:
    from torch import Tensor

    from ._grid import Held


@dataclass(frozen=True)
class Ternary(Grid):
    """Set the small weights of each filter to 0 and the others to plus or minus one value; inputs to -s, 0 or s.

    w: d = threshold * mean|w|; t = 1 where w > d, -1 where w < -d, else 0; value = a t, a = mean of |w| where t != 0
    with gap = r: t = 1 where w >= d, -1 where w <= -d, 0 where |w| <= r d, else what it was before (which stops
    weights near d from flickering)
    x: q = clamp(round(x / s), -1, 1), s the larger end of the measured range; 0, s or 2 s where nothing is below 0
    gradient: as if nothing were rounded; of inputs, 0 outside the range
    Source: Li, Zhang and Liu 2016, Ternary Weight Networks, https://arxiv.org/abs/1605.04711; the gap is that of
    https://github.com/666DZY666/micronet, which has it with scale=False.
    """

    of_weights: ClassVar[tuple[int, ...]] = (2,)
    of_inputs: ClassVar[tuple[int, ...]] = (2,)

    threshold: float = arg("the size below which a weight becomes 0, in means of |w|", 0.7, above=0, high=3)
    scale: bool = arg("plus and minus stand for a value of each filter, not for 1", True)
    gap: float | None = arg("where between 0 and the threshold the old value begins to be kept; None for no gap", None,
                            above=0, below=1)

    def hold_weights(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        if self.gap is None:
            return {}
        return {"before": self._plain(weight.detach())[0]}

    def _plain(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return signs (out ...) and thresholds (out ...) without a gap."""
        size = weight.float().abs()
        bound = by_filter(self.threshold * per_filter(size).mean(1), weight)
        return weight.sign() * (size > bound), bound

    def codes(self, weight: Tensor, bits: int, held: Held) -> tuple[Tensor, Tensor]:
        import torch

        codes, bound = self._plain(weight)
        size = weight.float().abs()
        if self.gap is not None:
            between = (size > self.gap * bound) & (size < bound)
            codes = torch.where(between, held["before"], weight.sign() * (size >= bound))
            held["before"].copy_(codes)
        if not self.scale:
            return codes, torch.ones(len(weight), device=weight.device)
        kept = per_filter(codes != 0)
        scale = (per_filter(size) * kept).sum(1) / kept.sum(1).clamp_min(1)
        return codes, scale.clamp_min(1e-12)

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        import torch

        size, zero = (max(-low, high), 1) if low < 0 else (high / 2, 0)  # of what a ReLU gives nothing is below 0
        return {"scale": torch.tensor(max(size, 1e-8)), "zero_point": torch.tensor(zero, dtype=torch.int32)}

    def inputs(self, x: Tensor, bits: int, held: Held) -> Tensor:
        from ._steps import equal_steps

        return equal_steps(x, held["scale"], int(held["zero_point"]), 2)

    def input_codes(self, bits: int, held: Held) -> Codes:
        return Codes(held["scale"], int(held["zero_point"]), 2, held["scale"])
