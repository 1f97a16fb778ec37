"""A moving average of the range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import arg
from ..language.range import Range

if TYPE_CHECKING:
    from ..surgery.quantization.calibrate import RangeStats


@dataclass(frozen=True)
class Ema(Range):
    """Take the exponential moving average of the minimum and maximum of each batch.

    low  = (1 - momentum) * low  + momentum * min(batch)
    high = (1 - momentum) * high + momentum * max(batch)

    The first batch sets low and high. An outlier in one batch has little effect.
    Also known as: moving average observer, moving average min-max.
    Source: Jacob et al. 2017, Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, https://arxiv.org/abs/1712.05877, section 3.1.
    """

    momentum: float = arg("weight of each new batch", 0.1, above=0, high=1)

    def __call__(self, seen: RangeStats, top: int = 255) -> tuple[float, float]:
        low, high = seen.bounds[0]
        for least, greatest in seen.bounds[1:]:
            low = low + self.momentum * (least - low)
            high = high + self.momentum * (greatest - high)
        return low, high
