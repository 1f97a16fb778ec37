"""A data set from a table: a CSV file with the path of an image and its targets in each row."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from ..errors import LissomError, counted, listed
from ..language.preprocess import Preprocess
from .classes import by_name
from .folder import PARTS, SMALLER_SHARE, SPLIT_SEED
from .reading import Reading
from .split import Files, Images, SourceData

PATH_COLUMNS = ("path", "image", "file", "filename")  # names of the column of images
MIN_ROWS = 10  # rows, which may have to be split into training and test set

Row = dict[str, str]


def read_table(
    file: Path,
    size: tuple[int, int] | None,
    channels: int,
    skip_bad: bool,
    preprocess: Preprocess,
    stated: tuple[str, ...] | None,
) -> SourceData:
    """Read a CSV file with a header: a column of paths, an optional column `split`, and targets.

    Paths are relative to the file. The column of paths is called path, image, file or filename, or
    is the first. One other column of words or whole numbers holds classes. Several columns of 0 and
    1 hold labels, any number of them for an image. Other columns hold numbers. Raises LissomError
    for rows that do not fit.
    """
    rows, header = rows_in(file)
    path_column = next((name for name in header if name.lower() in PATH_COLUMNS), header[0])
    columns = [name for name in header if name not in (path_column, "split")]
    if not columns:
        raise LissomError(f"data: {file}: expected a column of targets beside '{path_column}'")
    paths = [file.parent / row[path_column] for row in rows]
    targets, classes = targets_in(rows, columns, stated, file)
    parts, notes = parts_in(rows, file)
    reading = Reading.of(paths, size, channels, preprocess, skip_bad=skip_bad)
    bad = dict[str, int]()
    splits = dict[str, Images | Files]()
    for part, places in parts.items():
        labels = targets[torch.tensor(places)]
        splits[part], bad[part] = reading.split([paths[place] for place in places], labels)
        if bad[part]:
            notes.append(f"{part}: {counted(bad[part], 'unreadable file')} left out")
    digest = hashlib.sha256(file.read_bytes())
    for path in paths:
        digest.update(f"{path.stat().st_size if path.exists() else 'missing'} ".encode())
    return SourceData(
        f"csv:{file.name}",
        splits.get("train"),
        splits.get("valid"),
        splits["test"],
        classes,
        channels=reading.channels_out,
        size=reading.size,
        flip=True,
        fingerprint=f"{digest.hexdigest()} {classes} {bad}",
        preprocess=reading.preprocess,
        notes=notes,
    )


def rows_in(file: Path) -> tuple[list[Row], list[str]]:
    """Return the rows of a CSV file as dicts by column, and the names of the columns."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            header = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LissomError(f"data: {file} cannot be read as CSV ({error})") from None
    if len(set(header)) < len(header) or len(header) < 2:
        raise LissomError(
            f"data: {file}: expected a header of two or more different names, got "
            f"{listed(header) or 'none'}; commas part them"
        )
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or not all(value.strip() for value in row.values()):
            raise LissomError(
                f"data: {file}, line {number}: expected a value for each of {listed(header)}"
            )
    if len(rows) < MIN_ROWS:
        raise LissomError(
            f"data: {file} holds {counted(len(rows), 'row')}; at least {MIN_ROWS} are needed"
        )
    return [{name: value.strip() for name, value in row.items()} for row in rows], header


def targets_in(
    rows: list[Row], columns: list[str], stated: tuple[str, ...] | None, file: Path
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the targets of all rows, and the classes: none if targets are numbers."""
    if len(columns) == 1 and (stated is not None or not numbers_with_points(rows, columns[0])):
        return classes_in([row[columns[0]] for row in rows], stated, file)
    try:
        values = torch.tensor([[float(row[name]) for name in columns] for row in rows])
    except ValueError as error:
        raise LissomError(
            f"data: {file}: expected numbers in {listed(columns)} ({error}); one column of words holds "
            "classes"
        ) from None
    if len(columns) > 1 and bool(((values == 0) | (values == 1)).all()):
        order = order_of(columns, stated, file)
        return values[:, order], tuple(columns[place] for place in order)
    if stated is not None:
        raise LissomError(
            f"--classes: {file} holds numbers in {listed(columns)}, which have no classes; leave "
            "--classes out"
        )
    return values if len(columns) > 1 else values[:, 0], ()


def order_of(columns: list[str], stated: tuple[str, ...] | None, file: Path) -> list[int]:
    """Return the places of the columns of labels in the order of the stated classes.

    Raises LissomError if these are not the columns.
    """
    names = columns if stated is None else list(stated)
    if sorted(names) != sorted(columns):
        raise LissomError(
            f"--classes: {file} has a column for each class, {listed(columns)}; got "
            f"{listed(names, 3)}; name these columns, in the order of the network's outputs, or leave "
            "--classes out"
        )
    return [columns.index(name) for name in names]


def numbers_with_points(rows: list[Row], column: str) -> bool:
    """Return whether a column holds numbers that are not all whole numbers."""
    values = [row[column] for row in rows]
    try:
        return [float(value) for value in values] != [] and not all(map(is_whole, values))
    except ValueError:
        return False


def is_whole(text: str) -> bool:
    """Return whether a text is a whole number without a decimal point.

    >>> is_whole("12"), is_whole("-3"), is_whole("3.0")
    (True, True, False)
    """
    return text.removeprefix("-").isdigit()


def classes_in(
    values: list[str], stated: tuple[str, ...] | None, file: Path
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the class index of each value, and the classes.

    The classes are those stated, or else the different values, sorted (whole numbers by value).
    """
    found = sorted(set(values), key=lambda name: (int(name), "") if is_whole(name) else (0, name))
    classes = stated or tuple(found)
    numbers = by_name(classes)
    unknown = [name for name in found if name not in numbers]
    if unknown:
        raise LissomError(
            f"data: {file}: '{unknown[0]}' is none of the {len(classes)} classes {listed(classes, 3)}"
        )
    return torch.tensor([numbers[value] for value in values]), classes


def parts_in(rows: list[Row], file: Path) -> tuple[dict[str, list[int]], list[str]]:
    """Return the row indices of each split, with a note if the split was drawn at random."""
    if "split" not in rows[0]:
        order = torch.randperm(
            len(rows), generator=torch.Generator().manual_seed(SPLIT_SEED)
        ).tolist()
        count = round(SMALLER_SHARE * len(rows))
        return {"train": sorted(order[count:]), "test": sorted(order[:count])}, [
            "there is no column 'split': a fifth of the rows, drawn once and for all, is the test set"
        ]
    parts: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        part = "valid" if row["split"] == "val" else row["split"]
        if part not in PARTS:
            raise LissomError(
                f"data: {file}, line {place + 2}: expected a split of {listed(PARTS)}, got '{part}'"
            )
        parts.setdefault(part, []).append(place)
    if "test" not in parts:
        have = Counter({part: len(places) for part, places in parts.items()})
        raise LissomError(f"data: {file}: expected rows of the split test, got {dict(have)}")
    if "train" not in parts and "valid" not in parts:
        raise LissomError(f"data: {file}: expected rows of the split train or valid beside test")
    return parts, []
