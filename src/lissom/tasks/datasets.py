"""Load data from the user's own code, `file.py:name`, or from an origin."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.classes import classes_named
from ..data.data import Data
from ..data.folder import PARTS
from ..data.own import dataset_split, is_pair_of_tensors
from ..data.published import preprocess_of
from ..data.source import is_own_data
from ..data.validation import set_apart
from ..errors import LissomError, listed, nearest
from ..language.preprocess import Preprocess
from .code import call_user_code, loaded

ALSO = {"val": "valid", "validation": "valid", "training": "train", "testing": "test"}


def data_from(origin: Mapping[str, Any]) -> Data:
    """Load the data with this `origin`, in another process or on another machine."""
    more = {name: with_tuples(value) for name, value in origin.items() if name != "name"}
    if is_own_data(origin["name"]):
        return own_data(origin["name"], **more)
    root = more.pop("root")
    return Data.of(origin["name"], root=None if root is None else Path(root), **more)


def with_tuples(value: Any) -> Any:
    """Return a value from JSON with lists converted back to tuples."""
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def own_data(spec: str, *, preprocess: str | None = None, classes: str | None = None) -> Data:
    """Load the data in `file.py:name`.

    This is a Dataset or DataLoader, a tuple or dict of them, a lissom.Data, or a function without
    arguments that returns one of these. Two are (train, test), three are (train, valid, test). A
    fifth of a single one is the test set. Raises LissomError for anything else.
    """
    place, _, name = spec.rpartition(":")
    found, source = loaded(place, name, "data")
    is_function = callable(found) and not hasattr(found, "__getitem__")
    if is_function and not hasattr(found, "__iter__") and not isinstance(found, type):
        found = call_user_code(found, f"data: {spec}")
    if isinstance(found, Data):
        if preprocess or classes:
            word = "preprocess" if preprocess else "classes"
            raise LissomError(
                f"--{word}: {spec} is a lissom.Data, which says its own; leave it out"
            )
        return replace(found, origin={"name": spec})
    parts = parts_of(found, f"data {spec}")
    notes = list[str]()
    if set(parts) == {"train"}:
        view = preprocess_of(preprocess) if preprocess else Preprocess((), ())
        whole = dataset_split(parts["train"], view, f"data {spec}")
        parts["train"], parts["test"] = set_apart(whole, share=0.2, max_count=len(whole))
        notes.append("only one data set was given: a fixed random fifth of it is the test set")
    number = named_classes(classes)
    data = Data.of_dataset(**parts, preprocess=preprocess, classes=number, name=name)
    mark = hashlib.sha256(f"{source} {data.fingerprint}".encode()).hexdigest()[:16]
    origin = {"name": spec, "preprocess": preprocess, "classes": classes}
    return replace(data, name=spec, fingerprint=mark, notes=[*notes, *data.notes], origin=origin)


def parts_of(found: Any, where: str) -> dict[str, Any]:
    """Return the splits in an object of the user's code, by name."""
    if isinstance(found, Mapping):
        parts = {ALSO.get(str(name), str(name)): split for name, split in found.items()}
        for name in parts:
            if name not in PARTS:
                close = nearest(name, PARTS)
                hint = f"; did you mean '{close}'?" if close else ""
                raise LissomError(f"{where}: expected {listed(PARTS)}, got '{name}'{hint}")
        if "test" not in parts:
            if "valid" not in parts:
                return parts
            parts["test"] = parts.pop("valid")
        return parts
    if isinstance(found, (tuple, list)) and len(found) in (2, 3) and not is_pair_of_tensors(found):
        names = ("train", "test") if len(found) == 2 else PARTS
        return dict(zip(names, found, strict=True))
    return {"train": found}


def named_classes(text: str | None) -> int | tuple[str, ...] | None:
    """Return the classes that a text names, or their number if it is a number."""
    if text is None:
        return None
    return int(text) if text.isdigit() else classes_named(text)
