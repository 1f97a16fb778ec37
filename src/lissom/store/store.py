"""A folder of finished prefixes: root/<key>/{record.json, model.safetensors, structure.json,
log.jsonl, artefacts/}; artefacts are exported files, and pictures of what samples are answered.
Where a step was to keep its optimizer, optimizer.safetensors is there, too (learning/moments.py).

An entry appears by one rename, so that it is whole or not there. Two processes that want the same
key take turns: the lock is the kernel's and ends with the process that holds it, however it ends.
There is one lock for each key (`filelock`): the second process waits, and does not train or time
the same thing beside the first. So the store needs a file system with working locks.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import LissomError
from ..system.scratch import DAY_S, scratch, sweep
from .checks import write_json
from .manifest import code_of, manifest, own_record, record_in, seal, wrong
from .pictures import PICTURES
from .record import KEY, chain, read_log, read_record, write_record
from .signing import user_key


class Store:
    """Finished networks by key, under one folder; `root` is made when the first entry is written.

    >>> list(Store("there-is-no-such-folder"))
    []
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()
        # how long layers take on this machine, for all networks
        self.tables = self.root / ".layers"

    def __contains__(self, key: str) -> bool:
        return bool(KEY.fullmatch(key)) and (self.root / key / "record.json").is_file()

    def __iter__(self) -> Iterator[str]:
        """Yield the keys, oldest first."""
        found = []
        with suppress(OSError), os.scandir(self.root) as places:
            for place in places:
                with suppress(OSError):  # what has no record is no entry, or is deleted now
                    if KEY.fullmatch(place.name):
                        found.append(
                            (os.stat(f"{place.path}{os.sep}record.json").st_mtime, place.name)
                        )
        return (name for _, name in sorted(found))

    def folder(self, key: str) -> Path:
        """Return the folder of an entry; raise where that could lie outside the store."""
        # texts are quick to join, paths are not, and a store has thousands
        folder = f"{self.root}{os.sep}{key}"
        if (
            not KEY.fullmatch(key)
            or os.path.islink(folder)
            or os.path.islink(f"{folder}{os.sep}artefacts")
        ):
            raise LissomError(
                f"store {self.root}: {key!r:.80} is no entry: expected a key, and a "
                "folder that is no link"
            )
        return Path(folder)

    def file_or_key(self, thing: str) -> Path | str:
        """Return the path of a file, or the key that begins with `thing`."""
        if os.path.isfile(thing):
            return Path(thing)
        if Path(thing).suffix:  # no key has one
            raise LissomError(f"bench: there is no file {thing}")
        return self.find(thing)

    def find(self, start: str) -> str:
        """Return the one key that begins with `start`."""
        if start in self:
            return start
        found = [key for key in self if start and key.startswith(start)]
        if len(found) != 1:
            what = "no key begins" if not found else f"{len(found)} keys begin"
            raise LissomError(
                f"store {self.root}: {what} with '{start}'; `lissom store` lists them"
            )
        return found[0]

    def record(self, key: str) -> dict[str, Any]:
        """Read the record of an entry; raise LissomError for one that is not as docs/record.md says."""
        return read_record(self.folder(key))

    def records(
        self, say: Callable[[str], None], keys: Iterable[str] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield keys and records, of all entries, oldest first, if none are named; of what cannot
        be read `say` tells.
        """
        for key in self if keys is None else keys:
            try:
                yield key, self.record(key)
            except LissomError as error:
                say(str(error))

    def several(self, starts: Iterable[str]) -> list[dict[str, Any]]:
        """Return the records of entries by the beginnings of their keys; what cannot be read is
        told, if others can be.
        """
        keys = list(dict.fromkeys(self.find(start) for start in starts))
        return [record for _, record in self.records(tell, keys)] or [self.record(keys[0])]

    def readable(self, key: str | None) -> dict[str, Any] | None:
        """Return the record of an entry, None where it is not there or cannot be read."""
        try:
            return self.record(key) if key is not None and key in self else None
        except LissomError:
            return None

    def log(self, key: str) -> list[dict[str, Any]]:
        """Read the training log of an entry: one row for each epoch, empty for surgery."""
        return read_log(self.folder(key))

    def chain(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a record and those of all that it was made from, as far as they can be read, the
        first network last.
        """
        found = {record["key"]: record}

        def before(key: str) -> str | None:
            earlier: str | None = found[key]["before"]
            if earlier in found or (read := self.readable(earlier)) is None:
                return earlier if earlier in found else None  # in a circle, which `chain` tells
            found[read["key"]] = read
            return earlier

        return [found[key] for key in chain(record["key"], before)]

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
        """Keep entries, and all that they were made from, from being pruned until the block ends,
        or the process does.

        The keys are written to a file beside a lock, which this process holds to its end. Pruning
        reads the files whose locks are held and forgets the others. It holds the lock `.prune`
        meanwhile, and a run takes that lock for a moment when it begins: so no entry is deleted
        between being found and being used.
        """
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

        It belongs to the process that holds the key's lock and outlives it: the next one goes on
        from what is there. It is gone when the entry is placed. If nobody holds the lock, a run
        deletes the folder once it is a day old, and `lissom store --prune --yes` deletes it at
        once.
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
            seal(folder, key)
            self._place(folder, self.folder(key))
            shutil.rmtree(self.root / f".part-{key}", ignore_errors=True)

    @contextmanager
    def copied(self, key: str) -> Iterator[Path]:
        """Give a scratch folder that becomes the entry `key` as it is, with the signature it came with."""
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
            seal(folder, f"{key}/artefacts/{name}")
            self._place(folder, home / name)

    def discard(self, key: str, name: str) -> None:
        """Delete an artefact, if it is there: one that is damaged, or that somebody else wrote, is
        made anew.
        """
        with scratch(self.root) as folder, suppress(FileNotFoundError):
            os.replace(self.folder(key) / "artefacts" / name, folder / name)

    def update(self, key: str, change: dict[str, Any]) -> dict[str, Any]:
        """Merge measurements into the record of an entry, safely beside other writers."""
        with self.lock(f"{key}.record"):
            self.record(key)  # raises if it cannot be read
            folder = self.folder(key)
            sealed = manifest(self.folder(key), key)
            own = sealed is not None and sealed.own and own_record(sealed, folder)
            write_record(folder, merged(record_in(folder), change))
            if sealed and own and not own_record(sealed, folder) and wrong(folder, sealed) is None:
                seal(folder, key)
            return self.record(key)

    def own(self, key: str) -> bool:
        """Return whether this user's lissom wrote how a network is built, and the code for it still
        lies where it did.
        """
        folder = self.folder(key)
        sealed = manifest(folder, key)
        return (
            sealed is not None
            and sealed.own
            and wrong(folder, sealed, ["structure.json"]) is None
            and "structure.json" in sealed.files
            and code_of(folder) == sealed.code
            and own_record(sealed, folder)
        )

    def sound(self, key: str, name: str) -> bool:
        """Return whether an artefact is there as this user's lissom wrote it.

        Only such a file is used again: torch's exported files may unpickle when they are opened.
        """
        folder = self.folder(key) / "artefacts" / name
        sealed = manifest(folder, f"{key}/artefacts/{name}")
        return sealed is not None and sealed.own and wrong(folder, sealed) is None

    def remove(self, key: str) -> None:
        """Delete an entry: out of sight by one rename, then file by file."""
        self.writable()
        with scratch(self.root) as folder, suppress(FileNotFoundError):  # another process was first
            os.replace(self.folder(key), folder / key)

    def sweep(self, parts: float = DAY_S) -> None:
        """Delete what killed processes left behind: scratch folders, and unfinished entries that
        are `parts` seconds old.
        """
        sweep(self.root, Path(tempfile.gettempdir()))
        if not self.root.is_dir():
            return
        for folder in self.root.glob(".part-*"):
            with self.free(folder.name.removeprefix(".part-")) as free, suppress(OSError):
                if free and time.time() - folder.stat().st_mtime >= parts:
                    shutil.rmtree(folder, ignore_errors=True)

    def size_bytes(self, key: str) -> int:
        """Return the bytes of all files of an entry."""
        return _bytes(str(self.folder(key)))

    def artefacts(self, key: str) -> list[Path]:
        """Return the folders of the exported files of an entry."""
        return [path for path in self._sealed(key) if not path.name.startswith(PICTURES)]

    def pictures(self, key: str) -> list[Path]:
        """Return the folders of what samples are answered, which is no exported file."""
        return [path for path in self._sealed(key) if path.name.startswith(PICTURES)]

    def _sealed(self, key: str) -> list[Path]:
        home = self.folder(key) / "artefacts"
        return sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []

    def _place(self, folder: Path, goal: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                # Windows syncs no file that is open for reading alone
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
        try:
            os.chmod(folder, 0o755)
            folder.rename(goal)
        except OSError as error:
            if not goal.exists():
                raise LissomError(f"store: {goal} cannot be written ({error})") from None

    def check(self) -> None:
        """Raise if the store could not be made or written, or the user's key not be read; makes nothing."""
        user_key(make=False)
        place = self.root
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise LissomError(
                f"store: {self.root} cannot be written (no permission in {place}, "
                "or no folder); "
                "--store names another"
            )

    def writable(self) -> None:
        """Make the root folder; raise if nothing can be written there."""
        try:
            (self.root / ".locks").mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            raise LissomError(
                f"store: {self.root} cannot be written ({error}); --store names another folder"
            ) from None


def _bytes(place: str) -> int:
    total = 0
    with suppress(OSError), os.scandir(place) as found:
        for part in found:
            total += (
                _bytes(part.path)
                if part.is_dir(follow_symlinks=False)
                else part.stat(follow_symlinks=False).st_size
            )
    return total


def tell(text: str) -> None:
    """Print a line where it does not mix with results."""
    print(text, file=sys.stderr)


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
