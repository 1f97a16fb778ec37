"""Processes that learn together: which of them this is, and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import LissomError

BATCH = timedelta(minutes=10)  # in which every process is through with its part of a batch
LONG = timedelta(days=365)  # while the first one measures, the others wait


class Ranks:
    """The processes that learn together; this one is `rank` of `count`, and the first, 0, leads.

    `why` says in one line why another process does not answer.
    """

    def __init__(self, rank: int, count: int, patient: Any, why: Callable[[], str]) -> None:
        self.rank = rank
        self.count = count
        self.patient = patient
        self.why = why

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Say in one line that another process does not answer."""
        try:
            yield
        except RuntimeError as error:
            raise LissomError(self.why()) from error

    def told(self, said: bytes, patient: bool = False) -> bytes:
        """Return what the first process says, in all of them; `patient`: it may think first."""
        group = self.patient if patient else None
        size = torch.tensor([len(said)])
        with self.heard():
            dist.broadcast(size, 0, group)
            content = torch.empty(int(size), dtype=torch.uint8)
            if self.rank == 0 and said:
                content = torch.frombuffer(bytearray(said), dtype=torch.uint8)
            if len(content):
                dist.broadcast(content, 0, group)
        return content.numpy().tobytes()

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum of each tensor over all processes; all travel in one message."""
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with self.heard():
            dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        return [each.view(tensor.shape) for each, tensor in zip(sums, tensors, strict=True)]

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest of each value over all processes."""
        values = values.clone()
        with self.heard():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def copy_first(self, tensor: Tensor) -> None:
        """Give a tensor what it holds in the first process."""
        value = tensor.detach().contiguous()
        with self.heard():
            dist.broadcast(value.view(torch.uint8) if value.dtype == torch.bool else value, 0)
        tensor.detach().copy_(value)


def meet(
    rank: int,
    count: int,
    place: Path | None,
    why: Callable[[], str],
    *,
    nccl: bool = False,
    timeout: timedelta = BATCH,
) -> Ranks:
    """Meet the other processes at a file that is not there yet, or where torchrun says if None.

    Tensors on the CPU go by gloo, and with `nccl` those on GPUs by NCCL.
    """
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            init_method=None if place is None else place.resolve().as_uri(),
            rank=rank if place else -1,
            world_size=count if place else -1,
            timeout=timeout,
        )
        patient = dist.new_group(backend="gloo", timeout=LONG)
    except RuntimeError as error:
        raise LissomError(why()) from error
    return Ranks(rank, count, patient, why)


def part_of(batch: Tensor, rank: int, count: int) -> Tensor:
    """Return the part of a batch (n ...) that is one process's; parts differ by one sample at most.

    >>> [part_of(torch.arange(5), rank, 2).tolist() for rank in (0, 1)]
    [[0, 1, 2], [3, 4]]
    """
    low, high = (-(-len(batch) * k // count) for k in (rank, rank + 1))
    return batch[low:high]
