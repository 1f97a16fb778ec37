"""Inputs clipped at a bound that is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.grid import Codes, Grid

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import Held


@dataclass(frozen=True)
class Pact(Grid):
    """Clip inputs at a bound that training learns by gradient, then round them to equal steps between 0 and it.

    x: y = clamp(x, 0, a), q = round(y * n / a), n = 2^bits - 1
    gradient: of x, that of y inside 0..a, else 0; of a, 1 where x >= a, else 0
    Inputs below 0 become 0: it is for what a ReLU gives. Weights go with another grid.
    Source: Choi et al. 2018, PACT, https://arxiv.org/abs/1805.06085. Differs: a starts at the measured bound.
    """

    of_inputs: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 7, 8)
    learned: ClassVar[tuple[str, ...]] = ("bound",)

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        import torch

        return {"bound": torch.tensor([max(high, 1e-6)])}

    def inputs(self, x: Tensor, bits: int, held: Held) -> Tensor:
        from ..surgery.quantization.kernels import clipped_steps

        return clipped_steps(x, held["bound"].clamp_min(1e-6), 2**bits - 1)

    def input_codes(self, bits: int, held: Held) -> Codes:
        step = held["bound"].detach().clamp_min(1e-6)[0] / (2**bits - 1)
        return Codes(step, 0, 2**bits - 1, step)
