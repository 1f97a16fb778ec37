"""Load finished networks of a store, or build them afresh, given only a key."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from shlex import quote
from typing import Any

from torch import nn

from ..data.source import is_own_data
from ..errors import LissomError, listed
from ..store.snapshot import read_structure, restore
from ..store.store import Store
from ..tasks.builders import arguments, chosen_arguments, code_named
from ..tasks.code import call_user_code
from ..tasks.kinds import is_own_kind
from ..tasks.networks import factory_of
from ..tasks.task import Task, own_task


def load_key(key: str, store: Store, given: str | None = None) -> nn.Module:
    """Load a finished network by its key; the entry says how to build it.

    The user's own code that it names is imported only if this user's lissom wrote the entry, or if
    the user names the code again as `given`.
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
    return build_from(build, str(folder), given, trusted=plain or store.is_trusted(key), cure=cure)


def task_of_entry(key: str, store: Store) -> Task | None:
    """Return the task that an entry was made for; None if Python code made it, or an earlier lissom
    that did not say.

    Raises LissomError if this user's lissom did not write the entry, if its data or kind of task are
    the user's code, whose path is not signed, and if data are no longer where they were.
    """
    origin = store.record(key)["task"]["origin"]
    if not origin:
        return None
    if not store.is_trusted(key):
        raise LissomError(
            f"store: {key} says which network and data it was made for, but nothing shows that your "
            "lissom wrote it; name them (--model, --data), or, if it is yours, sign all that is in "
            f"that store: lissom store --trust --store {store.root}"
        )
    code = texts_of_code(origin)
    if code:
        raise LissomError(
            f"store: {key} was made for {listed(code)}, code that is imported only if you name it "
            f"again: add {options_of(origin)}"
        )
    return Task.from_origin(origin)


def options_of(origin: Mapping[str, Any]) -> str:
    """Return the options of the command line that name the network and data of an origin.

    >>> options_of({"model": "net.py:make", "weights": "net.pt", "data": {"name": "a.py:data"}})
    '--model net.py:make --weights net.pt --data a.py:data'
    """
    data = origin.get("data") or {}
    named = {
        "--model": origin.get("model"),
        "--weights": origin.get("weights"),
        "--data": data.get("name"),
        "--preprocess": data.get("preprocess"),
        "--classes": data.get("classes"),
        "--kind": origin.get("kind"),
    }
    given = [f"{option} {quote(text)}" for option, text in named.items() if isinstance(text, str)]
    return " ".join([*given, *(["--model-args ..."] if origin.get("arguments") else [])])


def texts_of_code(origin: Mapping[str, Any]) -> list[str]:
    """Return the own data and the own kind of task that an origin names."""
    data = str(origin["data"]["name"]) if "data" in origin else ""
    kind = str(origin.get("kind") or "")
    return [*([data] if is_own_data(data) else []), *([kind] if is_own_kind(kind) else [])]


def build_from(
    build: dict[str, Any],
    where: str,
    given: str | None = None,
    *,
    trusted: bool = False,
    cure: str = "give it again as `model`",
) -> nn.Module:
    """Build a network afresh from the `build` settings of an entry of the store.

    Names from menus are only data. The user's own code is imported if the entry is `trusted`, or if
    the user names the code again as `given`. Raises LissomError otherwise.
    """
    code = code_named(build)
    more = chosen_arguments(build)
    if code is None and "model" not in build:
        raise LissomError(
            f"load: {where} does not say how its network is built; give the network as `model`"
        )
    if code and not trusted and given is None:
        raise LissomError(
            f"load: {where} would import {code:.80}, and nothing shows that your "
            f"lissom wrote it; {cure}"
        )
    if more and not trusted:
        raise LissomError(
            f"load: {where} would build its network with {listed(more)}, and nothing shows that "
            "your lissom wrote it; if it is yours, lissom store --trust signs all that is in its store"
        )
    if "task" in build:
        return own_task(given or str(build["task"])).fresh()
    named = given or str(build["model"])
    factory, _ = factory_of(named)
    build_network = partial(factory, **arguments(build, where))
    network: nn.Module = call_user_code(build_network, f"load: {where}: building {named:.80}")
    return network
