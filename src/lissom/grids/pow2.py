"""Powers of two, so that a multiplication is a shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.grid import WeightGrid, by_filter, per_filter

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import GridTensors


@dataclass(frozen=True)
class Pow2(WeightGrid):
    """Round weights to 0 or powers of two, times the largest absolute weight of the filter.

    value = sign(w) s 2^-k    k = clamp(round(log2(s / |w|)), 0, top)
    value = 0                 where |w| < s 2^-top / 2
    s = max|w| of the filter, top = 2^(bits-1) - 2
    dvalue/dw = 1, the straight-through estimator

    The values are dense near 0, where most weights are, and sparse far from it. With 4 bits there
    are 7 powers, 64..1 as integers, which runtimes support.

    Also known as: power-of-two quantization, logarithmic quantization.
    Source: Miyashita, Lee and Murmann 2016, Convolutional Neural Networks using Logarithmic Data
    Representation, https://arxiv.org/abs/1603.01025; Zhou et al. 2017, Incremental Network
    Quantization, https://arxiv.org/abs/1702.03044.
    """

    of_weights: ClassVar[tuple[int, ...]] = (2, 3, 4)

    def codes(self, weight: Tensor, bits: int, held: GridTensors) -> tuple[Tensor, Tensor]:
        w = weight.float()
        top = 2 ** (bits - 1) - 2
        largest = per_filter(w).abs().amax(1).clamp_min(1e-12)
        ratio = (w.abs() / by_filter(largest, w)).clamp_min(1e-12)
        power = (-ratio.log2()).round().clamp(0, top)
        codes = w.sign() * (2.0 ** (top - power)) * (ratio >= 2.0 ** -(top + 1))
        return codes, largest / 2**top
