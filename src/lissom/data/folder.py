"""A data set from folders: `train/<class>/*`, `test/<class>/*` and, if there is one, `valid/<class>/*`."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from unicodedata import category

import numpy as np
import torch

from ..errors import LissomError, counted
from .split import FORMATS, Files, Images, Read, decoded

MEMORY = 2 << 30  # bytes of pixels in one data set above which files are read batch by batch
LOOKED_AT = 100  # images of each class, for their sizes
UNASKED = 1 << 20  # pixels of an image that all others are resized to where no size is given


def read_folder(root: Path, size: tuple[int, int] | None, channels: int, skip_bad: bool) -> Read:
    """Read a data set from a folder; images of another size are resized to `size` (height, width).

    Raises LissomError for a missing split, an empty class, classes that differ between the splits
    and, unless `skip_bad`, for the first file that cannot be decoded.
    """
    splits = {}
    for part in ("train", "test", "valid"):
        if (root / part).is_dir():
            splits[part] = classes_of(root / part)
        elif part != "valid":
            raise LissomError(
                f"data: {root} has no folder '{part}'; wanted: train/<class>/*, test/<class>/*"
            )
    classes = tuple(splits["train"])
    for part, found in splits.items():
        if set(found) != set(classes):
            missing = sorted(set(classes) - set(found))
            extra = sorted(set(found) - set(classes))
            raise LissomError(
                f"data: the classes of {root / part} differ from those of train: "
                f"missing {missing or 'none'}, not in train {extra or 'none'}"
            )
    seen = hashlib.sha256()
    for part, found in sorted(splits.items()):
        for paths in found.values():
            for path in paths:
                line = f"{part} {path.parent.name} {path.name} {path.stat().st_size}\n"
                seen.update(line.encode(errors="surrogatepass"))  # names need not be UTF-8
    size_given = size is not None
    size = size or first_size(splits["train"])
    total = sum(len(p) for found in splits.values() for p in found.values())
    lazy = total * channels * size[0] * size[1] > MEMORY
    read = {}
    bad = Counter[str]()
    for part, found in splits.items():
        read[part] = _read(found, classes, channels, size, skip_bad, lazy, bad, part)
    notes = [f"{part}: {counted(count, 'unreadable file')} left out" for part, count in bad.items()]
    if not size_given and sizes_differ(splits["train"], size):
        notes.append(
            f"images of other sizes are resized to {size[0]}x{size[1]} (height x width), "
            "the size of the first; "
            "--size says another"
        )
    return Read(
        f"folder:{root.name}",
        read["train"],
        read.get("valid"),
        read["test"],
        classes,
        channels=channels,
        size=size,
        flip=True,
        fingerprint=f"{seen.hexdigest()} {dict(bad)}",
        notes=notes,
    )


def classes_of(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder, both sorted by name."""
    from PIL import Image

    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    found = {}
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        # records and exported files hold classes
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
    if len(found) < 2:
        raise LissomError(f"data: {folder} holds {len(found)} class folders; at least 2 are needed")
    return found


def first_size(found: dict[str, list[Path]]) -> tuple[int, int]:
    """Return height and width of the first image that can be read; a header alone may declare any size."""
    for path in (path for paths in found.values() for path in paths):
        try:
            height, width = decoded(path, 1, None).shape[1:]
        except LissomError:
            continue
        if height * width > UNASKED:
            raise LissomError(
                f"data: {path} has {width} x {height} pixels, and all images would "
                "be resized to that; "
                "say what the network is to read: --size HEIGHTxWIDTH"
            )
        return height, width
    raise LissomError("data: not one training image can be read")


def sizes_differ(found: dict[str, list[Path]], size: tuple[int, int]) -> bool:
    """Return whether one of the first images of a class has another size, as its header says."""
    from PIL import Image

    for path in (path for paths in found.values() for path in paths[:LOOKED_AT]):
        # what cannot be read is told of elsewhere
        with suppress(Exception), Image.open(path) as image:
            if (image.height, image.width) != size:
                return True
    return False


def _read(
    found: dict[str, list[Path]],
    classes: tuple[str, ...],
    channels: int,
    size: tuple[int, int],
    skip_bad: bool,
    lazy: bool,
    bad: Counter[str],
    part: str,
) -> Images | Files:
    paths = [path for name in classes for path in found[name]]
    labels = torch.tensor([k for k, name in enumerate(classes) for _ in found[name]])

    def one(path: Path) -> np.ndarray | None:
        try:
            pixels = decoded(path, channels, size)
        except LissomError:
            if not skip_bad:
                raise
            return None
        # a lazy split is decoded once now only to find bad files
        return pixels[:0] if lazy else pixels

    if lazy and not skip_bad:
        return Files(paths, labels, channels, size)
    # threads are slower: small images are decoded under Python's lock
    pixels = [one(path) for path in paths]
    good = [i for i, p in enumerate(pixels) if p is not None]
    if len(good) < len(paths):
        bad[part] = len(paths) - len(good)
        for k, name in enumerate(classes):
            if not (labels[good] == k).any():
                raise LissomError(f"data: not one image of {part}/{name} can be read")
    if lazy:
        return Files([paths[i] for i in good], labels[good], channels, size)
    return Images(torch.from_numpy(np.stack([p for p in pixels if p is not None])), labels[good])
