"""One class for each pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..drawing import class_colours, draw_labels
from ..language.kind import WithClasses
from ..language.method import arg
from ..language.tally import Agreement, Tally

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..trees import Tree

OUTSIDE_LABEL = 255  # target of pixels beyond a shifted image; never counted


@dataclass(frozen=True)
class Segment(WithClasses):
    """Name the class of each pixel: outputs (n classes h w), targets (n h w) of whole numbers.

    loss      = cross-entropy(outputs, targets), mean over the pixels that are not ignored
    mIoU      = mean over the classes of  tp / (tp + fp + fn),  counted over all images
    pixels    = share of pixels with the right class (pixel accuracy)
    agreement = share of pixels with the same class in two sets of outputs

    Also known as: semantic segmentation, Jaccard index, mean intersection over union.
    Source: Everingham et al. 2010, The Pascal Visual Object Classes (VOC) Challenge
    """

    ignore: int = arg("target of pixels that are ignored", 255, low=0, high=255)

    def suits(self, targets: Tensor) -> bool:
        return targets.ndim == 3 and not targets.is_floating_point()

    def misfit(self, outputs: Tree, targets: Tensor, classes: int) -> str | None:
        if not self.suits(targets):
            return "targets (n h w) of whole numbers"
        answer = self.answer(outputs)
        expected_shape = (len(answer), classes, *targets.shape[1:])
        # without stated classes they were counted from the targets, of which some may be no class
        has_fewer = answer.ndim == 4 and 1 < answer.shape[1] < classes
        known = answer.shape[1] if has_fewer else classes
        counted = targets[self.counted(targets)]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < known:
            largest = int(counted.max())
            rest = counted[counted != largest]
            ignorable = 0 <= largest <= OUTSIDE_LABEL and bool(((rest >= 0) & (rest < known)).all())
            cure = (
                f"; if {largest} marks pixels to ignore, --kind '{self.name()}(ignore={largest})'"
            )
            return (
                f"targets from 0 to {known - 1} or {self.ignore}, which is ignored, "
                + (f"since the network has {known} classes, " if has_fewer else "")
                + f"got {int(counted.min())} to {largest}{cure if ignorable else ''}"
            )
        return (
            None
            if tuple(answer.shape) == expected_shape
            else f"outputs (n classes h w) = {expected_shape}"
        )

    def loss(self, outputs: Tree, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        classes = targets.long().masked_fill(targets == OUTSIDE_LABEL, self.ignore)
        return F.cross_entropy(
            self.answer(outputs), classes, ignore_index=self.ignore, label_smoothing=smoothing
        )

    def classes(self, outputs: Tree) -> int:
        return self.answer(outputs).shape[1]

    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        from ..trees import rows_of_both

        return rows_of_both(self.answer(outputs), self.answer(teacher))

    def tally(self, classes: int) -> Tally:
        return Confusion(classes, self.ignore, self.answer)

    def agreement(self) -> Tally:
        return Agreement(self.answers)

    def answers(self, outputs: Tree) -> Tensor:
        return self.answer(outputs).argmax(1)

    def shifted(self, targets: Tensor, down: Tensor, right: Tensor, _: tuple[int, int]) -> Tensor:
        from ..data.augment import shift_images

        return shift_images(targets[:, None], down, right, fill=OUTSIDE_LABEL)[:, 0]

    def mirrored(self, targets: Tensor, mirrored: Tensor, _: int) -> Tensor:
        import torch

        return torch.where(mirrored.view(-1, 1, 1), targets.flip(2), targets)

    def put_together(self, parts: Sequence[Tensor], where: Sequence[Tensor]) -> Tensor:
        import torch

        composed = parts[0]
        for part, there in zip(parts, where, strict=True):
            composed = torch.where(there, part, composed)
        return composed

    def drawn(self, picture: Image, answer: Tensor, _: Sequence[str], __: int) -> Image:
        return draw_labels(picture, answer, self.counted(answer))

    def colours(self, answer: Tensor, classes: Sequence[str]) -> dict[str, str]:
        return class_colours(answer[self.counted(answer)], classes)

    def words(self, _: Tensor, __: Sequence[str]) -> str:
        return ""

    def sureness(self, _: Tree) -> Tensor | None:
        return None

    def counted(self, targets: Tensor) -> Tensor:
        """Return a mask of the targets that are a class: not ignored, and not outside the image."""
        return (targets != self.ignore) & (targets != OUTSIDE_LABEL)


class Confusion(Tally):
    """The confusion matrix: counts of pixels by true class (rows) and predicted class (columns)."""

    def __init__(self, classes: int, ignore: int, answer: Callable[[Tree], Tensor]) -> None:
        import torch

        self.ignore = ignore
        self.answer = answer
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    @property
    def names(self) -> tuple[str, ...]:
        return ("mIoU", "pixels")

    def add(self, outputs: Tree, targets: Tree) -> None:
        import torch

        classes = len(self.counts)
        for scores, labels in zip(self.answer(outputs), targets, strict=True):
            counted = (labels != self.ignore) & (labels != OUTSIDE_LABEL)
            pairs = classes * labels[counted].long() + scores.argmax(0)[counted]
            self.counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes)

    def values(self) -> dict[str, float]:
        """Return the mean IoU over classes that occur or were predicted, and the pixel accuracy."""
        counts = self.counts.double()
        hits = counts.diagonal()
        either = counts.sum(0) + counts.sum(1) - hits
        present = either > 0
        return {
            "mIoU": float((hits[present] / either[present]).mean()),
            "pixels": float(hits.sum() / counts.sum().clamp_min(1)),
        }
