"""Send entries of a store to another machine and back, as files.

The head owns the store. A remote worker has a temporary store: it receives the entries that a step
begins with, and returns the entry that it made. So no shared disk is needed. The receiver compares
an entry with its checksums, and signs it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ...errors import LissomError
from ...store.manifest import first_changed_file, manifest, record_unchanged
from ...store.store import Store
from ..plan import Node

FILE = re.compile(r"[a-z][a-z0-9_]*\.[a-z]+")  # of an entry; only exported files lie in folders
Files = dict[str, bytes]


def files_of(store: Store, key: str) -> Files:
    """Return the files of an entry by name, without exported files."""
    return {path.name: path.read_bytes() for path in store.folder(key).iterdir() if path.is_file()}


def take_in(store: Store, key: str, files: Files) -> None:
    """Put an entry into a store, unless it is there. Raises LissomError if its files do not match
    their manifest.
    """
    with store.lock(key):
        if key in store:
            return
        with store.entry(key) as folder:
            for name, content in files.items():
                if not FILE.fullmatch(name):
                    raise LissomError(f"store: {key}: {name!r:.80} is no file of an entry")
                (folder / name).write_bytes(content)
            sealed = manifest(folder, key)
            if sealed is None or sealed.name != key:
                raise LissomError(f"store: {key} came without its checksums")
            if {*sealed.files, "manifest.json", "record.json"} != {*files}:
                raise LissomError(f"store: {key} came without a file, or with one more")
            if not record_unchanged(sealed, folder):
                raise LissomError(f"store: the record of {key} is not what was written")
            if (bad := first_changed_file(folder, sealed)) is not None:
                raise LissomError(f"store: {bad} of {key} is not what was written")


def check_made(files: Files, node: Node, spec: dict[str, Any]) -> None:
    """Raise LissomError unless the files are the requested entry, built as the task says. This
    matters because the receiver signs the entry.
    """
    try:
        record = json.loads(files["record.json"])
        build = json.loads(files["structure.json"])["build"]
        before = node.before.key if node.before else None
        found = (record["key"], record["before"], record["step"], record["seed"], build)
    except (KeyError, TypeError, ValueError) as error:
        raise LissomError(f"store: what came for {node.key} cannot be read ({error})") from None
    asked = (node.key, before, str(node.step or ""), node.seed, json.loads(json.dumps(spec)))
    if found != asked:
        raise LissomError(f"store: what came for {node.key} is another network: {found!r:.300}")
