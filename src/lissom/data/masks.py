"""A data set for segmentation: images, each with a label image of the same name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import LissomError, counted
from ..language.preprocess import Preprocess
from .folder import PARTS, image_endings
from .reading import Reading
from .split import Files, Images, Read

OUTSIDE = 255  # the label of pixels that preprocessing adds


def read_masks(
    root: Path,
    size: tuple[int, int] | None,
    channels: int,
    preprocess: Preprocess,
    stated: tuple[str, ...] | None,
) -> Read:
    """Read `train`, `valid` (or `val`) and `test`, each with a folder `images` and one `labels`.

    A label image is gray or has a palette. Its values are classes; 255 is ignored. `preprocess`
    is applied to labels as well, without interpolation. Raises LissomError for images without
    labels, and for labels of another size.
    """
    pairs = {part: paired(found) for part in PARTS if (found := part_in(root, part)) is not None}
    if "test" not in pairs:
        if "valid" not in pairs:
            raise LissomError(
                f"data: {root} has no folder 'test'; expected test/images/* and test/labels/*, and "
                "train and valid likewise"
            )
        pairs["test"] = pairs.pop("valid")
    images = [image for part in pairs.values() for image, _ in part]
    reading = Reading.of(images, size, channels, preprocess)
    splits: dict[str, Images | Files] = {}
    for part, files in pairs.items():
        labels = labels_in(files, reading.preprocess, reading.size)
        splits[part], _ = reading.split([image for image, _ in files], labels)
    classes = stated or counted_classes(splits)
    return Read(
        f"masks:{root.name}",
        splits.get("train"),
        splits.get("valid"),
        splits["test"],
        classes,
        channels=reading.channels_out,
        size=reading.size,
        flip=True,
        # the names are saved with each network, so stated ones are part of its key
        fingerprint=f"{fingerprint_of(pairs)} {stated or len(classes)}",
        preprocess=reading.preprocess,
    )


def part_in(root: Path, part: str) -> Path | None:
    """Return the folder of a part, None if there is none."""
    names = ("valid", "val") if part == "valid" else (part,)
    return next((root / name for name in names if (root / name / "images").is_dir()), None)


def paired(folder: Path) -> list[tuple[Path, Path]]:
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


def labels_in(
    files: list[tuple[Path, Path]], preprocess: Preprocess, size: tuple[int, int]
) -> Tensor:
    """Return the labels (n h w) of images, uint8, after `preprocess`."""
    from PIL import Image

    view = preprocess.for_labels(OUTSIDE)
    found = list[np.ndarray]()
    for image, path in files:
        try:
            with Image.open(path) as opened, Image.open(image) as seen:
                values = np.asarray(opened)
                size_seen = seen.size  # from its header
        except Exception as error:  # a damaged file makes its decoder raise errors of many kinds
            raise LissomError(f"data: {path}: cannot be read as an image ({error})") from None
        if values.ndim != 2 or values.max() > 255:
            raise LissomError(
                f"data: {path}: expected a label image of one channel with a class from 0 to 255 "
                f"at each pixel, got {values.shape} {values.dtype}"
            )
        picture = Image.fromarray(values.astype(np.uint8))
        if picture.size != size_seen:
            raise LissomError(
                f"data: {path}: expected the size of its image, {size_seen[0]}x{size_seen[1]}, got "
                f"{picture.width}x{picture.height}"
            )
        labels = np.asarray(view.shown(picture))
        if labels.shape != size:
            raise LissomError(
                f"data: {path}: its labels come out as {labels.shape}, images as {size}"
            )
        found.append(labels)
    return torch.from_numpy(np.stack(found))


def counted_classes(splits: dict[str, Images | Files]) -> tuple[str, ...]:
    """Return numbers as class names, up to the largest label in the splits."""
    largest = 0
    for split in splits.values():
        labels = split.labels
        inside = labels[labels != OUTSIDE]
        largest = max(largest, int(inside.max()) if inside.numel() else 0)
    return tuple(map(str, range(largest + 1)))


def fingerprint_of(pairs: dict[str, list[tuple[Path, Path]]]) -> str:
    """Return a hash that changes when a file is added, removed, renamed or changes its length."""
    seen = hashlib.sha256()
    for part, files in sorted(pairs.items()):
        for image, label in files:
            line = f"{part} {image.name} {image.stat().st_size} {label.stat().st_size}\n"
            seen.update(line.encode(errors="surrogatepass"))
    return seen.hexdigest()
