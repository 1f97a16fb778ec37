"""Copies of a store's entries in object storage, or in any other place that fsspec has a name for.

An entry there is a folder of the same files; its manifest is written last, so one without is not
finished. What comes back keeps the signature that it has: an entry that somebody else wrote is data
until it is signed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import LissomError, first_line
from .manifest import NAME, manifest, own_record, wrong
from .record import KEY
from .store import Store

FILE = re.compile(r"(artefacts/[a-z][\w-]*/)?[A-Za-z][\w.-]*")  # of an entry
LAST = ("record.json", NAME)  # whoever reads meanwhile finds no manifest ahead of its files


def push(store: Store, url: str, say: Callable[[str], None]) -> list[str]:
    """Copy all entries to a place that do not lie there as they are here; return their keys."""
    sent = list[str]()
    with place(url) as (files, root):
        there = {key: {*names} for key, names in listed(files, root).items()}
        for key in store:
            folder = store.folder(key)
            names = sorted(local_files(folder), key=lambda name: (name in LAST, name == NAME))
            if NAME not in names or not FILE.fullmatch(names[0]):
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
    """Copy all entries from a place that are not here yet; return their keys.

    One whose files are not what its checksums say is left out, and told.
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
            if not store.own(key):
                say(f"{key}: it is not signed by you; `lissom store --trust` signs it")
    return taken


def fetch(files: Any, root: str, names: list[str], folder: Path) -> None:
    """Bring the files of an entry into a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.get_file(f"{root}/{name}", str(folder / name))


def check(folder: Path, key: str) -> None:
    """Raise unless a folder is the entry of that key, as it was sealed."""
    sealed = manifest(folder, key)
    if sealed is None or sealed.name != key:
        raise LissomError("its checksums are those of another entry")
    if (bad := wrong(folder, sealed)) is not None:
        raise LissomError(f"{bad} is not what was written")
    if not own_record(sealed, folder):
        raise LissomError("record.json is not what was written")


def listed(files: Any, root: str) -> dict[str, list[str]]:
    """Return the names of the files of each entry in a place; what is none of an entry's is left out."""
    entries = dict[str, list[str]]()
    for path in sorted(files.find(root)) if files.exists(root) else []:
        key, _, name = path.removeprefix(root).lstrip("/").partition("/")
        if KEY.fullmatch(key) and FILE.fullmatch(name):
            entries.setdefault(key, []).append(name)
    return entries


def local_files(folder: Path) -> Iterator[str]:
    """Yield the files of an entry."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and FILE.fullmatch(name):
            yield name


@contextmanager
def place(url: str) -> Iterator[tuple[Any, str]]:
    """Give the file system and the folder of a URL; raise what goes wrong with it in one line."""
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
    except ImportError as error:  # of the library for its kind
        raise LissomError(f"store: {url}: {first_line(error)}") from None
    except Exception as error:  # each kind of place has errors of its own
        raise LissomError(
            f"store: {url} cannot be used ({type(error).__name__}: {first_line(error):.200})"
        ) from None
