"""A data set for a task: three splits, classes, and the preprocessing of pixels."""

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
from .picture import with_only_resize
from .published import preprocess_of
from .source import load
from .split import CPU, Files, Images, SourceData, Split
from .statistics import mean_and_std
from .validation import set_apart

AS_GIVEN = "as given"  # the preprocessing of inputs that are used as they are
EMPTY = torch.zeros(0, dtype=torch.int64)  # labels of no images


@dataclass
class Data:
    """Splits of images with labels, and their preprocessing.

    Splits hold images after the image operations; the network's input is
    (pixels / 255 - mean) / std, of shape (n c h w). `train` may be empty. Choices are made on
    `valid`; `test` is read once for each record. `flip` says whether a mirrored image keeps its
    class. `stated` says whether the user stated the preprocessing; otherwise mean and standard
    deviation were measured. `reread` reads the data again with another preprocessing. `origin` has
    the arguments, as JSON, with which another process loads the same data; it is empty if the data
    come from Python code.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, ...]  # (height, width) of images; all axes but the first of other samples
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    preprocess: Preprocess | None = None
    stated: bool = True
    unlabelled: bool = False  # whether a network must predict the labels
    as_given: bool = False  # whether inputs are numbers that are used as they are
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
        """Load a data set by name: digits, cifar10, cifar100, fashion-mnist, or files at a path.

        folder:PATH has a folder for each class, images:PATH only images, masks:PATH label
        images, voc:PATH and coco:PATH boxes. csv:FILE is a table, and shards:PATTERN are tars.

        `size` (height, width) and `channels` (1 or 3) default to those of the images; `root` is
        where torchvision keeps its data sets. `preprocess` is a text such as
        `resize(256) | center_crop(224) | normalize("imagenet")`; without it, mean and standard
        deviation are those of the training images. `classes` are all classes that the network
        predicts, if the data hold only some of them: imagenet, a number, or a file. Raises
        LissomError for files that cannot be read, unless `skip_bad`.

        >>> Data.of("digits").shape
        (1, 32, 32)
        """

        more: dict[str, Any] = {"channels": channels, "skip_bad": skip_bad, "classes": classes}

        def read(preprocess: str | None, size: tuple[int, int] | None = None) -> Data:
            source = load(name, root=root, size=size, preprocess=preprocess, **more)
            return data_of(source, stated=preprocess is not None)

        origin = {
            "name": name,
            "root": None if root is None else str(root),
            "size": size,
            "preprocess": preprocess,
            **more,
        }
        return replace(read(preprocess, size), reread=read, origin=origin)

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
        """Return a user's own data: a Dataset, a DataLoader, or a pair of tensors for each split.

        A sample is (input, target). An input of 8-bit integers, or a PIL image, is preprocessed;
        other numbers, and tuples or dicts of tensors, are used as they are. `classes` are names, or
        the number of classes that the network predicts, by default the largest target plus one.
        Without `train`, no step can learn. Without `valid`, a part of `train`, or else of `test`,
        is set apart. Raises LissomError for samples of another form.

        >>> x, y = torch.randn(20, 3, 8, 8), torch.arange(20) % 2
        >>> data = Data.of_dataset((x[10:], y[10:]), train=(x[:10], y[:10]))
        >>> data.shape, len(data.train), len(data.valid), len(data.test)
        ((3, 8, 8), 9, 1, 10)
        """
        operations = preprocess_of(preprocess) if preprocess else Preprocess((), ())
        if test is None:
            raise LissomError(f"data {name}: expected something to test on, got None")
        given = {"train": train, "valid": valid, "test": test}
        splits = {
            part: dataset_split(value, operations, f"data {name}: {part}")
            for part, value in given.items()
            if value is not None
        }
        return data_of_splits(
            splits, operations, classes, name, flip, stated=preprocess is not None
        )

    def __post_init__(self) -> None:
        if self.preprocess is None:
            height, width = self.size
            self.preprocess = with_only_resize(
                Preprocess((), (Normalize(mean=self.mean, std=self.std),)), (height, width)
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample: channels, height and width of an image."""
        return (self.channels, *self.size)

    def labelled_by(self, answers: Callable[[Split], Tensor]) -> Data:
        """Return the data with the labels, class indices, that `answers` gives for each split."""

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
    def calibration_split(self) -> Split:
        """The samples for calibration and examples: training images, else validation images."""
        return self.train if len(self.train) else self.valid

    def normalised(self, pixels: Tree) -> Tree:
        """Return the network's input for `pixels` (n c h w, 0..255): (pixels / 255 - mean) / std.

        Inputs that are numbers already (`as_given`) stay as they are.
        """
        if self.as_given:
            return pixels
        mean, std = (
            torch.tensor(v, device=pixels.device).view(1, -1, 1, 1) for v in (self.mean, self.std)
        )
        # in place: one new tensor instead of three, because a batch of photos is tens of megabytes
        numbers = pixels.to(torch.float32, copy=True)
        return numbers.sub_(255 * mean).div_(255 * std)

    def example(self, count: int = 1) -> Tree:
        """Return the first training (else validation) samples as network inputs (count c h w)."""
        split = self.calibration_split
        for pixels, _ in split.batches(count, CPU, torch.arange(min(count, len(split)))):
            return self.normalised(pixels)
        raise LissomError(f"data {self.name}: there are no images for training or validation")

    def calibration(self, count: int, seed: int = 0) -> list[Tree]:
        """Return `count` random training (else validation) images, normalised, in batches of 128."""
        return [images for images, _ in self.labelled(count, seed)]

    def labelled(self, count: int, seed: int = 0) -> list[tuple[Tree, Tree]]:
        """Return the batches that `calibration` returns, each with its labels."""
        split = self.calibration_split
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(split), generator=draw)[:count]
        return [
            (self.normalised(pixels), labels) for pixels, labels in split.batches(128, CPU, order)
        ]

    def preprocessing(self) -> dict[str, Any]:
        """Return the preprocessing and classes that a user of an exported file needs."""
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


