"""The context of a step: what it may use besides the network, and where it records its findings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import LissomError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..trees import Tree
    from .training import Stateful, Term, TrainSettings


def cpu() -> torch.device:
    """Return the device that networks are built on; torch is loaded only now."""
    import torch

    return torch.device("cpu")


class Clock(Protocol):
    """Measure the latency of layers and networks on one target."""

    def multiple(self, model: nn.Module, example: Tensor) -> int:
        """Return the number that widths should be multiples of, according to measured latency."""
        ...

    def predictor(
        self, model: nn.Module, example: Tensor, groups: Sequence[Any]
    ) -> Callable[[Sequence[int]], float]:
        """Return a function that predicts the latency in ms from the units kept of each group."""
        ...

    def latencies(self, models: Iterable[nn.Module], example: Tensor) -> list[float]:
        """Measure the latency of networks in ms, alternately."""
        ...


class TaskContract(Protocol):
    """The part of a task that steps may use."""

    teacher: Callable[[], nn.Module] | None

    def term(self, smoothing: float = 0.0) -> Term:
        """Return the loss function of a batch: the task's own, or that of its kind."""
        ...

    def compared(self, outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
        """Return the parts of a student's and a teacher's outputs that distillation compares."""
        ...

    def fresh(self, seed: int = 0) -> nn.Module:
        """Build the network with weights drawn from `seed`, in eval mode."""
        ...


@dataclass
class Context(ABC):
    """The inputs of a step besides the network, and its findings.

    `example` is one sample; `images(count)` returns batches of calibration samples. Both are trees
    of tensors as the network takes them (trees.py); images are normalised (n c h w). A run has a
    task (running/context.py); surgery inside a user's own training has none.
    """

    example: Tree
    images: Callable[[int], list[Tree]]
    seed: int = 0
    device: torch.device = field(default_factory=cpu)
    task: TaskContract | None = None
    teacher: Callable[[str | None], nn.Module] | None = None
    # from the text of a target to its clock
    clock: Callable[[str], Clock] | None = None
    where: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    # the notes on things that were asked for and not done
    warnings: list[str] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    def in_float32(self, model: nn.Module, double: bool = True) -> Context:
        """Convert a network to float32 in place, with a note; return a context with float32
        samples.

        Scaling 16-bit weights would round them once more. With `double=False`, a float64 network is
        left as it is.
        """
        import torch

        from ..trees import in_float

        kinds = {
            t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()
        } - {torch.float32}
        if not kinds or (not double and kinds == {torch.float64}):
            return self
        model.float()
        self.notes.append(
            f"{self.where}: the network was in "
            f"{' and '.join(sorted(str(k)[6:] for k in kinds))}; new weights "
            "are computed in float32, which it is in from here on"
        )
        return replace(
            self,
            example=in_float(self.example),
            images=lambda count: [in_float(x) for x in self.images(count)],
        )

    def finite(self, model: nn.Module) -> None:
        """Raise LissomError if a weight or batch-norm statistic is NaN or infinite, since surgery
        would spread or hide it.
        """
        import torch

        held = (
            *model.named_parameters(),
            *((n, b) for n, b in model.named_buffers() if "running_" in n.rpartition(".")[2]),
        )
        for name, value in held:
            if not torch.isfinite(value).all():
                raise LissomError(f"{self.where}: {name} holds NaN or infinity")

    def gate(self, name: str, difference: float, tolerance: float) -> None:
        """Record the comparison of two networks. Raises LissomError if they differ by more than
        `tolerance`.
        """
        self.gates.append({"name": name, "difference": difference, "tolerance": tolerance})
        if math.isnan(difference):
            raise LissomError(
                f"{self.where}: the gate '{name}' failed: the outputs hold NaN or infinity on the "
                "calibration images; check whether an image holds them, or whether the network "
                "returned them before this step"
            )
        if not difference <= tolerance:
            raise LissomError(
                f"{self.where}: the gate '{name}' failed: the outputs differ by "
                f"{difference:.2g} of their "
                f"size, at most {tolerance:.2g} is allowed; the network was not changed. "
                "Please report the network: this is a bug in lissom"
            )

    def clock_on(self, target: str) -> Clock:
        """Return the clock that times layers and networks on a target. Raises LissomError if there
        is none.
        """
        if self.clock is None:
            raise LissomError(
                f"{self.where}: latency is measured by lissom.run and lissom.apply alone"
            )
        return self.clock(target)

    def batch(self, count: int = 64) -> Tree:
        """Return up to `count` calibration samples in one batch: only those shaped like the first.

        Raises LissomError if there are none.
        """
        from ..trees import alike, concatenated, first, length

        batches = self.images(count)
        if not batches or not length(batches[0]):
            raise LissomError(f"{self.where}: there are no calibration images")
        return first(concatenated(alike(batches)), count)

    @abstractmethod
    def labelled(self, count: int) -> list[tuple[Tree, Tensor | None]]:
        """Return up to `count` calibration samples in batches, with their labels or None."""

    @abstractmethod
    def accuracy(self, model: nn.Module, most: int = 1000) -> float | None:
        """Return the task's first metric on up to `most` validation samples of all classes; None
        without a task.
        """

    @abstractmethod
    def validation_count(self) -> int:
        """Return the number of validation samples."""

    @abstractmethod
    def updates(self, epochs: int, batch: int) -> int:
        """Return the number of weight updates in `epochs` epochs."""

    @abstractmethod
    def learn(
        self,
        model: nn.Module,
        settings: TrainSettings,
        loss: Term | None = None,
        terms: tuple[Term, ...] = (),
        extra: Iterable[nn.Module] = (),
        stateful: Sequence[Stateful] = (),
    ) -> None:
        """Train `model` in place on the task's data with its loss, or with `loss` if given; the
        modules `extra` are trained with it.

        `stateful` is further state that changes from batch to batch and is kept in checkpoints.
        """


@dataclass
class SurgeryContext(Context):
    """A context without a task: samples without labels, and no training."""

    def labelled(self, count: int) -> list[tuple[Tree, Tensor | None]]:
        return [(images, None) for images in self.images(count)]

    def accuracy(self, model: nn.Module, most: int = 1000) -> float | None:
        return None

    def validation_count(self) -> int:
        return 0

    def updates(self, epochs: int, batch: int) -> int:
        return 0

    def learn(
        self,
        model: nn.Module,
        settings: TrainSettings,
        loss: Term | None = None,
        terms: tuple[Term, ...] = (),
        extra: Iterable[nn.Module] = (),
        stateful: Sequence[Stateful] = (),
    ) -> None:
        raise LissomError(
            f"{self.where}: a learning step needs data; use lissom.run, or train in your own loop"
        )
