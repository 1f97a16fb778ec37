"""The contract of steps, which turn one network into another."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .method import Method

if TYPE_CHECKING:
    from torch import nn

    from .context import Context

# the state of weights: quantized, or the name of the transform that was applied to them
State = Literal["quantized"] | str


@dataclass(frozen=True)
class Step(Method, ABC):
    """Turn a network into another: `learning` changes weights with data, surgery changes layers."""

    learning: ClassVar[bool] = False
    # whether it needs a network that is deterministic
    compares: ClassVar[bool] = False
    compresses: ClassVar[bool] = True  # if False, an uncompressed network stays uncompressed
    has_teacher: ClassVar[bool] = False
    # the state it leaves weights in, and the states it cannot follow, with the reasons
    leaves: ClassVar[State | None] = None
    cannot_follow: ClassVar[Mapping[State, str]] = {}

    @abstractmethod
    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Return the changed network. `model` may be changed in place: do not use it afterwards."""

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Try the step on an untrained network to find its errors before anything is trained;
        return a network.
        """
        return self(model, ctx)

    @property
    def times_latency(self) -> bool:
        """Whether it measures latency, so that nothing else may run meanwhile."""
        return False

    def key(self, before: str) -> str:
        """Return the key of the network that this step makes from the one with the key `before`."""
        return hashlib.sha256(f"{before} {self.identity()}".encode()).hexdigest()[:12]

    def refuses(self, earlier: tuple[Step, ...]) -> str | None:
        """Return why this step cannot follow the `earlier` ones, or None; checked before a run."""
        states = {step.leaves for step in earlier}
        return next((why for state, why in self.cannot_follow.items() if state in states), None)
