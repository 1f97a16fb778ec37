"""Inputs clipped at a learned bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..language.grid import Codes, InputGrid

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import GridTensors


@dataclass(frozen=True)
class Pact(InputGrid):
    """Clip inputs to [0, a] with a trained bound a and round them to equally spaced values.

    y = clamp(x, 0, a)
    q = round(n y / a)       n = 2^bits - 1, value = q a / n
    dvalue/dx = 1 where 0 < x < a, else 0
    dvalue/da = 1 where x >= a, else 0

    Inputs below 0 become 0, so use it for the outputs of ReLUs. Weights need another grid.

    Also known as: parameterized clipping activation (PACT), learned clipping.
    Source: Choi et al. 2018, PACT: Parameterized Clipping Activation for Quantized Neural Networks,
    https://arxiv.org/abs/1805.06085.
    Differs: a starts at the upper end of the measured range.
    """

    of_inputs: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 7, 8)
    for_inputs_too: ClassVar[bool] = True
    learned: ClassVar[tuple[str, ...]] = ("bound",)

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        import torch

        return {"bound": torch.tensor([max(high, 1e-6)])}

    def inputs(self, x: Tensor, bits: int, held: GridTensors) -> Tensor:
        from ..surgery.quantization.kernels import clipped_steps

        return clipped_steps(x, held["bound"].clamp_min(1e-6), 2**bits - 1)

    def input_codes(self, bits: int, held: GridTensors) -> Codes:
        step = held["bound"].detach().clamp_min(1e-6)[0] / (2**bits - 1)
        return Codes(step, 0, 2**bits - 1, step)
