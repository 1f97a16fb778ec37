"""What an entry of the store consists of: the SHA-256 of its files, signed with the user's key.

The checksums tell damage, the signature tells whose entry it is. What may change later,
measurements, is not in it; everything that decides what is imported or run is: the structure with
how the network is built, the weights, the recipe and the entries it names, and where the code lies
that it names.

A store is data: what it names is imported only if the user's own key has signed it. The place of
the code is signed too, so that an entry which comes back from somebody else does not run the code
that lies beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LissomError
from ..tasks.builders import code_file, code_named
from .checks import parsed, text_of
from .record import remedy
from .signing import canonical, same, signature, user_key

NAME = "manifest.json"
FORMAT = 1
# what a record is told after it was written; other fields may be added
LATER = ("targets", "finished", "notes")
# bytes hashed at once: between two parts a thread waits for one that builds a network to let it run
CHUNK = 8 << 20
HASHED: dict[tuple[int, ...], str] = {}  # what this process has read already


@dataclass(frozen=True)
class Manifest:
    """The checksums of a folder that was sealed, by file; whether all of it was signed by this user."""

    name: str
    files: dict[str, str]
    record: dict[str, Any]  # the fields that count, and their SHA-256
    code: str | None  # where the code lies that the entry names, as a SHA-256
    own: bool


def seal(folder: Path, name: str) -> None:
    """Write the manifest of a folder of the name KEY or KEY/artefacts/NAME, signed with the user's
    key if there is one.
    """
    files = {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in (NAME, "record.json")
        and path.relative_to(folder).parts[0] != "artefacts"
    }
    record = record_in(folder)
    fields = sorted(set(record) - set(LATER))
    facts = {
        "format": FORMAT,
        "name": name,
        "files": files,
        "code": code_of(folder),
        "record": {"fields": fields, "sha256": digest_of(record, fields)},
    }
    key = user_key()
    (folder / NAME).write_text(
        json.dumps({**facts, "signature": signature(facts, key) if key else None}, indent=1),
        encoding="utf-8",
    )


def manifest(folder: Path, name: str) -> Manifest | None:
    """Return the manifest of a folder of that name; None where there is none or it cannot be read."""
    try:
        facts = parsed(text_of(folder / NAME))
        signed = facts.pop("signature")
        files = facts["files"]
        record = facts["record"]
        if facts["format"] != FORMAT or not all(
            isinstance(v, str) for v in (*files, *files.values(), *record["fields"])
        ):
            return None
        key = user_key() if isinstance(signed, str) else None
        own = (
            bool(key) and same(signature(facts, key or b""), str(signed)) and facts["name"] == name
        )
        return Manifest(str(facts["name"]), files, record, facts["code"], own)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def wrong(folder: Path, sealed: Manifest, names: Iterable[str] | None = None) -> str | None:
    """Return the first file of a folder that is not what was sealed, None if all are, or those of `names`."""
    return next(
        (
            name
            for name in (sealed.files if names is None else names)
            if name in sealed.files and digest(folder / name) != sealed.files[name]
        ),
        None,
    )


@contextmanager
def checked(folder: Path) -> Iterator[None]:
    """Compare a network's files with their checksums while the block reads them; raise LissomError
    where they differ.

    A thread hashes the files while the network is built, each file once in a process: loading a
    ResNet-50 takes 1.01 times as long as without checksums (benchmarks/checksum_cost.py).
    """
    sealed = manifest(folder, folder.name)
    if sealed is None:  # saved by lissom.save, or by an earlier version
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(wrong, folder, sealed, ("structure.json", "model.safetensors"))
        try:
            yield
        except Exception:
            refuse(folder, found.result())  # which tells more than what came of it
            raise
    refuse(folder, found.result())


def refuse(folder: Path, name: str | None) -> None:
    """Raise LissomError if a file of an entry is not what was written."""
    if name is not None:
        raise LissomError(
            f"store: {folder / name} is not what was written (its SHA-256 differs); "
            f"{remedy(folder)}"
        )


def own_record(sealed: Manifest, folder: Path) -> bool:
    """Return whether the record of an entry says what it did when it was sealed."""
    fields = sealed.record["fields"]
    record = record_in(folder)
    return (
        all(name in record for name in fields)
        and digest_of(record, fields) == sealed.record["sha256"]
    )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, "" where it cannot be read."""
    found = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            now = os.fstat(file.fileno())
            stamp = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
            if stamp not in HASHED:
                part = memoryview(bytearray(min(CHUNK, now.st_size + 1)))
                while count := file.readinto(part):
                    found.update(part[:count])
                HASHED[stamp] = found.hexdigest()
    except OSError:
        return ""
    return HASHED[stamp]


def digest_of(record: dict[str, Any], fields: Iterable[str]) -> str:
    """Return the SHA-256 of some fields of a record."""
    return hashlib.sha256(canonical({name: record[name] for name in fields})).hexdigest()


def record_in(folder: Path) -> dict[str, Any]:
    """Return the record of an entry as it is written; an empty one where it cannot be read."""
    try:
        return dict(parsed(text_of(folder / "record.json")))
    except (OSError, ValueError, TypeError):
        return {}


def code_of(folder: Path) -> str | None:
    """Return the SHA-256 of the path of the code that a network's structure names; None where it
    names none.
    """
    named = code_in(folder)
    file = named and code_file(named)
    return hashlib.sha256(str(file).encode()).hexdigest() if file else None


def code_in(folder: Path) -> str | None:
    """Return the code that the structure of a saved network names; None where it names none or
    cannot be read.
    """
    try:
        return code_named(parsed(text_of(folder / "structure.json"))["build"] or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
