"""Numbers for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import LissomError
from ..language.kind import WithoutPlaces
from ..language.method import arg
from ..language.tally import Collected, Tally

if TYPE_CHECKING:
    from torch import Tensor

    from ..trees import Tree

MAX_NUMBERS_SHOWN = 6  # numbers of a sample in words


@dataclass(frozen=True)
class Regress(WithoutPlaces):
    """Predict numbers: outputs and targets (n) or (n ...) of one shape.

    loss      = mean of |d| - delta / 2 where |d| > delta, d^2 / (2 delta) elsewhere
    r2        = 1 - sum of d^2 / sum of (targets - their mean)^2, mean over the numbers of a sample
    mae       = mean of |d|; less is better
    agreement = max(0, r2 of one set of outputs with the other as targets)

    d: outputs - targets
    Also known as: Huber loss, smooth L1, coefficient of determination.
    Source: Huber 1964, Robust Estimation of a Location Parameter; torch.nn.functional.smooth_l1_loss
    """

    less: ClassVar[tuple[str, ...]] = ("mae",)

    delta: float = arg("absolute difference above which the loss is linear", 1.0, above=0)

    def suits(self, targets: Tensor) -> bool:
        return targets.is_floating_point()

    def misfit(self, outputs: Tree, targets: Tensor, _: int) -> str | None:
        if not self.suits(targets):
            return "targets of floating-point numbers"
        answer = self.answer(outputs)
        expected_shape = (len(answer), *targets.shape[1:])
        fits = tuple(answer.shape) in (expected_shape, (*expected_shape, 1))
        return None if fits else f"outputs {expected_shape}, as targets are"

    def loss(self, outputs: Tree, targets: Tensor, _: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        answer = self.answer(outputs).reshape(targets.shape)
        return F.smooth_l1_loss(answer, targets.to(answer.dtype), beta=self.delta)

    def classes(self, _: Tree) -> int:
        return 0

    def compared(self, _: Tree, __: Tree) -> tuple[Tensor, Tensor]:
        raise LissomError(
            "regress: numbers are no logits, which this loss compares; fmse, cwd and other losses of "
            "features suit, and alpha weighs them with the loss of the task"
        )

    def tally(self, _: int) -> Tally:
        return Collected({"r2": r2, "mae": mae}, self.answer)

    def agreement(self) -> Tally:
        return Collected({"agreement": self.r2_with}, self.answer)

    def r2_with(self, outputs: Tensor, reference: Tree) -> float:
        """Return the coefficient of determination of outputs for a reference, at least 0."""
        return max(0.0, r2(outputs, self.answer(reference)))

    def answers(self, outputs: Tree) -> Tensor:
        return self.answer(outputs)

    def words(self, answer: Tensor, _: Sequence[str]) -> str:
        numbers = answer.flatten().tolist()
        more = ", …" if len(numbers) > MAX_NUMBERS_SHOWN else ""
        return ", ".join(f"{number:.3g}" for number in numbers[:MAX_NUMBERS_SHOWN]) + more

    def sureness(self, _: Tree) -> Tensor | None:
        return None


def r2(outputs: Tree, targets: Tensor) -> float:
    """Return the coefficient of determination, averaged over the numbers of a sample."""
    from ..trees import answer_of

    expected = targets.double().flatten(1) if targets.ndim > 1 else targets.double()[:, None]
    predicted = answer_of(outputs).double().reshape(expected.shape)
    error = (predicted - expected).square().sum(0)
    spread = (expected - expected.mean(0)).square().sum(0).clamp_min(1e-12)
    return float((1 - error / spread).mean())


def mae(outputs: Tree, targets: Tensor) -> float:
    """Return the mean absolute error."""
    from ..trees import answer_of

    return float(
        (answer_of(outputs).double().reshape(targets.shape) - targets.double()).abs().mean()
    )
