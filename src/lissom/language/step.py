"""A step: a method that turns one network into another."""

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

# what weights are: rounded to grids of few bits, or what a transform of this name makes of them
State = Literal["quantized"] | str


@dataclass(frozen=True)
class Step(Method, ABC):
    """Turn a network into another: `learning` changes weights and needs data, surgery changes layers."""

    learning: ClassVar[bool] = False
    # whether it fails on a network that answers differently each time
    compares: ClassVar[bool] = False
    compresses: ClassVar[bool] = True  # a network that others are made of is uncompressed
    has_teacher: ClassVar[bool] = False
    # what it leaves a network as, and why it cannot follow what has left it so
    leaves: ClassVar[State | None] = None
    cannot_follow: ClassVar[Mapping[State, str]] = {}

    @abstractmethod
    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Return the changed network; `model` may be changed in place and must not be used afterwards."""

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Do on an untrained network what can be wrong with the step, before anything is trained;
        return a network.
        """
        return self(model, ctx)

    @property
    def times_latency(self) -> bool:
        """Whether it measures latency, which no other work may disturb."""
        return False

    def key(self, before: str) -> str:
        """Name the network that this step makes of the network named `before`."""
        return hashlib.sha256(f"{before} {self.identity()}".encode()).hexdigest()[:12]

    def refuses(self, earlier: tuple[Step, ...]) -> str | None:
        """Say why this step cannot follow the `earlier` ones, or None. Checked before anything runs."""
        states = {step.leaves for step in earlier}
        return next((why for state, why in self.cannot_follow.items() if state in states), None)
