"""Finished networks of a store, loaded or built afresh by key alone."""

from __future__ import annotations

from torch import nn

from ..store.snapshot import read_structure, restore
from ..store.store import Store
from ..tasks.builders import chosen_arguments, code_named
from ..tasks.rebuild import build_from


def load_key(key: str, store: Store, given: str | None = None) -> nn.Module:
    """Load a finished network by key alone: the entry says how to build it.

    Own code that it names is imported if this user's lissom wrote the entry, or as `given`.
    """
    key = store.find(key)
    return restore(lambda: build_from_entry(key, store, given), store.folder(key))


def build_from_entry(key: str, store: Store, given: str | None = None) -> nn.Module:
    """Build the network of an entry afresh, as it was before any step."""
    folder = store.folder(key)
    build = read_structure(folder)["build"] or {}
    code = code_named(build)
    cure = (
        f"if it is yours, name it again (--model {code or '':.80}), or sign all that is in that store: "
        f"lissom store --trust --store {store.root}"
    )
    plain = code is None and not chosen_arguments(build)
    return build_from(build, str(folder), given, trusted=plain or store.own(key), cure=cure)
