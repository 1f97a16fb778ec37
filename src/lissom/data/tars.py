"""Files inside uncompressed tars, read in place: nothing is unpacked."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import BinaryIO, Literal

from ..errors import LissomError

PART = re.compile(r"(train|valid|val|test)(?![a-z])")  # the start of a tar's name
COMPRESSED = (".gz", ".tgz", ".xz", ".txz", ".bz2", ".tbz2", ".zst")
MAX_TARS = 100_000  # tars that one pattern may stand for


@dataclass(frozen=True)
class Member:
    """A file inside a tar: `length` bytes from `start`. It opens as a `Path` does.

    Its name is only shown, never written to, so a name with .. or an absolute path does no harm.
    """

    tar: Path
    name: str
    start: int
    length: int

    def __str__(self) -> str:
        return f"{self.tar}: {self.name}"

    @property
    def parent(self) -> Path:
        """The tar, which takes the place of a path's folder."""
        return self.tar

    def read(self, tar: BinaryIO) -> bytes:
        """Return the content from the open tar."""
        tar.seek(self.start)
        return tar.read(self.length)

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open the content, read into memory."""
        with self.tar.open(mode) as tar:
            return BytesIO(self.read(tar))


File = Path | Member  # the source of an image


def members_of(tar: Path) -> Iterator[Member]:
    """Yield every file of a tar in its order, reading only headers."""
    try:
        with tarfile.open(tar, "r:") as archive:
            end = 0
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # else the archive keeps them all, 1 KB each
                if info.size < 0 or info.offset_data <= end:  # a header that points back to itself
                    raise tarfile.ReadError("a header of it is damaged")
                end = info.offset_data
                if info.isreg() and not info.issparse():
                    yield Member(tar, info.name, info.offset_data, info.size)
    except Exception as error:  # a damaged file makes tarfile raise errors of many kinds
        raise LissomError(
            f"data: {tar} cannot be read as an uncompressed tar ({error or type(error).__name__})"
        ) from None


def tars_in(text: str) -> dict[str, list[Path]]:
    """Return the tars of each part, or all as one part `all` if no name begins with a part.

    `text` is a folder or a pattern: {000..009} stands for numbers and {train,test} for words.
    Raises LissomError for compressed or missing tars, and if only some names begin with a part.
    """
    place = Path(os.path.expanduser(text))
    if text and place.is_dir():
        endings = (".tar", *COMPRESSED)
        tars = sorted(path for path in place.iterdir() if path.suffix.lower() in endings)
    else:
        tars = [Path(os.path.expanduser(each)) for each in expanded(text)]
    if not tars:
        raise LissomError(
            f"data: {text} holds no tar; expected train-000.tar, test-000.tar and so on"
        )
    for tar in tars:
        if tar.suffix.lower() in COMPRESSED:
            raise LissomError(
                f"data: {tar} is compressed, so that nothing in it can be read by its place; expected a "
                "plain .tar: images are compressed already"
            )
        if not tar.is_file():
            raise LissomError(f"data: there is no file {str(tar)!r}")
    names = [PART.match(tar.name) for tar in tars]
    if not any(names):
        return {"all": tars}
    parts = dict[str, list[Path]]()
    for tar, name in zip(tars, names, strict=True):
        if name is None:
            raise LissomError(
                f"data: {tar}: expected a name that begins with train, valid, val or test, as those of "
                "other tars beside it do"
            )
        parts.setdefault("valid" if name[1] == "val" else name[1], []).append(tar)
    return parts


def expanded(pattern: str) -> list[str]:
    """Return the names that a pattern stands for.

    >>> expanded("{train,test}-{08..10}.tar")[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'test-08.tar']
    """
    head, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    inside, closed, tail = rest.partition("}")
    numbers = re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", inside)
    if not closed or "{" in inside or (numbers is None and "," not in inside):
        raise LissomError(
            f"data: {pattern}: expected {{000..009}} for numbers or {{train,test}} for words, got "
            f"{brace + inside + closed!r:.80}"
        )
    options = inside.split(",")
    if numbers is not None:
        first, last = numbers.groups()
        count = int(last) - int(first) + 1
        if not 0 < count <= MAX_TARS:
            raise LissomError(f"data: {pattern}: expected 1 to {MAX_TARS} numbers, got {count}")
        options = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    ends = expanded(tail)
    if len(options) * len(ends) > MAX_TARS:
        raise LissomError(f"data: {pattern}: expected at most {MAX_TARS} files")
    return [f"{head}{option}{end}" for option, end in product(options, ends)]
