"""The range of all but the rarest values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method, arg

if TYPE_CHECKING:
    from ..surgery.quantization.calibrate import Seen


@dataclass(frozen=True)
class Percentile(Method):
    """Return the values that leave a share of (1 - p) out on either side; those saturate.

    low = quantile(values, 1 - p), high = quantile(values, p), over a sample of each batch.
    Source: Krishnamoorthi 2018, https://arxiv.org/abs/1806.08342; Wu et al. 2020, https://arxiv.org/abs/2004.09602.
    """

    p: float = arg("share of the values at or below the upper bound", 0.9999, above=0.5, high=1)

    def __call__(self, seen: Seen, top: int = 255) -> tuple[float, float]:  # noqa: ARG002
        values = seen.values().sort().values
        last = len(values) - 1
        return float(values[round(last * (1 - self.p))]), float(values[round(last * self.p)])
