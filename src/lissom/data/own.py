"""A user's own data sets: PyTorch Datasets and DataLoaders, tensors, or lists of samples."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    default_collate,
)

from ..errors import LissomError, cause_of, type_of
from ..language.preprocess import Preprocess
from ..trees import Tree, at, concatenated, length, mapped, tensors_in
from .picture import in_eight_bits, pixels_of, preprocess_pixels
from .samples import as_tensors, tree_text
from .split import CPU, MAX_BYTES_IN_MEMORY

FINGERPRINT_SAMPLES = 16  # samples in a fingerprint
EXPECTED_SOURCES = (
    "expected a Dataset, a DataLoader, a pair of tensors (inputs, targets), or a list of samples "
    "(input, target)"
)


@dataclass
class DatasetSplit(Dataset[Any]):
    """A split whose samples (input, target) come from a user's data set.

    `taken` are the indices of the data set that belong to the split. An input is a tensor, a
    image that is preprocessed, or a tuple or dict of these; `collate` makes a batch of samples.
    """

    samples: Any  # with __len__ and __getitem__
    taken: Tensor
    preprocess: Preprocess
    collate: Callable[[list[Any]], Any] = default_collate
    workers: int = 0
    where: str = "data"
    known_labels: Tree = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.taken)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        """Return inputs and target of a sample, with images as tensors."""
        sample = self.samples[int(self.taken[place])]
        if not isinstance(sample, (tuple, list)) or len(sample) < 2:
            raise LissomError(
                f"{self.where}: expected samples (input, target), got {tree_text(sample)}"
            )
        if len(sample) > 2:  # the second input would be taken for the target
            raise LissomError(
                f"{self.where}: expected samples (input, target), got {len(sample)} parts, "
                f"{tree_text(sample)}; several inputs are a tuple or dict, ((a, b), target)"
            )
        return inputs_of(sample[0], self.preprocess, self.where), sample[1]

    @property
    def labels(self) -> Tree:
        """The target of each sample (n ...); read once from all samples if the set has no list."""
        if self.known_labels is None:
            batches = [targets for _, targets in self.batches(256, CPU)]
            self.known_labels = concatenated(batches) if batches else torch.zeros(0).long()
        return self.known_labels

    def take(self, order: Tensor) -> DatasetSplit:
        """Return the split of the samples at the given indices."""
        labels = None if self.known_labels is None else at(self.known_labels, order)
        return replace(self, taken=self.taken[order], known_labels=labels)

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tree, Tree]]:
        part = self if order is None else self.take(order)
        if not len(part):
            return
        # The loader's own generator leaves all other random numbers as they are. Its seed depends
        # on the order: random transforms in workers differ by epoch but are equal in each run.
        seed = int((part.taken * torch.arange(1, len(part) + 1)).sum()) % 2**31
        loader = DataLoader(
            part,
            batch_size=size,
            num_workers=self.workers,
            collate_fn=self.collate,
            generator=torch.Generator().manual_seed(seed),
        )
        try:
            for inputs, targets in loader:
                for tree in (inputs, targets):
                    if not length(tree):
                        raise LissomError(
                            f"{self.where}: expected tensors of inputs and of targets in a batch, "
                            f"got {tree_text((inputs, targets))}; words become numbers first, as "
                            "places in a list of the classes"
                        )
                yield to_device(inputs, device), to_device(targets, device)
        except LissomError:
            raise
        except Exception as error:  # the user's own code may raise anything
            uneven = "equal size" in str(error)
            cure = "; pad samples to one shape, or bring a DataLoader whose collate_fn does"
            raise LissomError(
                f"{self.where}: reading it raised {cause_of(error)}{cure if uneven else ''}"
            ) from error


def inputs_of(value: Any, preprocess: Preprocess, where: str) -> Tree:
    """Return the inputs of a sample with images and arrays converted to tensors."""
    if isinstance(value, Mapping):
        return {str(name): inputs_of(part, preprocess, where) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(inputs_of(part, preprocess, where) for part in value)
    return tensor_of(value, preprocess, where)


def to_device(tree: Tree, device: torch.device) -> Tree:
    """Return a tree with its tensors on a device."""
    return mapped(lambda t: t.to(device), tree)


def tensor_of(value: Any, preprocess: Preprocess, where: str) -> Tensor:
    """Return an input as a tensor: images preprocessed, numbers as they are.

    Images are those of Pillow, and 8-bit tensors and arrays (c h w) of 1 or 3 channels. Raises
    LissomError for other inputs.
    """
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        if value.dtype == torch.float64:  # NumPy's default, not a choice
            return value.float()
        if value.dtype != torch.uint8 or not preprocess.pictures:
            return value
        if value.ndim != 3 or len(value) not in (1, 3):
            raise LissomError(
                f"{where}: {preprocess.pictures[0]} needs images (c h w) of 1 or 3 channels, got "
                f"{tree_text(value)}"
            )
        return preprocess_pixels(value[None], preprocess)[0]
    from PIL.Image import Image

    if isinstance(value, Image):
        picture = in_eight_bits(value)
        mode = "L" if picture.mode in ("1", "L") else "RGB"
        return torch.from_numpy(pixels_of(preprocess.shown(picture.convert(mode))))
    raise LissomError(
        f"{where}: expected an input that is a tensor, an array or an image, got "
        f"{tree_text(value)}; "
        "torch.tensor(...) makes one of numbers"
    )


def dataset_split(source: Any, preprocess: Preprocess, where: str) -> DatasetSplit:
    """Return a user's data as a split that reads samples on demand; raise LissomError if unfit."""
    if isinstance(source, DatasetSplit):
        return source
    if isinstance(source, DataLoader):
        if isinstance(source.dataset, IterableDataset):
            return dataset_split(read_stream(source, where), preprocess, where)
        split = dataset_split(source.dataset, preprocess, where)
        if (places := indices_of(source, len(split), where)) is not None:
            split = split.take(places)
        # a process that is not a fork of this one cannot import the user's file of code
        forks = multiprocessing.get_start_method() == "fork"
        return replace(split, collate=source.collate_fn, workers=source.num_workers if forks else 0)
    if isinstance(source, IterableDataset):
        return dataset_split(
            read_stream(DataLoader(source, batch_size=64), where), preprocess, where
        )
    if is_pair_of_tensors(source):
        inputs, targets = (torch.as_tensor(part) for part in source)
        if len(inputs) != len(targets):
            raise LissomError(
                f"{where}: expected as many targets as inputs, got {len(targets)} and {len(inputs)}"
            )
        source = torch.utils.data.TensorDataset(inputs, targets)
    if isinstance(source, type):
        raise LissomError(f"{where}: {EXPECTED_SOURCES}; got the class {source.__name__}: call it")
    if (
        not hasattr(source, "__len__")
        or not hasattr(source, "__getitem__")
        or isinstance(source, Mapping)
    ):
        raise LissomError(f"{where}: {EXPECTED_SOURCES}; got {type_of(source)}")
    split = DatasetSplit(source, torch.arange(len(source)), preprocess, where=where)
    return replace(split, known_labels=labels_of(source))


