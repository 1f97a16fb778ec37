"""What every grid is: a set of values that tensors are rounded to, and the gradient that training
uses in its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import LissomError
from .method import Method, method_of

if TYPE_CHECKING:
    from torch import Tensor

# what lies between it and 0 counts as 0: sums that are 0 come out of runtimes on either side of it
NEAR = -1e-6
Held = Mapping[str, "Tensor"]  # what a layer holds for a grid: scales, say


@dataclass(frozen=True)
class Codes:
    """How inputs are held as integers: q = clamp(round(x / scale) + zero, 0, top), and stand for (q
    - zero) * step.

    With `sign`, q is `top` where x >= NEAR and 0 elsewhere.
    """

    scale: Tensor
    zero: int
    top: int
    step: Tensor
    sign: bool = False


@dataclass(frozen=True)
class Grid(Method, ABC):
    """Round weights, inputs or both; one that rounds only weights is a WeightGrid, only inputs an InputGrid.

    A grid keeps nothing itself: a layer holds its tensors, which `hold_weights` or `hold_inputs`
    made, and hands them to every call. Weights are an integer of 8 bits, less a zero point where a
    grid has them, times one scale for each filter; powers of two and DoReFa's squeezed weights are,
    too. So one export in integers serves all grids, and no runtime needs to know a grid.
    """

    of_weights: ClassVar[tuple[int, ...]]  # the bits it can round weights to
    of_inputs: ClassVar[tuple[int, ...]]
    # what it is meant for: given for weights, for inputs too; only for fewer than 8 bits; not for
    # the first and last layer; for inputs of one layer that reads a value, not for all that do; for
    # whatever needs more bits than were asked for
    for_inputs_too: ClassVar[bool] = False
    below_8_bits: ClassVar[bool] = False
    only_inner: ClassVar[bool] = False
    private: ClassVar[bool] = False
    anywhere: ClassVar[bool] = False
    signs: ClassVar[bool] = False  # whether all that counts of inputs is their side of 0
    # whether inputs show their range at each call, so that nothing is held for them
    at_run_time: ClassVar[bool] = False
    learned: ClassVar[tuple[str, ...]] = ()  # what it holds that learns by its own gradient
    # bits of a weight in theory, where they are no whole number: those of one that is not 0 are 1
    value_bits: ClassVar[float | None] = None

    @property
    def moves(self) -> bool:
        """Whether the range of inputs moves on while the network learns, other than by a gradient."""
        return False

    @property
    def one_scale(self) -> bool:
        """Whether all filters of a layer share one scale, batch-norm in them."""
        return False

    def hold_weights(self, weight: Tensor, bits: int) -> dict[str, Tensor]:
        """Return the tensors to hold for a weight (out ...), by name."""
        return {}

    def ends(self, bits: int) -> tuple[int, int] | None:
        """Return the least and the greatest integer of a weight where all between them are values;
        None otherwise.

        They are those with `zeros` added.
        """
        return None

    @abstractmethod
    def codes(self, weight: Tensor, bits: int, held: Held) -> tuple[Tensor, Tensor]:
        """Return a weight (out ...) as integers, in float, of which 0 stands for 0, and the scale
        of each filter (out).

        They are in -128..127, or are once `zeros` are added.
        """

    def weights(self, weight: Tensor, bits: int, held: Held) -> Tensor:
        """Return a weight (out ...) on the grid, with the gradient that training uses: as if
        nothing were rounded.
        """
        codes, scale = self.codes(weight.detach(), bits, held)
        return weight + (codes * by_filter(scale, weight) - weight).detach()

    def zeros(self, bits: int, held: Held) -> Tensor | None:
        """Return what is added to the integers of each filter (out), so that they fit in 8 bits;
        None for nothing.
        """
        return None

    def move_weights(self, weight: Tensor, bits: int, held: Held) -> None:
        """Let what is held follow a weight (out ...) of a step of training, before it is rounded."""

    def refresh(self, weight: Tensor, bits: int, held: Held) -> dict[str, Tensor]:
        """Return the held tensors that have to follow a weight which has learned."""
        return {}

    def hold_inputs(self, low: float, high: float, bits: int) -> dict[str, Tensor]:
        """Return the tensors to hold for inputs whose range was measured, by name."""
        return {}

    def move(self, x: Tensor, held: Held) -> None:
        """Take note of the inputs (n ...) of a step of training, where their range moves on with them."""

    def settle(self, bits: int, held: Held) -> None:
        """Put the grid of inputs where what `move` took note of says."""

    @abstractmethod
    def inputs(self, x: Tensor, bits: int, held: Held) -> Tensor:
        """Return inputs (n ...) on the grid, with the gradient that training uses."""

    @abstractmethod
    def input_codes(self, bits: int, held: Held) -> Codes:
        """Return how inputs are held as integers."""


@dataclass(frozen=True)
class WeightGrid(Grid):
    """Round weights only."""

    of_inputs: ClassVar[tuple[int, ...]] = ()

    def inputs(self, x: Tensor, bits: int, held: Held) -> Tensor:
        """Raise TypeError: inputs have no values here."""
        raise TypeError(f"{type(self).__name__} does not round inputs")

    def input_codes(self, bits: int, held: Held) -> Codes:
        """Raise TypeError: inputs have no integers here."""
        raise TypeError(f"{type(self).__name__} does not round inputs")


@dataclass(frozen=True)
class InputGrid(Grid):
    """Round inputs only."""

    of_weights: ClassVar[tuple[int, ...]] = ()

    def codes(self, weight: Tensor, bits: int, held: Held) -> tuple[Tensor, Tensor]:
        """Raise TypeError: weights have no integers here."""
        raise TypeError(f"{type(self).__name__} does not round weights")


def grid_of(text: str, where: str = "grid") -> Grid:
    """Return the grid that a text names, as in `uniform` or `ternary(threshold=0.5)`."""
    grid = method_of("grids", text, where)
    assert isinstance(grid, Grid)
    return grid


def by_filter(scale: Tensor, weight: Tensor) -> Tensor:
    """Return scales (out) in the shape in which they multiply a weight (out ...)."""
    return scale.view(-1, *[1] * (weight.ndim - 1))


def per_filter(weight: Tensor) -> Tensor:
    """Return a weight (out ...) as (out rest)."""
    return weight.flatten(1) if weight.ndim > 1 else weight[:, None]


def through(value: Tensor, x: Tensor) -> Tensor:
    """Return `value` (...), to the last bit, with the gradient of x (...)."""
    return value + (x - x.detach()) if x.requires_grad else value


def centred(weight: Tensor) -> Tensor:
    """Return a weight (out in ...) less its mean over the inputs, clipped to [-1, 1]."""
    return (weight - weight.mean(1, keepdim=True)).clamp(-1, 1)


def need_inputs(weight: Tensor, what: str) -> None:
    """Raise LissomError where the filters of a weight (out in ...) have one input, whose mean is
    that input itself.
    """
    if weight.shape[1] == 1:
        raise LissomError(
            f"{what} takes means over the inputs of a filter, and these have one "
            "alone, so that "
            "nothing would be left"
        )


def sloped(x: Tensor, gradient: str | None) -> Tensor:
    """Return a function of x (...) whose derivative is 1; with saturate 0 where |x| >= 1, with soft
    max(0, 1 - |x|).
    """
    if gradient not in ("saturate", "soft"):
        return x
    near = x.clamp(-1, 1)
    return near if gradient == "saturate" else near - near * near.abs() / 2


def scaled(signs: Tensor, scale: Tensor, sizes: Tensor | None, x: Tensor) -> Tensor:
    """Return scale * signs for signs (out ...) in -1, 0, 1 and a scale (out), with the gradient of
    that product.

    It reaches x (out ...), whose derivative is to stand for that of the signs, times the scale; and
    with `sizes` (out ...), of which the scale is the mean where the sign is not 0, these too.
    """
    value = signs * by_filter(scale, signs)
    learned = by_filter(scale, signs) * x
    if sizes is not None:
        nonzero = per_filter(signs != 0)
        mean = (per_filter(sizes) * nonzero).sum(1) / nonzero.sum(1).clamp_min(1)
        learned = learned + signs * by_filter(mean, signs)
    return learned + (value - learned).detach()


def rounded(x: Tensor) -> Tensor:
    """Round to whole numbers; the gradient is that of x itself. Source: Bengio et al. 2013, arXiv
    1308.3432.
    """
    return x + (x.round() - x).detach()
