"""One class for each position of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..drawing import class_name
from ..language.kind import WithClasses, WithoutPlaces
from ..language.method import arg
from ..language.tally import Agreement, Tally

if TYPE_CHECKING:
    from torch import Tensor

    from ..trees import Tree

MAX_POSITIONS_SHOWN = 40  # positions of a sequence that are shown


@dataclass(frozen=True)
class Tag(WithClasses, WithoutPlaces):
    """Name the class of each position: outputs (n positions classes), integer targets (n positions).

    loss      = cross-entropy(outputs, targets), mean over the positions that are not ignored
    tokens    = share of positions with the right class
    sequences = share of sequences with the right class at all positions
    agreement = share of positions with the same class in two sets of outputs

    Also known as: token classification, sequence labelling, tagging, language modelling, text
    recognition.
    Source: torch.nn.functional.cross_entropy, https://docs.pytorch.org
    """

    axis: ClassVar[int | None] = 2
    shares: ClassVar[tuple[str, ...]] = ("sequences",)

    ignore: int = arg("target of positions that do not count, such as padding", -100)

    def suits(self, targets: Tensor) -> bool:
        return targets.ndim == 2 and not targets.is_floating_point() and targets.dtype.itemsize > 1

    def misfit(self, outputs: Tree, targets: Tensor, classes: int) -> str | None:
        if not self.suits(targets):
            return "targets (n positions) of whole numbers"
        counted = targets[targets != self.ignore]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < classes:
            return (
                f"targets from 0 to {classes - 1} or {self.ignore}, which is ignored, got "
                f"{int(counted.min())} to {int(counted.max())}"
            )
        answer = self.answer(outputs)
        expected_shape = (len(answer), targets.shape[1], classes)
        return (
            None
            if tuple(answer.shape) == expected_shape
            else f"outputs (n positions classes) = {expected_shape}"
        )

    def loss(self, outputs: Tree, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(
            self.answer(outputs).flatten(0, 1),
            targets.flatten().long(),
            ignore_index=self.ignore,
            label_smoothing=smoothing,
        )

    def classes(self, outputs: Tree) -> int:
        return self.answer(outputs).shape[2]

    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        return self.answer(outputs).flatten(0, 1), self.answer(teacher).flatten(0, 1)

    def tally(self, _: int) -> Tally:
        return Positions(self.answers, self.ignore)

    def agreement(self) -> Tally:
        return Agreement(self.answers)

    def answers(self, outputs: Tree) -> Tensor:
        return self.answer(outputs).argmax(2)

    def words(self, answer: Tensor, classes: Sequence[str]) -> str:
        numbers = answer[answer != self.ignore].tolist()
        names = " ".join(class_name(classes, number) for number in numbers[:MAX_POSITIONS_SHOWN])
        return f"{names} ..." if len(numbers) > MAX_POSITIONS_SHOWN else names

    def sureness(self, _: Tree) -> Tensor | None:
        return None


class Positions(Tally):
    """Count the correct positions, and the sequences in which all positions are correct."""

    def __init__(self, answers: Callable[[Tree], Tensor], ignore: int) -> None:
        self.answers = answers
        self.ignore = ignore
        self.correct_positions = 0
        self.positions = 0
        self.correct_sequences = 0
        self.sequences = 0

    @property
    def names(self) -> tuple[str, ...]:
        return ("tokens", "sequences")

    def add(self, outputs: Tree, targets: Tree) -> None:
        counted = targets != self.ignore
        is_correct = self.answers(outputs) == targets
        self.correct_positions += int((is_correct & counted).sum())
        self.positions += int(counted.sum())
        self.correct_sequences += int((is_correct | ~counted).all(1).sum())
        self.sequences += len(targets)

    def values(self) -> dict[str, float]:
        """Return the share of correct positions and of correct sequences."""
        return {
            "tokens": self.correct_positions / max(self.positions, 1),
            "sequences": self.correct_sequences / max(self.sequences, 1),
        }