def is_pair_of_tensors(value: Any) -> bool:
    """Return whether an object is a pair (inputs, targets) of tensors or arrays."""
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(part, (Tensor, np.ndarray)) for part in value)
    )


def indices_of(loader: DataLoader[Any], count: int, where: str) -> Tensor | None:
    """Return the indices that a loader visits in its data set of `count` samples, None for all.

    Raises LissomError for a sampler whose indices are unknown: they may belong to another split.
    """
    sampler = loader.sampler
    if type(sampler) is SubsetRandomSampler:
        return torch.as_tensor(sampler.indices)
    default_batches = type(loader.batch_sampler) in (BatchSampler, type(None))
    visits_all = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == count
    )
    if default_batches and visits_all:
        return None
    unknown = loader.batch_sampler if default_batches is False else sampler
    raise LissomError(
        f"{where}: lissom draws the order itself and cannot tell which samples a "
        f"{type(unknown).__name__} visits; torch.utils.data.Subset(dataset, indices) says it"
    )


def read_stream(loader: DataLoader[Any], where: str) -> Any:
    """Read the samples of a stream, which cannot be indexed, into memory.

    Raises LissomError for a stream that is empty, too large or not of batches (inputs, targets).
    """
    batches: list[tuple[Tree, Tree]] = []
    bytes_read = 0
    try:
        for batch in loader:
            if (
                not isinstance(batch, (tuple, list))
                or len(batch) != 2
                or not all(map(length, batch))
            ):
                raise LissomError(
                    f"{where}: expected batches (inputs, targets), got {tree_text(batch)}"
                )
            inputs, targets = (as_tensors(part) for part in batch)
            bytes_read += sum(t.numel() * t.element_size() for t in tensors_in(inputs))
            if bytes_read > MAX_BYTES_IN_MEMORY:
                raise LissomError(
                    f"{where}: a stream is held in memory, and this one is larger than "
                    f"{MAX_BYTES_IN_MEMORY >> 30} GiB; a Dataset with __getitem__ and __len__ is read "
                    "as it is needed"
                )
            batches.append((inputs, targets))
    except LissomError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise LissomError(f"{where}: reading it raised {cause_of(error)}") from error
    if not batches:
        raise LissomError(f"{where}: the stream is empty")
    inputs = concatenated([inputs for inputs, _ in batches])
    targets = concatenated([targets for _, targets in batches])
    if is_pair_of_tensors((inputs, targets)):
        return torch.utils.data.TensorDataset(inputs, targets)
    places = range(length(inputs))
    return [(mapped(itemgetter(k), inputs), mapped(itemgetter(k), targets)) for k in places]


