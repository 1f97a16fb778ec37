"""One training loop for every step that learns."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.data import Data
from ..data.split import Images
from ..errors import LissomError, cause_of
from ..language.kind import Kind
from ..language.training import Batch, Progress, Remembering, TrainSettings
from ..surgery.quantization.network import QuantizedNetwork
from ..trees import Tree, answer_in, handed, in_float, length, mapped
from .augmentation import augmented
from .batchnorm import configure_batchnorm
from .checkpoint import Checkpoints, Unusable, generators, held, refill, regenerate
from .optimizer import optimizer_of
from .precision import autocast, fast_precision, layout_of, of_cpu
from .schedule import rate

if TYPE_CHECKING:
    from ..language.training import Term


def fit(
    model: nn.Module,
    data: Data,
    pace: TrainSettings,
    *,
    seed: int,
    device: torch.device,
    loss: Term | None = None,
    terms: Sequence[Term] = (),
    where: str = "fit",
    watch: Callable[[Progress], None] | None = None,
    precision: torch.dtype | None = None,
    extra: Sequence[nn.Module] = (),
    remembers: Sequence[Remembering] = (),
    checkpoints: Checkpoints | None = None,
    kind: Kind | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place on `data.train` and return one row for each epoch.

    `loss` takes the model and a `Batch` and returns a scalar; cross-entropy if None. `terms` are
    added to it. The rows hold epoch, lr, loss, top1 (of the training batches, as seen; None where
    labels are no classes) and seconds. Weight decay spares batch-norm and biases. `precision` is
    that of autocast: `fast_precision(device)` if None. `extra` are modules that `loss` uses and
    that learn along with the model. `kind` moves targets along with their pictures. `remembers` is
    what else changes from batch to batch; with `checkpoints` the loop goes on from the last one,
    and ends bit-equal to one that was never killed.
    Raises LissomError, naming epoch and step, when the loss stops being a number.
    """
    if not len(data.train):
        raise LissomError(f"{where}: the training split is empty")
    loop = Loop(
        model,
        data,
        pace,
        seed,
        device,
        loss or cross_entropy(pace.smoothing),
        terms,
        where,
        watch,
        precision or fast_precision(device),
        extra,
        remembers,
        kind,
    )
    return loop.run(checkpoints)


