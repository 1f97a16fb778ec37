"""The full range of the calibration samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.range import Range

if TYPE_CHECKING:
    from ..surgery.quantization.calibrate import RangeStats


@dataclass(frozen=True)
class Minmax(Range):
    """Take the smallest and the largest value of the calibration samples.

    low  = min(x)
    high = max(x)

    No calibration value is clipped, but a single outlier makes the scale coarser for all values.
    Also known as: min-max observer, min-max calibration.
    """

    def __call__(self, seen: RangeStats, top: int = 255) -> tuple[float, float]:
        return seen.low, seen.high
