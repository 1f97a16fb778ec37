"""The contract of kinds of tasks: a loss, metrics, and when two answers agree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import LissomError
from .menu import menu
from .method import Method, arg
from .tally import Tally

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..trees import Tree


LEAST_PROBABILITY = 1e-7  # is added to probabilities, so that all have a logarithm
SUM_TOLERANCE = 1e-3  # largest deviation of a sum of probabilities from 1


@dataclass(frozen=True)
class Kind(Method, ABC):
    """Define the meaning of a network's outputs (n ...) and of the targets (n ...) of its samples.

    Outputs are what the network returns: a tensor, or a tuple or dict of tensors.
    """

    # names of metrics of which less is better; of the first metric of a tally, more is
    less: ClassVar[tuple[str, ...]] = ()
    # names of metrics that are the share of samples with the right answer
    shares: ClassVar[tuple[str, ...]] = ()

    def answer(self, outputs: Tree) -> Tensor:
        """Return the tensor of outputs that is the answer, as logits. A kind of the user's own may
        choose here among several. Raises LissomError if it is not known.
        """
        from ..trees import answer_of

        return answer_of(outputs)

    @abstractmethod
    def suits(self, targets: Tensor) -> bool:
        """Return whether targets look like those of this kind."""

    @abstractmethod
    def misfit(self, outputs: Tree, targets: Tensor, classes: int) -> str | None:
        """Return the expected form of outputs or targets if they do not fit, None if they do."""

    @abstractmethod
    def loss(self, outputs: Tree, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the loss of a batch, the mean over its samples."""

    @abstractmethod
    def classes(self, outputs: Tree) -> int:
        """Return the number of classes in the outputs, 0 if there are none."""

    @abstractmethod
    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        """Return the logits of a student and a teacher that distillation compares: rows (m classes)
        of both.
        """

    @abstractmethod
    def tally(self, classes: int) -> Tally:
        """Return a tally of the metrics of outputs and targets; the first is the main metric."""

    @abstractmethod
    def agreement(self) -> Tally:
        """Return a tally of the `agreement` of two sets of outputs, from 0 to 1."""

    @abstractmethod
    def answers(self, outputs: Tree) -> Tensor:
        """Return the answers in outputs, in the form of targets."""

    @abstractmethod
    def shifted(
        self, targets: Tensor, down: Tensor, right: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """Return the targets of images of `size` (height, width) that are shifted by `down` and
        `right` pixels (n).
        """

    @abstractmethod
    def mirrored(self, targets: Tensor, mirrored: Tensor, width: int) -> Tensor:
        """Return the targets of images, `width` pixels wide, of which some (n, booleans) are
        mirrored left to right.
        """

    @abstractmethod
    def put_together(self, parts: Sequence[Tensor], where: Sequence[Tensor]) -> Tensor:
        """Return the targets of images that are composed of several. `parts` are the targets of
        these, already moved; `where` (n h w, booleans) are the pixels that each of them covers.
        """

    def mixed(self, targets: Tensor, others: Tensor, share: float, classes: int) -> Tensor:
        """Return the targets of mixed samples: `share` of themselves and the rest of `others`, over
        `classes` classes. Raises LissomError if targets are not classes.
        """
        raise LissomError(
            f"expected classes as targets, which are mixed by shares; those of {self.name()} are not"
        )

    @abstractmethod
    def drawn(self, picture: Image, answer: Tensor, classes: Sequence[str], zoom: int) -> Image:
        """Return an image with the answer of its sample, in the form of targets, drawn onto it.

        The image was enlarged `zoom` times. If nothing is drawn, the same object is returned.
        """

    @abstractmethod
    def colours(self, answer: Tensor, classes: Sequence[str]) -> dict[str, str]:
        """Return the colours (#rrggbb) that `drawn` uses for the classes of an answer, by name."""

    @abstractmethod
    def words(self, answer: Tensor, classes: Sequence[str]) -> str:
        """Return the answer of one sample as text, "" if an image shows it."""

    @abstractmethod
    def sureness(self, outputs: Tree) -> Tensor | None:
        """Return the confidence of a network in its answers (n), from 0 to 1, or None."""


@dataclass(frozen=True, kw_only=True)
class WithClasses(Kind):
    """A kind whose answers are classes: a network returns a logit for each, or its probability.

    Losses need logits. Those of a probability p are log(p), or log(p / (1 - p)) for classes that do
    not exclude each other; their softmax, or sigmoid, is p again.
    """

    # the axis of the classes, over which probabilities sum to 1; None if they do not
    axis: ClassVar[int | None] = 1

    outputs: Literal["logits", "probabilities"] | None = arg(
        "what the network returns; None = logits, and learning from probabilities is refused",
        None,
        late=True,
    )

    def answer(self, outputs: Tree) -> Tensor:
        values = super().answer(outputs)
        if self.outputs != "probabilities":
            return values
        logits = (values + LEAST_PROBABILITY).log()
        return logits if self.axis is not None else logits - (1 - values + LEAST_PROBABILITY).log()

    def are_probabilities(self, answer: Tensor) -> bool:
        """Return whether an answer looks like probabilities instead of logits."""
        if not bool(((answer >= 0) & (answer <= 1 + SUM_TOLERANCE)).all()):
            return False
        return self.axis is None or bool(((answer.sum(self.axis) - 1).abs() < SUM_TOLERANCE).all())


@dataclass(frozen=True)
class WithoutPlaces(Kind):
    """A kind whose targets have no place in an image: they do not move with it, and nothing is
    drawn onto it.
    """

    def shifted(self, targets: Tensor, _: Tensor, __: Tensor, ___: tuple[int, int]) -> Tensor:
        return targets

    def mirrored(self, targets: Tensor, _: Tensor, __: int) -> Tensor:
        return targets

    def put_together(self, parts: Sequence[Tensor], where: Sequence[Tensor]) -> Tensor:
        raise LissomError(
            "mosaic: expected boxes or label images as targets, which are put together as the "
            f"images are; those of {self.name()} have no place in an image"
        )

    def drawn(self, picture: Image, _: Tensor, __: Sequence[str], ___: int) -> Image:
        return picture

    def colours(self, _: Tensor, __: Sequence[str]) -> dict[str, str]:
        return {}


def less_is_better(metric: str) -> bool:
    """Return whether less of a metric is better, as a kind of task says that has it by this name.

    >>> less_is_better("mae"), less_is_better("top1")
    (True, False)
    """
    kinds = menu("kinds")
    return any(metric in kinds[name].less for name in kinds)
