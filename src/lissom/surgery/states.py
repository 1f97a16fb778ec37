"""What the weights of a network are, and whether a step can follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..errors import LissomError
from .quantization.layers import QuantizedLayer
from .transform import holding

if TYPE_CHECKING:
    from ..language.step import Step


def check_states(step: Step, model: nn.Module, where: str) -> None:
    """Raise LissomError if `step` cannot follow what weights of `model` are already.

    A recipe says so before anything runs; a network that was loaded shows it only now.
    """
    states = holding(model)
    if any(isinstance(layer, QuantizedLayer) for layer in model.modules()):
        states.add("quantized")
    for state, reason in step.cannot_follow.items():
        if state in states:
            raise LissomError(f"{where}: {reason}")
