"""The fields of a record, and the only code that reads and writes records and logs. A record that
is read here has the fields and types of docs/record.md.

A record is written from a `Record`. It is read as a dict, in which commands and metrics have
further fields.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from ..errors import LissomError
from .checks import (
    LEFT_OUT,
    MAX_INTEGER,
    MISSING,
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
    write_json,
)

SCHEMA = 1
INPUT_TYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
KEY = re.compile(r"[0-9a-z][0-9a-z_-]{0,63}")


def key_text(value: Any) -> Any:
    """Accept a key: a valid folder name on any system that cannot lead outside the store."""
    if type(value) is not str or not KEY.fullmatch(value):
        raise Wrong("", "a key", value)
    return value


def input_type(value: Any) -> Any:
    """Accept the name of a data type that a network may take as input."""
    if value not in INPUT_TYPES:
        raise Wrong("", f"one of {', '.join(INPUT_TYPES)}", value)
    return value


# The checks of the fields of a record when it is read.

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
SIZES = fields(theory_bytes=number(0), packed_bytes=number(0))
SHOWN = fields(
    preprocess=(text, ""), mean=(listing(number()), list), std=(listing(number(1e-9)), list)
)
INPUTS = listing(
    fields(
        shape=listing(whole(1, 2**31)),
        dtype=input_type,
        low=(maybe(number()), None),
        high=(maybe(number()), None),
    )
)
GPU = fields(name=text, cuda=(text, LEFT_OUT))
MACHINE = fields(
    cpu=(text, "unknown"),
    cores=(maybe(COUNT), None),
    libraries=(mapping(text), LEFT_OUT),
    gpu=(GPU, LEFT_OUT),
)

# The type of a field, its check, and its value if a record of an earlier version lacks it.

Count = Annotated[int, COUNT, 0]
Seconds = Annotated[float, number(0), 0]
Texts = Annotated[list[str], listing(text), list]
Gates = Annotated[list[dict[str, Any]], GATES, list]
Latency = Annotated[dict[str, float], LATENCY]
LayersMs = Annotated[dict[str, float] | None, maybe(mapping(number(0))), LEFT_OUT]


def checks_of(kind: type) -> dict[str, Any]:
    """Return the checks of a class's fields for `fields`: (check, default) by name."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: (*hint.__metadata__, MISSING)[:2]
        for name, hint in hints.items()
        if get_origin(hint) is Annotated
    }


@dataclass(frozen=True, kw_only=True)
class Network:
    """The numbers by which networks are compared."""

    key: Annotated[str, key_text]
    scores: Annotated[dict[str, dict[str, float | None]], SPLITS]
    params: Annotated[int, COUNT]
    macs: Annotated[int, COUNT]
    weights_bytes: Annotated[int, COUNT]

    @classmethod
    def of(cls, record: dict[str, Any]) -> Network:
        """Return the network of a record."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """The task that a network was made for. `spec` says how to build the network again, and `origin`
    how to make the whole task again (`Task.from_origin`); it is empty if Python code made it.
    """

    model: Annotated[str, text]
    data: Annotated[str, text]
    kind: Annotated[str, text, ""]  # as text; "" if the task has its own loss and metrics
    shape: Annotated[list[int], listing(whole(1, 2**31)), list]
    # only for a network that takes anything but one float tensor, see data/inputs.py
    inputs: Annotated[list[dict[str, Any]], INPUTS, list]
    form: Annotated[Any, anything, None]
    classes: Count
    train: Count
    valid: Count
    test: Count
    spec: Annotated[dict[str, Any], mapping(anything), dict]
    origin: Annotated[dict[str, Any], mapping(anything), dict]
    preprocessing: Annotated[dict[str, Any], SHOWN, dict]
    notes: Texts


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The measurements of a network's file; its metrics are added under their own names."""

    threads: Annotated[int, COUNT, LEFT_OUT]
    batch: Annotated[int, COUNT, LEFT_OUT]
    bake: Annotated[bool, flag, LEFT_OUT]
    machine: Annotated[str, text, LEFT_OUT]  # that timed it; another may have trained it
    artefact: Annotated[str, text]
    size_bytes: Annotated[int, SIZE]
    agreement: Annotated[float | None, SHARE, None]
    gates: Gates
    latency_ms: Latency
    float_latency_ms: Latency
    float_size_bytes: Annotated[int, SIZE]
    load_ms: Annotated[float | None, maybe(number(0)), None]
    peak_mib: Annotated[float | None, maybe(number(0)), None]
    resident_mib: Annotated[float | None, maybe(number()), None]
    fused: Annotated[str | None, maybe(text), None]
    macs_in_integers: Annotated[float | None, SHARE, LEFT_OUT]
    not_fused: Texts
    layers_ms: LayersMs
    float_layers_ms: LayersMs

    def json(self, scores: dict[str, float | None]) -> dict[str, Any]:
        """Return the dict to write, with the metrics of the file; they replace no field."""
        return {**scores, **vars(self)}


