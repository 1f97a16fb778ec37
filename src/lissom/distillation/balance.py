"""Weight the terms of a sum of losses by the gradient of each for the student."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..language.training import updates_after

MEASURE_INTERVAL = (
    100  # updates between two measurements; each costs a backward pass for every term
)


@dataclass
class Weight:
    """The weight of a term, `fixed` by a number in front of it or measured."""

    value: float
    fixed: bool
    norm: float | None = None  # smoothed norm of the term's gradient
    first: float | None = None  # the weight from the first measurement


class Balance:
    """Sum terms with weights that make the gradient of each a `share` of the first term's.

    weight of term i = share * norm of the first term's gradient / norm of term i's, over all
    parameters of the student together. The first term has the weight 1. Norms are measured before
    the first update and every MEASURE_INTERVAL updates, on the first part of a batch that is
    computed in parts; each is the mean of the new measurement and its previous value. A number in
    front of a term is its weight.
    """

    def __init__(self, numbers: Sequence[float | None], share: float) -> None:
        self.share = share
        self.weights = [
            Weight(number if number is not None else float(k == 0), number is not None or k == 0)
            for k, number in enumerate(numbers)
        ]
        self.batches: float = 0
        self.measured = 0

    def __call__(
        self, values: Sequence[Tensor], parameters: Iterable[nn.Parameter], share: float = 1.0
    ) -> Tensor:
        """Return the weighted sum of the terms' values on a batch, or on a `share` of it;
        `parameters` are the student's.
        """
        if self._due():
            self._measure(values, [p for p in parameters if p.requires_grad])
        self.batches = updates_after(self.batches, share)
        return torch.stack(
            [w.value * value for w, value in zip(self.weights, values, strict=True)]
        ).sum()

    def memory(self) -> dict[str, Any]:
        """Return the weights and counts, for `recall`."""
        return {
            "weights": [asdict(weight) for weight in self.weights],
            "batches": self.batches,
            "measured": self.measured,
        }

    def recall(self, memory: dict[str, Any]) -> None:
        """Restore the state that `memory` returned."""
        self.weights = [Weight(**weight) for weight in memory["weights"]]
        self.batches = memory["batches"]
        self.measured = memory["measured"]

    def _due(self) -> bool:
        """Return whether to measure now: more often at first, while a term has had no gradient."""
        measured = [w for w in self.weights if not w.fixed]
        batches = int(self.batches)
        if not measured or batches != self.batches:  # within a batch
            return False
        has_no_gradient = any(w.value == 0 for w in measured) and batches & (batches - 1) == 0
        return batches % MEASURE_INTERVAL == 0 or has_no_gradient

    def _measure(self, values: Sequence[Tensor], parameters: list[nn.Parameter]) -> None:
        self.measured += 1
        for k, (weight, value) in enumerate(zip(self.weights, values, strict=True)):
            if k and weight.fixed:
                continue
            norm = gradient_norm(value, parameters)
            weight.norm = norm if weight.norm is None else (weight.norm + norm) / 2
        first_norm = self.weights[0].value * (self.weights[0].norm or 0.0)
        for weight in self.weights:
            if not weight.fixed:
                weight.value = self.share * first_norm / weight.norm if weight.norm else 0.0
                weight.first = weight.value if weight.first is None else weight.first


def gradient_norm(value: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    """Return the norm of the gradient of `value` over all parameters together; keep the graph."""
    if not value.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    norms = [g.norm() for g in gradients if g is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0
