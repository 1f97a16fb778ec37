"""The answers to a few samples, kept in an entry: captions and images in a folder.

`artefacts/pictures` of an uncompressed network has the ground truth and its answers;
`artefacts/pictures-TARGET` of any network has the answers of its file. An entry may come from
anybody, so all that is read is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LissomError
from .checks import Wrong, fields, flag, listing, mapping, maybe, parsed, text_of

PICTURES = "pictures"  # the prefix of the names of such folders
ROWS = ("truth", "network", "file")  # the sources of answers
MOST_SAMPLES = 6
MOST_BYTES = 200_000  # of an image
MOST_PIXELS = 1_000  # of a side
MOST_CAPTION = 200  # characters
MOST_COLOURS = 1_000


@dataclass(frozen=True)
class Answer:
    """The answer to one sample: a caption, whether it is wrong (None if it is neither right nor
    wrong), and a JPEG with its size (width, height).
    """

    caption: str
    wrong: bool | None = None
    jpeg: bytes | None = None
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Answers:
    """Rows of answers by source (see ROWS), and the colours (#rrggbb) of the classes in them."""

    rows: dict[str, list[Answer]]
    colours: dict[str, str] = field(default_factory=dict)


def pictures_name(target: str = "") -> str:
    """Return the folder name of the answers of a target's file, or of a network if target is "".

    >>> pictures_name(), pictures_name("openvino")
    ('pictures', 'pictures-openvino')
    """
    if not target:
        return PICTURES
    safe = re.sub(r"[^a-z0-9]+", "-", target).strip("-")[:40]
    # different targets may give the same safe text
    mark = "" if safe == target else f"-{hashlib.sha256(target.encode()).hexdigest()[:8]}"
    return f"{PICTURES}-{safe}{mark}"


def write_answers(folder: Path, answers: Answers) -> None:
    """Write captions and images into a folder."""
    rows = {
        name: [{"caption": answer.caption, "wrong": answer.wrong} for answer in row]
        for name, row in answers.rows.items()
    }
    (folder / "captions.json").write_text(
        json.dumps({"colours": answers.colours, "rows": rows}, indent=1), encoding="utf-8"
    )
    for name, row in answers.rows.items():
        for place, answer in enumerate(row):
            if answer.jpeg is not None:
                (folder / jpeg_name(name, place)).write_bytes(answer.jpeg)


def read_answers(folder: Path) -> Answers | None:
    """Read the folder that `write_answers` wrote; None if it does not exist. Raises LissomError if
    it is damaged.
    """
    if not os.path.lexists(folder):
        return None
    try:
        if os.path.islink(folder):
            raise Wrong("", "a folder", "a link")
        told = captions_in(folder / "captions.json")
        rows = {name: read_row(folder, name, told["rows"].get(name, [])) for name in ROWS}
    except (OSError, ValueError) as error:
        raise LissomError(f"store: {folder}: images are left out: {error}") from None
    return Answers({name: row for name, row in rows.items() if row}, told["colours"])


def captions_in(path: Path) -> dict[str, Any]:
    """Read rows of captions and colours. Raises Wrong if they have another form."""
    try:
        return dict(CAPTIONS(parsed(text_of(path))))
    except Wrong as error:
        raise error.within(path.name) from None
    except ValueError:
        raise Wrong(path.name, "JSON", "what cannot be read") from None


def read_row(folder: Path, name: str, captions: list[dict[str, Any]]) -> list[Answer]:
    """Read the images that belong to the captions of one row."""
    row = []
    for place, told in enumerate(captions):
        path = folder / jpeg_name(name, place)
        jpeg = jpeg_in(path) if os.path.lexists(path) else None
        size = size_of(jpeg, path.name) if jpeg else (0, 0)
        row.append(Answer(told["caption"], told["wrong"], jpeg, size))
    return row


def jpeg_name(row: str, place: int) -> str:
    """Return the name of the file with the image of one answer."""
    return f"{row}-{place + 1}.jpg"


def jpeg_in(path: Path) -> bytes:
    """Return the bytes of a JPEG. Raises Wrong for any other file, or one that is too large."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Wrong(path.name, "a regular file", stat.filemode(found.st_mode))
    if found.st_size > MOST_BYTES:
        raise Wrong(path.name, f"at most {MOST_BYTES} bytes", found.st_size)
    jpeg = path.read_bytes()
    if not jpeg.startswith(b"\xff\xd8\xff"):
        raise Wrong(path.name, "a JPEG", jpeg[:4])
    return jpeg


def size_of(jpeg: bytes, name: str) -> tuple[int, int]:
    """Return width and height of a JPEG. Raises Wrong if its header is damaged or too large."""
    from io import BytesIO

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of very many pixels
            size = Image.open(BytesIO(jpeg), formats=["JPEG"]).size
    except Exception:  # Pillow raises many kinds of errors for damaged files
        raise Wrong(name, "a JPEG", "what cannot be read") from None
    if max(size) > MOST_PIXELS:
        raise Wrong(name, f"at most {MOST_PIXELS} pixels a side", size)
    return size


def caption(value: Any) -> Any:
    """Accept a short text."""
    if type(value) is not str or len(value) > MOST_CAPTION:
        raise Wrong("", f"a text of at most {MOST_CAPTION} characters", value)
    return value


def colours(value: Any) -> Any:
    """Accept an object of names and colours (#rrggbb)."""
    if type(value) is not dict or len(value) > MOST_COLOURS:
        raise Wrong("", f"an object of at most {MOST_COLOURS} colours", value)
    for name, colour in value.items():
        caption(name)
        if type(colour) is not str or not re.fullmatch("#[0-9a-f]{6}", colour):
            raise Wrong(name, "a colour as #rrggbb", colour)
    return value


def few_answers(value: Any) -> Any:
    """Accept a list of at most MOST_SAMPLES answers."""
    if type(value) is list and len(value) > MOST_SAMPLES:
        raise Wrong("", f"at most {MOST_SAMPLES} samples", len(value))
    return listing(fields(caption=caption, wrong=(maybe(flag), None)))(value)


CAPTIONS = fields(colours=(colours, dict), rows=mapping(few_answers))
