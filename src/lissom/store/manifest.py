"""The manifest of an entry of the store: the SHA-256 of its files, signed with the user's key.

The checksums reveal damage; the signature shows whose entry it is. The manifest leaves out
measurements, which may change later. It covers everything that decides which code is imported or
run: the structure with the way to build the network, the weights, the recipe and the entries it
names, and the path of the code it names.

A store is only data: code that it names is imported only if the user's own key has signed it. The
path of the code is signed too, so that an entry that comes back from somebody else does not run
code that they put beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LissomError
from ..tasks.builders import code_file, code_named
from .checks import is_regular, parsed, text_of, write_json
from .record import remedy
from .signing import canonical, same, signature, user_key

NAME = "manifest.json"
FORMAT = 1
# fields of a record that may change later; other fields may only be added
LATER = ("targets", "finished", "notes", "gates")
PLAIN = r"[A-Za-z][\w.-]*"  # name of a file that is sealed; no path, and not hidden
SHA256 = re.compile("[0-9a-f]{64}")
# bytes hashed at once: after each part, the thread must wait for the one that builds the network
CHUNK = 8 << 20
HASHED: dict[tuple[int, ...], str] = {}  # digests of files that this process has read already


@dataclass(frozen=True)
class Manifest:
    """The checksums of a sealed folder, by file. `own_signature`: this user signed them."""

    name: str
    files: dict[str, str]
    record: dict[str, Any]  # names of the sealed fields, and their SHA-256
    code: str | None  # the SHA-256 of the path of the code that the entry names
    own_signature: bool


def seal(folder: Path, name: str) -> None:
    """Write the manifest of a folder named KEY or KEY/artefacts/NAME, signed with the user's key if
    there is one. Raises LissomError if it cannot be written.
    """
    files = {
        path.name: digest(path)
        for path in sorted(folder.glob("*"))
        if re.fullmatch(PLAIN, path.name)
        and is_regular(path)
        and path.name not in (NAME, "record.json")
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
    write_json(folder / NAME, {**facts, "signature": signature(facts, key) if key else None})


def manifest(folder: Path, name: str) -> Manifest | None:
    """Return the manifest of a folder named `name`; None if there is none or it cannot be read, or
    if it names anything but files of this folder.
    """
    try:
        facts = parsed(text_of(folder / NAME))
        signed = facts.pop("signature")
        files = facts["files"]
        record = facts["record"]
        if (
            facts["format"] != FORMAT
            or not all(re.fullmatch(PLAIN, path) for path in files)
            or not all(SHA256.fullmatch(found) for found in (*files.values(), record["sha256"]))
            or not all(isinstance(name, str) for name in record["fields"])
        ):
            return None
        key = user_key() if isinstance(signed, str) else None
        own_signature = (
            bool(key) and same(signature(facts, key or b""), str(signed)) and facts["name"] == name
        )
        return Manifest(str(facts["name"]), files, record, facts["code"], own_signature)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def first_changed_file(
    folder: Path, sealed: Manifest, names: Iterable[str] | None = None
) -> str | None:
    """Return the first file (of `names` if given) that differs from its checksum, or None."""
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
    """Compare a network's files with their checksums while the block reads them. Raises LissomError
    if they differ.

    A thread hashes the files while the network is built, and each file only once per process. So
    loading a ResNet-50 takes 1.01 times as long as without checksums (benchmarks/checksum_cost.py).
    """
    sealed = manifest(folder, folder.name)
    if sealed is None:  # saved by lissom.save, or by an earlier version
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(
            first_changed_file, folder, sealed, ("structure.json", "model.safetensors")
        )
        try:
            yield
        except Exception:
            raise_if_damaged(
                folder, found.result()
            )  # a damaged file explains more than its consequences
            raise
    raise_if_damaged(folder, found.result())


def raise_if_damaged(folder: Path, name: str | None) -> None:
    """Raise LissomError for a damaged file of an entry; None means that there is none."""
    if name is not None:
        raise LissomError(
            f"store: {folder / name} is not what was written (its SHA-256 differs); "
            f"{remedy(folder)}"
        )


def record_unchanged(sealed: Manifest, folder: Path) -> bool:
    """Return whether the sealed fields of an entry's record are unchanged."""
    fields = sealed.record["fields"]
    record = record_in(folder)
    return (
        all(name in record for name in fields)
        and digest_of(record, fields) == sealed.record["sha256"]
    )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, "" if it cannot be read or is a link, device or pipe."""
    if not is_regular(path):
        return ""
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
    """Return the record of an entry without checking it; {} if it cannot be read."""
    try:
        return dict(parsed(text_of(folder / "record.json")))
    except (OSError, ValueError, TypeError):
        return {}


def code_of(folder: Path) -> str | None:
    """Return the SHA-256 of the path of the code that a network's structure names, or None."""
    named = code_in(folder)
    file = named and code_file(named)
    return hashlib.sha256(str(file).encode()).hexdigest() if file else None


def code_in(folder: Path) -> str | None:
    """Return the code that a saved network's structure names; None if it names none or cannot be
    read.
    """
    try:
        return code_named(parsed(text_of(folder / "structure.json"))["build"] or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
