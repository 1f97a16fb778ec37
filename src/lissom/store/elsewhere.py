"""Copy a store's entries to and from object storage, or any other file system that fsspec supports.

An entry there is a folder of the same files. Its manifest is written last, so an entry without one
is unfinished. Entries that come back keep their signature: an entry that somebody else wrote is
only data until this user signs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import LissomError, first_line
from .checks import is_regular
from .manifest import NAME, PLAIN, first_changed_file, manifest, record_unchanged
from .record import KEY
from .store import Store

FILE = re.compile(rf"(artefacts/[a-z][\w-]*/)?{PLAIN}")  # of an entry
LAST = ("record.json", NAME)  # written last, so that no reader finds a manifest before its files


def push(store: Store, url: str, say: Callable[[str], None]) -> list[str]:
    """Copy the entries to a place that are missing or different there; return their keys."""
    sent = list[str]()
    with place(url) as (files, root):
        there = {key: {*names} for key, names in listed(files, root).items()}
        for key, folder in store.folders(say):
            names = sorted(local_files(folder), key=lambda name: (name in LAST, name == NAME))
            if NAME not in names:
                say(f"{key}: left out; it has no checksums, as `lissom store --verify` says")
                continue
            if there.get(key) == {*names} and all(
                files.cat_file(f"{root}/{key}/{name}") == (folder / name).read_bytes()
                for name in LAST
            ):
                continue
            for name in names:
                files.makedirs(f"{root}/{key}/{name}".rpartition("/")[0], exist_ok=True)
                files.put_file(str(folder / name), f"{root}/{key}/{name}")
            sent.append(key)
    return sent


def pull(store: Store, url: str, say: Callable[[str], None]) -> list[str]:
    """Copy the entries from a place that are missing here; return their keys.

    An entry whose files differ from its checksums is left out and reported.
    """
    taken = list[str]()
    with place(url) as (files, root):
        for key, names in listed(files, root).items():
            if key in store or NAME not in names:
                continue
            with store.lock(key):
                try:
                    with store.copied(key) as folder:
                        fetch(files, f"{root}/{key}", names, folder)
                        check(folder, key)
                except LissomError as error:
                    say(f"{key}: left out; {error}")
                    continue
            taken.append(key)
            if not store.is_trusted(key):
                say(f"{key}: it is not signed by you; `lissom store --trust` signs it")
    return taken


def fetch(files: Any, root: str, names: list[str], folder: Path) -> None:
    """Download the files of an entry into a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.get_file(f"{root}/{name}", str(folder / name))


def check(folder: Path, key: str) -> None:
    """Raise LissomError unless a folder is the entry of a key, unchanged since it was sealed."""
    sealed = manifest(folder, key)
    if sealed is None or sealed.name != key:
        raise LissomError("its checksums are those of another entry")
    if (changed := first_changed_file(folder, sealed)) is not None:
        raise LissomError(f"{changed} is not what was written")
    if not record_unchanged(sealed, folder):
        raise LissomError("record.json is not what was written")


def listed(files: Any, root: str) -> dict[str, list[str]]:
    """Return the file names of each entry in a place; other files are left out."""
    entries = dict[str, list[str]]()
    for path in sorted(files.find(root)) if files.exists(root) else []:
        key, _, name = path.removeprefix(root).lstrip("/").partition("/")
        if KEY.fullmatch(key) and FILE.fullmatch(name):
            entries.setdefault(key, []).append(name)
    return entries


def local_files(folder: Path) -> Iterator[str]:
    """Yield the file names of an entry."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if is_regular(path) and FILE.fullmatch(name):
            yield name


@contextmanager
def place(url: str) -> Iterator[tuple[Any, str]]:
    """Yield the file system and folder of a URL; turn any error in the block into a LissomError."""
    if "://" not in url:
        raise LissomError(
            f"store: expected a place such as s3://bucket/folder or file:///folder, got {url!r}"
        )
    try:
        from fsspec.core import url_to_fs

        files, root = url_to_fs(url)
        yield files, root.rstrip("/")
    except LissomError:
        raise
    except ImportError as error:  # of the library for this kind of place
        raise LissomError(f"store: {url}: {first_line(error)}") from None
    except Exception as error:  # each kind of place raises its own errors
        raise LissomError(
            f"store: {url} cannot be used ({type(error).__name__}: {first_line(error):.200})"
        ) from None
