"""What a word of `lissom bench` names: a file, or a network of the store."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import LissomError
from ..store.store import Store


def file_or_key(thing: str, store: Store) -> Path | str:
    """Return the path of a file, or the key of the store that begins with `thing`."""
    if os.path.isfile(thing):
        return Path(thing)
    if Path(thing).suffix:  # keys have no suffix
        raise LissomError(f"bench: there is no file {thing}")
    return store.find(thing)
