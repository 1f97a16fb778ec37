"""What a step is given beside the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from .data.split import spread
from .errors import LissomError, counted
from .trees import Tree, alike, concatenated, first, in_float, length

if TYPE_CHECKING:
    from .checkpoint import Checkpoints, Remembering
    from .fit import Pace, Progress, Term
    from .surgery.groups import Group
    from .task import Task


FEW = 40  # steps of learning: at batch-norm's usual momentum, 1.5 % of the old statistics are left after as many


class Clock(Protocol):
    """What times layers and networks on one target."""

    def multiple(self, model: nn.Module, example: Tensor) -> int:
        """Return of what number widths should be multiples, as timing shows."""
        ...

    def predictor(self, model: nn.Module, example: Tensor, groups: Sequence[Group]) -> Callable[[Sequence[int]], float]:
        """Return what predicts the latency in ms of a network that keeps so many units of each group."""
        ...

    def latencies(self, models: Sequence[nn.Module], example: Tensor) -> list[float]:
        """Measure the latency of networks in ms, in turns."""
        ...


@dataclass
class Context:
    """What a step may use, and where it leaves what it found out.

    `example`, one sample, and `images(count)`, batches of calibration samples, are trees of tensors as the network
    takes them (trees.py); of pictures (n c h w), normalised.
    `task` and `teacher` are None when surgery is used alone, inside somebody's own training.
    """

    example: Tree
    images: Callable[[int], list[Tree]]
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    task: Task | None = None
    teacher: Callable[[str | None], nn.Module] | None = None
    watch: Callable[[Progress], None] | None = None
    checkpoints: Checkpoints | None = None  # where learning goes on from after a kill
    clock: Callable[[str], Clock] | None = None  # what times networks on a target, given the target's text
    where: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # those of the notes that say what was asked for and not done
    gates: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    def in_float32(self, model: nn.Module, double: bool = True) -> Context:
        """Make the floats of a network float32, in place; return a context whose samples are, and say so in the notes.

        Weights of 16 bits that change by a factor would be rounded once more; float64 may stay where nothing is rounded.
        """
        kinds = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()} - {torch.float32}
        if not kinds or (not double and kinds == {torch.float64}):
            return self
        model.float()
        self.notes.append(f"{self.where}: the network was in {' and '.join(sorted(str(k)[6:] for k in kinds))}; new weights "
                          "are computed in float32, which it is in from here on")
        return replace(self, example=in_float(self.example), images=lambda count: [in_float(x) for x in self.images(count)])

    def finite(self, model: nn.Module) -> None:
        """Raise if a weight or a statistic of batch-norm is NaN or infinite, which surgery would spread or hide."""
        held = (*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if "running_" in n.rpartition(".")[2]))
        for name, value in held:
            if not torch.isfinite(value).all():
                raise LissomError(f"{self.where}: {name} holds NaN or infinity")

    def plain(self, model: nn.Module) -> dict[str, str]:
        """Let layers whose own forward comes to a plain one be that, in place; return why others do not."""
        from .surgery.plain_layers import make_plain

        found = make_plain(model, self.example)
        self.notes += found.notes(self.where)
        if found.done:
            self.facts["plain"] = found.done
        return found.left

    def left_out(self, done: Collection[str] | int, left: dict[str, str], word: str = "float") -> None:
        """Say which layers a step did not change though it could be asked to; `left` says why, `word` what they stay."""
        from .surgery.coverage import told

        if said := told(self.where, done, left, word):
            self.notes.append(said)
            self.warnings.append(said)

    def gate(self, name: str, difference: float, tolerance: float) -> None:
        """Record that two networks were compared; raise if they differ by more than `tolerance`."""
        self.gates.append({"name": name, "difference": difference, "tolerance": tolerance})
        if math.isnan(difference):
            raise LissomError(f"{self.where}: the gate '{name}' failed: the outputs hold NaN or infinity on the calibration "
                              "images; look whether an image does, or whether the network itself answers so")
        if not difference <= tolerance:
            raise LissomError(f"{self.where}: the gate '{name}' failed: the outputs differ by {difference:.2g} of their "
                              f"size, at most {tolerance:.2g} is allowed; the network was not changed. "
                              "Please report the network: this is a bug in lissom")

    def gate_same(self, name: str, before: nn.Module, after: nn.Module, images: Tree,
                  change: Callable[[nn.Module, Tree], object], example: Tree = None) -> None:
        """Record that a network was compared with what it was before a change that should leave it the same function.

        A network may make so much of the rounding of float32 that nothing else shows. Then `change`, which is given a
        network to change in place and an example of its inputs, is done in float64.
        """
        from .surgery.compare import difference, difference_in_float64

        found, tolerance = difference(before, after, images), 1e-3
        if found > tolerance:
            exact = difference_in_float64(before, change, self.example if example is None else example, images)
            found = found if exact is None else exact
        self.gate(name, found, tolerance)

    def batch(self, count: int = 64) -> Tree:
        """Return up to `count` calibration samples in one batch: of several shapes, those of the first."""
        found = self.images(count)
        if not found or not length(found[0]):
            raise LissomError(f"{self.where}: there are no calibration images")
        return first(concatenated(alike(found)), count)

    def labelled(self, count: int) -> list[tuple[Tree, Tensor | None]]:
        """Return up to `count` calibration images in batches with their labels, None where nobody gave any."""
        if self.task is None:
            return [(images, None) for images in self.images(count)]
        return list(self.task.data.labelled(count, self.seed))

    def accuracy(self, model: nn.Module, most: int = 1000) -> float | None:
        """Return the task's first score on up to `most` validation images, of all classes; None without a task."""
        from .evaluate import network_outputs, scored

        if self.task is None:
            return None
        some = spread(self.task.data.valid, most)
        found = scored(self.task, *network_outputs(model, self.task.data, some, self.device))
        return next(iter(found.values()), None)

    def steps(self, epochs: int, batch: int) -> int:
        """Return how many steps of learning so many epochs are."""
        return 0 if self.task is None else epochs * -(-len(self.task.data.train) // batch)

    def learn(self, model: nn.Module, pace: Pace, loss: Term | None = None, terms: tuple[Term, ...] = (),
              extra: Iterable[nn.Module] = (), remembers: Sequence[Remembering] = ()) -> None:
        """Train `model` in place on the task's data with its loss, unless another is given; `extra` learns along.

        `remembers` are what else changes from batch to batch, and is kept in checkpoints.
        """
        from .fit import fit

        if self.task is None:
            raise LissomError(f"{self.where}: a learning step needs data; use lissom.run, or train in your own loop")
        self.log += fit(model, self.task.data, pace, seed=self.seed, device=self.device,
                        loss=loss or self.task.loss, terms=terms, where=self.where, watch=self.watch,
                        extra=tuple(extra), remembers=remembers, checkpoints=self.checkpoints)
        model.to("cpu")
        steps = self.steps(pace.epochs, pace.batch)
        if steps < FEW and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            self.notes.append(f"{self.where}: {counted(steps, 'step')}, too few for the running statistics of batch-norm "
                              "to follow; more epochs or a smaller batch give more")
