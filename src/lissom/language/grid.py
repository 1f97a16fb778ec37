"""The contract of grids: a set of values that tensors are rounded to, and the gradient that
replaces that of rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import LissomError
from .method import Method
from .parse_methods import method_of

if TYPE_CHECKING:
    from torch import Tensor

# values between this and 0 count as 0: in runtimes, sums that should be 0 may come out below it
ZERO_TOLERANCE = -1e-6
GridTensors = Mapping[str, "Tensor"]  # the tensors that a layer holds for a grid, such as scales


@dataclass(frozen=True)
class Codes:
    """The integers of inputs: q = clamp(round(x / scale) + zero, 0, top), with the values (q -
    zero) * step.

    With `sign`, q is `top` where x >= ZERO_TOLERANCE and 0 elsewhere.
    """

    scale: Tensor
    zero: int
    top: int
    step: Tensor
    sign: bool = False


@dataclass(frozen=True)
class Grid(Method, ABC):
    """Round weights, inputs or both (WeightGrid: only weights; InputGrid: only inputs).

    A grid has no state: the layer holds its tensors, made by `hold_weights` or `hold_inputs`, and
    passes them to every call. Every grid's weights, even powers of two and DoReFa's, are 8-bit
    integers, minus a zero point if the grid has one, times a scale for each filter. So one integer
    export serves all grids, and no runtime needs to know them.
    """

    of_weights: ClassVar[tuple[int, ...]]  # the numbers of bits that it can round weights to
    of_inputs: ClassVar[tuple[int, ...]]
    for_inputs_too: ClassVar[bool] = False  # whether a choice for weights counts for inputs too
    below_8_bits: ClassVar[bool] = False  # whether it suits only fewer than 8 bits
    only_inner: ClassVar[bool] = False  # whether the first and the last layer get another grid
    # whether the inputs of a single layer are rounded, instead of the value that several layers read
    private: ClassVar[bool] = False
    anywhere: ClassVar[bool] = False  # whether it serves tensors that need more bits than asked for
    signs: ClassVar[bool] = False  # whether only the sign of inputs matters
    # whether the range of inputs is measured at each call, so that no tensors are held for them
    at_run_time: ClassVar[bool] = False
    learned: ClassVar[tuple[str, ...]] = ()  # names of held tensors that have a gradient
    # bits of a weight in theory if that is no integer; a weight that is not 0 takes 1 bit
    value_bits: ClassVar[float | None] = None

    @property
    def moves(self) -> bool:
        """Whether training moves the range of inputs by other means than a gradient."""
        return False

    @property
    def one_scale(self) -> bool:
        """Whether all filters of a layer share one scale, with batch-norm folded into them."""
        return False

    def hold_weights(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        """Return the tensors to hold for a weight (out ...), by name."""
        return {}

    def ends(self, bits: int) -> tuple[int, int] | None:
        """Return the smallest and largest integer of a weight, with `zeros` added, if all integers
        in between are values of the grid; None otherwise.
        """
        return None

    @abstractmethod
    def codes(self, weight: Tensor, bits: int, held: GridTensors) -> tuple[Tensor, Tensor]:
        """Return a weight (out ...) as integers in a float tensor, where 0 stands for 0, and the
        scale of each filter (out).

        The integers are in -128..127 after `zeros` are added.
        """

    def weights(self, weight: Tensor, bits: int, held: GridTensors) -> Tensor:
        """Return a weight (out ...) on the grid, with the gradient for training: that of the weight
        without rounding (straight-through estimator).
        """
        codes, scale = self.codes(weight.detach(), bits, held)
        return weight + (codes * by_filter(scale, weight) - weight).detach()

    def zeros(self, bits: int, held: GridTensors) -> Tensor | None:
        """Return the integers to add to the codes of each filter (out) so that they fit in 8 bits;
        None for none.
        """
        return None

    def move_weights(self, weight: Tensor, bits: int, held: GridTensors) -> None:
        """Update the held tensors in place from a weight (out ...) in training, before rounding."""

    def refresh(self, weight: Tensor, bits: int, held: GridTensors) -> dict[str, Tensor]:
        """Return new values of the held tensors that must follow a weight after learning."""
        return {}

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        """Return the tensors to hold for inputs of the range `low`..`high`, by name."""
        return {}

    def move(self, x: Tensor, held: GridTensors) -> None:
        """Record the inputs (n ...) of a batch in training, if the grid follows their range."""

    def settle(self, bits: int, held: GridTensors) -> None:
        """Set the grid of inputs from the ranges that `move` recorded."""

    @abstractmethod
    def inputs(self, x: Tensor, bits: int, held: GridTensors) -> Tensor:
        """Return inputs (n ...) on the grid, with the gradient for training."""

    @abstractmethod
    def input_codes(self, bits: int, held: GridTensors) -> Codes:
        """Return the description of inputs as integers."""


@dataclass(frozen=True)
class WeightGrid(Grid):
    """Round weights only."""

    of_inputs: ClassVar[tuple[int, ...]] = ()

    def inputs(self, x: Tensor, bits: int, held: GridTensors) -> Tensor:
        """Raise TypeError: this grid does not round inputs."""
        raise TypeError(f"{type(self).__name__} does not round inputs")

    def input_codes(self, bits: int, held: GridTensors) -> Codes:
        """Raise TypeError: this grid has no integers for inputs."""
        raise TypeError(f"{type(self).__name__} does not round inputs")


@dataclass(frozen=True)
class InputGrid(Grid):
    """Round inputs only."""

    of_weights: ClassVar[tuple[int, ...]] = ()

    def codes(self, weight: Tensor, bits: int, held: GridTensors) -> tuple[Tensor, Tensor]:
        """Raise TypeError: this grid has no integers for weights."""
        raise TypeError(f"{type(self).__name__} does not round weights")


def grid_of(text: str, where: str = "grid") -> Grid:
    """Return the grid of a text such as `uniform` or `ternary(threshold=0.5)`."""
    grid = method_of("grids", text, where)
    assert isinstance(grid, Grid)
    return grid


def by_filter(scale: Tensor, weight: Tensor) -> Tensor:
    """Return scales (out) reshaped to multiply a weight (out ...)."""
    return scale.view(-1, *[1] * (weight.ndim - 1))


def per_filter(weight: Tensor) -> Tensor:
    """Return a weight (out ...) as (out rest)."""
    return weight.flatten(1) if weight.ndim > 1 else weight[:, None]


def through(value: Tensor, x: Tensor) -> Tensor:
    """Return `value` (...) unchanged to the last bit, with the gradient of x (...)."""
    return value + (x - x.detach()) if x.requires_grad else value


def centred(weight: Tensor) -> Tensor:
    """Return a weight (out in ...) minus its mean over the inputs, clipped to [-1, 1]."""
    return (weight - weight.mean(1, keepdim=True)).clamp(-1, 1)


def need_inputs(weight: Tensor, what: str) -> None:
    """Raise LissomError if the filters of a weight (out in ...) have one input: minus its mean,
    nothing would be left.
    """
    if weight.shape[1] == 1:
        raise LissomError(
            f"{what} takes means over the inputs of a filter, and these have one "
            "alone, so that "
            "nothing would be left"
        )


def sloped(x: Tensor, gradient: str | None) -> Tensor:
    """Return a function of x (...) with the derivative 1; with saturate, 0 where |x| >= 1; with
    soft, max(0, 1 - |x|).
    """
    if gradient not in ("saturate", "soft"):
        return x
    near = x.clamp(-1, 1)
    return near if gradient == "saturate" else near - near * near.abs() / 2


def scaled(signs: Tensor, scale: Tensor, sizes: Tensor | None, x: Tensor) -> Tensor:
    """Return scale * signs for signs (out ...) in -1, 0, 1 and a scale (out), with the gradient of
    that product.

    The gradient flows to x (out ...), whose derivative replaces that of the signs, times the scale.
    With `sizes` (out ...), whose mean where the sign is not 0 is the scale, it flows to these too.
    """
    value = signs * by_filter(scale, signs)
    learned = by_filter(scale, signs) * x
    if sizes is not None:
        nonzero = per_filter(signs != 0)
        mean = (per_filter(sizes) * nonzero).sum(1) / nonzero.sum(1).clamp_min(1)
        learned = learned + signs * by_filter(mean, signs)
    return learned + (value - learned).detach()


def rounded(x: Tensor) -> Tensor:
    """Round to integers; the gradient is that of x itself. Source: Bengio et al. 2013, arXiv
    1308.3432.
    """
    return x + (x.round() - x).detach()
