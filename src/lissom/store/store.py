"""A folder of finished networks: root/<key>/{record.json, model.safetensors, structure.json,
log.jsonl, artefacts/}; artefacts are exported files, and images of answers. If a step was told to
keep its optimizer, there is an optimizer.safetensors as well (learning/moments.py).

An entry appears by one rename, so it is complete or absent. There is one lock for each key
(`filelock`). If two processes want the same key, the second waits instead of training or timing the
same network at the same time. The kernel releases a lock when its process ends, however it ends. So
the store needs a file system with working locks.
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
from .manifest import code_of, first_changed_file, manifest, record_in, record_unchanged, seal
from .pictures import PICTURES
from .record import KEY, chain, read_log, read_record, write_record
from .signing import user_key


class Store:
    """Finished networks by key, in the folder `root`, which is created with the first entry.

    >>> list(Store("there-is-no-such-folder"))
    []
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()
        # tables of the latency of layers on this machine, shared by all networks
        self.tables = self.root / ".layers"

    def __contains__(self, key: str) -> bool:
        return bool(KEY.fullmatch(key)) and (self.root / key / "record.json").is_file()

    def __iter__(self) -> Iterator[str]:
        """Yield the keys, oldest first."""
        found = []
        with suppress(OSError), os.scandir(self.root) as places:
            for place in places:
                with suppress(OSError):  # no record: not an entry, or just being deleted
                    if KEY.fullmatch(place.name):
                        found.append(
                            (os.stat(f"{place.path}{os.sep}record.json").st_mtime, place.name)
                        )
        return (name for _, name in sorted(found))

    def folder(self, key: str) -> Path:
        """Return the folder of an entry. Raises LissomError if it could lie outside the store."""
        # joining strings is much faster than joining paths, and a store has thousands of entries
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

    def folders(self, say: Callable[[str], None]) -> Iterator[tuple[str, Path]]:
        """Yield keys and folders of all entries, oldest first; report to `say` those that are links."""
        for key in self:
            try:
                folder = self.folder(key)
            except LissomError as error:
                say(str(error))
                continue
            yield key, folder

    def find(self, start: str) -> str:
        """Return the key that begins with `start`. Raises LissomError unless exactly one does."""
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
        """Read the record of an entry. Raises LissomError if it is not as docs/record.md says."""
        return read_record(self.folder(key))

    def records(
        self, say: Callable[[str], None], keys: Iterable[str] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield keys and records of the entries `keys`, by default of all, oldest first; report to
        `say` those that cannot be read.
        """
        for key in self if keys is None else keys:
            try:
                yield key, self.record(key)
            except LissomError as error:
                say(str(error))

    def records_by_prefix(self, starts: Iterable[str]) -> list[dict[str, Any]]:
        """Return the records of entries by the beginnings of their keys. Records that cannot be
        read are reported; raises LissomError if none can.
        """
        keys = list(dict.fromkeys(self.find(start) for start in starts))
        found = [record for _, record in self.records(tell, keys)]
        if keys and not found:
            self.record(keys[0])  # raises the error of the first
        return found

    def readable(self, key: str | None) -> dict[str, Any] | None:
        """Return the record of an entry, None if it does not exist or cannot be read."""
        try:
            return self.record(key) if key is not None and key in self else None
        except LissomError:
            return None

    def log(self, key: str) -> list[dict[str, Any]]:
        """Read the training log of an entry: one row for each epoch, empty for surgery."""
        return read_log(self.folder(key))

    def chain(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a record and the records of all networks that it was made from, newest first, as
        far as they can be read.
        """
        found = {record["key"]: record}

        def before(key: str) -> str | None:
            earlier: str | None = found[key]["before"]
            if earlier in found or (read := self.readable(earlier)) is None:
                return earlier if earlier in found else None  # `chain` raises the error for a cycle
            found[read["key"]] = read
            return earlier

        return [found[key] for key in chain(record["key"], before)]

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Lock a key; a second process waits here until the first releases it or ends. Raises
        LissomError if the system refuses.
        """
        self.writable()
        with file_lock(self.root / ".locks" / key):
            yield

    @contextmanager
    def try_lock(self, key: str) -> Iterator[bool]:
        """Lock a key if no process holds it, without waiting; yield whether it was free. Raises
        LissomError if the system refuses.
        """
        self.writable()
        with file_lock(self.root / ".locks" / key, wait=False) as free:
            yield free

    @contextmanager
    def protect(self, keys: Iterable[str] = ()) -> Iterator[Callable[[Iterable[str]], None]]:
        """Protect entries, and all that they were made from, from pruning until the block or the
        process ends. The block gets a function that protects further keys as well.

        The keys are written to a file beside a lock that this process holds. Pruning reads the
        files whose locks are held and deletes the others. It holds the lock `.prune` meanwhile, and
        a run takes that lock briefly when it begins. So no entry is deleted between being found and
        being used.
        """
        self.writable()
        lock = self.root / ".locks" / f".run-{uuid.uuid4().hex}"
        note = lock.with_name(f"{lock.name}.json")
        protected = set[str]()

        def add(more: Iterable[str]) -> None:
            protected.update(more)
            with self.lock(".prune"):  # wait for a pruning that is running now
                write_json(note, sorted(protected))

        with file_lock(lock):
            add(keys)
            try:
                yield add
            finally:
                with suppress(OSError):
                    note.unlink(missing_ok=True)
        with suppress(OSError):
            lock.unlink(missing_ok=True)

    def running(self) -> set[str]:
        """Return the keys that running processes need; delete the notes of dead ones."""
        keys: set[str] = set()
        for note in (self.root / ".locks").glob(".run-*.json"):
            lock = note.with_suffix("")
            with self.try_lock(lock.name) as dead, suppress(OSError, ValueError):
                if not dead:
                    keys.update(str(key) for key in json.loads(note.read_text(encoding="utf-8")))
                    continue
                note.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
        return keys

    def unfinished(self, key: str) -> Path:
        """Return the folder for the unfinished parts of an entry; make it if it does not exist.

        It belongs to the process that holds the key's lock and outlives it: the next process
        resumes from it. It is deleted when the entry is complete. If nobody holds the lock, a run
        deletes the folder once it is a day old, and `lissom store --prune --yes` deletes it at
        once.
        """
        self.writable()
        folder = self.root / f".part-{key}"
        folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def entry(self, key: str) -> Iterator[Path]:
        """Yield a scratch folder that becomes the entry `key` if the block succeeds."""
        self.writable()
        with scratch(self.root) as folder:
            yield folder
            seal(folder, key)
            self._place(folder, self.folder(key))
            shutil.rmtree(self.root / f".part-{key}", ignore_errors=True)

    @contextmanager
    def copied(self, key: str) -> Iterator[Path]:
        """Yield a scratch folder that becomes the entry `key` unchanged, with its own signature."""
        self.writable()
        with scratch(self.root) as folder:
            yield folder
            self._place(folder, self.folder(key))

    @contextmanager
    def artefact(self, key: str, name: str) -> Iterator[Path]:
        """Yield a scratch folder that becomes `artefacts/<name>` of `key` if the block succeeds."""
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
        """Delete an artefact if it exists, so that it can be made again."""
        with scratch(self.root) as folder, suppress(FileNotFoundError):
            os.replace(self.folder(key) / "artefacts" / name, folder / name)

    def update(self, key: str, change: dict[str, Any]) -> dict[str, Any]:
        """Write measurements into the record of an entry, safe against concurrent writers; return the
        new record. A new measurement of a target leaves those of others as they are.

        Fields that somebody else has sealed stay as they are, since only their writer can seal them
        again.
        """
        with self.lock(f"{key}.record"):
            self.record(key)  # raises if it cannot be read
            folder = self.folder(key)
            sealed = manifest(folder, key)
            trusted = (
                sealed is not None and sealed.own_signature and record_unchanged(sealed, folder)
            )
            if sealed and not trusted:
                fixed = sealed.record["fields"]
                change = {name: value for name, value in change.items() if name not in fixed}
            write_record(folder, updated(record_in(folder), change))
            if (
                sealed
                and trusted
                and not record_unchanged(sealed, folder)
                and first_changed_file(folder, sealed) is None
            ):
                seal(folder, key)
            return self.record(key)

    def is_trusted(self, key: str) -> bool:
        """Return whether this user's lissom wrote how a network is built, and its code still has
        the same path.
        """
        folder = self.folder(key)
        sealed = manifest(folder, key)
        return (
            sealed is not None
            and sealed.own_signature
            and first_changed_file(folder, sealed, ["structure.json"]) is None
            and "structure.json" in sealed.files
            and code_of(folder) == sealed.code
            and record_unchanged(sealed, folder)
        )

    def is_trusted_artefact(self, key: str, name: str) -> bool:
        """Return whether an artefact exists unchanged and this user's lissom wrote it.

        Only such a file is reused: opening torch's exported files may unpickle.
        """
        folder = self.folder(key) / "artefacts" / name
        sealed = manifest(folder, f"{key}/artefacts/{name}")
        return (
            sealed is not None
            and sealed.own_signature
            and first_changed_file(folder, sealed) is None
        )

    def remove(self, key: str) -> None:
        """Delete an entry: hide it by one rename, then delete its files."""
        self.writable()
        with scratch(self.root) as folder, suppress(FileNotFoundError):  # another process was first
            os.replace(self.folder(key), folder / key)

    def sweep(self, parts: float = DAY_S) -> None:
        """Delete the leftovers of killed processes: scratch folders, and unfinished entries that
        are at least `parts` seconds old.
        """
        sweep(self.root, Path(tempfile.gettempdir()))
        if not self.root.is_dir():
            return
        for folder in self.root.glob(".part-*"):
            with (
                suppress(OSError, LissomError),  # of another user
                self.try_lock(folder.name.removeprefix(".part-")) as free,
            ):
                if free and time.time() - folder.stat().st_mtime >= parts:
                    shutil.rmtree(folder, ignore_errors=True)

    def size_bytes(self, key: str) -> int:
        """Return the total size of the files of an entry in bytes."""
        return _bytes(str(self.folder(key)))

    def artefacts(self, key: str) -> list[Path]:
        """Return the folders of the exported files of an entry."""
        return [path for path in self._sealed(key) if not path.name.startswith(PICTURES)]

    def pictures(self, key: str) -> list[Path]:
        """Return the folders of the images of an entry, which are not exported files."""
        return [path for path in self._sealed(key) if path.name.startswith(PICTURES)]

    def _sealed(self, key: str) -> list[Path]:
        home = self.folder(key) / "artefacts"
        return sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []

    def _place(self, folder: Path, goal: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                # Windows cannot sync a file that is open only for reading
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
        try:
            os.chmod(folder, 0o755)
            folder.rename(goal)
        except OSError as error:
            if not goal.exists():
                raise LissomError(f"store: {goal} cannot be written ({error})") from None

    def check(self) -> None:
        """Raise LissomError if the store cannot be written or the user's key is invalid."""
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
        """Make the root folder. Raises LissomError if it cannot be written."""
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
    """Print a line to stderr, so that it does not mix with results."""
    print(text, file=sys.stderr)


def updated(record: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return `record` with the fields of `change`. They replace earlier ones, but `targets` keeps
    the targets that `change` does not name.

    >>> updated({"targets": {"a": {"x": 1}}, "b": {"x": 1}}, {"targets": {"c": {}}, "b": {"y": 2}})
    {'targets': {'a': {'x': 1}, 'c': {}}, 'b': {'y': 2}}
    """
    found = {**record, **change}
    if "targets" in change:
        found["targets"] = {**record.get("targets", {}), **change["targets"]}
    return found


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a file while the block runs, and yield True; if another process holds it, wait, or yield
    False. Raises LissomError if the system refuses the lock.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise LissomError(
            f"store: the lock {path} cannot be taken ({error}); delete it if no run is going on, "
            "or get permission to write it from its owner; --store names another folder"
        ) from None
    try:
        yield True
    finally:
        lock.release()