def data_of(source: SourceData, *, stated: bool = True) -> Data:
    """Return the data of a source, completed.

    Splits a validation set off `train` if there is none, and measures mean and standard deviation
    if `preprocess` takes them from the data.
    """
    train, valid, test = source.train, source.valid, source.test
    if train is None:
        train = Images(torch.zeros(0, source.channels, *source.size, dtype=torch.uint8), EMPTY)
    elif valid is None:
        train, valid = set_apart(train)
    assert valid is not None
    preprocess = source.preprocess
    if preprocess.from_data:
        preprocess = preprocess.measured(*mean_and_std(train if len(train) else valid))
    mean, std = preprocess.line(source.channels)
    facts = f"{source.fingerprint} {len(train)} {len(valid)} {len(test)} {source.channels} {source.size}"
    if stated:
        facts += f" {preprocess}"
    return Data(
        name=source.name,
        train=train,
        valid=valid,
        test=source.test,
        classes=source.classes,
        channels=source.channels,
        size=source.size,
        mean=mean,
        std=std,
        flip=source.flip,
        fingerprint=hashlib.sha256(facts.encode()).hexdigest()[:16],
        notes=source.notes,
        preprocess=preprocess,
        stated=stated,
        unlabelled=not source.labelled,
    )


def data_of_splits(
    splits: dict[str, DatasetSplit],
    preprocess: Preprocess,
    classes: int | Sequence[str] | None,
    name: str,
    flip: bool,
    *,
    stated: bool,
) -> Data:
    """Return data of a user's splits.

    Sets missing splits apart, and measures mean and standard deviation if `view` takes them from
    the data. Raises LissomError for inputs that do not fit.
    """
    fingerprint = fingerprint_of(list(splits.values()))
    notes = list[str]()
    test = splits["test"]
    train = splits.get("train", test.take(EMPTY))
    if "valid" in splits:
        valid = splits["valid"]
    elif len(train):
        train, valid = set_apart(train)
    else:
        test, valid = set_apart(test, share=0.2)
        notes.append(
            "there is no training data: a fixed random fifth of the test data is used for "
            "validation and calibration"
        )
    inputs = common_inputs(train, valid, test, name)
    check_inputs(inputs, name, stated=stated)
    pictures = are_pictures(inputs)
    channels, *size = shape_of(inputs)
    if pictures and not preprocess.numbers:
        preprocess = replace(preprocess, numbers=(Normalize(),))
    if preprocess.from_data:
        preprocess = preprocess.measured(*mean_and_std(train if len(train) else valid))
    every = [split for split in (train, valid, test) if len(split)]
    names = class_names(classes, every, notes, name)
    mean, std = preprocess.line(channels) if pictures else ((0.0,), (1.0,))
    facts = f"{fingerprint} {len(train)} {len(valid)} {len(test)} {preprocess} {flip}"
    if classes is not None:  # the names are saved with each network, so they are part of its key
        facts += f" {names}"
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
        preprocess=preprocess,
        stated=stated or not pictures,
        as_given=not pictures,
    )
