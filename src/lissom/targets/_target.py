"""What every target is and does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..method import Method

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

Run = Callable[["np.ndarray"], "np.ndarray"]  # images (n c h w) float32 -> outputs (n classes)


@dataclass(frozen=True)
class Fused:
    """How much of a quantized file runs in integers: layers that do, all layers, and the names of the rest."""

    done: int
    total: int
    rest: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.done}/{self.total}"


@dataclass(frozen=True)
class Target(Method):
    """A runtime with its settings: it exports a network to a file and runs such a file.

    `ending` is that of its files; targets of one ending share one exported file.
    """

    ending: ClassVar[str] = ""
    precise: ClassVar[float] = 1e-3  # the largest difference from PyTorch allowed to a float network

    def missing(self) -> str | None:
        """Return why the target cannot run here and what to install, or None."""
        return None

    def export(self, model: nn.Module, path: Path, shape: tuple[int, ...], facts: dict[str, Any]) -> None:
        """Write `model`, which takes (n, *shape), to `path` with `facts` as its metadata."""

    def load(self, path: Path, threads: int) -> Run:  # noqa: ARG002
        """Return a callable that runs the file on that many threads."""
        raise TypeError(f"{type(self).__name__} does not load")

    def fused(self, path: Path) -> Fused | None:  # noqa: ARG002
        """Return how many convolutions, linear layers and adds run in integers; None where that is not known."""
        return None
