"""The range with the least squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import arg
from ..language.range import Range

if TYPE_CHECKING:
    from ..surgery.quantization.calibrate import RangeStats

MAX_VALUES = 100_000  # values to round for each candidate range


@dataclass(frozen=True)
class Mse(Range):
    """Shrink the full range to the fraction with the least squared quantization error.

    f    = argmin over r of mean((grid(x; r * min, r * max) - x)^2)
    low  = f * min
    high = f * max

    grid: uniform, with 2^bits levels from r * min to r * max, widened to contain 0
    min, max: the smallest and the largest value seen;  x: a sample of the values
    The error includes rounding and clipping. With fewer bits more values are clipped.
    Also known as: MSE calibration, MSE observer, MSE-optimal clipping.
    Source: Banner et al. 2018, Post-training 4-bit Quantization of Convolution Networks for
    Rapid-deployment, https://arxiv.org/abs/1810.05723.
    Differs: the paper solves it for Laplace and Gaussian distributions; here, fractions are tried
    on the values themselves.
    """

    tries: int = arg(
        "number of fractions to try, evenly spaced from 0.05 to 1", 60, low=2, high=10_000
    )

    def __call__(self, seen: RangeStats, top: int = 255) -> tuple[float, float]:
        import torch

        from ..grids.uniform import affine

        values = seen.values()
        values = values[:: -(-len(values) // MAX_VALUES)]
        best = (seen.low, seen.high)
        least = float("inf")
        for fraction in torch.linspace(1, 0.05, self.tries).tolist():
            scale, zero = affine(fraction * seen.low, fraction * seen.high, top)
            squares = (
                (values / scale)
                .round()
                .add_(zero)
                .clamp_(0, top)
                .sub_(zero)
                .mul_(scale)
                .sub_(values)
            ).square_()
            if (error := float(squares.double().mean())) < least:
                best = (fraction * seen.low, fraction * seen.high)
                least = error
        return best
