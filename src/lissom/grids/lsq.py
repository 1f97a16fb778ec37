"""Equally spaced values with a learned scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.grid import Codes, Grid, by_filter, per_filter
from .uniform import affine

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import GridTensors


@dataclass(frozen=True)
class Lsq(Grid):
    """Round to multiples of a scale that is trained together with the weights.

    weights: q = clamp(round(w / s), low, high)             value = q s, one s per filter
             low = -2^(bits-1), high = 2^(bits-1) - 1       low = -127 with 8 bits
    inputs:  q = clamp(round(x / s) + z, 0, 2^bits - 1)     value = (q - z) s, one s per tensor
             z = 0 where the measured range has nothing below 0

    Gradient, for inputs and in the same way for weights with z = 0:
    dvalue/dx = 1 inside the range, else 0
    dvalue/ds = c (round(x / s) - x / s)    inside the range
                c (q - z)                   outside, where q is an end of the grid
    c = 1 / sqrt(n (2^bits - 1) / 2)        n = values per filter or sample

    With c, scales learn as fast as weights. The scale of a filter starts at the least squared
    error; that of inputs starts at the measured range.

    Also known as: learned step size quantization (LSQ), learnable scale.
    Source: Esser et al. 2019, Learned Step Size Quantization, https://arxiv.org/abs/1902.08153.
    Differs: the initial scale of weights; one scale per filter; and (2^bits - 1) / 2 in c instead
    of the largest integer, which is 2^(bits-1) - 1 for weights and 2^bits - 1 for inputs.
    """

    of_weights: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 7, 8)
    of_inputs: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 7, 8)
    for_inputs_too: ClassVar[bool] = True
    below_8_bits: ClassVar[bool] = True
    learned: ClassVar[tuple[str, ...]] = ("step",)

    def ends(self, bits: int) -> tuple[int, int]:
        return -127 if bits == 8 else -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def hold_weights(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        return {"step": nearest_step(per_filter(weight.detach().float()), *self.ends(bits))}

    def codes(self, weight: Tensor, bits: int, held: GridTensors) -> tuple[Tensor, Tensor]:
        step = held["step"].detach().abs().clamp_min(1e-12)
        return (weight.float() / by_filter(step, weight)).round().clamp(*self.ends(bits)), step

    def weights(self, weight: Tensor, bits: int, held: GridTensors) -> Tensor:
        from ..surgery.quantization.kernels import equal_filters

        gradient_scale = (weight[0].numel() * (2**bits - 1) / 2) ** -0.5
        return equal_filters(
            weight.float(), held["step"].abs().clamp_min(1e-12), *self.ends(bits), gradient_scale
        )

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        import torch

        step, zero = affine(low, high, 2**bits - 1)
        return {"step": torch.tensor([step]), "zero_point": torch.tensor([float(zero)])}

    def inputs(self, x: Tensor, bits: int, held: GridTensors) -> Tensor:
        from ..surgery.quantization.kernels import equal_steps

        top = 2**bits - 1
        gradient_scale = (max(x.shape[1:].numel(), 1) * top / 2) ** -0.5
        return equal_steps(
            x, held["step"].abs().clamp_min(1e-12), int(held["zero_point"]), top, gradient_scale
        )

    def input_codes(self, bits: int, held: GridTensors) -> Codes:
        step = held["step"].detach().abs().clamp_min(1e-12)[0]
        return Codes(step, int(held["zero_point"]), 2**bits - 1, step)


def nearest_step(rows: Tensor, low: int, high: int, tries: int = 60) -> Tensor:
    """Return for each row (out rest) the step with the least squared error on the grid low..high,
    of `tries` candidates.
    """
    import torch

    largest = rows.abs().amax(1).clamp_min(1e-12)
    best = largest / max(high, 1)
    error = torch.full_like(largest, float("inf"))
    for fraction in torch.linspace(1.0, 0.15, tries):
        step = fraction * largest / max(high, 1)
        errors = (
            ((rows / step[:, None]).round().clamp(low, high) * step[:, None] - rows).square().sum(1)
        )
        best = torch.where(errors < error, step, best)
        error = torch.minimum(errors, error)
    return best
