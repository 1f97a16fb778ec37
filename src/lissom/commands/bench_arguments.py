"""What an argument of `lissom bench` names: a file, or a network of the store.

This is apart from bench.py, whose imports take seconds, so that a wrong name is refused at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import LissomError
from ..store.store import Store


def file_or_key(argument: str, store: Store) -> Path | str:
    """Return the path of a file, or the key of the store that begins with `argument`."""
    if os.path.isfile(argument):
        return Path(argument)
    if Path(argument).suffix:  # keys have no suffix
        raise LissomError(f"bench: there is no file {argument}")
    return store.find(argument)
