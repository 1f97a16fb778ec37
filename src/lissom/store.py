"""A folder of finished prefixes: root/<key>/{record.json, model.safetensors, structure.json, log.jsonl, artefacts/}.

An entry appears by one rename, so that it is whole or not there. Two processes that want the same key
take turns: the lock is the kernel's and ends with the process that holds it, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import LissomError


class Store:
    """Finished networks by key, under one folder; `root` is made when the first entry is written.

    >>> list(Store("there-is-no-such-folder"))
    []
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()

    def __contains__(self, key: str) -> bool:
        return (self.root / key / "record.json").is_file()

    def __iter__(self) -> Iterator[str]:
        """Yield the keys, oldest first."""
        found = self.root.glob("*/record.json") if self.root.is_dir() else []
        entries = sorted((p.stat().st_mtime, p.parent.name) for p in found if not p.parent.name.startswith("."))
        return (name for _, name in entries)

    def folder(self, key: str) -> Path:
        """Return the folder of an entry."""
        return self.root / key

    def find(self, start: str) -> str:
        """Return the one key that begins with `start`."""
        found = [key for key in self if start and key.startswith(start)]
        if len(found) != 1:
            what = "no key begins" if not found else f"{len(found)} keys begin"
            raise LissomError(f"store {self.root}: {what} with '{start}'; `lissom store` lists them")
        return found[0]

    def record(self, key: str) -> dict[str, Any]:
        """Read the record of an entry."""
        try:
            found = json.loads((self.folder(key) / "record.json").read_text())
            if not isinstance(found, dict):
                raise ValueError("not a record")
            return found
        except (OSError, ValueError) as error:
            raise LissomError(f"store: the record of {key} cannot be read ({error})") from None

    def log(self, key: str) -> list[dict[str, Any]]:
        """Read the training log of an entry: one row for each epoch, empty for surgery."""
        path = self.folder(key) / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the key; a second process waits here until the first lets go or dies."""
        self.writable()
        with (self.root / ".locks" / key).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def entry(self, key: str) -> Iterator[Path]:
        """Give a scratch folder that becomes the entry `key` when the block ends well."""
        self.writable()
        with scratch(self.root) as folder:
            yield folder
            self._place(folder, self.folder(key))

    @contextmanager
    def artefact(self, key: str, name: str) -> Iterator[Path]:
        """Give a scratch folder that becomes `artefacts/<name>` of an entry when the block ends well."""
        home = self.folder(key) / "artefacts"
        try:
            home.mkdir(exist_ok=True)
        except OSError as error:
            raise LissomError(f"store: {home} cannot be written ({error})") from None
        with scratch(self.root) as folder:
            yield folder
            self._place(folder, home / name)

    def update(self, key: str, change: dict[str, Any]) -> dict[str, Any]:
        """Merge measurements into the record of an entry, safely beside other writers."""
        with self.lock(f"{key}.record"):
            record = merged(self.record(key), change)
            write_json(self.folder(key) / "record.json", record)
        return record

    def remove(self, key: str) -> None:
        """Delete an entry: out of sight by one rename, then file by file."""
        self.writable()
        with scratch(self.root) as folder, suppress(FileNotFoundError):  # another process was first
            os.replace(self.folder(key), folder / key)

    def sweep(self) -> None:
        """Delete scratch folders that processes left behind when they were killed."""
        for folder in self.root.glob(".new-*"):
            pid = folder.name.split("-")[1]
            if not (pid.isdigit() and Path(f"/proc/{pid}").exists()) and time.time() - folder.stat().st_mtime > 60:
                shutil.rmtree(folder, ignore_errors=True)

    def size_bytes(self, key: str) -> int:
        """Return the bytes of all files of an entry."""
        return sum(p.stat().st_size for p in self.folder(key).rglob("*") if p.is_file())

    def _place(self, folder: Path, goal: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        try:
            os.chmod(folder, 0o755)
            folder.rename(goal)
        except OSError as error:
            if not goal.exists():
                raise LissomError(f"store: {goal} cannot be written ({error})") from None

    def check(self) -> None:
        """Raise if the store could not be made or written; makes nothing."""
        place = self.root
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise LissomError(f"store: {self.root} cannot be written (no permission in {place}, or no folder); "
                              "--store names another")

    def writable(self) -> None:
        """Make the root folder; raise if nothing can be written there."""
        try:
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            raise LissomError(f"store: {self.root} cannot be written ({error}); --store names another folder") from None


def store_rows(store: Store) -> list[dict[str, Any]]:
    """Return one row for each entry: key, recipe, seed, size_bytes, age_s, finished."""
    rows = []
    for key in store:
        record = store.record(key)
        rows.append({"key": key, "recipe": record["recipe"], "seed": record["seed"], "size_bytes": store.size_bytes(key),
                     "age_s": round(time.time() - record["created"]), "finished": bool(record.get("finished"))})
    return rows


def unreached(store: Store, keep: list[str]) -> list[str]:
    """Return the keys that lie on the way to no finished recipe; with `keep`, to none of those keys."""
    records = {key: store.record(key) for key in store}
    reached: set[str] = set()
    left = [*keep] or [key for key, record in records.items() if record.get("finished")]
    while left:
        key = left.pop()
        if key in records and key not in reached:
            reached.add(key)
            left += [records[key]["before"], records[key]["float"]["key"]]
    return [key for key in records if key not in reached]


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """Give an empty folder under `root` that is gone afterwards, whatever happened."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".new-{os.getpid()}-", dir=root))
    except OSError as error:
        raise LissomError(f"store: {root} cannot be written ({error})") from None
    try:
        yield folder
    except OSError as error:
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            raise LissomError(f"store: {root} is full ({error}); `lissom store --prune` frees space") from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def merged(record: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return `record` with `change` laid over it, dictionaries into dictionaries.

    >>> merged({"a": {"x": 1}}, {"a": {"y": 2}})
    {'a': {'x': 1, 'y': 2}}
    """
    out = dict(record)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file by one rename."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(json.dumps(value, indent=1, allow_nan=False))
        os.replace(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise LissomError(f"store: {path} cannot be written ({error})") from None
