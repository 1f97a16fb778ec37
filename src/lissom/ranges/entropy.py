"""The range that keeps the most of what the values tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..method import Method, arg

if TYPE_CHECKING:
    import numpy as np

    from ..surgery.calibrate import Seen


@dataclass(frozen=True)
class Entropy(Method):
    """Return the bounds at which the histogram of |x| changes least, in relative entropy, when it is quantized.

    argmin over t of sum p log(p / q): p the histogram up to t, all that is beyond counted in its last bin; q the
    same merged into as many bins as the grid has steps on one side of 0 and spread out again over the bins that
    are not empty. Source: Migacz 2017, 8-bit Inference with TensorRT (GTC S7310). Differs: the steps are those of the
    grid, twice as many where no value is negative (there: always 128); a bound in every 256th part of the histogram is
    tried, not each bin; zeros are not counted.
    """

    bins: int = arg("bins of the histogram", 2048, low=256, high=65_536)

    def __call__(self, seen: Seen, top: int = 255) -> tuple[float, float]:
        import numpy as np

        largest = max(-seen.low, seen.high)
        if largest == 0 or seen.low == seen.high:
            return seen.low, seen.high
        sizes = seen.values().abs().numpy()
        counts, _ = np.histogram(sizes[sizes > 0], self.bins, (0, largest))  # 0 is on every grid, and ReLUs give many
        steps = max(2, (top if seen.low >= 0 or seen.high <= 0 else top // 2) + 1)
        found = range(min(steps, self.bins), self.bins + 1, max(1, self.bins // 256))
        best = min((divergence(counts, last, steps), last) for last in (*found, self.bins))[1]
        bound = largest * best / self.bins
        return max(seen.low, -bound), min(seen.high, bound)


def divergence(counts: np.ndarray, last: int, steps: int) -> float:
    """Return the relative entropy of a histogram, cut off after `last` bins, from itself in `steps` merged bins."""
    import numpy as np

    p = counts[:last].astype(np.float64)
    filled = p > 0
    group = np.arange(last) * steps // last
    total, many = np.bincount(group, p, steps), np.bincount(group, filled, steps)
    q = np.where(filled, (total / np.maximum(many, 1))[group], 0)
    p[last - 1] += counts[last:].sum()
    if not q.sum() or (p[~filled] > 0).any():
        q = np.where(p > 0, np.maximum(q, 1e-4), q)  # what lies beyond fell into an empty bin
    p, q = p / p.sum(), q / q.sum()
    held = p > 0
    return float((p[held] * np.log(p[held] / q[held])).sum())
