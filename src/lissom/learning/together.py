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
from .plateau import Judge
from .ranks import Ranks, part_of
from .sync_norm import synchronise

NORMS = nn.modules.batchnorm._NormBase


class LoopTogether(Loop):
    """A loop that computes a part of each batch.

    Its state holds nothing of other processes: the random numbers of a process for a batch depend
    on the seed, the process and the number of the batch.
    """

    def __init__(self, ranks: Ranks, *network_and_data: Any, **settings: Any) -> None:
        self.ranks = ranks
        super().__init__(*network_and_data, **settings)
        if self.pace.sync_norm:
            undone = ExitStack()
            undone.callback(self.release)
            undone.callback(synchronise(self.learner, ranks))
            self.release = undone.close
        self.vary = torch.Generator()
        self.before = self.correct_count
        self.marks: dict[tuple[int, str], tuple[int, int]] = {}
        self._changed()

    def _set_up_options(self, judge: Judge | None) -> None:
        def judged(model: nn.Module) -> float | None:
            metric = judge(model) if judge and self.ranks.rank == 0 else None
            told = json.loads(self.ranks.told(json.dumps(metric).encode(), patient=True))
            return None if told is None else float(told)

        super()._set_up_options(judge and judged)

    def _begin(self) -> None:
        """Begin an epoch without the last batch if it has too few samples for all processes."""
        super()._begin()
        least = 2 * self.ranks.count  # one sample has no batch statistics
        size = self.pace.batch
        if min(size, len(self.train)) < least:
            raise LissomError(
                f"{self.where}: expected at least 2 samples of a batch for each of {self.ranks.count} "
                f"processes, got batches of {min(size, len(self.train))}; fewer processes fit"
            )
        if 0 < (rest := len(self.order) % size) < least:
            self.order = self.order[:-rest]
        self.batches_per_epoch = -(-len(self.order) // size)

    def _batches(self) -> Iterator[tuple[Tree, Tree]]:
        """Yield this process's part of each remaining batch of the epoch."""
        size = self.pace.batch
        rest = self.order[self.batches_of_epoch * size :]
        if not len(rest):
            return
        # the parts of all batches but the last are of one size
        parts = [part_of(batch, self.ranks.rank, self.ranks.count) for batch in rest.split(size)]
        self._seed()
        for batch in self.train.batches(len(parts[0]), self.device, torch.cat(parts)):
            yield batch
            self._seed()

    def _seed(self) -> None:
        """Seed the generators for the next batch: different in each process, equal in each run."""
        text = f"{self.seed} {self.ranks.rank} {self._batches_done()}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
        self.vary.manual_seed(seed)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)

    def _step(self, pixels: Tree, targets: Tree) -> Tensor:
        self.before = self.correct_count.clone()
        return super()._step(pixels, targets)

    def _gathered(self, value: Tensor, count: int) -> tuple[Tensor, int]:
        """Give all processes the gradients, statistics and ranges of the whole batch."""
        size = self.pace.batch
        whole = min(size, len(self.order) - (self.batches_of_epoch - 1) * size)
        share = count / whole
        groups = self.optimizer.param_groups
        parameters = list(chain.from_iterable(group["params"] for group in groups))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        statistics = self._statistics()
        changed = self._changed()
        facts = [*(p.grad is not None for p in parameters), *(each for _, each in changed)]
        sums = self.ranks.summed(
            [
                *(share * each for each in (*gradients, *statistics, value)),
                self.correct_count - self.before,
                torch.tensor(facts, dtype=torch.float32, device=self.device),
            ]
        )
        *values, value, right, counts = sums
        told = [each > 0 for each in counts.tolist()]
        for parameter, gradient, there in zip(parameters, values, told, strict=False):
            if there:  # a parameter without a gradient in every process stays without one
                parameter.grad = gradient.to(parameter.dtype)
        for buffer, mean in zip(statistics, values[len(parameters) :], strict=True):
            buffer.copy_(mean)
        for (buffer, _), there in zip(changed, told[len(parameters) :], strict=True):
            if there:
                self.ranks.copy_first(buffer)
        self._changed()
        self._settle()
        self._recall()
        self.correct_count = self.before + right
        return value, whole

    def _statistics(self) -> list[Tensor]:
        """Return the running statistics that a batch has updated."""
        moving = [m for m in self.held.modules() if isinstance(m, NORMS) and m.training]
        buffers = chain.from_iterable((m.running_mean, m.running_var) for m in moving)
        return [buffer for buffer in buffers if buffer is not None]

    def _changed(self) -> list[tuple[Tensor, bool]]:
        """Return the buffers of other layers, and whether each was written since the last call."""
        changed = []
        for module in self.held.modules():
            if isinstance(module, (NORMS, Rounding)):
                continue
            for name, buffer in module.named_buffers(recurse=False):
                mark = (buffer.data_ptr(), buffer._version)
                place = (id(module), name)
                changed.append((buffer, self.marks.get(place, mark) != mark))
                self.marks[place] = mark
        return changed

    def _settle(self) -> None:
        """Set moving ranges to the lowest and highest values of the whole batch."""
        ends = [
            (rounding.held["high"], rounding.held["low"])
            for rounding in self.held.modules()
            if isinstance(rounding, Rounding)
            and rounding.of == "inputs"
            and rounding.grid.moves
            and not rounding.still
            and {"high", "low"} <= rounding.held.keys()
        ]
        if not ends:
            return
        values = self.ranks.largest(torch.stack([torch.stack((high, -low)) for high, low in ends]))
        for (high, low), (most, least) in zip(ends, values, strict=True):
            high.copy_(most)
            low.copy_(-least)
        for module in self.held.modules():
            if isinstance(module, QuantizedNetwork):
                module.settle()

    def _recall(self) -> None:
        """Copy the further state of the losses (`remembers`) from the first process to all."""
        others = [each for each in self.remembers if not isinstance(each, QuantizedNetwork)]
        if others:
            said = json.dumps([each.memory() for each in others]).encode()
            for each, memory in zip(others, json.loads(self.ranks.told(said)), strict=True):
                each.recall(memory)

    def _agree(self) -> None:
        """Take the state of the first process, which may come from a checkpoint."""
        from safetensors.torch import load, save

        tensors: dict[str, Tensor] = {}
        state = packed(self.state(), tensors) if self.ranks.rank == 0 else None
        facts = self.ranks.told(json.dumps(state).encode(), patient=True)
        content = self.ranks.told(save(tensors) if self.ranks.rank == 0 else b"")
        if self.ranks.rank:
            self.resume(unpacked(json.loads(facts), load(content)))

    def circumstances(self) -> dict[str, Any]:
        return {**super().circumstances(), "processes": self.ranks.count}
