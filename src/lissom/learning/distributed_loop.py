"""The training loop of several processes: each computes its part of every batch; all stay equal.

All draw the same order of samples. Gradients are summed, weighted with the part's share of the
batch, which gives those of the whole batch. Batch-norm uses the statistics of a part, or of the
whole batch (sync_norm.py); its running statistics are averaged after each batch. Moving ranges get
the smallest and the largest value of all parts, which are those of the whole batch.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LissomError
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.rounding import Rounding
from ..trees import Tree
from .checkpoint import packed, unpacked
from .loop import Loop
from .plateau import ValidationMetric
from .ranks import Ranks, part_of
from .sync_norm import synchronise
from .training_run import TrainingRun

NORMS = nn.modules.batchnorm._NormBase


class DistributedLoop(Loop):
    """A loop that computes a part of each batch.

    Its state holds nothing of other processes: the random numbers of a process for a batch depend
    on the seed, the process and the number of the batch.
    """

    def __init__(self, run: TrainingRun, ranks: Ranks) -> None:
        self.ranks = ranks
        super().__init__(run)
        if self.settings.sync_norm:
            undone = ExitStack()
            undone.callback(self.undo_preparation)
            undone.callback(synchronise(self.learner, ranks))
            self.undo_preparation = undone.close
        self.augment_generator = torch.Generator()
        self.correct_before = self.correct_count
        self.versions: dict[tuple[int, str], tuple[int, int]] = {}
        self._changed_buffers()

    def _validation_metric(self) -> ValidationMetric | None:
        """Return a metric that the first process measures and sends to all."""
        metric = self.run.validation_metric

        def metric_of_first(model: nn.Module) -> float | None:
            value = metric(model) if metric and self.ranks.rank == 0 else None
            sent = self.ranks.broadcast_bytes(json.dumps(value).encode(), patient=True)
            value = json.loads(sent)
            return None if value is None else float(value)

        return metric and metric_of_first

    def _begin_epoch(self) -> None:
        """Begin an epoch without the last batch if it has too few samples for all processes."""
        super()._begin_epoch()
        least = 2 * self.ranks.count  # one sample has no batch statistics
        size = self.settings.batch
        if min(size, len(self.train_split)) < least:
            raise LissomError(
                f"{self.where}: expected at least 2 samples of a batch for each of {self.ranks.count} "
                f"processes, got batches of {min(size, len(self.train_split))}; fewer processes fit"
            )
        if 0 < (rest := len(self.order) % size) < least:
            self.order = self.order[:-rest]
        self.batches_per_epoch = -(-len(self.order) // size)

    def _batches(self) -> Iterator[tuple[Tree, Tree]]:
        """Yield this process's part of each remaining batch of the epoch."""
        size = self.settings.batch
        rest = self.order[self.batches_of_epoch * size :]
        if not len(rest):
            return
        # the parts of all batches but the last are of one size
        parts = [part_of(batch, self.ranks.rank, self.ranks.count) for batch in rest.split(size)]
        self._seed_generators()
        for batch in self.train_split.batches(len(parts[0]), self.device, torch.cat(parts)):
            yield batch
            self._seed_generators()

    def _seed_generators(self) -> None:
        """Seed the generators for the next batch: different in each process, equal in each run."""
        text = f"{self.run.seed} {self.ranks.rank} {self._batches_done()}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
        self.augment_generator.manual_seed(seed)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)

    def _train_batch(self, pixels: Tree, targets: Tree) -> Tensor:
        self.correct_before = self.correct_count.clone()
        return super()._train_batch(pixels, targets)

    def _reduce_gradient(self, value: Tensor, count: int) -> tuple[Tensor, int]:
        """Give all processes the gradients, statistics and ranges of the whole batch."""
        size = self.settings.batch
        whole = min(size, len(self.order) - (self.batches_of_epoch - 1) * size)
        share = count / whole
        groups = self.optimizer.param_groups
        parameters = list(chain.from_iterable(group["params"] for group in groups))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        statistics = self._running_statistics()
        changed = self._changed_buffers()
        facts = [*(p.grad is not None for p in parameters), *(each for _, each in changed)]
        sums = self.ranks.all_reduce_sum(
            [
                *(share * each for each in (*gradients, *statistics, value)),
                self.correct_count - self.correct_before,
                torch.tensor(facts, dtype=torch.float32, device=self.device),
            ]
        )
        *values, value, correct, counts = sums
        in_any = [each > 0 for each in counts.tolist()]  # whether a fact holds in some process
        for parameter, gradient, has_gradient in zip(parameters, values, in_any, strict=False):
            if has_gradient:  # a parameter without a gradient in every process stays without one
                parameter.grad = gradient.to(parameter.dtype)
        for buffer, mean in zip(statistics, values[len(parameters) :], strict=True):
            buffer.copy_(mean)
        for (buffer, _), was_written in zip(changed, in_any[len(parameters) :], strict=True):
            if was_written:
                self.ranks.broadcast_in_place(buffer)
        self._changed_buffers()
        self._synchronise_ranges()
        self._synchronise_state()
        self.correct_count = self.correct_before + correct
        return value, whole

    def _running_statistics(self) -> list[Tensor]:
        """Return the running statistics that a batch has updated."""
        moving = [m for m in self.saved_modules.modules() if isinstance(m, NORMS) and m.training]
        buffers = chain.from_iterable((m.running_mean, m.running_var) for m in moving)
        return [buffer for buffer in buffers if buffer is not None]

    def _changed_buffers(self) -> list[tuple[Tensor, bool]]:
        """Return the buffers of other layers, and whether each was written since the last call."""
        changed = []
        for module in self.saved_modules.modules():
            if isinstance(module, (NORMS, Rounding)):
                continue
            for name, buffer in module.named_buffers(recurse=False):
                mark = (buffer.data_ptr(), buffer._version)
                place = (id(module), name)
                changed.append((buffer, self.versions.get(place, mark) != mark))
                self.versions[place] = mark
        return changed

    def _synchronise_ranges(self) -> None:
        """Set moving ranges to the lowest and highest values of the whole batch."""
        ends = [
            (rounding.held["high"], rounding.held["low"])
            for rounding in self.saved_modules.modules()
            if isinstance(rounding, Rounding)
            and rounding.of == "inputs"
            and rounding.grid.moves
            and not rounding.still
            and {"high", "low"} <= rounding.held.keys()
        ]
        if not ends:
            return
        values = self.ranks.all_reduce_max(
            torch.stack([torch.stack((high, -low)) for high, low in ends])
        )
        for (high, low), (most, least) in zip(ends, values, strict=True):
            high.copy_(most)
            low.copy_(-least)
        for module in self.saved_modules.modules():
            if isinstance(module, QuantizedNetwork):
                module.update_moving_ranges()

    def _synchronise_state(self) -> None:
        """Copy the further state of the losses (`stateful`) from the first process to all."""
        others = [each for each in self.stateful if not isinstance(each, QuantizedNetwork)]
        if others:
            ours = json.dumps([each.memory() for each in others]).encode()
            memories = json.loads(self.ranks.broadcast_bytes(ours))
            for each, memory in zip(others, memories, strict=True):
                each.recall(memory)

    def _synchronise_start(self) -> None:
        """Take the state of the first process, which may come from a checkpoint."""
        from safetensors.torch import load, save

        tensors: dict[str, Tensor] = {}
        state = packed(self.state(), tensors) if self.ranks.rank == 0 else None
        facts = self.ranks.broadcast_bytes(json.dumps(state).encode(), patient=True)
        content = self.ranks.broadcast_bytes(save(tensors) if self.ranks.rank == 0 else b"")
        if self.ranks.rank:
            self.restore(unpacked(json.loads(facts), load(content)))

    def circumstances(self) -> dict[str, Any]:
        return {**super().circumstances(), "processes": self.ranks.count}
