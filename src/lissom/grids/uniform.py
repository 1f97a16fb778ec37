"""Equal steps between the ends of a range that was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..method import arg
from ._grid import Codes, Grid, by_filter, per_filter

if TYPE_CHECKING:
    from torch import Tensor

    from ._grid import Held


@dataclass(frozen=True)
class Uniform(Grid):
    """Round to equal steps: weights symmetric around 0 up to the largest of them, inputs over their measured range.

    w: s = max|w| / n, q = clamp(round(w / s), -n, n), n = 2^(bits - 1) - 1, for each filter or for the tensor
    x: s = (high - low) / (2^bits - 1), z = round(-low / s), q = clamp(round(x / s) + z, 0, 2^bits - 1)
    with momentum=m a step of training moves low and high by m towards the ends of what it saw
    gradient: that of x inside the range and 0 outside
    Weights have no zero point, since no runtime here has fast convolutions with one. Under training the scale of the
    weights follows them. Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877.
    """

    of_weights: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 7, 8)
    of_inputs: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 7, 8)

    granularity: Literal["channel", "tensor"] = arg("a scale for each filter, or one for all of a layer", "channel")
    symmetric: bool = arg("inputs that go below 0 get the same range on either side of it", False)
    momentum: float | None = arg("how far a step of training moves the range of inputs to what it saw; None: it stays", None,
                                 above=0, high=1)

    @property
    def one_scale(self) -> bool:
        return self.granularity == "tensor"

    def hold_weights(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        return {"scale": self.scale(weight, bits)}

    def refresh(self, weight: Tensor, bits: int, held: Held) -> dict[str, Tensor]:
        return self.hold_weights(weight, bits)

    def scale(self, weight: Tensor, bits: int) -> Tensor:
        """Return the scale of each filter (out) of a weight (out ...)."""
        import torch

        largest = per_filter(weight.detach().float()).abs().amax(1)
        if self.granularity == "tensor":
            largest = largest.max().expand_as(largest)
        return torch.clamp(largest / (2 ** (bits - 1) - 1), min=1e-12).contiguous()

    def ends(self, bits: int) -> tuple[int, int]:
        return 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1

    def codes(self, weight: Tensor, bits: int, held: Held) -> tuple[Tensor, Tensor]:
        return (weight.float() / by_filter(held["scale"], weight)).round().clamp(*self.ends(bits)), held["scale"]

    def weights(self, weight: Tensor, bits: int, held: Held) -> Tensor:
        from ._steps import equal_filters

        return equal_filters(weight.float(), self.scale(weight, bits), *self.ends(bits))

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        import torch

        scale, zero = self._affine(low, high, bits)
        held = {"scale": torch.tensor(scale), "zero_point": torch.tensor(zero, dtype=torch.int32)}
        return held | ({"low": torch.tensor(low), "high": torch.tensor(high)} if self.moves else {})

    def _affine(self, low: float, high: float, bits: int) -> tuple[float, int]:
        """Return scale and zero point of inputs from `low` to `high`."""
        if self.symmetric and low < 0:
            high = max(-low, high)
            low = -high
        return affine(low, high, 2**bits - 1)

    @property
    def moves(self) -> bool:
        return self.momentum is not None

    def move(self, x: Tensor, held: Held) -> None:
        if self.momentum is not None:
            for end, seen in zip((held["low"], held["high"]), x.detach().aminmax(), strict=True):
                end.lerp_(seen.to(end.dtype), self.momentum)

    def settle(self, bits: int, held: Held) -> None:
        if self.moves:
            scale, zero = self._affine(float(held["low"]), float(held["high"]), bits)
            held["scale"].fill_(scale)
            held["zero_point"].fill_(zero)

    def inputs(self, x: Tensor, bits: int, held: Held) -> Tensor:
        from ._steps import equal_steps

        return equal_steps(x, held["scale"], int(held["zero_point"]), 2**bits - 1)

    def input_codes(self, bits: int, held: Held) -> Codes:
        return Codes(held["scale"], int(held["zero_point"]), 2**bits - 1, held["scale"])


def affine(low: float, high: float, top: int = 255) -> tuple[float, int]:
    """Return scale and zero point of the grid 0..top over [low, high], widened to hold 0.

    >>> affine(-55.0, 200.0)
    (1.0, 55)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / top, 1e-8)
    return scale, max(0, min(top, round(-low / scale)))
