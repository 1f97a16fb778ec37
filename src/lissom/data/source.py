"""Data sources: the names that --data takes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LissomError, unknown
from ..language.preprocess import SETS, Preprocess
from ..preprocess.resize import Resize
from .classes import classes_named
from .published import LIBRARIES, preprocess_of
from .tars import tars_in

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from .split import SourceData

BUILT_IN_NAMES = ("digits", "cifar10", "cifar100", "fashion-mnist")
KNOWN = (
    *BUILT_IN_NAMES,
    "folder:PATH",
    "images:PATH",
    "masks:PATH",
    "csv:FILE",
    "coco:PATH",
    "voc:PATH",
    "shards:PATTERN",
    "file.py:NAME",
)
PREFIX_BY_ENDING = {".csv": "csv", ".json": "coco", ".tar": "shards"}  # file extension -> prefix
FOLDER_PREFIXES = ("folder:", "images:", "masks:", "voc:")
# sources whose classes --classes may name
CLASSES_PREFIXES = ("folder:", "masks:", "csv:", "coco:", "voc:", "shards:")


def check_spec(
    spec: str,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    preprocess: str | None = None,
    classes: str | None = None,
) -> None:
    """Raise unless `spec` names a data set and the other settings fit it; reads no image."""
    if preprocess is not None and preprocess.partition(":")[0] not in LIBRARIES:
        Preprocess.of(preprocess)
    if classes is not None:
        if not spec.startswith(CLASSES_PREFIXES) and not is_own_data(spec):
            raise LissomError(
                "--classes: it is for folder:PATH, masks:PATH, csv:FILE, coco:PATH, voc:PATH and "
                "shards:PATTERN; "
                f"{spec} has classes of its own"
            )
        named = classes_named(classes)
        if len(named) == 1 and not spec.startswith(("coco:", "voc:")) and not is_own_data(spec):
            raise LissomError(
                "--classes: expected at least 2 classes, got 1; boxes of one class, as in coco:PATH, "
                "are the exception"
            )
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise LissomError(f"data: size: expected (height, width) of at least 1, got {size}")
    if channels not in (None, 1, 3):
        raise LissomError(f"data: expected 1 or 3 channels, got {channels}")
    if is_own_data(spec):
        place = spec.rpartition(":")[0]
        if not os.path.isfile(place):
            raise LissomError(f"data: there is no file {place}")
    elif spec.startswith("csv:"):
        if not os.path.isfile(os.path.expanduser(spec[4:])):
            raise LissomError(f"data: there is no file {spec[4:]!r}")
    elif spec.startswith("coco:"):
        if not spec[5:] or not os.path.exists(os.path.expanduser(spec[5:])):
            raise LissomError(f"data: {spec[5:]!r} is neither a folder nor a JSON file")
    elif spec.startswith("shards:"):
        tars_in(spec[7:])
    elif spec.startswith(FOLDER_PREFIXES):
        place = spec.partition(":")[2]
        if not place or not os.path.isdir(os.path.expanduser(place)):
            raise LissomError(f"data: {place!r} is not a folder")
    elif spec not in BUILT_IN_NAMES:
        if spec.endswith(".py"):
            raise LissomError(
                f"data: {spec!r} says no name in that file; expected {spec}:NAME, a Dataset, a "
                "DataLoader or a function that returns some"
            )
        if os.path.isdir(os.path.expanduser(spec)):
            raise LissomError(
                f"data: there is no data set '{spec}', but a folder; folder:{spec} names it"
            )
        kind = next((k for ends, k in PREFIX_BY_ENDING.items() if spec.endswith(ends)), None)
        if kind is not None:
            raise LissomError(
                f"data: there is no data set '{spec}'; {kind}:{spec} names such a file"
            )
        raise unknown("data", "data set", spec, KNOWN)


def is_own_data(spec: str) -> bool:
    """Return whether a text names data in a Python file, such as loaders.py:make."""
    return spec.rpartition(":")[0].endswith(".py")


def load(
    spec: str,
    *,
    root: Path | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    preprocess: str | None = None,
    classes: str | None = None,
) -> SourceData:
    """Load a data set by name: one of KNOWN.

    `size` (height, width) and `channels` (1 or 3) default to those of the images. `preprocess` is
    applied to each image; by default it is a resize to `size`, and normalization by the data's
    mean and standard deviation. `classes` are all classes that the network predicts, if the data
    hold only some of them.
    """
    check_spec(spec, size, channels, preprocess, classes)
    operations = preprocess_of(preprocess or SETS["data"])
    stated = classes_named(classes) if classes else None
    folder = Path(os.path.expanduser(spec.partition(":")[2]))
    if spec.startswith("csv:"):
        from .table import read_table

        return read_table(folder, size, channels or 3, skip_bad, operations, stated)
    if spec.startswith("masks:"):
        from .masks import read_masks

        return read_masks(folder, size, channels or 3, skip_bad, operations, stated)
    if spec.startswith("coco:"):
        from .coco import read_coco

        return read_coco(folder, size, channels or 3, skip_bad, operations, stated)
    if spec.startswith("shards:"):
        from .shards import read_shards

        return read_shards(spec[7:], size, channels or 3, skip_bad, operations, stated)
    if spec.startswith("voc:"):
        from .voc import read_voc

        return read_voc(folder, size, channels or 3, skip_bad, operations, stated)
    if spec.startswith(FOLDER_PREFIXES):
        from .folder import read_folder

        return read_folder(
            folder,
            size,
            channels or 3,
            skip_bad,
            operations,
            stated,
            labelled=not spec.startswith("images:"),
        )
    if size is not None and operations.pictures:
        from .reading import two_sizes_error

        raise two_sizes_error(operations)
    if operations.pictures:
        native_size = (8, 8) if spec == "digits" else None
        return with_preprocessing(
            load(spec, root=root, size=native_size, channels=channels), operations
        )
    if spec == "digits":
        return digits(size or (32, 32), channels or 1, operations)
    return from_torchvision(spec, root, size, channels, operations)


def with_preprocessing(source: SourceData, preprocess: Preprocess) -> SourceData:
    """Return a data set in memory with its images preprocessed, at once or batch by batch."""
    from .picture import preprocess_pixels
    from .split import MAX_BYTES_IN_MEMORY, Images, PreprocessedImages

    parts = {"train": source.train, "valid": source.valid, "test": source.test}
    in_memory = {name: part for name, part in parts.items() if isinstance(part, Images)}
    first = preprocess_pixels(in_memory["test"].pixels[:1], preprocess)
    changed: dict[str, Any] = {
        name: PreprocessedImages(part, preprocess) for name, part in in_memory.items()
    }
    if sum(map(len, in_memory.values())) * first.numel() <= MAX_BYTES_IN_MEMORY:
        for name, part in in_memory.items():
            changed[name] = Images(preprocess_pixels(part.pixels, preprocess), part.labels)
    channels, height, width = first.shape[1:]
    return replace(
        source, **changed, channels=channels, size=(height, width), preprocess=preprocess
    )


def digits(size: tuple[int, int], channels: int, preprocess: Preprocess) -> SourceData:
    """Return scikit-learn's embedded digits (1,797 images of 8x8), enlarged; a fifth is the test split.

    Source: E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI
    repository.
    """
    import numpy as np
    import torch

    from .digits import read_digits, stratified_split
    from .split import Images, SourceData

    images, labels = read_digits()
    pixels = np.round(images * (255 / 16)).astype(np.uint8)[:, None]

    def part(order: np.ndarray) -> Images:
        return Images(
            resize_pixels(torch.from_numpy(pixels[order]), size).repeat(1, channels, 1, 1),
            torch.from_numpy(labels[order]).long(),
        )

    train, test = stratified_split(labels, 0.2, seed=0)
    return SourceData(
        "digits",
        part(train),
        None,
        part(test),
        tuple("0123456789"),
        channels=channels,
        size=size,
        flip=False,
        fingerprint="scikit-learn digits",
        preprocess=with_resize(preprocess, (8, 8), size),
    )


def from_torchvision(
    spec: str,
    root: Path | None,
    size: tuple[int, int] | None,
    channels: int | None,
    preprocess: Preprocess,
) -> SourceData:
    """Return CIFAR-10, CIFAR-100 or Fashion-MNIST from `root`; download it if it is not there."""
    import numpy as np
    import torch
    import torchvision.datasets as known

    from .split import Images, SourceData

    kind = {
        "cifar10": known.CIFAR10,
        "cifar100": known.CIFAR100,
        "fashion-mnist": known.FashionMNIST,
    }[spec]
    where = root or Path.home() / ".cache" / "lissom" / "data"
    parts = []
    classes = ()
    native_size = (0, 0)
    native_channels = 1 if spec == "fashion-mnist" else 3
    for train in (True, False):
        try:
            dataset = kind(str(where), train=train, download=False)
        except RuntimeError:
            try:
                dataset = kind(str(where), train=train, download=True)
            except Exception as error:
                # downloads use many protocols, each with its own errors
                raise LissomError(
                    f"data {spec}: not found in {where}, or damaged, and cannot be "
                    f"downloaded ({error}); "
                    "--data-root names a folder that holds it"
                ) from None
        except Exception as error:  # a damaged file makes its reader raise errors of many kinds
            raise LissomError(
                f"data {spec}: what {where} holds cannot be read "
                f"({error or type(error).__name__}); without "
                "these files it is downloaded again"
            ) from None
        array = np.asarray(dataset.data)
        pixels = torch.from_numpy(
            array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2).copy()
        )
        wanted = channels or native_channels
        if wanted != native_channels:
            pixels = (
                pixels.repeat(1, 3, 1, 1)
                if wanted == 3
                else pixels.float().mean(1, keepdim=True).byte()
            )
        labels = torch.as_tensor(dataset.targets).long()
        classes = tuple(dataset.classes)
        if not 0 < len(pixels) == len(labels) or not 0 <= int(labels.min()) <= int(
            labels.max()
        ) < len(classes):
            raise LissomError(
                f"data {spec}: what {where} holds is damaged: {len(pixels)} images "
                f"and {len(labels)} labels "
                f"of {len(classes)} classes; without these files it is downloaded again"
            )
        native_size = (pixels.shape[2], pixels.shape[3])
        size = size or native_size
        parts.append(Images(resize_pixels(pixels, size), labels))
    shape = parts[0].pixels.shape
    return SourceData(
        spec,
        parts[0],
        None,
        parts[1],
        classes,
        channels=shape[1],
        size=(shape[2], shape[3]),
        flip=True,
        fingerprint=spec,
        preprocess=with_resize(preprocess, native_size, (shape[2], shape[3])),
    )


def with_resize(
    preprocess: Preprocess, before: tuple[int, int], size: tuple[int, int]
) -> Preprocess:
    """Return a preprocessing that does to images what `resize_pixels` does.

    It resizes from the size `before` (height, width) to `size`. Only for smaller images does it
    matter that `resize_pixels` does not average.
    """
    smaller = size[0] < before[0] or size[1] < before[1]
    return replace(preprocess, pictures=(Resize(*size, antialias=not smaller),))


def resize_pixels(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return uint8 images (n c h w), resized bilinearly, without averaging, if their size differs."""
    import torch.nn.functional as F

    if tuple(pixels.shape[2:]) == tuple(size):
        return pixels
    return F.interpolate(pixels.float(), size, mode="bilinear").round().clamp(0, 255).byte()
