"""A step: a method that turns one network into another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .method import Method

if TYPE_CHECKING:
    from torch import nn

    from .context import Context


@dataclass(frozen=True)
class Step(Method):
    """Turn a network into another: `learning` changes weights and needs data, surgery changes layers."""

    learning: ClassVar[bool] = False
    # whether it fails on a network that answers differently each time
    compares: ClassVar[bool] = False

    def __call__(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Return the changed network; `model` may be changed in place and must not be used afterwards."""
        raise TypeError(f"{type(self).__name__} does not say what it does")

    def rehearse(self, model: nn.Module, ctx: Context) -> nn.Module:
        """Do on an untrained network what can be wrong with the step, before anything is trained;
        return a network.
        """
        return self(model, ctx)

    def key(self, before: str) -> str:
        """Name the network that this step makes of the network named `before`."""
        return hashlib.sha256(f"{before} {self.identity()}".encode()).hexdigest()[:12]

    def refuses(self, earlier: tuple[Step, ...]) -> str | None:
        """Say why this step cannot follow the `earlier` ones, or None. Checked before anything runs."""
        return None