class Loop:
    """Learning as it goes on: `state` is everything that the next step depends on."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        pace: TrainSettings,
        seed: int,
        device: torch.device,
        loss: Term,
        terms: Sequence[Term],
        where: str,
        watch: Callable[[Progress], None] | None,
        precision: torch.dtype,
        extra: Sequence[nn.Module],
        remembers: Sequence[Remembering],
        kind: Kind | None,
    ) -> None:
        self.model = model
        self.kind = kind
        self.data = data
        self.pace = pace
        self.seed = seed
        self.device = device
        self.losses = (loss, *terms)
        self.where = where
        self.watch = watch
        self.precision = precision
        self.draw = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # for layers that draw
        self.learner = nn.ModuleList([model, *extra])
        self.learner.to(device).to(memory_format=layout_of(model, device)).train()
        self.release = configure_batchnorm(self.learner, pace.norm_momentum, pace.freeze)
        self.layout = layout_of(model, device)
        self.held = nn.ModuleList(
            [self.learner, *(each for each in self.losses if isinstance(each, nn.Module))]
        )
        own: list[Any] = [each for each in self.losses if isinstance(each, Remembering)]
        self.remembers = [
            *remembers,
            *own,
            *(each for each in self.learner.modules() if isinstance(each, QuantizedNetwork)),
        ]
        self.train = data.train.on(device) if isinstance(data.train, Images) else data.train
        self.optimizer = optimizer_of(model, pace, nn.ModuleList(extra) if extra else None)
        self.each = math.ceil(len(self.train) / pace.batch)
        self.rows: list[dict[str, Any]] = []
        self._begin()

    def _begin(self) -> None:
        """Begin an epoch: draw the order of its images; no batch is taken yet."""
        self.order = torch.randperm(len(self.train), generator=self.draw)
        self.taken = self.seen = 0
        self.total = torch.zeros((), device=self.device)
        self.right = torch.zeros((), device=self.device)
        self.spent_s = 0.0

    def run(self, checkpoints: Checkpoints | None) -> list[dict[str, Any]]:
        """Learn to the end, from the checkpoint if there is one that fits; return one row for each epoch."""
        if (
            checkpoints is not None
            and (state := checkpoints.read(self.circumstances())) is not None
        ):
            self._go_on(state, checkpoints)
        while len(self.rows) < self.pace.epochs:
            self._epoch(checkpoints)
            self.rows.append(
                {
                    "epoch": len(self.rows) + 1,
                    "lr": self.optimizer.param_groups[0]["lr"],
                    "loss": float(self.total) / self.seen,
                    "top1": share(self.right, self.seen),
                    "seconds": self.spent_s,
                }
            )
            if len(self.rows) < self.pace.epochs:
                self._begin()
        # measuring the network may take long, too
        if checkpoints is not None and checkpoints.written:
            checkpoints.write(self.circumstances(), self.state())
        self.model.eval().to(memory_format=torch.contiguous_format)
        # once in inference: on the way there ranges follow the weights, unless they are held
        self.release()
        return self.rows

    def _go_on(self, state: dict[str, Any], checkpoints: Checkpoints) -> None:
        fresh = copy.deepcopy(self.state())
        try:
            self.resume(state)
        except (
            Unusable,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
        ) as error:
            self.resume(fresh)
            checkpoints.set_aside(f"it does not fit ({error})")
        else:
            epoch = min(len(self.rows) + 1, self.pace.epochs)
            checkpoints.say(
                "goes on from the checkpoint of an earlier run, in epoch "
                f"{epoch}/{self.pace.epochs}"
            )

    def _epoch(self, checkpoints: Checkpoints | None) -> None:
        begin = time.perf_counter() - self.spent_s
        size = self.pace.batch
        rest = self.order[self.taken * size :]
        for pixels, targets in self.train.batches(size, self.device, rest) if len(rest) else ():
            self.taken += 1
            if length(targets) == 1 and self.seen:
                continue  # one image has no batch statistics
            value = self._step(pixels, targets)
            self.spent_s = time.perf_counter() - begin
            if (
                self.taken % 10 == 0
                or self._done() == self.each * self.pace.epochs
                or self.seen >= len(self.train) - 1
            ):
                self._look(value)
            if checkpoints is not None and checkpoints.due():
                checkpoints.write(self.circumstances(), self.state())

    def _done(self) -> int:
        return len(self.rows) * self.each + self.taken

    def _step(self, pixels: Tree, targets: Tree) -> Tensor:
        """Learn from one batch; return the value of its loss."""
        now = rate(self.pace, (self._done() - 1) / (self.each * self.pace.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = now * group["share"]
        images, targets = augmented(pixels, targets, self.data, self.pace, self.draw, self.kind)
        images = mapped(self._laid_out, images)
        with autocast(self.device, self.precision), own_code():
            outputs = in_float(handed(self.model, images))
        batch = Batch(images, targets, outputs)
        value = self.losses[0](self.model, batch)
        for term in self.losses[1:]:
            value = value + term(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        with own_code():
            value.backward()
        if self.pace.clip is not None:
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.pace.clip)
        self.optimizer.step()
        count = length(targets)
        self.seen += count
        self.total += value.detach() * count
        self.right += correct(outputs, targets).to(self.device)
        return value

    def _laid_out(self, images: Tensor) -> Tensor:
        """Return a batch in the layout of training; a series has no such layouts."""
        return images.contiguous(memory_format=self.layout) if images.ndim == 4 else images

    def _look(self, value: Tensor) -> None:
        """Raise if the loss is no number; tell whoever watches."""
        epoch = len(self.rows) + 1
        mean = finite(
            self.total / self.seen, value, f"{self.where}: epoch {epoch}, step {self.taken}"
        )
        if self.watch:
            self.watch(
                Progress(
                    epoch,
                    self.pace.epochs,
                    self._done(),
                    self.each * self.pace.epochs,
                    mean,
                    share(self.right, self.seen),
                    self.seen / self.spent_s,
                    self.spent_s / self.taken,
                )
            )

    def circumstances(self) -> dict[str, Any]:
        """Return what must be the same for a loop that goes on from a checkpoint of this one to end
        in the same bits.
        """
        return {
            "step": self.where,
            "seed": self.seed,
            # as JSON has it, which knows no tuples
            "pace": json.loads(json.dumps(asdict(self.pace))),
            "data": self.data.fingerprint,
            "images": len(self.train),
            "device": str(self.device),
            "precision": str(self.precision),
            "threads": torch.get_num_threads(),
            "processor": f"{of_cpu().get('cpu_name')}, {torch.backends.cpu.get_cpu_capability()}",
            "torch": torch.__version__,
        }

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "tensors": held(self.held),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "memories": [one.memory() for one in self.remembers],
            "draw": self.draw.get_state(),
            "generators": generators(self.device),
            "order": self.order,
            "taken": self.taken,
            "seen": self.seen,
            "total": self.total,
            "right": self.right,
            "spent_s": self.spent_s,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        refill(self.held, state["tensors"])
        self.optimizer.load_state_dict(state["optimizer"])
        for one, memory in zip(self.remembers, state["memories"], strict=True):
            one.recall(memory)
        self.draw.set_state(state["draw"])
        self.rows, self.order, self.taken, self.seen = (
            state[name] for name in ("rows", "order", "taken", "seen")
        )
        self.total = state["total"].to(self.device)
        self.right = state["right"].to(self.device)
        self.spent_s = state["spent_s"]
        regenerate(state["generators"], self.device)


def cross_entropy(smoothing: float = 0.0) -> Term:
    """Return the cross-entropy of outputs (n classes) against labels, with label smoothing."""

    def value(_: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(batch.outputs, batch.labels, label_smoothing=smoothing)

    return value


@contextmanager
def own_code() -> Iterator[None]:
    """Say in one line what the user's own network raises while it learns: what is tried before
    keeps no gradients.
    """
    try:
        yield
    except LissomError:
        raise
    except Exception as error:
        raise LissomError(
            f"the network raised an error while it learned: {cause_of(error)}"
        ) from error


def correct(outputs: Tree, targets: Tree) -> Tensor:
    """Return how many of the largest outputs (n classes) are those of their targets (n); NaN where
    targets are no classes.
    """
    answer = answer_in(outputs)
    classes = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
    if answer is None or answer.ndim != 2 or not classes:
        return torch.full((), torch.nan)
    return (answer.detach().argmax(1) == targets).sum()


def share(right: Tensor, seen: int) -> float | None:
    """Return the share of `seen` images that were named right, None where that is no number."""
    return float(right) / seen if torch.isfinite(right) else None


def finite(mean: Tensor, value: Tensor, where: str) -> float:
    """Return the mean loss as a number, or raise if it is none."""
    if not (torch.isfinite(mean) and torch.isfinite(value)):
        raise LissomError(
            f"{where}: the loss is {float(value.detach()):g}; a lower lr or clip=1.0 may help"
        )
    return float(mean)
