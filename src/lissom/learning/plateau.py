"""Early stopping: a step ends when a metric of the validation split no longer improves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..errors import LissomError
from .average import Average
from .checkpoint import all_tensors, refill, restore_rng_states, rng_states

ValidationMetric = Callable[[nn.Module], float | None]  # of a network; more is better


def measure_metric(
    validation_metric: ValidationMetric, model: nn.Module, average: Average | None
) -> float | None:
    """Return the metric of a network that is learning, or of the `average` of its values.

    The network is left unchanged, in training mode, and so are the global random generators.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    before = {name: value.clone() for name, value in all_tensors(model).items()}
    if average is not None:
        average.put_into(model)
    drawn = rng_states(device)
    metric = validation_metric(model.eval())
    restore_rng_states(drawn, device)
    model.to(device).train()
    for module, training in modes:
        if module.training != training:  # frozen layers stay in inference mode
            module.train(training)
    refill(model, before)
    return metric


class Best:
    """The best epoch so far, by the validation metric, with the network's values after it."""

    def __init__(self, validation_metric: ValidationMetric, patience: int) -> None:
        self.validation_metric = validation_metric
        self.patience = patience
        self.epoch = 0
        self.metric: float | None = None
        self.values: dict[str, Any] = {}

    def measure(self, model: nn.Module, average: Average | None, epoch: int, where: str) -> float:
        """Return the metric after an epoch, of the network or its `average`; keep the best values.

        The network is left unchanged, in training mode. Raises LissomError if there is no metric.
        """
        metric = measure_metric(self.validation_metric, model, average)
        if metric is None:
            raise LissomError(
                f"{where}: until='plateau': expected a metric that is a number on the validation "
                f"split, got none in epoch {epoch}"
            )
        if self.metric is None or metric > self.metric:
            kept = all_tensors(model) if average is None else average.values
            self.values = {name: value.clone() for name, value in kept.items()}
            self.metric = metric
            self.epoch = epoch
        return metric

    def over(self, epochs: int) -> bool:
        """Return whether the metric has not improved for `patience` epochs."""
        return epochs - self.epoch >= self.patience

    def put_into(self, model: nn.Module) -> None:
        """Load the values of the best epoch into a network."""
        refill(model, self.values)

    def state(self) -> dict[str, Any]:
        """Return the state for `recall`."""
        return {"epoch": self.epoch, "metric": self.metric, "values": self.values}

    def recall(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.epoch = state["epoch"]
        self.metric = state["metric"]
        self.values = state["values"]
