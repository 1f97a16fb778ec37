"""The range between two quantiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import arg
from ..language.range import Range

if TYPE_CHECKING:
    from torch import Tensor

    from ..surgery.quantization.calibrate import RangeStats


@dataclass(frozen=True)
class Percentile(Range):
    """Clip a small share of the values at each end of the range.

    low  = quantile(x, 1 - p)
    high = quantile(x, p)

    x: a random sample of the values of each batch. If that leaves nothing but 0, as of an input
    that is hardly ever another value, x are the values that are not 0.
    Also known as: percentile calibration, quantile clipping.
    Source: Krishnamoorthi 2018, Quantizing Deep Convolutional Networks for Efficient Inference: A
    Whitepaper, https://arxiv.org/abs/1806.08342; Wu et al. 2020, Integer Quantization for Deep
    Learning Inference: Principles and Empirical Evaluation, https://arxiv.org/abs/2004.09602.
    """

    p: float = arg(
        "quantile of the upper bound; the lower bound is at 1 - p", 0.9999, above=0.5, high=1
    )

    def __call__(self, seen: RangeStats, top: int = 255) -> tuple[float, float]:
        low, high = self._ends(seen.values())
        if low < 0 or high > 0:
            return low, high
        others = seen.values()
        others = others[others != 0]
        return self._ends(others) if len(others) else (seen.low, seen.high)

    def _ends(self, values: Tensor) -> tuple[float, float]:
        values = values.sort().values
        last = len(values) - 1
        return float(values[round(last * (1 - self.p))]), float(values[round(last * self.p)])