def labels_of(samples: Any) -> Tensor | None:
    """Return the targets of all samples from the data set's own list.

    None if there is no list, or if it disagrees with the samples.
    """
    if isinstance(samples, torch.utils.data.TensorDataset) and len(samples.tensors) == 2:
        return samples.tensors[1]
    for name in ("targets", "labels"):
        values = getattr(samples, name, None)
        if not isinstance(values, (Tensor, np.ndarray, list, tuple)) or len(values) != len(samples):
            continue
        try:
            labels = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
            places = torch.linspace(
                0, len(samples) - 1, min(FINGERPRINT_SAMPLES, len(samples))
            ).long()
            labels_read = torch.stack([torch.as_tensor(samples[int(k)][1]) for k in places])
        except Exception:  # the list holds something else: read the samples one by one
            return None
        return labels if torch.equal(labels_read.double(), labels[places].double()) else None
    return None


@contextmanager
def fixed_seeds() -> Iterator[None]:
    """Seed all random generators within the context, and restore their states afterwards."""
    states = (random.getstate(), np.random.get_state())
    with torch.random.fork_rng(devices=[]):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def fingerprint_of(splits: Sequence[DatasetSplit]) -> str:
    """Return a hash that changes with the samples.

    It covers all samples if they are tensors; else their number, all known targets, and the inputs
    of up to `FINGERPRINT_SAMPLES` samples, read with fixed seeds because the user's transforms may
    be random.
    """
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{len(split)} ".encode())
        if not len(split):
            continue
        places = torch.linspace(0, len(split) - 1, min(FINGERPRINT_SAMPLES, len(split))).long()
        with fixed_seeds():
            pairs = list(replace(split, workers=0).batches(FINGERPRINT_SAMPLES, CPU, places))
        parts = list(tensors_in(pairs))
        if isinstance(split.samples, torch.utils.data.TensorDataset):
            parts += [tensor[split.taken] for tensor in split.samples.tensors]
        elif split.known_labels is not None:
            parts += tensors_in(split.known_labels)
        for part in parts:
            digest.update(f"{tuple(part.shape)} {part.dtype}".encode())
            if part.numel():
                digest.update(part.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
