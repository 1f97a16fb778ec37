"""A data set for segmentation: images, each with a label image of the same name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import LissomError, counted
from ..language.preprocess import Preprocess, Size
from .folder import MIN_IMAGES, PARTS, arrange_parts, image_endings
from .picture import open_image, size_of
from .reading import Reading
from .split import Files, Images, SourceData

OUTSIDE_LABEL = 255  # the label of pixels that preprocessing adds

Pair = tuple[Path, Path]  # an image and its label image


def read_masks(
    root: Path,
    size: tuple[int, int] | None,
    channels: int,
    skip_bad: bool,
    preprocess: Preprocess,
    stated: tuple[str, ...] | None,
) -> SourceData:
    """Read `train`, `valid` (or `val`) and `test`, each with a folder `images` and one `labels`.

    Missing parts are set apart as for folders. A label image is gray or has a palette. Its values
    are classes; 255 is ignored. `preprocess` is applied to labels as well, without interpolation.
    Raises LissomError for images without labels, for labels of another size and, unless `skip_bad`,
    for the first file that cannot be decoded.
    """
    parts = {
        part: image_label_pairs(folder)
        for part in PARTS
        if (folder := part_in(root, part)) is not None
    }
    check_parts(parts, root)
    arranged_pairs, notes = arrange_parts({part: {"": pairs} for part, pairs in parts.items()})
    pairs = {part: groups[""] for part, groups in arranged_pairs.items()}
    images = [image for part in pairs.values() for image, _ in part]
    reading = Reading.of(images, size, channels, preprocess, skip_bad=skip_bad)
    splits: dict[str, Images | Files] = {}
    bad = dict[str, int]()
    for part, files in pairs.items():
        readable, labels = labels_in(files, reading)
        splits[part], left_out = reading.split([image for image, _ in readable], labels)
        left_out += len(files) - len(readable)
        if left_out:
            bad[part] = left_out
            notes.append(f"{part}: {counted(left_out, 'unreadable file')} left out")
    classes = stated or classes_up_to_largest(splits)
    return SourceData(
        f"masks:{root.name}",
        splits.get("train"),
        splits.get("valid"),
        splits["test"],
        classes,
        channels=reading.channels_out,
        size=reading.size,
        flip=True,
        # the names are saved with each network, so stated ones are part of its key
        fingerprint=f"{fingerprint_of(pairs)} {stated or len(classes)}"
        + (f" {bad}" if bad else ""),
        preprocess=reading.preprocess,
        notes=notes,
    )


def check_parts(parts: dict[str, list[Pair]], root: Path) -> None:
    """Raise LissomError if there is no part, or only one with too few images to be split."""
    if not parts:
        raise LissomError(
            f"data: {root} has no folder 'train', 'valid' or 'test' of images; expected "
            "test/images/* and test/labels/*, and train and valid likewise, or some of them"
        )
    if len(parts) == 1:
        ((part, pairs),) = parts.items()
        if len(pairs) < MIN_IMAGES:
            raise LissomError(
                f"data: {root} holds only the part '{part}', with {counted(len(pairs), 'image')}; at "
                f"least {MIN_IMAGES} are needed to set others apart from them; expected train/images/*, "
                "valid/images/* and test/images/*, some of them"
            )


def part_in(root: Path, part: str) -> Path | None:
    """Return the folder of a part, None if there is none."""
    names = ("valid", "val") if part == "valid" else (part,)
    return next((root / name for name in names if (root / name / "images").is_dir()), None)


def image_label_pairs(folder: Path) -> list[Pair]:
    """Return each image of a part with its label image, matched by name without extension."""
    endings = image_endings()

    def pictures(inside: Path) -> dict[str, Path]:
        if not inside.is_dir():
            raise LissomError(f"data: there is no folder {inside}")
        return {
            path.stem: path for path in sorted(inside.iterdir()) if path.suffix.lower() in endings
        }

    images = pictures(folder / "images")
    labels = pictures(folder / "labels")
    if not images:
        raise LissomError(f"data: {folder / 'images'} holds no image")
    missing = sorted(images.keys() - labels.keys())
    if missing:
        raise LissomError(
            f"data: {counted(len(missing), 'image')} of {folder / 'images'} have no label image of "
            f"that name in {folder / 'labels'}: {missing[0]}"
        )
    return [(path, labels[name]) for name, path in images.items()]


def labels_in(files: list[Pair], reading: Reading) -> tuple[list[Pair], Tensor]:
    """Return the pairs of an image and its label image that are read, and their labels (n h w),
    uint8, after the preprocessing.

    A pair with a file that is no image is left out, or raises LissomError unless bad files are
    skipped.
    """
    view = reading.preprocess.for_labels(OUTSIDE_LABEL)
    readable = list[Pair]()
    labels = list[np.ndarray]()
    for image, path in files:
        try:
            size = size_of(image)
            with open_image(path) as picture:
                values = np.asarray(picture)
        except LissomError:
            if not reading.skip_bad:
                raise
            continue
        readable.append((image, path))
        labels.append(preprocessed_labels(values, size, reading, view, path))
    if not labels:
        raise LissomError(
            f"data: not one image of {files[0][0].parent} can be read with its labels"
        )
    return readable, torch.from_numpy(np.stack(labels))


def preprocessed_labels(
    values: np.ndarray, size: Size, reading: Reading, view: Preprocess, path: Path
) -> np.ndarray:
    """Return the labels (h w) of an image of `size` (width, height), after the preprocessing `view`.

    `values` are those of its label image. Raises LissomError if they do not fit.
    """
    from PIL import Image

    if values.ndim != 2 or values.min() < 0 or values.max() > 255:
        raise LissomError(
            f"data: {path}: expected a label image of one channel with a class from 0 to 255 "
            f"at each pixel, got {values.shape} {values.dtype}"
        )
    picture = Image.fromarray(values.astype(np.uint8))
    if picture.size != size:
        raise LissomError(
            f"data: {path}: expected the size of its image, {size[0]}x{size[1]}, got "
            f"{picture.width}x{picture.height}"
        )
    labels = np.asarray(view.shown(picture))
    if labels.shape != reading.size:
        raise LissomError(
            f"data: {path}: its labels come out as {labels.shape}, images as {reading.size}"
        )
    return labels


def classes_up_to_largest(splits: dict[str, Images | Files]) -> tuple[str, ...]:
    """Return numbers as class names, up to the largest label in the splits."""
    largest = 0
    for split in splits.values():
        labels = split.labels
        inside = labels[labels != OUTSIDE_LABEL]
        largest = max(largest, int(inside.max()) if inside.numel() else 0)
    return tuple(map(str, range(largest + 1)))


def fingerprint_of(pairs: dict[str, list[Pair]]) -> str:
    """Return a hash that changes when a file is added, removed, renamed or changes its length."""
    digest = hashlib.sha256()
    for part, files in sorted(pairs.items()):
        for image, label in files:
            line = f"{part} {image.name} {image.stat().st_size} {label.stat().st_size}\n"
            digest.update(line.encode(errors="surrogatepass"))
    return digest.hexdigest()
