"""Data sets that a user has: PyTorch Datasets and DataLoaders, tensors, or lists of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..errors import LissomError, cause_of, type_of
from ..language.preprocess import Preprocess
from .picture import pixels_of
from .samples import described
from .split import CPU

MOST = 2 << 30  # bytes of samples that a stream is held in memory for
LOOKED_AT = 16  # samples that a fingerprint is taken of
WANTED = (
    "expected a Dataset, a DataLoader, a pair of tensors (inputs, targets), or a list of samples "
    "(input, target)"
)


@dataclass
class Own(Dataset[Any]):
    """A split whose samples (input, target) somebody else's data set gives.

    `taken` are the places in it that belong to the split. An input is a tensor, or a picture that
    `preprocess` is applied to; `collate` makes a batch of samples.
    """

    samples: Any  # with __len__ and __getitem__
    taken: Tensor
    preprocess: Preprocess
    collate: Callable[[list[Any]], Any] = default_collate
    workers: int = 0
    where: str = "data"
    known_labels: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.taken)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        """Return input and target of a sample, the input as a tensor."""
        sample = self.samples[int(self.taken[place])]
        if not isinstance(sample, (tuple, list)) or len(sample) < 2:
            raise LissomError(
                f"{self.where}: expected samples (input, target), got {described(sample)}"
            )
        return tensor_of(sample[0], self.preprocess, self.where), sample[1]

    @property
    def labels(self) -> Tensor:
        """The target of each sample (n ...); read once, sample by sample, where the set has no list."""
        if self.known_labels is None:
            batches = [targets for _, targets in self.batches(256, CPU)]
            self.known_labels = torch.cat(batches) if batches else torch.zeros(0, dtype=torch.int64)
        return self.known_labels

    def take(self, order: Tensor) -> Own:
        """Return the split of the samples at the given places."""
        labels = None if self.known_labels is None else self.known_labels[order]
        return replace(self, taken=self.taken[order], known_labels=labels)

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        part = self if order is None else self.take(order)
        if not len(part):
            return
        # with a generator of its own a loader does not change what others draw
        loader = DataLoader(
            part,
            batch_size=size,
            num_workers=self.workers,
            collate_fn=self.collate,
            generator=torch.Generator(),
        )
        try:
            for inputs, targets in loader:
                if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
                    raise LissomError(
                        f"{self.where}: expected one tensor of inputs and one of targets in a batch, "
                        f"got {described((inputs, targets))}"
                    )
                yield inputs.to(device), targets.to(device)
        except LissomError:
            raise
        except Exception as error:  # the user's own code may raise anything
            raise LissomError(f"{self.where}: reading it raised {cause_of(error)}") from error


def tensor_of(given: Any, preprocess: Preprocess, where: str) -> Tensor:
    """Return an input as a tensor: a picture as `preprocess` leaves it, anything else as it is."""
    if isinstance(given, Tensor):
        return given
    if isinstance(given, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(given))
    from PIL.Image import Image

    if isinstance(given, Image):
        mode = "L" if given.mode in ("1", "L") else "RGB"
        return torch.from_numpy(pixels_of(preprocess.shown(given.convert(mode))))
    raise LissomError(
        f"{where}: expected an input that is a tensor, an array or a picture, got {described(given)}"
    )


def own_split(given: Any, preprocess: Preprocess, where: str) -> Own:
    """Return what a user gave as a split, whose samples are read when they are asked for."""
    if isinstance(given, Own):
        return given
    if isinstance(given, DataLoader):
        if isinstance(given.dataset, IterableDataset):
            return own_split(streamed(given, where), preprocess, where)
        split = own_split(given.dataset, preprocess, where)
        return replace(split, collate=given.collate_fn, workers=given.num_workers)
    if isinstance(given, IterableDataset):
        return own_split(streamed(DataLoader(given, batch_size=64), where), preprocess, where)
    if is_pair_of_tensors(given):
        inputs, targets = (torch.as_tensor(part) for part in given)
        if len(inputs) != len(targets):
            raise LissomError(
                f"{where}: expected as many targets as inputs, got {len(targets)} and {len(inputs)}"
            )
        given = torch.utils.data.TensorDataset(inputs, targets)
    if (
        not hasattr(given, "__len__")
        or not hasattr(given, "__getitem__")
        or isinstance(given, Mapping)
    ):
        raise LissomError(f"{where}: {WANTED}; got {type_of(given)}")
    split = Own(given, torch.arange(len(given)), preprocess, where=where)
    return replace(split, known_labels=labels_of(given))


def is_pair_of_tensors(given: Any) -> bool:
    """Return whether something is inputs and targets, each in one tensor or array."""
    return (
        isinstance(given, (tuple, list))
        and len(given) == 2
        and all(isinstance(part, (Tensor, np.ndarray)) for part in given)
    )


def streamed(loader: DataLoader[Any], where: str) -> Any:
    """Return the samples of a stream, which has no places, held in memory."""
    batches: list[tuple[Tensor, Tensor]] = []
    held = 0
    for batch in loader:
        if not is_pair_of_tensors(batch):
            raise LissomError(
                f"{where}: expected batches (inputs, targets), got {described(batch)}"
            )
        held += sum(part.numel() * part.element_size() for part in batch)
        if held > MOST:
            raise LissomError(
                f"{where}: a stream is held in memory, and this one is larger than {MOST >> 30} GiB; "
                "a Dataset with __getitem__ and __len__ is read as it is needed"
            )
        batches.append((batch[0], batch[1]))
    if not batches:
        raise LissomError(f"{where}: the stream is empty")
    inputs, targets = zip(*batches, strict=True)
    return torch.utils.data.TensorDataset(torch.cat(inputs), torch.cat(targets))


def labels_of(samples: Any) -> Tensor | None:
    """Return the targets of all samples where a data set keeps a list of them; None where not."""
    if isinstance(samples, torch.utils.data.TensorDataset) and len(samples.tensors) == 2:
        return samples.tensors[1]
    for name in ("targets", "labels"):
        values = getattr(samples, name, None)
        if isinstance(values, (Tensor, np.ndarray, list, tuple)) and len(values) == len(samples):
            try:
                return torch.as_tensor(
                    np.asarray(values) if not isinstance(values, Tensor) else values
                )
            except (TypeError, ValueError):
                return None
    return None


def fingerprint_of(splits: Sequence[Own]) -> str:
    """Return a text that changes with the number of samples, their targets, and those looked at."""
    seen = hashlib.sha256()
    for split in splits:
        seen.update(f"{len(split)} ".encode())
        if not len(split):
            continue
        places = torch.linspace(0, len(split) - 1, min(LOOKED_AT, len(split))).long()
        for inputs, targets in split.batches(LOOKED_AT, CPU, places):
            for part in (inputs, targets):
                seen.update(f"{tuple(part.shape)} {part.dtype}".encode())
                seen.update(part.contiguous().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()