TARGET = fields(**checks_of(Measurement), notes=(listing(text), LEFT_OUT))


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of a finished network; `float` is the uncompressed network for comparison."""

    network: Network  # its fields are written at the top level
    before: Annotated[str | None, maybe(key_text), None]
    recipe: Annotated[str, text]
    step: Annotated[str, text, ""]
    seed: Annotated[int, whole(-MAX_INTEGER)]
    task: Annotated[TaskSummary, fields(**checks_of(TaskSummary))]
    sizes: Annotated[dict[str, int], SIZES, LEFT_OUT]
    float: Annotated[Network, fields(**checks_of(Network))]
    facts: Annotated[dict[str, Any], mapping(anything), dict]
    notes: Texts
    gates: Gates
    layers: Annotated[list[dict[str, Any]], LAYERS, list]
    targets: Annotated[dict[str, dict[str, Any]], mapping(TARGET), dict]
    machine: Annotated[dict[str, Any], MACHINE, dict]
    learned_on: Annotated[str, text, LEFT_OUT]
    learned_threads: Annotated[int, COUNT, LEFT_OUT]
    created: Annotated[int, number(0, 1e11), 0]
    seconds: Seconds

    def json(self) -> dict[str, Any]:
        """Return the dict to write."""
        found = {**vars(self), "task": {**vars(self.task)}, "float": {**vars(self.float)}}
        return {"schema": SCHEMA, **vars(found.pop("network")), **found}


RECORD = fields(
    schema=(whole(1, SCHEMA), SCHEMA),
    finished=(flag, False),  # set later, when a recipe ends here
    **checks_of(Network),
    **checks_of(Record),
)
ROW = mapping(anything)


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of an entry, with defaults for fields that earlier versions lack;
    `artefact` is a path in the entry.

    Raises LissomError if the record is not as docs/record.md says.
    """
    try:
        value = parsed(text_of(folder / "record.json"))
        refuse_newer(value, folder)
        found: dict[str, Any] = RECORD(value)
        if found["key"] != folder.name:
            raise Wrong("key", folder.name, found["key"])
        if found["before"] == found["key"]:
            raise Wrong("before", "another network", "itself")
        if "quantized" in found["facts"]:
            found["facts"]["layers"] = at("facts.layers", ROUNDED, found["facts"].get("layers", []))
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


def refuse_newer(value: Any, folder: Path) -> None:
    """Raise LissomError for a record with a newer schema."""
    schema = value.get("schema") if isinstance(value, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise LissomError(
            f"store: {folder.name} is from a newer lissom (schema {schema}, this one reads up to "
            f"{SCHEMA}); update lissom, or {remedy(folder)}"
        )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of an entry's training log, [] if there is no file; NaN and infinity become
    None. Raises LissomError if the file cannot be read.
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
    """Return the error for a file of an entry that cannot be read, with the cure."""
    said = " ".join(str(error).split())[:200]
    return LissomError(
        f"store: the {what} of {folder.name} cannot be read ({said}); {remedy(folder)}"
    )


def remedy(folder: Path) -> str:
    """Return the command that removes a damaged entry, as text for an error."""
    return f"remove the entry: lissom store --remove {folder.name} --store {folder.parent}"


def artefact(path: str, folder: Path, place: str) -> Path:
    """Return the path of an artefact in an entry, which may have been moved since. Raises Wrong if
    the path leads out of the entry.
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
    """Return whether a recipe only trains, so that its network may be its own uncompressed network.

    >>> trained_alone(""), trained_alone("train(3) | train(1)"), trained_alone("train(3) | fold")
    (True, True, False)
    """
    from ..language.recipe import Recipe

    try:
        return not any(step.compresses for step in Recipe(recipe).steps) if recipe else True
    except LissomError:  # of another version
        return False


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of an entry. Paths of artefacts are relative to it, so that a store can be
    moved.
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
    write_json(
        folder / "record.json", {**record, "targets": targets} if "targets" in record else record
    )


def chain(key: str, before: Callable[[str], str | None]) -> Iterator[str]:
    """Yield a key and all keys that it was made from, newest first. Raises LissomError for a cycle.

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
