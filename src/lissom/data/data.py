"""A data set as a task needs it: three splits, classes, and how pixels become numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import LissomError
from ..language.preprocess import Preprocess
from ..preprocess.normalize import Normalize
from ..trees import Tree
from .own import DatasetSplit, dataset_split, fingerprint_of
from .own_splits import are_pictures, check_inputs, class_names, common_inputs, shape_of
from .picture import resizing
from .published import preprocess_of
from .source import load
from .split import CPU, Files, Images, Read, Split
from .statistics import statistics
from .validation import parted

AS_GIVEN = "as given"  # the preprocessing of data that are numbers already
EMPTY = torch.zeros(0, dtype=torch.int64)  # labels of no images


@dataclass
class Data:
    """Splits of images with labels, and the preprocessing that the network sees them through.

    Splits hold pictures as the preprocessing leaves them; of their pixels a network sees
    (pixels / 255 - mean) / std, of shape (n c h w). `train` may be empty. `valid` is what choices
    are made on; `test` is read once for each record. `flip` says whether a mirrored image keeps its
    class. `stated` says whether somebody said how pictures are to be seen, or mean and deviation
    were measured because nobody did; `reread` reads the data anew, seen otherwise. `origin` is what
    another process loads the same data from, as JSON; it is empty where Python code made them.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, ...]  # (height, width) of pictures; of other samples all axes but the first
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    preprocess: Preprocess | None = None
    stated: bool = True
    unlabelled: bool = False  # whether a network has to give the labels
    as_given: bool = False  # whether inputs are numbers already, seen as they are
    reread: Callable[[str], Data] | None = field(default=None, repr=False, compare=False)
    origin: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        name: str,
        *,
        root: Path | None = None,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        skip_bad: bool = False,
        preprocess: str | None = None,
        classes: str | None = None,
    ) -> Data:
        """Load a data set by name: digits, cifar10, cifar100, fashion-mnist, or what PATH holds.

        PATH is that of a folder: folder:PATH has a folder for each class, images:PATH pictures
        only, masks:PATH pictures of labels, voc:PATH and coco:PATH boxes. csv:FILE is a table, and
        shards:PATTERN are tars.

        `size` (height, width) and `channels` (1 or 3) default to what the images have; `root` is
        where torchvision keeps its data sets. `preprocess` is how pictures are seen, as in
        `resize(256) | center_crop(224) | normalize("imagenet")`; without it, mean and deviation are
        those of the training images. `classes` are all that the network answers, where the folders
        are some of them: imagenet, a number, or a file. Raises LissomError for what cannot be read,
        unless `skip_bad`.

        >>> Data.of("digits").shape
        (1, 32, 32)
        """

        more: dict[str, Any] = {"channels": channels, "skip_bad": skip_bad, "classes": classes}

        def reading(preprocess: str | None, size: tuple[int, int] | None = None) -> Data:
            read = load(name, root=root, size=size, preprocess=preprocess, **more)
            return completed(read, stated=preprocess is not None)

        origin = {
            "name": name,
            "root": None if root is None else str(root),
            "size": size,
            "preprocess": preprocess,
            **more,
        }
        return replace(reading(preprocess, size), reread=reading, origin=origin)

    @classmethod
    def of_dataset(
        cls,
        test: Any,
        train: Any = None,
        valid: Any = None,
        *,
        preprocess: str | None = None,
        classes: int | Sequence[str] | None = None,
        name: str = "own",
        flip: bool = False,
    ) -> Data:
        """Return data from what a user has: a Dataset, a DataLoader, or a pair of tensors for each split.

        A sample is (input, target). An input of 8-bit integers, or a PIL picture, is seen through
        `preprocess`; one of other numbers, or a tuple or dict of tensors, is taken as it is.
        `classes` are names, or how many the network answers, by default one more than the largest
        target. Without `train`, nothing is learned; without `valid`, a part of `train`, or else of
        `test`, is set apart.
        Raises LissomError for samples of another form.

        >>> x, y = torch.randn(20, 3, 8, 8), torch.arange(20) % 2
        >>> data = Data.of_dataset((x[10:], y[10:]), train=(x[:10], y[:10]))
        >>> data.shape, len(data.train), len(data.valid), len(data.test)
        ((3, 8, 8), 9, 1, 10)
        """
        view = preprocess_of(preprocess) if preprocess else Preprocess((), ())
        if test is None:
            raise LissomError(f"data {name}: expected something to test on, got None")
        given = {"train": train, "valid": valid, "test": test}
        splits = {
            part: dataset_split(value, view, f"data {name}: {part}")
            for part, value in given.items()
            if value is not None
        }
        return of_splits(splits, view, classes, name, flip, stated=preprocess is not None)

    def __post_init__(self) -> None:
        if self.preprocess is None:
            height, width = self.size
            self.preprocess = resizing(
                Preprocess((), (Normalize(mean=self.mean, std=self.std),)), (height, width)
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample: channels, height and width of a picture."""
        return (self.channels, *self.size)

    def labelled_by(self, answers: Callable[[Split], Tensor]) -> Data:
        """Return the data with the labels, numbers of classes, that `answers` gives to each split."""

        def with_labels(split: Split) -> Split:
            assert isinstance(split, (Images, Files))
            return replace(split, labels=answers(split))

        return replace(
            self,
            train=with_labels(self.train),
            valid=with_labels(self.valid),
            test=with_labels(self.test),
            unlabelled=False,
        )

    @property
    def shown_to_networks(self) -> Split:
        """What networks are shown before they are judged: training images, else validation images."""
        return self.train if len(self.train) else self.valid

    def normalised(self, pixels: Tree) -> Tree:
        """Return what the network sees of `pixels` (n c h w, 0..255): (pixels / 255 - mean) / std.

        What was given as numbers is seen as it is.
        """
        if self.as_given:
            return pixels
        mean, std = (
            torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (self.mean, self.std)
        )
        # one tensor is made, not three: a batch of photos is tens of megabytes
        numbers = pixels.to(torch.float32, copy=True)
        return numbers.sub_(255 * mean).div_(255 * std)

    def example(self, count: int = 1) -> Tree:
        """Return the first samples to learn from as the network sees them, images as (count c h w)."""
        split = self.shown_to_networks
        for pixels, _ in split.batches(count, CPU, torch.arange(min(count, len(split)))):
            return self.normalised(pixels)
        raise LissomError(f"data {self.name}: there are no images for training or validation")

    def calibration(self, count: int, seed: int = 0) -> list[Tree]:
        """Return `count` images to learn from, drawn at random, as normalised batches of at most 128."""
        return [images for images, _ in self.labelled(count, seed)]

    def labelled(self, count: int, seed: int = 0) -> list[tuple[Tree, Tree]]:
        """Return the images that `calibration` returns, each batch with its labels."""
        split = self.shown_to_networks
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(split), generator=draw)[:count]
        return [
            (self.normalised(pixels), labels) for pixels, labels in split.batches(128, CPU, order)
        ]

    def preprocessing(self) -> dict[str, Any]:
        """Return what whoever runs an exported file has to know."""
        assert self.preprocess is not None
        if self.as_given:
            return {"preprocess": AS_GIVEN, "classes": list(self.classes)}
        return {
            "preprocess": str(self.preprocess),
            "channels": self.channels,
            "height": self.size[0],
            "width": self.size[1],
            "mean": list(self.mean),
            "std": list(self.std),
            "order": self.preprocess.order if self.channels == 3 else "gray",
            "classes": list(self.classes),
        }


def completed(read: Read, *, stated: bool = True) -> Data:
    """Complete what a source read: split a validation set off where there is none, and measure mean
    and deviation where they are to be the data's own.
    """
    train, valid, test = read.train, read.valid, read.test
    if train is None:
        train = Images(torch.zeros(0, read.channels, *read.size, dtype=torch.uint8), EMPTY)
    elif valid is None:
        train, valid = parted(train)
    assert valid is not None
    preprocess = read.preprocess
    if preprocess.from_data:
        preprocess = preprocess.measured(*statistics(train if len(train) else valid))
    mean, std = preprocess.line(read.channels)
    facts = f"{read.fingerprint} {len(train)} {len(valid)} {len(test)} {read.channels} {read.size}"
    if stated:
        facts += f" {preprocess}"
    return Data(
        name=read.name,
        train=train,
        valid=valid,
        test=read.test,
        classes=read.classes,
        channels=read.channels,
        size=read.size,
        mean=mean,
        std=std,
        flip=read.flip,
        fingerprint=hashlib.sha256(facts.encode()).hexdigest()[:16],
        notes=read.notes,
        preprocess=preprocess,
        stated=stated,
        unlabelled=not read.labelled,
    )


def of_splits(
    splits: dict[str, DatasetSplit],
    view: Preprocess,
    classes: int | Sequence[str] | None,
    name: str,
    flip: bool,
    *,
    stated: bool,
) -> Data:
    """Return data of splits that somebody brought, set apart and measured where that is wanted."""
    fingerprint = fingerprint_of(list(splits.values()))
    notes = list[str]()
    test = splits["test"]
    train = splits.get("train", test.take(EMPTY))
    if "valid" in splits:
        valid = splits["valid"]
    elif len(train):
        train, valid = parted(train)
    else:
        test, valid = parted(test, share=0.2)
        notes.append(
            "nothing is there to learn from: a fifth of what is to be tested on, drawn once and for "
            "all, is for validation and calibration"
        )
    inputs = common_inputs(train, valid, test, name)
    check_inputs(inputs, name, stated=stated)
    pictures = are_pictures(inputs)
    channels, *size = shape_of(inputs)
    if pictures and not view.numbers:
        view = replace(view, numbers=(Normalize(),))
    if view.from_data:
        view = view.measured(*statistics(train if len(train) else valid))
    names = class_names(classes, [split for split in (train, valid, test) if len(split)], notes)
    mean, std = view.line(channels) if pictures else ((0.0,), (1.0,))
    facts = f"{fingerprint} {len(train)} {len(valid)} {len(test)} {view} {flip}"
    return Data(
        name,
        train,
        valid,
        test,
        names,
        channels,
        tuple(size),
        mean,
        std,
        flip,
        hashlib.sha256(facts.encode()).hexdigest()[:16],
        notes=notes,
        preprocess=view,
        stated=stated or not pictures,
        as_given=not pictures,
    )
