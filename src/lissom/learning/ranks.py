"""Processes that train together, and the messages between them."""

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

BATCH = timedelta(minutes=10)  # time limit for a part of a batch
LONG = timedelta(days=365)  # the others wait while the first process measures


class Ranks:
    """The processes that train together; this one is `rank` of `count`, and rank 0 leads.

    `why` returns the reason, in one line, why another process does not answer.
    """

    def __init__(self, rank: int, count: int, patient: Any, why: Callable[[], str]) -> None:
        self.rank = rank
        self.count = count
        self.patient = patient
        self.why = why

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Raise LissomError, in one line, if another process does not answer."""
        try:
            yield
        except RuntimeError as error:
            raise LissomError(self.why()) from error

    def told(self, said: bytes, patient: bool = False) -> bytes:
        """Return bytes of the first process in all of them; `patient` waits up to `LONG`."""
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
        """Return the sum of each tensor over all processes, with one message for all tensors."""
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with self.heard():
            dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        return [each.view(tensor.shape) for each, tensor in zip(sums, tensors, strict=True)]

    def largest(self, values: Tensor) -> Tensor:
        """Return the maximum of each value over all processes."""
        values = values.clone()
        with self.heard():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def copy_first(self, tensor: Tensor) -> None:
        """Overwrite a tensor with its values in the first process."""
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
    """Join the other processes through a new file at `place`, or through torchrun if None.

    Tensors on the CPU use gloo; with `nccl`, those on GPUs use NCCL. Raises LissomError if a
    process is missing.
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
    """Return one process's part of a batch (n ...); parts differ by at most one sample.

    >>> [part_of(torch.arange(5), rank, 2).tolist() for rank in (0, 1)]
    [[0, 1, 2], [3, 4]]
    """
    low, high = (-(-len(batch) * k // count) for k in (rank, rank + 1))
    return batch[low:high]
