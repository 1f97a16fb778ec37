"""The one reader of records and logs: whoever gets one from here finds what docs/record.md says, of
the types it says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import LissomError
from .checks import (
    LARGEST,
    Wrong,
    anything,
    at,
    fields,
    flag,
    listing,
    mapping,
    maybe,
    number,
    parsed,
    text,
    text_of,
    whole,
)

SCHEMA = 1
KEY = re.compile(r"[0-9a-z][0-9a-z_-]{0,63}")


def key_text(value: Any) -> Any:
    """Accept the name of an entry: it can be a folder's name on any system, and lead nowhere else."""
    if type(value) is not str or not KEY.fullmatch(value):
        raise Wrong("", "a key", value)
    return value


# what a record holds

COUNT = whole()
SIZE = whole(1)
MS = number(1e-9, 1e12)
SHARE = maybe(number())
SCORES = mapping(maybe(number()))
SPLITS = fields(valid=(SCORES, dict), test=SCORES)
LATENCY = fields(median=MS, low=MS, high=MS)
GATES = listing(fields(name=text, difference=number(), tolerance=number()))
LAYERS = listing(
    fields(name=text, kind=(text, ""), outputs=(maybe(COUNT), None), params=COUNT, macs=COUNT)
)
ROUNDED = listing(
    fields(
        name=text,
        weights=(maybe(fields(bits=whole(1, 32))), None),
        inputs=(maybe(fields(bits=whole(1, 32))), None),
    )
)
TARGET = fields(
    artefact=text,
    size_bytes=SIZE,
    float_size_bytes=SIZE,
    latency_ms=LATENCY,
    float_latency_ms=LATENCY,
    agreement=(SHARE, None),
    fused=(maybe(text), None),
    not_fused=(listing(text), list),
    peak_mib=(maybe(number(0)), None),
    resident_mib=(maybe(number()), None),
    load_ms=(maybe(number(0)), None),
    gates=(GATES, list),
)
NETWORK = {
    "key": key_text,
    "scores": SPLITS,
    "params": COUNT,
    "macs": COUNT,
    "weights_bytes": COUNT,
}
TASK = fields(
    model=text,
    data=text,
    shape=(listing(whole(1, 65_536)), list),
    classes=(COUNT, 0),
    train=(COUNT, 0),
    valid=(COUNT, 0),
    test=(COUNT, 0),
    notes=(listing(text), list),
    spec=(mapping(anything), dict),
    preprocessing=(fields(mean=(listing(number()), list), std=(listing(number(1e-9)), list)), dict),
)
MACHINE = fields(cpu=(text, "unknown"), cores=(maybe(COUNT), None))
RECORD = fields(
    **NETWORK,
    schema=(whole(SCHEMA, SCHEMA), SCHEMA),
    before=(maybe(key_text), None),
    recipe=text,
    step=(text, ""),
    seed=whole(-LARGEST),
    finished=(flag, False),
    float=fields(**NETWORK),
    task=TASK,
    sizes=(maybe(fields(theory_bytes=number(0), packed_bytes=number(0))), None),
    seconds=(number(0), 0),
    facts=(mapping(anything), dict),
    gates=(GATES, list),
    notes=(listing(text), list),
    layers=(LAYERS, list),
    machine=(MACHINE, lambda: {"cpu": "unknown", "cores": None}),
    targets=(mapping(TARGET), dict),
    created=(number(0, 1e11), 0),
)
ROW = mapping(anything)


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of an entry, with what records of earlier versions lack; `artefact` is a
    path in the entry.

    Raises LissomError, in one line, for whatever is not as docs/record.md says.
    """
    try:
        found: dict[str, Any] = RECORD(parsed(text_of(folder / "record.json")))
        if found["key"] != folder.name:
            raise Wrong("key", folder.name, found["key"])
        if found["before"] == found["key"]:
            raise Wrong("before", "another network", "itself")
        if "quantized" in found["facts"]:
            found["facts"]["layers"] = at("facts.layers", ROUNDED, found["facts"].get("layers", []))
        if found["sizes"] is None:
            del found["sizes"]
        if found["float"]["key"] == found["key"] and not trained_alone(found["recipe"]):
            raise Wrong(
                "float",
                "the uncompressed network",
                "the compressed one: it was deleted while this one was made",
            )
        for name, target in found["targets"].items():
            for score in found["scores"]["test"]:
                at(f"targets.{name}.{score}", SHARE, target.get(score))
            target["artefact"] = str(
                artefact(target["artefact"], folder, f"targets.{name}.artefact")
            )
        return found
    except (OSError, ValueError) as error:
        raise unreadable(folder, "record", error) from None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the training log of an entry, none where there is no file; a number that
    is none is None.
    """
    try:
        if not os.path.lexists(folder / "log.jsonl"):
            return []
        return [
            at(f"line {count}", ROW, parsed(line, lambda _: None))
            for count, line in enumerate(text_of(folder / "log.jsonl").splitlines(), 1)
        ]
    except (OSError, ValueError) as error:
        raise unreadable(folder, "log", error) from None


def unreadable(folder: Path, what: str, error: Exception) -> LissomError:
    """Return the error for a file of an entry that cannot be read, with what removes it."""
    said = " ".join(str(error).split())[:200]
    return LissomError(
        f"store: the {what} of {folder.name} cannot be read ({said}); {remedy(folder)}"
    )


def remedy(folder: Path) -> str:
    """Return what to do about an entry that is no good."""
    return f"remove the entry: lissom store --remove {folder.name} --store {folder.parent}"


def artefact(path: str, folder: Path, place: str) -> Path:
    """Return where an artefact lies in an entry that may have been moved since; raise if the path
    leads out of it.
    """
    parts = re.split(r"[/\\]", path)
    start = max((k for k, part in enumerate(parts) if part == "artefacts"), default=-1)
    inside = parts[start:] if start >= 0 else []
    if len(inside) < 3 or any(
        not part.strip(". ") or re.search(r'[<>:"|?*\x00-\x1f]', part) for part in inside
    ):
        raise Wrong(place, "a path below artefacts/", path)
    return folder.joinpath(*inside)


def trained_alone(recipe: str) -> bool:
    """Return whether nothing but training made a network, so that it may be its own uncompressed one.

    >>> trained_alone(""), trained_alone("train(3) | train(1)"), trained_alone("train(3) | fold")
    (True, True, False)
    """
    from ..language.recipe import Recipe

    try:
        return not any(step.compresses for step in Recipe(recipe).steps) if recipe else True
    except LissomError:  # of another version
        return False


def stored(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a record as it is written: artefacts by their place in the entry, so that a store can
    be moved.
    """
    targets = {
        name: {
            **found,
            "artefact": artefact(found["artefact"], folder, name).relative_to(folder).as_posix(),
        }
        if "artefact" in found
        else found
        for name, found in record.get("targets", {}).items()
    }
    return {**record, "targets": targets} if "targets" in record else record


def chain(key: str, before: Callable[[str], str | None]) -> Iterator[str]:
    """Yield a key and all that it was made from, one by one; raise where they go round in a circle.

    >>> list(chain("c", {"c": "b", "b": "a"}.get))
    ['c', 'b', 'a']
    """
    seen: list[str] = []
    now: str | None = key
    while now is not None:
        if now in seen:
            raise LissomError(
                f"store: {key} was made from itself "
                f"({' from '.join([*seen, now][:4])}); its record is wrong: "
                f"lissom store --remove {key}"
            )
        seen.append(now)
        yield now
        now = before(now)
