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

BATCH_TIMEOUT = timedelta(minutes=10)  # for a part of a batch
PATIENT_TIMEOUT = timedelta(days=365)  # the others wait while the first process measures


class Ranks:
    """The processes that train together; this one is `rank` of `count`, and rank 0 leads.

    `failure_reason` returns, in one line, why another process does not answer.
    """

    def __init__(
        self, rank: int, count: int, patient_group: Any, failure_reason: Callable[[], str]
    ) -> None:
        self.rank = rank
        self.count = count
        self.patient_group = patient_group
        self.failure_reason = failure_reason

    @contextmanager
    def errors_in_one_line(self) -> Iterator[None]:
        """Raise LissomError, in one line, if another process does not answer."""
        try:
            yield
        except RuntimeError as error:
            raise LissomError(self.failure_reason()) from error

    def broadcast_bytes(self, content: bytes, patient: bool = False) -> bytes:
        """Return the bytes of the first process; `patient` waits up to `PATIENT_TIMEOUT`."""
        group = self.patient_group if patient else None
        size = torch.tensor([len(content)])
        with self.errors_in_one_line():
            dist.broadcast(size, 0, group)
            tensor = torch.empty(int(size), dtype=torch.uint8)
            if self.rank == 0 and content:
                tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if len(tensor):
                dist.broadcast(tensor, 0, group)
        return tensor.numpy().tobytes()

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sum of each tensor over all processes, with one message for all tensors."""
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with self.errors_in_one_line():
            dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        return [each.view(tensor.shape) for each, tensor in zip(sums, tensors, strict=True)]

    def all_reduce_max(self, values: Tensor) -> Tensor:
        """Return the maximum of each value over all processes."""
        values = values.clone()
        with self.errors_in_one_line():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def broadcast_in_place(self, tensor: Tensor) -> None:
        """Overwrite a tensor with its values in the first process."""
        value = tensor.detach().contiguous()
        with self.errors_in_one_line():
            dist.broadcast(value.view(torch.uint8) if value.dtype == torch.bool else value, 0)
        tensor.detach().copy_(value)


def join_group(
    rank: int,
    count: int,
    place: Path | None,
    failure_reason: Callable[[], str],
    *,
    nccl: bool = False,
    timeout: timedelta = BATCH_TIMEOUT,
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
        patient_group = dist.new_group(backend="gloo", timeout=PATIENT_TIMEOUT)
    except RuntimeError as error:
        raise LissomError(failure_reason()) from error
    return Ranks(rank, count, patient_group, failure_reason)


def part_of(batch: Tensor, rank: int, count: int) -> Tensor:
    """Return one process's part of a batch (n ...); parts differ by at most one sample.

    >>> [part_of(torch.arange(5), rank, 2).tolist() for rank in (0, 1)]
    [[0, 1, 2], [3, 4]]
    """
    low, high = (-(-len(batch) * k // count) for k in (rank, rank + 1))
    return batch[low:high]
