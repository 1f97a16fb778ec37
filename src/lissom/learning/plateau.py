"""Until when a step learns: a metric of the validation split that no longer gets better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import LissomError
from .average import Average
from .checkpoint import held, refill

Judge = Callable[[nn.Module], float | None]  # a network -> the metric, the more the better


class Best:
    """The best epoch so far, by the metric that `judge` gives, and what the network held then."""

    def __init__(self, judge: Judge, patience: int) -> None:
        self.judge = judge
        self.patience = patience
        self.epoch = 0
        self.metric: float | None = None
        self.values: dict[str, Any] = {}

    def measure(self, model: nn.Module, average: Average | None, epoch: int, where: str) -> float:
        """Return the metric of a network after an epoch, or of its average; keep the best.

        The network is left as it was, in training.
        """
        device = next(model.parameters()).device
        modes = [(module, module.training) for module in model.modules()]
        before = {name: value.clone() for name, value in held(model).items()}
        if average is not None:
            average.put_into(model)
        metric = self.judge(model.eval())
        if metric is None:
            raise LissomError(
                f"{where}: until='plateau': expected a metric that is a number on the validation "
                f"split, got none in epoch {epoch}"
            )
        model.to(device).train()
        for module, training in modes:
            if module.training != training:  # what is frozen stays in inference
                module.train(training)
        if self.metric is None or metric > self.metric:
            kept = before if average is None else average.values
            self.values = {name: value.clone() for name, value in kept.items()}
            self.metric = metric
            self.epoch = epoch
        refill(model, before)
        return metric

    def over(self, epochs: int) -> bool:
        """Return whether so many epochs are enough."""
        return epochs - self.epoch >= self.patience

    def put_into(self, model: nn.Module) -> None:
        """Give a network what it held in the best epoch."""
        refill(model, self.values)

    def state(self) -> dict[str, Any]:
        """Return what `recall` goes on from."""
        return {"epoch": self.epoch, "metric": self.metric, "values": self.values}

    def recall(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.epoch = state["epoch"]
        self.metric = state["metric"]
        self.values = state["values"]
