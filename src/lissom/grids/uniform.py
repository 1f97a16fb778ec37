"""Equally spaced values over a measured range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..language.grid import Codes, Grid, by_filter, per_filter
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor

    from ..language.grid import GridTensors


@dataclass(frozen=True)
class Uniform(Grid):
    """Round to equally spaced values, with one scale per channel or per tensor.

    weight: (out in h w), inputs: (n ...)
    weights: q = clamp(round(w / s), -n, n)                value = q s
             s = max|w| / n, n = 2^(bits-1) - 1            max over each filter, or over the layer
    inputs:  q = clamp(round(x / s) + z, 0, 2^bits - 1)    value = (q - z) s
             s = (high - low) / (2^bits - 1)               low..high = measured range with 0 in it
             z = round(-low / s)
    dvalue/dx = 1 inside the range (straight-through estimator), else 0; the same for w

    With asymmetric_weights=True weights have a zero point, too: low = min(w, 0), high = max(w, 0).
    This is for comparisons: OpenVINO computes convolutions with such weights in float.

    In training:
    momentum=m:          low += m (min(x) - low), high += m (max(x) - high) with each batch x;
                         by default the range stays as measured
    weights_momentum=m:  the same for the range of the weights; by default m = 1

    Also known as: affine quantization, linear quantization, integer quantization, symmetric
    quantization, asymmetric quantization, per-channel quantization, per-tensor quantization.
    Source: Jacob et al. 2017, Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, https://arxiv.org/abs/1712.05877.
    Differs: weights with a zero point have 2^bits values; in the paper they have one fewer.
    """

    of_weights: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 7, 8)
    of_inputs: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 7, 8)
    for_inputs_too: ClassVar[bool] = True
    anywhere: ClassVar[bool] = True

    granularity: Literal["channel", "tensor"] = arg(
        "per-channel or per-tensor scale of the weights", "channel"
    )
    symmetric: bool = arg("give inputs that go below 0 a range symmetric around 0", False)
    momentum: float | None = arg(
        "weight of each training batch in the input range; None = fixed range",
        None,
        above=0,
        high=1,
    )
    asymmetric_weights: bool = arg(
        "give weights a zero point and a range that is not symmetric around 0",
        False,
        late=True,
    )
    weights_momentum: float | None = arg(
        "weight of each update in the weight range; None = 1",
        None,
        above=0,
        high=1,
        late=True,
    )

    @property
    def one_scale(self) -> bool:
        return self.granularity == "tensor"

    def hold_weights(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        low, high = self.span(weight)
        return self._steps(low, high, bits) | (
            {} if self.weights_momentum is None else {"low": low, "high": high}
        )

    def move_weights(self, weight: Tensor, bits: int, held: GridTensors) -> None:
        low, high = self.span(weight)
        if self.weights_momentum is not None:
            low = held["low"].lerp_(low, self.weights_momentum)
            high = held["high"].lerp_(high, self.weights_momentum)
        for name, value in self._steps(low, high, bits).items():
            held[name].copy_(value)

    def refresh(self, weight: Tensor, bits: int, held: GridTensors) -> dict[str, Tensor]:
        return self.hold_weights(weight, bits) if self.weights_momentum is None else {}

    def span(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower and upper end (out) of each filter's range, widened to contain 0."""
        low, high = per_filter(weight.detach().float()).aminmax(dim=1)
        low = low.clamp(max=0)
        high = high.clamp(min=0)
        if self.granularity == "tensor":
            low = low.amin().expand_as(low)
            high = high.amax().expand_as(high)
        return low.contiguous(), high.contiguous()

    def _steps(self, low: Tensor, high: Tensor, bits: int) -> dict[str, Tensor]:
        """Return the scale (out), and with asymmetric weights the zero point (out), of filters with
        ranges from `low` (out) to `high` (out).
        """
        import torch

        if not self.asymmetric_weights:
            return {"scale": (torch.maximum(-low, high) / (2 ** (bits - 1) - 1)).clamp_min(1e-12)}
        top = 2**bits - 1
        scale = ((high - low) / top).clamp_min(1e-12)
        return {
            "scale": scale,
            "zero_point": (-low / scale).round().clamp(0, top).sub(2 ** (bits - 1)).int(),
        }

    def ends(self, bits: int) -> tuple[int, int]:
        return (0 if self.asymmetric_weights else 1) - 2 ** (bits - 1), 2 ** (bits - 1) - 1

    def zeros(self, bits: int, held: GridTensors) -> Tensor | None:
        return held.get("zero_point")

    def codes(self, weight: Tensor, bits: int, held: GridTensors) -> tuple[Tensor, Tensor]:
        from ..surgery.quantization.kernels import to_integers

        steps = weight.float() / by_filter(held["scale"], weight)
        return to_integers(steps, *self.ends(bits), self.zeros(bits, held)), held["scale"]

    def weights(self, weight: Tensor, bits: int, held: GridTensors) -> Tensor:
        from ..surgery.quantization.kernels import equal_filters

        return equal_filters(
            weight.float(), held["scale"], *self.ends(bits), zero=self.zeros(bits, held)
        )

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        import torch

        scale, zero = self._affine(low, high, bits)
        held = {"scale": torch.tensor(scale), "zero_point": torch.tensor(zero, dtype=torch.int32)}
        return held | ({"low": torch.tensor(low), "high": torch.tensor(high)} if self.moves else {})

    def _affine(self, low: float, high: float, bits: int) -> tuple[float, int]:
        """Return the scale and zero point of inputs with the range `low` to `high`."""
        if self.symmetric and low < 0:
            high = max(-low, high)
            low = -high
        return affine(low, high, 2**bits - 1)

    @property
    def moves(self) -> bool:
        return self.momentum is not None

    def move(self, x: Tensor, held: GridTensors) -> None:
        if self.momentum is not None and x.numel():
            for end, seen in zip((held["low"], held["high"]), x.detach().aminmax(), strict=True):
                end.lerp_(seen.to(end.dtype), self.momentum)

    def settle(self, bits: int, held: GridTensors) -> None:
        if self.moves:
            scale, zero = self._affine(float(held["low"]), float(held["high"]), bits)
            held["scale"].fill_(scale)
            held["zero_point"].fill_(zero)

    def inputs(self, x: Tensor, bits: int, held: GridTensors) -> Tensor:
        from ..surgery.quantization.kernels import equal_steps

        return equal_steps(x, held["scale"], int(held["zero_point"]), 2**bits - 1)

    def input_codes(self, bits: int, held: GridTensors) -> Codes:
        return Codes(held["scale"], int(held["zero_point"]), 2**bits - 1, held["scale"])


def affine(low: float, high: float, top: int = 255) -> tuple[float, int]:
    """Return the scale and zero point of the grid 0..top over [low, high], widened to contain 0.

    >>> affine(-55.0, 200.0)
    (1.0, 55)
    """
    low = min(low, 0.0)
    high = max(high, 0.0)
    scale = max((high - low) / top, 1e-8)
    return scale, max(0, min(top, round(-low / scale)))
