"""What every kind of task is: a loss, metrics, and when two answers agree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LissomError
from .method import Method
from .tally import Tally

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..trees import Tree


@dataclass(frozen=True)
class Kind(Method, ABC):
    """Say what the outputs (n ...) of a network mean beside the targets (n ...) of its samples.

    Outputs are what the network returns: a tensor, or a tuple or dict of tensors.
    """

    def answer(self, outputs: Tree) -> Tensor:
        """Return the tensor of outputs that is the answer, as logits; a kind of the user's own says
        here which of several it is. Raises LissomError where that is not known.
        """
        from ..trees import answer_of

        return answer_of(outputs)

    @abstractmethod
    def suits(self, targets: Tensor) -> bool:
        """Return whether targets look like those of this kind."""

    @abstractmethod
    def misfit(self, outputs: Tree, targets: Tensor, classes: int) -> str | None:
        """Return what is expected of outputs or targets where they do not fit, None where they do."""

    @abstractmethod
    def loss(self, outputs: Tree, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the loss of a batch, the mean over its samples."""

    @abstractmethod
    def classes(self, outputs: Tree) -> int:
        """Return how many classes the outputs tell apart, 0 where they tell none."""

    @abstractmethod
    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        """Return what of a student's outputs and a teacher's is compared in distillation, as logits:
        rows (m classes) of both.
        """

    @abstractmethod
    def tally(self, classes: int) -> Tally:
        """Return what counts the metrics of outputs beside targets; the first one judges."""

    @abstractmethod
    def agreement(self) -> Tally:
        """Return what counts, as `agreement` from 0 to 1, the answers that two sets of outputs have
        in common.
        """

    @abstractmethod
    def answers(self, outputs: Tree) -> Tensor:
        """Return what a network says in these outputs, in the form of targets."""

    @abstractmethod
    def shifted(
        self, targets: Tensor, down: Tensor, right: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Return the targets of pictures of `size` (height, width) of which each (n) is shifted by so
        many pixels.
        """

    @abstractmethod
    def mirrored(self, targets: Tensor, mirrored: Tensor, width: int) -> Tensor:
        """Return the targets of pictures of which some (n, booleans) are mirrored left to right;
        they are `width` pixels wide.
        """

    @abstractmethod
    def put_together(self, parts: Sequence[Tensor], where: Sequence[Tensor]) -> Tensor:
        """Return the targets of pictures that are put together of several: `parts` are the targets of
        these, moved as they are, and `where` (n h w, booleans) the pixels that each of them has.
        """

    def mixed(self, targets: Tensor, others: Tensor, share: float, classes: int) -> Tensor:
        """Return the targets of samples that are `share` themselves and for the rest `others`; there
        are so many `classes`. Raises LissomError where targets are no classes.
        """
        raise LissomError(
            f"expected classes as targets, which are mixed by shares; those of {self.name()} are not"
        )

    @abstractmethod
    def drawn(self, picture: Image, answer: Tensor, classes: Sequence[str], zoom: int) -> Image:
        """Return a picture with what is said of it, an answer of one sample in the form of targets.

        The picture was enlarged `zoom` times. Where nothing is drawn it is returned as it is.
        """

    @abstractmethod
    def colours(self, answer: Tensor, classes: Sequence[str]) -> dict[str, str]:
        """Return the colours, as #rrggbb, in which `drawn` has the classes of an answer, by name."""

    @abstractmethod
    def words(self, answer: Tensor, classes: Sequence[str]) -> str:
        """Return an answer of one sample in words, "" where a picture says it."""

    @abstractmethod
    def sureness(self, outputs: Tree) -> Tensor | None:
        """Return how sure a network is of its answers (n), from 0 to 1; None where it does not say."""


@dataclass(frozen=True)
class WithoutPlaces(Kind):
    """A kind whose targets have no place in a picture: they stay as they are where it is moved, and
    nothing is drawn onto it.
    """

    def shifted(self, targets: Tensor, _: Tensor, __: Tensor, ___: tuple[int, int]) -> Tensor:
        return targets

    def mirrored(self, targets: Tensor, _: Tensor, __: int) -> Tensor:
        return targets

    def put_together(self, parts: Sequence[Tensor], where: Sequence[Tensor]) -> Tensor:
        raise LissomError(
            "mosaic: expected boxes or label pictures as targets, which are put together as the "
            f"pictures are; those of {self.name()} have no place in a picture"
        )

    def drawn(self, picture: Image, _: Tensor, __: Sequence[str], ___: int) -> Image:
        return picture

    def colours(self, _: Tensor, __: Sequence[str]) -> dict[str, str]:
        return {}
