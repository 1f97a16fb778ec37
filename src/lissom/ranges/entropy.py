"""The range with the least KL divergence after quantization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.method import arg
from ..language.range import Range

if TYPE_CHECKING:
    import numpy as np

    from ..surgery.quantization.calibrate import RangeStats

NEIGHBOUR_BINS = 4  # bins on either side that a bin is compared with to detect a spike


@dataclass(frozen=True)
class Entropy(Range):
    """Choose the clipping bound with the least KL divergence after quantization.

    bound = argmin over t of sum over bins of p * log(p / q)
    low   = max(smallest value, -bound)
    high  = min(largest value, bound)

    p: histogram of |x| up to t, without zeros; the values beyond t are added to its last bin
    q: histogram of |x| up to t, merged into as many bins as the grid has levels between 0 and t,
       then spread evenly over those original bins that were not empty
    A spike is the part of a bin above twice the median of the nine bins around it: one value that
    occurs often, such as an image background. Rounding moves all values of a spike alike, so q
    keeps it in its bin.
    Also known as: KL divergence calibration, entropy calibration, relative entropy.
    Source: Migacz 2017, 8-bit Inference with TensorRT (GTC S7310).
    Differs: there, every range has 128 levels; here, the number follows the grid and is larger if
    fewer values are negative. There, every bin is tried as a bound; here, every 256th part of the
    histogram. There, merging spreads spikes like all other values, more so in a wider range, and a
    bound at a spike hides all clipped values in the spike, so ranges tend to end at spikes. Zeros
    are left out for the same reason, as in NVIDIA's later tools; ONNX Runtime counts them.
    """

    version: ClassVar[int] = 2

    bins: int = arg("number of histogram bins", 2048, low=256, high=65_536)

    def __call__(self, seen: RangeStats, top: int = 255) -> tuple[float, float]:
        import numpy as np

        largest = max(-seen.low, seen.high)
        if largest == 0 or seen.low == seen.high:
            return seen.low, seen.high
        sizes = seen.values().abs().numpy()
        # zeros are left out: 0 is on every grid, and ReLUs return many
        counts, _ = np.histogram(sizes[sizes > 0], self.bins, (0, largest))
        smooth, spikes = split_off_spikes(counts)

        def clipped(last: int) -> tuple[float, float]:
            bound = largest * last / self.bins
            return max(seen.low, -bound), min(seen.high, bound)

        def loss(last: int) -> float:
            low, high = clipped(last)
            steps = int(top * largest * last / self.bins / (max(high, 0) - min(low, 0))) + 1
            return divergence(smooth, spikes, last, min(max(2, steps), last))

        least = max(2, (top if seen.low >= 0 or seen.high <= 0 else top // 2) + 1)
        candidates = (
            *range(min(least, self.bins), self.bins + 1, max(1, self.bins // 256)),
            self.bins,
        )
        return clipped(min((loss(last), last) for last in candidates)[1])


def split_off_spikes(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smooth part (bins) of a histogram (bins), and its spikes (bins).

    >>> import numpy as np
    >>> smooth, spikes = split_off_spikes(np.array([6, 6, 6, 90, 6, 6, 6, 6, 6]))
    >>> smooth.tolist(), spikes.tolist()
    ([6.0, 6.0, 6.0, 12.0, 6.0, 6.0, 6.0, 6.0, 6.0], [0.0, 0.0, 0.0, 78.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """
    import numpy as np

    whole = counts.astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(whole, NEIGHBOUR_BINS, mode="reflect"), 2 * NEIGHBOUR_BINS + 1
    )
    smooth = np.minimum(whole, 2 * np.median(windows, axis=1))
    return smooth, whole - smooth


def divergence(smooth: np.ndarray, spikes: np.ndarray, last: int, steps: int) -> float:
    """Return the KL divergence between a histogram clipped to `last` bins and the same merged into
    `steps` bins.

    Only the smooth part is merged. Clipped values are added to the last bin.
    """
    import numpy as np

    p = smooth[:last].copy()
    is_filled = p > 0
    group = np.arange(last) * steps // last
    total = np.bincount(group, p, steps)
    filled_bins = np.bincount(group, is_filled, steps)
    q = np.where(is_filled, (total / np.maximum(filled_bins, 1))[group], 0)
    p[-1] += smooth[last:].sum() + spikes[last:].sum()
    if (p[~is_filled] > 0).any():
        q = np.maximum(q, np.where(p > 0, 1e-4, 0))  # clipped values fell into an empty bin
    spike_count = spikes[:last].sum()  # the same in p and q
    ends = (p.sum() + spike_count, q.sum() + spike_count)
    positive = p > 0
    p = p[positive] / ends[0]
    q = q[positive] / ends[1]
    return float((p * np.log(p / q)).sum() + spike_count / ends[0] * np.log(ends[1] / ends[0]))
