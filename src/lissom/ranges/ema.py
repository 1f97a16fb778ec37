"""A running mean of the range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method, arg

if TYPE_CHECKING:
    from ..surgery.quantization.calibrate import Seen


@dataclass(frozen=True)
class Ema(Method):
    """Return the exponential moving average of the least and the greatest value of each batch.

    low = (1 - momentum) low + momentum min(batch), the first batch as it is; high alike. An outlier of one batch
    counts little. Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877, section 3.1.
    """

    momentum: float = arg("how much a batch counts against what was before", 0.1, above=0, high=1)

    def __call__(self, seen: Seen, top: int = 255) -> tuple[float, float]:  # noqa: ARG002
        low, high = seen.bounds[0]
        for least, greatest in seen.bounds[1:]:
            low, high = low + self.momentum * (least - low), high + self.momentum * (greatest - high)
        return low, high
