"""A moving average of a network's parameters and buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .checkpoint import all_tensors, refill


class Average:
    """The exponential moving average of parameters and buffers, including batch-norm statistics.

    average = decay * average + (1 - decay) * value, after each update. It starts from the values
    before the step, and covers about the last 1 / (1 - decay) updates. Values that are not floats,
    such as boolean masks, are copied.
    Source: Polyak and Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; as
    torch.optim.swa_utils.AveragedModel.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.clone() for name, value in all_tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the values after an update to the average."""
        now = all_tensors(model)
        floats = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.values[name] for name in floats], [now[name] for name in floats], 1 - self.decay
        )
        for name in now.keys() - set(floats):
            self.values[name].copy_(now[name])

    def recall(self, values: dict[str, Tensor]) -> None:
        """Restore the averages from a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])

    def put_into(self, model: nn.Module) -> dict[str, Tensor]:
        """Load the averages into a network; return its values before."""
        before = {name: value.clone() for name, value in all_tensors(model).items()}
        refill(model, self.values)
        return before
