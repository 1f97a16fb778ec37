"""Numbers for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.kind import Kind, Metric
from ..language.method import arg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regress(Kind):
    """Predict numbers: outputs and targets (n) or (n ...) of one shape.

    loss      = mean of |d| - delta / 2 where |d| > delta, d^2 / (2 delta) elsewhere
    r2        = 1 - sum of d^2 / sum of (targets - their mean)^2, mean over the numbers of a sample
    mae       = mean of |d|; less is better
    agreement = the same r2 of one set of outputs for the other, 0 at least

    d: outputs - targets
    Also known as: Huber loss, smooth L1, coefficient of determination.
    Source: Huber 1964, Robust Estimation of a Location Parameter; torch.nn.functional.smooth_l1_loss
    """

    delta: float = arg("difference from which on the loss grows in a line", 1.0, above=0)

    def suits(self, targets: Tensor) -> bool:
        return targets.is_floating_point()

    def misfit(self, outputs: Tensor, targets: Tensor, _: int) -> str | None:
        if not self.suits(targets):
            return "targets of floating-point numbers"
        wanted = (len(outputs), *targets.shape[1:])
        fits = tuple(outputs.shape) in (wanted, (*wanted, 1))
        return None if fits else f"outputs {wanted}, as targets are"

    def loss(self, outputs: Tensor, targets: Tensor, _: float = 0.0) -> Tensor:
        import torch.nn.functional as F

        return F.smooth_l1_loss(
            outputs.reshape(targets.shape), targets.to(outputs.dtype), beta=self.delta
        )

    def metrics(self, _: int) -> Mapping[str, Metric]:
        return {"r2": r2, "mae": mae}

    def agreement(self, outputs: Tensor, reference: Tensor) -> float | None:
        return max(0.0, r2(outputs, reference))


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean over the numbers of a sample of the coefficient of determination."""
    wanted = targets.double().flatten(1) if targets.ndim > 1 else targets.double()[:, None]
    found = outputs.double().reshape(wanted.shape)
    error = (found - wanted).square().sum(0)
    spread = (wanted - wanted.mean(0)).square().sum(0).clamp_min(1e-12)
    return float((1 - error / spread).mean())


def mae(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean absolute error."""
    return float((outputs.double().reshape(targets.shape) - targets.double()).abs().mean())
