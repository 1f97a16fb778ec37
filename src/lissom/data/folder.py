"""A data set from folders of images: `train`, `valid` and `test`, each with a folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TypeVar
from unicodedata import category

import numpy as np
import torch

from ..errors import LissomError, counted
from ..language.preprocess import Preprocess
from .classes import by_name, classes_of_network
from .digits import stratified_split
from .picture import FORMATS, size_of
from .reading import Reading
from .split import Files, Images, SourceData
from .tars import File, Member

SIZES_COMPARED = 100  # images of each class whose sizes are compared
PARTS = ("train", "valid", "test")
MIN_IMAGES = 10  # images without labels, which are split into three parts
SMALLER_SHARE = 0.2  # of the images for the smaller part, if a folder is split into two
SPLIT_SEED = 22

ImagesByClass = dict[str, list[Path]]  # class -> its images
Sample = TypeVar("Sample")  # an image's path, or an object that holds it
Picture = TypeVar("Picture", Path, Member)


def read_folder(
    root: Path,
    size: tuple[int, int] | None,
    channels: int,
    skip_bad: bool,
    preprocess: Preprocess,
    stated: tuple[str, ...] | None = None,
    *,
    labelled: bool = True,
) -> SourceData:
    """Read a data set from a folder; any of `train`, `valid` and `test` may be missing.

    If it is not `labelled`, all images in it and in its subfolders form one class without a name.

    Images are preprocessed, or resized to `size` (height, width) if `preprocess` has no image
    operations. `stated` are all classes that the network predicts; the folders may be some of them.
    Raises LissomError for an empty class, classes that do not fit and, unless `skip_bad`, for the
    first file that cannot be decoded.
    """
    folders = parts_in(root, stated) if labelled else {"all": {"": images_in(root)}}
    classes = classes_in(root, folders, stated) if labelled else ("",)
    return read_images_by_class(
        f"{'folder' if labelled else 'images'}:{root.name}",
        folders,
        classes,
        fingerprint_of(folders),
        size,
        channels,
        skip_bad,
        preprocess,
        labelled=labelled,
    )


def read_images_by_class(
    name: str,
    folders: Mapping[str, dict[str, list[Picture]]],
    classes: tuple[str, ...],
    fingerprint: str,
    size: tuple[int, int] | None,
    channels: int,
    skip_bad: bool,
    preprocess: Preprocess,
    *,
    labelled: bool = True,
) -> SourceData:
    """Read the images that were found for each class in each part."""
    own = classes == tuple(sorted(names_in(folders)))
    splits, notes = arrange_parts(folders)
    every = list(chain(*(chain(*found.values()) for found in splits.values())))
    reading = Reading.of(every, size, channels, preprocess, skip_bad=skip_bad)
    if size is None and not preprocess.pictures and sizes_differ(splits, reading.size):
        notes.append(
            "images of other sizes are resized to {}x{} (height x width), the size of the first; "
            "--size says another".format(*reading.size)
        )
    bad = dict[str, int]()
    read = dict[str, Images | Files]()
    for part, found in splits.items():
        read[part], left_out = labelled_split(reading, found, classes, part)
        if left_out:
            bad[part] = left_out
            notes.append(f"{part}: {counted(left_out, 'unreadable file')} left out")
    return SourceData(
        name,
        read.get("train"),
        read.get("valid"),
        read["test"],
        classes if labelled else (),
        channels=reading.channels_out,
        size=reading.size,
        flip=True,
        fingerprint=f"{fingerprint} {bad}" + ("" if own else f" {classes}"),
        preprocess=reading.preprocess,
        notes=notes,
        labelled=labelled,
    )


def parts_in(root: Path, stated: tuple[str, ...] | None) -> dict[str, ImagesByClass]:
    """Return the images of each class in each part of a folder.

    A folder that holds only class folders is one part, `all`; a class may then be called like a
    part. Raises LissomError if there are none.
    """
    least = 1 if stated else 2
    parts = dict[str, Path]()
    for part in PARTS:
        here = root / part
        if part == "valid" and not here.is_dir():
            here = root / "val"
        if here.is_dir():
            parts[part] = here
    beside = [child for child in folders_in(root) if child not in parts.values()]
    if parts and (not beside or any(folders_in(here) for here in parts.values())):
        return {part: classes_of(here, least) for part, here in parts.items()}
    if not beside:
        raise LissomError(
            f"data: {root} holds no folder of images; expected train/<class>/*, valid/<class>/* "
            "and test/<class>/*, some of them, or <class>/*"
        )
    return {"all": classes_of(root, least)}


def images_in(root: Path) -> list[Path]:
    """Return every image file in a folder and its subfolders, sorted by path."""
    endings = image_endings()
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in endings)
    if len(paths) < MIN_IMAGES:
        raise LissomError(
            f"data: {root} holds {counted(len(paths), 'image')}; at least {MIN_IMAGES} are needed"
        )
    return paths


def image_endings() -> set[str]:
    """Return the extensions of image files."""
    from PIL import Image

    return {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


def classes_in(
    root: Path, folders: dict[str, ImagesByClass], stated: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return the classes in the order of the network's outputs.

    Raises LissomError if the classes of the parts differ and no list of classes explains it.
    """
    names = sorted(names_in(folders))
    classes = classes_of_network(names, stated)
    if stated is not None or classes != tuple(names) or "train" not in folders:
        return classes
    for part, found in folders.items():
        missing = sorted(set(folders["train"]) - set(found))
        extra = sorted(set(found) - set(folders["train"]))
        if missing or extra:
            raise LissomError(
                f"data: the classes of {root / part} differ from those of train: "
                f"missing {missing or 'none'}, not in train {extra or 'none'}; --classes names all "
                "that the network answers, of which a part may hold some"
            )
    return classes


