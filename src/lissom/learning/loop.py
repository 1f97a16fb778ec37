"""The training loop: batches, gradients, updates, and resuming after it was killed."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from operator import itemgetter
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..data.split import Images
from ..errors import LissomError
from ..language.training import Batch, Progress, Stateful
from ..surgery.quantization.network import QuantizedNetwork
from ..trees import Tree, in_float, length, mapped, run_network
from .augmentation import augmented
from .average import Average
from .checkpoint import Checkpoints, Unusable, all_tensors, refill, restore_rng_states, rng_states
from .loop_checks import accuracy, checked_mean, count_correct, errors_of_user_code
from .moments import load_moments, moments_of
from .optimizer import optimizer_of
from .plateau import Best, ValidationMetric, measure_metric
from .precision import autocast, layout_of, of_cpu
from .prepare import prepare_network
from .rung import MIDWAY, Stopped
from .schedule import rate
from .training_run import TrainingRun


class Loop:
    """A training run in progress; `state` is everything that the next batch depends on."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.model = model = run.model
        self.data = run.data
        self.settings = settings = run.settings
        self.device = device = run.device
        self.losses = run.losses
        self.where = run.where
        self.draw = torch.Generator().manual_seed(run.seed)
        self.augment_generator = self.draw
        torch.manual_seed(run.seed)  # for layers with randomness, such as dropout
        self.learner = nn.ModuleList([model, *run.extra])
        self.learner.to(device).to(memory_format=layout_of(model, device)).train()
        self.undo_preparation = prepare_network(model, settings, self.learner)
        self.network: Any = torch.compile(model) if settings.compile else model
        self.layout = layout_of(model, device)
        self.saved_modules = nn.ModuleList(
            [self.learner, *(each for each in self.losses if isinstance(each, nn.Module))]
        )
        own: list[Any] = [each for each in self.losses if isinstance(each, Stateful)]
        self.stateful = [
            *run.stateful,
            *own,
            *(each for each in self.learner.modules() if isinstance(each, QuantizedNetwork)),
        ]
        train = run.data.train
        self.train_split = train.on(device) if isinstance(train, Images) else train
        extra = nn.ModuleList(run.extra) if run.extra else None
        self.optimizer = optimizer_of(model, settings, extra)
        self._set_up_options()
        self.batches_per_epoch = math.ceil(len(self.train_split) / settings.batch)
        self.rows: list[dict[str, Any]] = []
        self._begin_epoch()

    def _set_up_options(self) -> None:
        """Set up the optional parts: resumed momentum, best epoch, loss scaling, moving average."""
        settings = self.settings
        self.precision = self.run.precision
        self.validation_metric = metric = self._validation_metric()
        if settings.resume:
            moments = self.run.optimizer_state.read(self.where)
            load_moments(self.optimizer, self.model, moments, self.where)
        if settings.until == "plateau" and metric is None:
            raise LissomError(f"{self.where}: until='plateau': expected a task with a metric")
        self.best = (
            Best(metric, settings.patience) if metric and settings.until == "plateau" else None
        )
        fp16 = self.precision == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type) if fp16 else None
        self.average = None if settings.ema is None else Average(self.model, settings.ema)

    def _validation_metric(self) -> ValidationMetric | None:
        """Return the metric that judges epochs; all processes that train together get the same."""
        return self.run.validation_metric

    def _begin_epoch(self) -> None:
        """Begin an epoch: draw the order of its images and reset its counts."""
        self.order = torch.randperm(len(self.train_split), generator=self.draw)
        self.batches_of_epoch = self.samples_seen = 0
        self.loss_sum = torch.zeros((), device=self.device)
        self.correct_count = torch.zeros((), device=self.device)
        self.spent_s = 0.0

    def train(self) -> list[dict[str, Any]]:
        """Train to the end, resuming from a checkpoint that fits; return one row for each epoch."""
        checkpoints = self.run.checkpoints
        if (
            checkpoints is not None
            and (state := checkpoints.read(self.circumstances())) is not None
        ):
            self._resume_from(state, checkpoints)
            for row in self.rows:
                self.run.tell(row)
        self._synchronise_start()
        while not self._finished():
            if self.run.rung and self.run.rung.fails(self.rows):
                self._stop()
            self._train_epoch()
            self.rows.append(self._row())
            self.run.tell(self.rows[-1])
            if not self._finished():
                self._begin_epoch()
        if self.settings.keep_optimizer:
            self.run.optimizer_state.kept = moments_of(self.optimizer, self.model)
        if self.best is not None:
            self.best.put_into(self.model)
        elif self.average is not None:
            self.average.put_into(self.model)
        # measuring the network may take long too
        if checkpoints is not None and checkpoints.written:
            checkpoints.write(self.circumstances(), self.state())
        self.model.eval().to(memory_format=torch.contiguous_format)
        # after eval(), which updates ranges from the weights unless they are frozen
        self.undo_preparation()
        return self.rows

    def _synchronise_start(self) -> None:
        """Start all processes that train together from the same state: see DistributedLoop."""

    def _finished(self) -> bool:
        """Return whether the last epoch is done."""
        done = len(self.rows)
        return done >= self.settings.epochs or (self.best is not None and self.best.over(done))

    def _row(self) -> dict[str, Any]:
        """Return the row of the epoch that has just ended."""
        epoch = len(self.rows) + 1
        row = {
            "epoch": epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": float(self.loss_sum) / self.samples_seen,
            "top1": accuracy(self.correct_count, self.samples_seen),
            "seconds": self.spent_s,
        }
        if self.best is not None:
            row["valid"] = self.best.measure(self.model, self.average, epoch, self.where)
        rung = self.run.rung
        if rung and self.validation_metric and rung.is_at(epoch, self.settings.epochs):
            row[MIDWAY] = measure_metric(self.validation_metric, self.model, self.average)
        return row

    def _stop(self) -> NoReturn:
        """Raise Stopped for a metric that is too low, after writing a checkpoint to go on from."""
        if self.run.checkpoints is not None:
            self.run.checkpoints.write(self.circumstances(), self.state())
        midway = self.rows[-1][MIDWAY]
        raise Stopped(
            f"{self.where}: stopped after epoch {len(self.rows)} of {self.settings.epochs}, with "
            f"{midway:.4g} on the validation split",
            midway,
        )

    def _resume_from(self, state: dict[str, Any], checkpoints: Checkpoints) -> None:
        fresh = copy.deepcopy(self.state())
        try:
            self.restore(state)
        except (
            Unusable,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
        ) as error:
            self.restore(fresh)
            checkpoints.set_aside(f"it does not fit ({error})")
        else:
            epoch = min(len(self.rows) + 1, self.settings.epochs)
            checkpoints.say(
                "goes on from the checkpoint of an earlier run, in epoch "
                f"{epoch}/{self.settings.epochs}"
            )

    def _train_epoch(self) -> None:
        checkpoints = self.run.checkpoints
        begin = time.perf_counter() - self.spent_s
        for pixels, targets in self._batches():
            self.batches_of_epoch += 1
            last_of_one = length(targets) == 1 and self.settings.batch > 1
            if last_of_one and self.samples_seen:
                continue  # a single sample has no batch statistics
            value = self._train_batch(pixels, targets)
            self.spent_s = time.perf_counter() - begin
            if (
                self.batches_of_epoch % 10 == 0
                or self._batches_done() == self.batches_per_epoch * self.settings.epochs
                or self.samples_seen >= len(self.order) - 1
            ):
                self._check_and_report(value)
            if checkpoints is not None and checkpoints.due():
                checkpoints.write(self.circumstances(), self.state())

    def _batches(self) -> Iterator[tuple[Tree, Tree]]:
        """Yield the remaining batches of the epoch."""
        size = self.settings.batch
        rest = self.order[self.batches_of_epoch * size :]
        if len(rest):
            yield from self.train_split.batches(size, self.device, rest)

    def _batches_done(self) -> int:
        return len(self.rows) * self.batches_per_epoch + self.batches_of_epoch

    def _train_batch(self, pixels: Tree, targets: Tree) -> Tensor:
        """Train on one batch; return the value of its loss."""
        now = rate(
            self.settings,
            (self._batches_done() - 1) / (self.batches_per_epoch * self.settings.epochs),
        )
        for group in self.optimizer.param_groups:
            group["lr"] = now * group["share"]
        images, targets = augmented(
            pixels, targets, self.data, self.settings, self.augment_generator, self.run.kind
        )
        images = mapped(self._laid_out, images)
        backward = self._backward if self.settings.accumulate == 1 else self._backward_in_parts
        value, count = self._reduce_gradient(backward(images, targets), length(targets))
        self._update()
        self.samples_seen += count
        self.loss_sum += value * count
        return value

    def _reduce_gradient(self, value: Tensor, count: int) -> tuple[Tensor, int]:
        """Complete the gradient of the whole batch; return its loss and its number of samples. One
        process has all of it already: see DistributedLoop.
        """
        return value, count

    def _backward_in_parts(self, images: Tree, targets: Tree) -> Tensor:
        """Accumulate the gradient of a batch part by part; return the value of its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        count = length(targets)
        value: Any = 0
        for low, high in parts(count, self.settings.accumulate):
            inputs, wanted = mapped(itemgetter(slice(low, high)), (images, targets))
            value = value + self._backward(inputs, wanted, (high - low) / count)
        return value

    def _backward(self, images: Tree, targets: Tree, weight: float = 1.0) -> Tensor:
        """Add the gradient of a part, a share `weight` of the batch; return its weighted loss."""
        with autocast(self.device, self.precision), errors_of_user_code(self.settings.compile):
            outputs = in_float(run_network(self.network, images))
        batch = Batch(images, targets, outputs, weight)
        value = self.losses[0](self.model, batch)
        for term in self.losses[1:]:
            value = value + term(self.model, batch)
        if weight != 1:
            value = value * weight
        else:  # not earlier: the forward pass would take that memory, and a CPU allocate it anew
            self.optimizer.zero_grad(set_to_none=True)
        with errors_of_user_code(self.settings.compile):
            (self.scaler.scale(value) if self.scaler else value).backward()
        self.correct_count += count_correct(outputs, targets).to(self.device)
        return value.detach()

    def _update(self) -> None:
        """Update the parameters, and the moving average if there is one."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.settings.clip)
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
        mean = checked_mean(
            self.loss_sum / self.samples_seen,
            value,
            f"{self.where}: epoch {epoch}, step {self.batches_of_epoch}",
        )
        if self.run.watch:
            self.run.watch(
                Progress(
                    epoch,
                    self.settings.epochs,
                    self._batches_done(),
                    self.batches_per_epoch * self.settings.epochs,
                    mean,
                    accuracy(self.correct_count, self.samples_seen),
                    self.samples_seen / self.spent_s,
                    self.spent_s / self.batches_of_epoch,
                )
            )

    def circumstances(self) -> dict[str, Any]:
        """Return the facts that must be equal for a resumed run to end bit-equal."""
        return {
            "step": self.where,
            "seed": self.run.seed,
            # as JSON, which has no tuples; the key is that of checkpoints on disk
            "pace": json.loads(json.dumps(asdict(self.settings))),
            "data": self.data.fingerprint,
            "images": len(self.train_split),
            "device": str(self.device),
            "precision": str(self.precision),
            "threads": torch.get_num_threads(),
            "processor": f"{of_cpu().get('cpu_name')}, {torch.backends.cpu.get_cpu_capability()}",
            "torch": torch.__version__,
        }

    def state(self) -> dict[str, Any]:
        """Return everything that the next batch depends on."""
        return {
            "tensors": all_tensors(self.saved_modules),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "average": self.average.values if self.average else None,
            "best": self.best.state() if self.best else None,
            "rows": self.rows,
            "memories": [one.memory() for one in self.stateful],
            "draw": self.draw.get_state(),
            "generators": rng_states(self.device),
            "order": self.order,
            "taken": self.batches_of_epoch,
            "seen": self.samples_seen,
            "total": self.loss_sum,
            "right": self.correct_count,
            "spent_s": self.spent_s,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        refill(self.saved_modules, state["tensors"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.recall(state["average"])
        if self.best:
            self.best.recall(state["best"])
        for one, memory in zip(self.stateful, state["memories"], strict=True):
            one.recall(memory)
        self.draw.set_state(state["draw"])
        self.rows, self.order, self.batches_of_epoch, self.samples_seen = (
            state[name] for name in ("rows", "order", "taken", "seen")
        )
        self.loss_sum = state["total"].to(self.device)
        self.correct_count = state["right"].to(self.device)
        self.spent_s = state["spent_s"]
        restore_rng_states(state["generators"], self.device)


def parts(count: int, most: int) -> list[tuple[int, int]]:
    """Return the start and end of up to `most` parts of a batch.

    A part has at least two samples, if the batch has: a single one has no batch statistics.

    >>> parts(7, 2), parts(5, 4), parts(1, 4)
    ([(0, 4), (4, 7)], [(0, 3), (3, 5)], [(0, 1)])
    """
    number = max(1, min(most, count // 2))
    edges = [-(-count * k // number) for k in range(number + 1)]
    return list(pairwise(edges))
