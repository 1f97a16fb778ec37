"""What every target is and does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from .method import Method

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ..trees import Tree

WARM = 5  # runs before those that a profile is taken of

# the single input of a file (n ...) -> its first output (n ...); a list of all its inputs -> a list
# of all its outputs
Run = Callable[[Any], Any]
# how many -> training images as the network sees them, in batches (n c h w)
Images = Callable[[int], "list[Tensor]"]


@dataclass(frozen=True)
class Fused:
    """How much of a quantized file runs in integers: layers that do, all layers, and the names of the rest.

    A name is followed by the reason, in parentheses, where the runtime's graph shows it. `single`
    of the layers that run in integers do so in single bits.
    """

    done: int
    total: int
    rest: tuple[str, ...] = ()
    single: int = 0

    def __str__(self) -> str:
        return f"{self.done}/{self.total}" + (
            f" ({self.single} in single bits)" if self.single else ""
        )


@dataclass(frozen=True)
class Target(Method, ABC):
    """A runtime with its settings: it exports a network to a file and runs such a file.

    `ending` is that of its files; targets whose files have one name share what was exported.
    `others` are endings, with their dots, of further files that it runs; `module` is what has to be
    imported to run one.
    """

    ending: ClassVar[str]
    others: ClassVar[tuple[str, ...]] = ()
    module: ClassVar[str]
    # the largest difference from PyTorch allowed to a float network
    precise: ClassVar[float] = 1e-3
    # whether its files can pick boxes that do not overlap
    suppresses: ClassVar[bool] = False
    # ending of its files that resize pictures of any size; none for a runtime that cannot
    pictures: ClassVar[str] = ""

    @abstractmethod
    def missing(self) -> str | None:
        """Return why the target cannot run here and what to install, or None."""

    @abstractmethod
    def export(
        self,
        model: nn.Module,
        path: Path,
        shape: tuple[int, ...],
        facts: dict[str, Any],
        images: Images | None = None,
        example: Tree | None = None,
    ) -> None:
        """Write `model`, which takes (n, *shape) or what is like `example`, to `path` with `facts`
        as its metadata.

        A target with a quantizer of its own shows it the images. What is written computes in
        float32 and in integers.
        """

    def file(self, few: bool, acts: bool) -> str:
        """Return folder and name of the file among a network's artefacts; targets of one name share the file.

        `few`: it has weights of 4 bits or fewer; `acts`: it rounds the values of activations other
        than ReLU, of concatenations or of attention, which each runtime wants written in its own way.
        """
        return f"{self.ending}/model.{self.ending}"

    def packs(self) -> bool:
        """Return whether its files need fewer bytes where weights have 4 bits or fewer."""
        return False

    def plain(self) -> Target:
        """Return the target on which the uncompressed network is to be measured beside: one that
        rounds nothing.
        """
        return self

    def rounds(self) -> bool:
        """Return whether the file of a float network is rounded, so that it is held to the noise
        this adds.
        """
        return False

    @abstractmethod
    def load(self, path: Path, threads: int) -> Run:
        """Return a callable that runs the file on that many threads."""

    def profile(
        self, path: Path, inputs: Sequence[np.ndarray], threads: int, times: int
    ) -> list[tuple[str, float]] | None:
        """Return the layers of a file as they run on its `inputs` (n ...), with the median ms of each.

        What belongs to no layer has the name of its operation. None where the runtime does not say.
        """
        return None

    def fused(self, path: Path) -> Fused | None:
        """Return how many convolutions, linear layers and adds run in integers; None where that is
        not known.
        """
        return None


def one_or_all(run: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Run:
    """Return what runs a file on all its inputs such that it takes a single one as it is, too."""

    def either(inputs: Any) -> Any:
        return run(inputs) if isinstance(inputs, list) else run([inputs])[0]

    return either


def middle(runs: Sequence[Sequence[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Return for each name the median over runs of what it takes in one, in the order in which the
    names come first.

    >>> runs = [("stem", 2.0), ("head", 1.0), ("stem", 4.0)], [("stem", 5.0)], [("stem", 9.0), ("head", 3.0)]
    >>> middle(runs)
    [('stem', 6.0), ('head', 1.0)]
    """
    by_name: dict[str, list[float]] = {}
    for place, run in enumerate(runs):
        for name, value in run:
            each = by_name.setdefault(name, [0.0] * len(runs))
            each[place] += value
    return [(name, median(each)) for name, each in by_name.items()]
