"""A moving average of everything that a network holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .checkpoint import held, refill


class Average:
    """The exponential moving average of parameters and buffers, the statistics of batch-norm too.

    average = decay * average + (1 - decay) * value, after each update; it begins at the values that
    the step begins with, so it is about that of the last 1 / (1 - decay) updates. What is no float,
    such as a mask, is that of now.
    Source: Polyak and Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; as
    torch.optim.swa_utils.AveragedModel.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.clone() for name, value in held(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take note of the values after an update."""
        now = held(model)
        floats = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.values[name] for name in floats], [now[name] for name in floats], 1 - self.decay
        )
        for name in now.keys() - set(floats):
            self.values[name].copy_(now[name])

    def recall(self, values: dict[str, Tensor]) -> None:
        """Go on from averages of a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])

    def put_into(self, model: nn.Module) -> dict[str, Tensor]:
        """Give a network the averages; return what it held."""
        before = {name: value.clone() for name, value in held(model).items()}
        refill(model, self.values)
        return before