def names_in(folders: Mapping[str, Mapping[str, object]]) -> set[str]:
    """Return the names of all class folders."""
    return set(chain(*folders.values()))


def fingerprint_of(folders: dict[str, ImagesByClass]) -> str:
    """Return a hash that changes when a file is added, removed, renamed or changes its length."""
    digest = hashlib.sha256()
    for part, found in sorted(folders.items()):
        for paths in found.values():
            for path in paths:
                line = f"{part} {path.parent.name} {path.name} {path.stat().st_size}\n"
                digest.update(line.encode(errors="surrogatepass"))  # names need not be UTF-8
    return digest.hexdigest()


def arrange_parts(
    folders: Mapping[str, dict[str, list[Sample]]],
) -> tuple[dict[str, dict[str, list[Sample]]], list[str]]:
    """Return the parts for training, validation and test, with notes on parts that were replaced.

    No test image is trained or calibrated on. If one folder has to be split into two parts, a fifth
    of it, the same images every time, becomes the smaller one.
    """
    if "all" in folders or set(folders) == {"train"}:
        (whole,) = folders.values()
        rest, test = split_by_class(whole)
        return {"train": rest, "test": test}, [
            "there is no part 'test': a fifth of the images, drawn once and for all, is the test set"
        ]
    if set(folders) in ({"test"}, {"valid"}):
        (whole,) = folders.values()
        test, valid = split_by_class(whole)
        return {"valid": valid, "test": test}, [
            f"there is only the part '{next(iter(folders))}': a fifth of its images, drawn once "
            "and for all, is for validation and calibration, the rest is the test set"
        ]
    if "test" not in folders:
        return {"train": folders["train"], "test": folders["valid"]}, [
            "there is no part 'test': 'valid' is the test set, and choices are made on images "
            "of 'train'"
        ]
    return dict(folders), []


def split_by_class(
    images: dict[str, list[Sample]],
) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """Split images into a larger and a smaller part, with nearly the same share of each class."""
    pairs = [(name, sample) for name, samples in images.items() for sample in samples]
    names = list(images)
    labels = np.array([names.index(name) for name, _ in pairs])
    parts = list[dict[str, list[Sample]]]()
    for places in stratified_split(labels, SMALLER_SHARE, SPLIT_SEED):
        part = dict[str, list[Sample]]()
        for place in places:
            name, sample = pairs[place]
            part.setdefault(name, []).append(sample)
        parts.append(part)
    return parts[0], parts[1]


def classes_of(folder: Path, least: int = 2) -> ImagesByClass:
    """Return the image files of each class folder, both sorted by name."""
    endings = image_endings()
    found = {}
    for child in folders_in(folder):
        # class names are written into records and exported files
        if any(category(letter) in ("Cc", "Cs") for letter in child.name):
            raise LissomError(
                f"data: the class folder {child} has a name with control "
                "characters, or one that is not "
                "UTF-8; rename it"
            )
        found[child.name] = sorted(
            p for p in child.iterdir() if p.suffix.lower() in endings and p.is_file()
        )
        if not found[child.name]:
            raise LissomError(f"data: the class folder {child} holds no image")
    if len(found) < least:
        raise LissomError(
            f"data: {folder} holds {len(found)} class folders; at least {least} are needed"
        )
    return found


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without hidden ones."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def sizes_differ(splits: Mapping[str, Mapping[str, Sequence[File]]], size: tuple[int, int]) -> bool:
    """Return whether one of the first images of a class has another size in its header."""
    for found in splits.values():
        for path in chain(*(paths[:SIZES_COMPARED] for paths in found.values())):
            # unreadable files are reported elsewhere
            with suppress(LissomError):
                if size_of(path) != (size[1], size[0]):
                    return True
    return False


def labelled_split(
    reading: Reading, found: Mapping[str, Sequence[File]], classes: tuple[str, ...], part: str
) -> tuple[Images | Files, int]:
    """Return the images of a part with their class indices, in this order, and the number left out.

    Raises LissomError if no image of a class can be read.
    """
    numbers = by_name(classes)
    named = sorted(found.items(), key=lambda item: numbers[item[0]])
    paths = list(chain(*(of_class for _, of_class in named)))
    counts = torch.tensor([len(of_class) for _, of_class in named])
    labels = torch.tensor([numbers[name] for name, _ in named]).repeat_interleave(counts)
    split, left_out = reading.split(paths, labels)
    for name in found if left_out else ():
        if not (split.labels == numbers[name]).any():
            raise LissomError(f"data: not one image of {part}/{name} can be read")
    return split, left_out
