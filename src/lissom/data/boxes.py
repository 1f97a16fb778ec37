"""Bounding boxes: transformed with their images, and held in one tensor for a split."""

from __future__ import annotations

import hashlib
import os
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from ..errors import LissomError, counted, listed, nearest
from ..language.preprocess import Placement, Preprocess, Size
from .classes import by_name
from .folder import MIN_IMAGES, arrange_parts
from .picture import size_of
from .reading import Reading
from .split import MAX_BYTES_IN_MEMORY, Files, Images, SourceData

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2
NO_CLASS = -1  # the class of a row that holds no box
MIN_AREA_LEFT = 0.25  # of a box's area; with less, preprocessing has cut the object off
MAX_COORDINATE = 1_000_000  # a coordinate in a file must be smaller


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its annotated boxes, each with the name of its class.

    Corners are in pixels from the top left corner of the image. `size` is the picture's size in
    the annotation file, None if it is not stated.
    """

    path: Path
    corners: list[Corners]
    names: list[str]
    size: Size | None


@dataclass
class Annotations:
    """The annotations of a data set: classes, and images with boxes in each part, or in `all`.

    `fingerprint` changes with the contents of the files. `left_out` counts omitted boxes by reason.
    """

    name: str
    parts: Mapping[str, list[AnnotatedImage]]
    classes: tuple[str, ...]
    fingerprint: str
    left_out: Counter[str]


def read_boxes(
    annotations: Annotations,
    size: Size | None,
    channels: int,
    skip_bad: bool,
    preprocess: Preprocess,
) -> SourceData:
    """Read images and their boxes, both preprocessed; the labels are in the form of `pad_boxes`.

    Without a part `test`, a test set is set apart as for folders. Raises LissomError for classes
    that do not fit, images of another size than stated, and a test set without boxes.
    """
    check_annotations(annotations)
    splits, notes = arrange_parts({part: {"": group} for part, group in annotations.parts.items()})
    samples = {part: groups[""] for part, groups in splits.items()}
    paths = [sample.path for sample in chain(*samples.values())]
    reading = Reading.of(paths, size, channels, preprocess, skip_bad=skip_bad)
    numbers = by_name(annotations.classes)
    left_out = annotations.left_out.copy()
    bad = dict[str, int]()
    read = dict[str, Images | Files]()
    for part, group in samples.items():
        boxes = [preprocessed_boxes(sample, numbers, reading, left_out) for sample in group]
        read[part], bad[part] = reading.split([sample.path for sample in group], pad_boxes(boxes))
        if bad[part]:
            notes.append(f"{part}: {counted(bad[part], 'unreadable file')} left out")
    if not (read["test"].labels[..., 4] != NO_CLASS).any():
        raise LissomError(
            f"data {annotations.name}: expected boxes in the test set, got none in its "
            f"{counted(len(read['test']), 'image')}"
        )
    reasons = [f"{count} {reason}" for reason, count in sorted(left_out.items()) if count]
    if reasons:
        notes.append(f"boxes are left out: {', '.join(reasons)}")
    files = hashlib.sha256()
    for path in paths:
        length = os.path.getsize(path) if os.path.isfile(path) else "missing"
        files.update(f"{path.name} {length}\n".encode(errors="surrogatepass"))
    return SourceData(
        annotations.name,
        read.get("train"),
        read.get("valid"),
        read["test"],
        annotations.classes,
        channels=reading.channels_out,
        size=reading.size,
        flip=True,
        fingerprint=f"{annotations.fingerprint} {files.hexdigest()} {annotations.classes} {bad}",
        preprocess=reading.preprocess,
        notes=notes,
    )


def check_annotations(annotations: Annotations) -> None:
    """Raise LissomError for too few or repeated images, and for ambiguous or unknown classes."""
    where = f"data {annotations.name}"
    parts = annotations.parts
    paths = Counter(sample.path for sample in chain(*parts.values()))
    twice = [path for path, times in paths.items() if times > 1]
    if twice:
        raise LissomError(
            f"{where}: expected each image once, got {twice[0]} twice; what is learned from must not "
            "be tested on"
        )
    for part, samples in parts.items():
        least = MIN_IMAGES if len(parts) == 1 else 1  # a single part is split into two
        if len(samples) < least:
            raise LissomError(
                f"{where}: expected at least {counted(least, 'image')} in {part}, got {len(samples)}"
            )
    # class names are written into records and exported files
    unprintable = [
        name for name in annotations.classes if not name.strip() or not name.isprintable()
    ]
    if unprintable:
        raise LissomError(
            f"{where}: expected names of classes that can be printed, got {unprintable[0]!r:.80}; "
            "rename it"
        )
    repeated = [name for name, times in Counter(annotations.classes).items() if times > 1]
    if repeated:
        raise LissomError(
            f"{where}: two classes are called '{repeated[0]:.80}'; rename one of them"
        )
    known = by_name(annotations.classes)
    for sample in chain(*parts.values()):
        for name in sample.names:
            if name not in known:
                close = nearest(name, known)
                raise LissomError(
                    f"{where}: '{name:.80}', the class of a box, is none of the {len(annotations.classes)} "
                    f"classes {listed(annotations.classes, 3)}"
                    + (f"; did you mean '{close}'?" if close else "")
                )


def preprocessed_boxes(
    sample: AnnotatedImage, numbers: Mapping[str, int], reading: Reading, left_out: Counter[str]
) -> Tensor:
    """Return the boxes (k 5) of a preprocessed image, and count those that are left out."""
    rows = [
        [*corners, numbers[name]]
        for corners, name in zip(sample.corners, sample.names, strict=True)
    ]
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    try:
        size = size_of(sample.path)
    except LissomError:
        if not reading.skip_bad:
            raise
        return boxes[:0]  # the image is left out too
    if sample.size not in (None, size):
        assert sample.size is not None
        raise LissomError(
            f"data: {sample.path}: expected the size that is stated beside its boxes, "
            f"{sample.size[0]}x{sample.size[1]}, got {size[0]}x{size[1]}; boxes are in pixels of the "
            "image, so that both must be of one size"
        )
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes = clip_boxes(boxes, size)
    inside = areas(boxes) > 0
    visible = transform_boxes(boxes[has_area & inside], reading.preprocess.placements(size))
    left_out["of no size"] += int((~has_area).sum())
    left_out["outside their image"] += int((has_area & ~inside).sum())
    left_out["cut off by the preprocessing"] += int((has_area & inside).sum()) - len(visible)
    return visible


def corners_of(values: Sequence[object], where: str) -> Corners:
    """Return four values as floats. Raises LissomError unless each is a number within `MAX_COORDINATE`."""
    numbers = list[float]()
    for value in values:
        # `not <` also catches nan
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not abs(value) < MAX_COORDINATE
        ):
            raise LissomError(
                f"{where}: expected numbers between -{MAX_COORDINATE:,} and {MAX_COORDINATE:,}, got "
                f"{reprlib.repr(value)}"
            )
        numbers.append(float(value))
    x1, y1, x2, y2 = numbers
    return x1, y1, x2, y2


def pad_boxes(boxes: Sequence[Tensor]) -> Tensor:
    """Return the boxes of each sample, (k 5) of x1, y1, x2, y2 and class, as one tensor (n k 5).

    k is the largest number of boxes of a sample, and at least 1. Rows without a box have class -1
    and corners 0. Raises LissomError if one sample's boxes make the tensor too large for memory.

    >>> pad_boxes([torch.zeros(0, 5), torch.tensor([[2.0, 3.0, 8.0, 9.0, 1.0]])])
    tensor([[[ 0.,  0.,  0.,  0., -1.]],
    <BLANKLINE>
            [[ 2.,  3.,  8.,  9.,  1.]]])
    """
    max_boxes = max([1, *map(len, boxes)])
    if 4 * 5 * max_boxes * len(boxes) > MAX_BYTES_IN_MEMORY:
        raise LissomError(
            f"data: one image has {max_boxes} boxes; with as many rows for each of {len(boxes)} "
            f"images they do not fit into {MAX_BYTES_IN_MEMORY >> 30} GiB; leave that image out"
        )
    rows = torch.zeros(len(boxes), max_boxes, 5)
    rows[..., 4] = NO_CLASS
    for row, of_sample in zip(rows, boxes, strict=True):
        row[: len(of_sample)] = of_sample
    return rows


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes (k 5) clipped to an image of `size` (width, height)."""
    width, height = size
    corners = boxes[:, :4].clamp_min(0).minimum(boxes.new_tensor([width, height, width, height]))
    return torch.cat([corners, boxes[:, 4:]], 1)


def areas(boxes: Tensor) -> Tensor:
    """Return the area (k) of boxes (k 5)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def transform_boxes(boxes: Tensor, placements: Iterable[Placement]) -> Tensor:
    """Return boxes (k 5) after the operations on their image, clipped to the image.

    A box is dropped if less than a quarter of its area is left: its object can no longer be seen.

    >>> cut = Placement((10, 10), offset=(-6.0, 0.0))
    >>> transform_boxes(torch.tensor([[0.0, 0.0, 8.0, 4.0, 1.0], [0.0, 0.0, 7.0, 4.0, 1.0]]), [cut])
    tensor([[0., 0., 2., 4., 1.]])
    """
    full_areas = areas(boxes)
    for placement in placements:
        scale = boxes.new_tensor([*placement.scale, *placement.scale])
        offset = boxes.new_tensor([*placement.offset, *placement.offset])
        corners = boxes[:, :4] * scale + offset
        boxes = clip_boxes(torch.cat([corners, boxes[:, 4:]], 1), placement.size)
        full_areas = full_areas * placement.scale[0] * placement.scale[1]
    return boxes[areas(boxes) >= MIN_AREA_LEFT * full_areas]
