"""A folder of finished prefixes: root/<key>/{record.json, model.safetensors, structure.json, log.jsonl, artefacts/}.

An entry appears by one rename, so that it is whole or not there. Two processes that want the same key
take turns: the lock is the kernel's and ends with the process that holds it, however it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import LissomError
from .scratch import DAY_S, scratch, sweep


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
        with FileLock(self.root / ".locks" / key):
            yield

    @contextmanager
    def free(self, key: str) -> Iterator[bool]:
        """Hold the key if no process holds it; give whether it was free. Nobody waits."""
        self.writable()
        lock = FileLock(self.root / ".locks" / key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextmanager
    def needed(self, keys: Iterable[str]) -> Iterator[None]:
        """Keep entries, and all that they were made from, from being pruned until the block ends, or the process does."""
        self.writable()
        lock = self.root / ".locks" / f".run-{uuid.uuid4().hex}"
        note = lock.with_name(f"{lock.name}.json")
        with FileLock(lock):
            with self.lock(".prune"):  # one that goes on now ends first
                write_json(note, sorted(set(keys)))
            try:
                yield
            finally:
                with suppress(OSError):
                    note.unlink(missing_ok=True)
        with suppress(OSError):
            lock.unlink(missing_ok=True)

    def running(self) -> set[str]:
        """Return the keys that living processes need; forget those of dead ones."""
        keys: set[str] = set()
        for note in (self.root / ".locks").glob(".run-*.json"):
            lock = note.with_suffix("")
            with self.free(lock.name) as dead, suppress(OSError, ValueError):
                if not dead:
                    keys.update(str(key) for key in json.loads(note.read_text(encoding="utf-8")))
                    continue
                note.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
        return keys

    def unfinished(self, key: str) -> Path:
        """Return the folder for what is finished of an entry so far; made if need be.

        It belongs to the process that holds the key's lock and outlives it: the next one goes on from what is there. It is
        gone when the entry is placed; pruning deletes it if no process holds the lock.
        """
        self.writable()
        folder = self.root / f".part-{key}"
        folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def entry(self, key: str) -> Iterator[Path]:
        """Give a scratch folder that becomes the entry `key` when the block ends well."""
        self.writable()
        with scratch(self.root) as folder:
            yield folder
            self._place(folder, self.folder(key))
            shutil.rmtree(self.root / f".part-{key}", ignore_errors=True)

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

    def sweep(self, parts: float = DAY_S) -> None:
        """Delete what killed processes left behind: scratch folders, and unfinished entries that are `parts` seconds old."""
        sweep(self.root, Path(tempfile.gettempdir()))
        for folder in self.root.glob(".part-*"):
            with self.free(folder.name.removeprefix(".part-")) as free, suppress(OSError):
                if free and time.time() - folder.stat().st_mtime >= parts:
                    shutil.rmtree(folder, ignore_errors=True)

    def size_bytes(self, key: str) -> int:
        """Return the bytes of all files of an entry."""
        return sum(p.stat().st_size for p in self.folder(key).rglob("*") if p.is_file())

    def _place(self, folder: Path, goal: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("r+b") as file:  # Windows syncs no file that is open for reading alone
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
