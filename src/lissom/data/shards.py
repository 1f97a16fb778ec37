"""A data set in WebDataset shards: tars of images, each with its class in a file beside it."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import LissomError
from ..language.preprocess import Preprocess, Size
from .folder import image_endings, read_images_by_class
from .split import SourceData
from .tars import Member, members_of, tars_in

LABEL_ENDINGS = ("cls", "json")  # file extensions; the first takes precedence
MAX_LABEL_BYTES = 1 << 20  # bytes of a label
MAX_CLASSES = 100_000  # if the number of classes is not stated


def read_shards(
    pattern: str,
    size: Size | None,
    channels: int,
    skip_bad: bool,
    preprocess: Preprocess,
    stated: tuple[str, ...] | None,
) -> SourceData:
    """Read the tars of a folder or a pattern, such as data/{train,test}-{000..009}.tar.

    The files of a sample have the same name up to the first dot: an image, and its class in a .cls
    (a whole number) or a .json ({"label": 3}). Tars are indexed once, and images are read in
    place. Raises LissomError for tars and samples of another form.
    """
    digest = hashlib.sha256()
    parts = dict[str, list[tuple[Member, int]]]()
    for part, tars in tars_in(pattern).items():
        parts[part] = list(chain.from_iterable(map(samples_in, tars)))
        for member, label in parts[part]:
            line = (
                f"{part} {member.tar.name} {member.name} {member.start} {member.length} {label}\n"
            )
            digest.update(line.encode(errors="surrogatepass"))
        if not parts[part]:
            raise LissomError(f"data: {tars[0].parent}: the tars of {part} hold no image")
    if stated:  # the names are saved with each network, so they are part of its key
        digest.update(repr(stated).encode())
    classes = stated or classes_up_to_largest(parts)
    images = dict[str, dict[str, list[Member]]]()
    for part, samples in parts.items():
        images[part] = {}
        for member, label in samples:
            if label >= len(classes):
                raise LissomError(
                    f"data: {member}: expected a class from 0 to {len(classes) - 1}, got {label}"
                )
            images[part].setdefault(classes[label], []).append(member)
    name = f"shards:{Path(pattern).name}"
    return read_images_by_class(
        name, images, classes, digest.hexdigest(), size, channels, skip_bad, preprocess
    )


def classes_up_to_largest(parts: dict[str, list[tuple[Member, int]]]) -> tuple[str, ...]:
    """Return numbers as class names, up to the largest label of all samples."""
    member, largest = max(chain(*parts.values()), key=lambda sample: sample[1])
    if not 1 <= largest < MAX_CLASSES:
        raise LissomError(
            f"data: {member}: expected a largest class from 1 to {MAX_CLASSES - 1}, got {largest}; "
            "--classes says how many there are"
        )
    return tuple(map(str, range(largest + 1)))


def samples_in(tar: Path) -> list[tuple[Member, int]]:
    """Return the images of a tar with their classes, in the order of the tar."""
    endings = image_endings()
    samples = dict[str, dict[str, Member]]()
    for member in members_of(tar):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        kind = "image" if f".{ending.lower()}" in endings else ending.lower()
        if not stem or kind not in ("image", *LABEL_ENDINGS):
            continue
        sample = samples.setdefault(f"{folder}/{stem}", {})
        if kind in sample:
            raise LissomError(
                f"data: {tar}: expected one {kind} for each sample, got {sample[kind].name} and "
                f"{member.name}"
            )
        sample[kind] = member
    with tar.open("rb") as file:
        labelled = list[tuple[Member, int]]()
        for files in samples.values():
            labels = [files[kind] for kind in LABEL_ENDINGS if kind in files]
            if "image" not in files:
                raise LissomError(f"data: {labels[0]}: there is no image of that name beside it")
            picture = files["image"]
            if not labels:
                raise LissomError(
                    f"data: {picture}: expected its class beside it, a .cls with a whole number or a "
                    '.json with {"label": 3}'
                )
            labelled.append((picture, label_in(labels[0], labels[0].read(file)[:MAX_LABEL_BYTES])))
    return labelled


def label_in(member: Member, content: bytes) -> int:
    """Return the class in a .cls or .json file."""
    text = content.decode("utf-8-sig", errors="replace").strip()
    value: Any = text
    if member.name.lower().endswith(".json"):
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LissomError(f"data: {member} cannot be read as JSON ({error})") from None
        value = tree.get("label") if isinstance(tree, dict) else None
        if type(value) is int and value >= 0:
            return value
    elif re.fullmatch("[0-9]{1,9}", text):
        return int(text)
    raise LissomError(
        f"data: {member}: expected the number of a class from 0 on"
        + (' as {"label": 3}' if member.name.lower().endswith(".json") else "")
        + f", got {reprlib.repr(value)}"
    )
