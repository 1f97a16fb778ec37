"""The state that a network's weights are in, and whether a step can follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..errors import LissomError
from .quantization.layers import QuantizedLayer
from .transform import holding

if TYPE_CHECKING:
    from ..language.step import Step


def check_states(step: Step, model: nn.Module, where: str) -> None:
    """Raise LissomError if `step` cannot follow the state that weights of `model` are in.

    A recipe says so before anything runs; a loaded network shows it only here.
    """
    states = holding(model)
    if any(isinstance(layer, QuantizedLayer) for layer in model.modules()):
        states.add("quantized")
    for state, reason in step.cannot_follow.items():
        if state in states:
            raise LissomError(f"{where}: {reason}")
