"""The training loop: batches, gradients, updates, and resuming after it was killed."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from ..data.data import Data
from ..data.split import Images
from ..errors import LissomError
from ..language.kind import Kind
from ..language.training import Batch, Progress, Remembering, TrainSettings
from ..surgery.quantization.network import QuantizedNetwork
from ..trees import Tree, handed, in_float, length, mapped
from .augmentation import augmented
from .average import Average
from .checkpoint import Checkpoints, Unusable, generators, held, refill, regenerate
from .moments import Carried, moments_of, take_up
from .optimizer import optimizer_of
from .plateau import Best, Judge, measured
from .precision import autocast, layout_of, of_cpu
from .prepare import prepare_network
from .rung import MIDWAY, Rung, Stopped
from .schedule import rate
from .told import correct, finite, own_code, share

if TYPE_CHECKING:
    from ..language.training import Tell, Term


class Loop:
    """A training run in progress; `state` is everything that the next batch depends on."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        pace: TrainSettings,
        *,
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
        judge: Judge | None,
        carried: Carried,
        rung: Rung | None,
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
        self.vary = self.draw  # the generator of augmentations
        torch.manual_seed(seed)  # for layers with randomness, such as dropout
        self.learner = nn.ModuleList([model, *extra])
        self.learner.to(device).to(memory_format=layout_of(model, device)).train()
        self.release = prepare_network(model, pace, self.learner)
        self.network: Any = torch.compile(model) if pace.compile else model
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
        self.carried = carried
        self.rung = rung
        self._set_up_options(judge)
        self.batches_per_epoch = math.ceil(len(self.train) / pace.batch)
        self.rows: list[dict[str, Any]] = []
        self._begin()

    def _set_up_options(self, judge: Judge | None) -> None:
        """Set up the optional parts: resumed momentum, best epoch, loss scaling, moving average."""
        pace = self.pace
        self.judge = judge
        fp16 = self.precision == torch.float16
        if pace.resume:
            take_up(self.optimizer, self.model, self.carried.read(self.where), self.where)
        if pace.until == "plateau" and judge is None:
            raise LissomError(f"{self.where}: until='plateau': expected a task with a metric")
        self.best = Best(judge, pace.patience) if judge and pace.until == "plateau" else None
        self.scaler = torch.amp.GradScaler(self.device.type) if fp16 else None
        self.average = None if pace.ema is None else Average(self.model, pace.ema)

    def _begin(self) -> None:
        """Begin an epoch: draw the order of its images and reset its counts."""
        self.order = torch.randperm(len(self.train), generator=self.draw)
        self.batches_of_epoch = self.samples_seen = 0
        self.loss_sum = torch.zeros((), device=self.device)
        self.correct_count = torch.zeros((), device=self.device)
        self.spent_s = 0.0

    def run(self, checkpoints: Checkpoints | None, tell: Tell) -> list[dict[str, Any]]:
        """Train to the end, resuming from a checkpoint that fits; return one row for each epoch."""
        if (
            checkpoints is not None
            and (state := checkpoints.read(self.circumstances())) is not None
        ):
            self._go_on(state, checkpoints)
            for row in self.rows:
                tell(row)
        self._agree()
        while not self._over():
            if self.rung and self.rung.fails(self.rows):
                self._stop(checkpoints)
            self._epoch(checkpoints)
            self.rows.append(self._row())
            tell(self.rows[-1])
            if not self._over():
                self._begin()
        if self.pace.keep_optimizer:
            self.carried.left = moments_of(self.optimizer, self.model)
        if self.best is not None:
            self.best.put_into(self.model)
        elif self.average is not None:
            self.average.put_into(self.model)
        # measuring the network may take long too
        if checkpoints is not None and checkpoints.written:
            checkpoints.write(self.circumstances(), self.state())
        self.model.eval().to(memory_format=torch.contiguous_format)
        # after eval(), which updates ranges from the weights unless they are frozen
        self.release()
        return self.rows

    def _agree(self) -> None:
        """Start all processes that train together from the same state: see LoopTogether."""

    def _over(self) -> bool:
        """Return whether the last epoch is done."""
        done = len(self.rows)
        return done >= self.pace.epochs or (self.best is not None and self.best.over(done))

    def _row(self) -> dict[str, Any]:
        """Return the row of the epoch that has just ended."""
        epoch = len(self.rows) + 1
        row = {
            "epoch": epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": float(self.loss_sum) / self.samples_seen,
            "top1": share(self.correct_count, self.samples_seen),
            "seconds": self.spent_s,
        }
        if self.best is not None:
            row["valid"] = self.best.measure(self.model, self.average, epoch, self.where)
        if self.rung and self.judge and self.rung.is_at(epoch, self.pace.epochs):
            row[MIDWAY] = measured(self.judge, self.model, self.average)
        return row

    def _stop(self, checkpoints: Checkpoints | None) -> NoReturn:
        """Raise Stopped for a metric that is too low, after writing a checkpoint to go on from."""
        if checkpoints is not None:
            checkpoints.write(self.circumstances(), self.state())
        midway = self.rows[-1][MIDWAY]
        raise Stopped(
            f"{self.where}: stopped after epoch {len(self.rows)} of {self.pace.epochs}, with "
            f"{midway:.4g} on the validation split",
            midway,
        )

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
        for pixels, targets in self._batches():
            self.batches_of_epoch += 1
            if length(targets) == 1 < self.pace.batch and self.samples_seen:
                continue  # a last batch of one sample has no batch statistics
            value = self._step(pixels, targets)
            self.spent_s = time.perf_counter() - begin
            if (
                self.batches_of_epoch % 10 == 0
                or self._batches_done() == self.batches_per_epoch * self.pace.epochs
                or self.samples_seen >= len(self.order) - 1
            ):
                self._check_and_report(value)
            if checkpoints is not None and checkpoints.due():
                checkpoints.write(self.circumstances(), self.state())

    def _batches(self) -> Iterator[tuple[Tree, Tree]]:
        """Yield the remaining batches of the epoch."""
        size = self.pace.batch
        rest = self.order[self.batches_of_epoch * size :]
        if len(rest):
            yield from self.train.batches(size, self.device, rest)

    def _batches_done(self) -> int:
        return len(self.rows) * self.batches_per_epoch + self.batches_of_epoch

    def _step(self, pixels: Tree, targets: Tree) -> Tensor:
        """Train on one batch; return the value of its loss."""
        now = rate(
            self.pace, (self._batches_done() - 1) / (self.batches_per_epoch * self.pace.epochs)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = now * group["share"]
        images, targets = augmented(pixels, targets, self.data, self.pace, self.vary, self.kind)
        images = mapped(self._laid_out, images)
        backward = self._backward if self.pace.accumulate == 1 else self._backward_in_parts
        value, count = self._gathered(backward(images, targets), length(targets))
        self._update()
        self.samples_seen += count
        self.loss_sum += value * count
        return value

    def _gathered(self, value: Tensor, count: int) -> tuple[Tensor, int]:
        """Complete the gradient of the whole batch; return its loss and its number of samples. One
        process has all of it already: see LoopTogether.
        """
        return value, count

    def _backward_in_parts(self, images: Tree, targets: Tree) -> Tensor:
        """Accumulate the gradient of a batch part by part; return the value of its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        count = length(targets)
        value: Any = 0
        for low, high in parts(count, self.pace.accumulate):
            inputs, wanted = mapped(itemgetter(slice(low, high)), (images, targets))
            value = value + self._backward(inputs, wanted, (high - low) / count)
        return value

    def _backward(self, images: Tree, targets: Tree, weight: float = 1.0) -> Tensor:
        """Add the gradient of a part, a share `weight` of the batch; return its weighted loss."""
        with autocast(self.device, self.precision), own_code(self.pace.compile):
            outputs = in_float(handed(self.network, images))
        batch = Batch(images, targets, outputs, weight)
        value = self.losses[0](self.model, batch)
        for term in self.losses[1:]:
            value = value + term(self.model, batch)
        if weight != 1:
            value = value * weight
        else:  # not earlier: the forward pass would take that memory, and a CPU allocate it anew
            self.optimizer.zero_grad(set_to_none=True)
        with own_code(self.pace.compile):
            (self.scaler.scale(value) if self.scaler else value).backward()
        self.correct_count += correct(outputs, targets).to(self.device)
        return value.detach()

    def _update(self) -> None:
        """Update the parameters, and the moving average if there is one."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if self.pace.clip is not None:
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.pace.clip)
        if self.scaler:
            # skips the update if the gradient is not finite
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)

    def _laid_out(self, images: Tensor) -> Tensor:
        """Return a batch in the memory layout of training; only images (n c h w) have one."""
        return images.contiguous(memory_format=self.layout) if images.ndim == 4 else images

    def _check_and_report(self, value: Tensor) -> None:
        """Raise LissomError if the loss is not finite; report the progress to `watch`."""
        epoch = len(self.rows) + 1
        mean = finite(
            self.loss_sum / self.samples_seen,
            value,
            f"{self.where}: epoch {epoch}, step {self.batches_of_epoch}",
        )
        if self.watch:
            self.watch(
                Progress(
                    epoch,
                    self.pace.epochs,
                    self._batches_done(),
                    self.batches_per_epoch * self.pace.epochs,
                    mean,
                    share(self.correct_count, self.samples_seen),
                    self.samples_seen / self.spent_s,
                    self.spent_s / self.batches_of_epoch,
                )
            )

    def circumstances(self) -> dict[str, Any]:
        """Return the facts that must be equal for a resumed run to end bit-equal."""
        return {
            "step": self.where,
            "seed": self.seed,
            # converted as JSON does, which has no tuples
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
        """Return everything that the next batch depends on."""
        return {
            "tensors": held(self.held),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "average": self.average.values if self.average else None,
            "best": self.best.state() if self.best else None,
            "rows": self.rows,
            "memories": [one.memory() for one in self.remembers],
            "draw": self.draw.get_state(),
            "generators": generators(self.device),
            "order": self.order,
            "taken": self.batches_of_epoch,
            "seen": self.samples_seen,
            "total": self.loss_sum,
            "right": self.correct_count,
            "spent_s": self.spent_s,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        refill(self.held, state["tensors"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.recall(state["average"])
        if self.best:
            self.best.recall(state["best"])
        for one, memory in zip(self.remembers, state["memories"], strict=True):
            one.recall(memory)
        self.draw.set_state(state["draw"])
        self.rows, self.order, self.batches_of_epoch, self.samples_seen = (
            state[name] for name in ("rows", "order", "taken", "seen")
        )
        self.loss_sum = state["total"].to(self.device)
        self.correct_count = state["right"].to(self.device)
        self.spent_s = state["spent_s"]
        regenerate(state["generators"], self.device)


def parts(count: int, most: int) -> list[tuple[int, int]]:
    """Return the start and end of up to `most` parts of a batch.

    A part has at least two samples, if the batch has: a single one has no batch statistics.

    >>> parts(7, 2), parts(5, 4), parts(1, 4)
    ([(0, 4), (4, 7)], [(0, 3), (3, 5)], [(0, 1)])
    """
    number = max(1, min(most, count // 2))
    edges = [-(-count * k // number) for k in range(number + 1)]
    return list(pairwise(edges))
