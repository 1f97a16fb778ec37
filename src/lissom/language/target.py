"""The contract of targets, which export files and run them in a runtime."""

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

WARM_UP_RUNS = 5  # warm-up runs before a profile

# the single input of a file (n ...) -> its first output (n ...); a list of all its inputs -> a list
# of all its outputs
Run = Callable[[Any], Any]
# how many -> training images as the network sees them, in batches (n c h w)
Images = Callable[[int], "list[Tensor]"]


@dataclass(frozen=True)
class Fused:
    """How much of a quantized file runs in integers: the number of layers that do, of all layers,
    and the names of the rest.

    A name is followed by the reason, in parentheses, if the runtime's graph shows it. `single` is
    the number of layers that run in single bits.
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
    """A runtime with its settings: it exports a network to a file and runs such files.

    `ending` is the ending of its files; targets with the same file name share the exported file.
    `others` are the endings, with dots, of further files that it runs. `module` is the Python
    module that runs them.
    """

    ending: ClassVar[str]
    others: ClassVar[tuple[str, ...]] = ()
    module: ClassVar[str]
    # the largest difference from PyTorch allowed for a float network
    precise: ClassVar[float] = 1e-3
    # whether its files can contain non-maximum suppression
    suppresses: ClassVar[bool] = False
    # ending of its files that take images of any size; "" if the runtime cannot resize them
    pictures: ClassVar[str] = ""
    # whether its integer kernels are oneDNN's, whose instructions ONEDNN_MAX_CPU_ISA limits
    onednn: ClassVar[bool] = False

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
        """Write `model`, which takes (n, *shape) or inputs like `example`, to `path` with the
        metadata `facts`.

        A target with its own quantizer calibrates it on `images`. The file computes in float32 and
        integers.
        """

    def file(self, few: bool, acts: bool) -> str:
        """Return folder and name of the file among a network's artefacts; targets with the same
        name share the file.

        `few`: some weights have 4 bits or fewer. `acts`: values of activations other than ReLU, of
        concatenations or of attention are rounded, which runtimes need written differently.
        """
        return f"{self.ending}/model.{self.ending}"

    def packs(self) -> bool:
        """Return whether its files are smaller if weights have 4 bits or fewer."""
        return False

    def plain(self) -> Target:
        """Return the target for measuring the uncompressed network in comparison: one that rounds
        nothing.
        """
        return self

    def rounds(self) -> bool:
        """Return whether the target rounds even a float network, so that its file is judged by the
        noise that this adds.
        """
        return False

    @abstractmethod
    def load(self, path: Path, threads: int) -> Run:
        """Return a function that runs the file on `threads` threads."""

    def profile(
        self, path: Path, inputs: Sequence[np.ndarray], threads: int, times: int
    ) -> list[tuple[str, float]] | None:
        """Return the layers of a file in running order on its `inputs` (n ...), with the median ms
        of each.

        Work outside of layers has the name of its operation. None if the runtime reports no times.
        """
        return None

    def fused(self, path: Path) -> Fused | None:
        """Return how many convolutions, linear layers and adds run in integers; None if unknown."""
        return None


def one_or_all(run: Callable[[list[np.ndarray]], list[np.ndarray]]) -> Run:
    """Wrap a function from a list of arrays to a list so that it also maps one array to one."""

    def either(inputs: Any) -> Any:
        return run(inputs) if isinstance(inputs, list) else run([inputs])[0]

    return either


def middle(runs: Sequence[Sequence[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Return for each name the median over runs of its total in one run, in order of first
    appearance.

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
