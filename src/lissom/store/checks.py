"""JSON as a value of known types, ranges and depth, or one line that says what is not so.

A check is a function of a value; it returns the value as readers get it, or raises Wrong, to which
whoever looks into an object or a list adds the place. A store of thousands is read at each listing,
so nothing is made for what is right.
"""

from __future__ import annotations

import gc
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from ..errors import LissomError

MOST_BYTES = 16 << 20  # of a file of JSON
MOST_DEPTH = 32
LARGEST = 2**63
MISSING: Any = object()  # a field that has to be there
LEFT_OUT: Any = object()  # a field that may be missing, and is missing then in what is read

Check = Callable[[Any], Any]


class Wrong(ValueError):
    """Say where a file holds something else than it should."""

    def __init__(self, place: str, expected: str, got: Any) -> None:
        said = repr(got)
        self.place = place
        self.said = f"expected {expected}, got {said if len(said) <= 60 else said[:57] + '...'}"

    def within(self, place: object) -> Wrong:
        """Return the error with the place that its place is in."""
        self.place = f"{place}.{self.place}" if self.place else str(place)
        return self

    def __str__(self) -> str:
        return f"{self.place or 'it'}: {self.said}"


# files


def text_of(path: Path) -> str:
    """Return the text of a regular file of at most 16 MiB; no link, no pipe."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Wrong(path.name, "a regular file", stat.filemode(found.st_mode))
    if found.st_size > MOST_BYTES:
        raise Wrong(path.name, f"at most {MOST_BYTES} bytes", found.st_size)
    return path.read_text(encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file by one rename."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise LissomError(f"store: {path} cannot be written ({error})") from None


@contextmanager
def many_read() -> Iterator[None]:
    """Read many files in the block without looking for circles, a third of the time: what JSON says
    has none.
    """
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()


def parsed(text: str, constant: Callable[[str], Any] | None = None) -> Any:
    """Return what JSON says: finite numbers, of at most 64 bits where they are whole, nested at most 32 deep.

    `constant` is told of NaN and Infinity, which are errors otherwise. orjson reads five times as
    fast as the standard library. What it refuses is read by that once more, for NaN in logs and for
    the words of the error.
    """
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parsed_in_python(text, constant or _constant)
    _shallow(found)
    return found


def _parsed_in_python(text: str, constant: Callable[[str], Any]) -> Any:
    """Parse what orjson does not take: JSON with NaN, or what is none, in words of what is wrong."""
    try:
        found = json.loads(text, parse_constant=constant)
    except RecursionError:
        raise Wrong("JSON", f"at most {MOST_DEPTH} levels", "more") from None
    _shallow(found, _of_64_bits)
    try:  # half a character could not be printed
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Wrong("JSON", "whole characters", "half of one") from None
    return found


def _constant(text: str) -> float:
    raise Wrong("JSON", "finite numbers", text)


def _shallow(value: Any, at_each: Callable[[list[Any]], object] | None = None) -> None:
    """Raise for what is nested too deeply, level by level."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        if at_each is not None:
            at_each(level)
        outer = [
            found.values() if found.__class__ is dict else found
            for found in level
            if found.__class__ is dict or found.__class__ is list
        ]
        if not outer:
            return
        level = [*chain.from_iterable(outer)]
    raise Wrong("JSON", f"at most {MOST_DEPTH} levels", "more")


def _of_64_bits(level: list[Any]) -> None:
    """Raise for numbers that are larger: orjson takes none, but Python."""
    for found in level:
        if not (
            math.isfinite(found)
            if type(found) is float
            else type(found) is not int or abs(found) <= LARGEST
        ):
            raise Wrong("JSON", "finite numbers of 64 bits", found)


# checks


def number(low: float = -LARGEST, high: float = LARGEST, what: str = "a number") -> Check:
    """Accept a finite number from `low` to `high`."""

    def check(value: Any) -> Any:
        if type(value) not in (int, float) or not low <= value <= high:
            raise Wrong(
                "", what if what != "a number" else f"a number from {low:g} to {high:g}", value
            )
        return value

    return check


def whole(low: int = 0, high: int = LARGEST) -> Check:
    """Accept a whole number from `low` to `high`."""

    def check(value: Any) -> Any:
        if type(value) is not int or not low <= value <= high:
            raise Wrong("", f"a whole number from {low} to {high}", value)
        return value

    return check


def text(value: Any) -> Any:
    """Accept a text."""
    if type(value) is not str:
        raise Wrong("", "a text", value)
    return value


def flag(value: Any) -> Any:
    """Accept true or false."""
    if type(value) is not bool:
        raise Wrong("", "true or false", value)
    return value


def anything(value: Any) -> Any:
    """Accept any value."""
    return value


def maybe(check: Check) -> Check:
    """Accept null, too."""
    return lambda value: None if value is None else check(value)


def listing(check: Check) -> Check:
    """Accept a list of such values."""

    def each(value: Any) -> Any:
        if type(value) is not list:
            raise Wrong("", "a list", value)
        try:
            return [check(part) for part in value]
        except Wrong:  # once more, to say where
            return [at(place, check, part) for place, part in enumerate(value)]

    return each


def mapping(check: Check) -> Check:
    """Accept an object with such values under any names."""

    def each(value: Any) -> Any:
        if type(value) is not dict:
            raise Wrong("", "an object", value)
        try:
            return {name: check(part) for name, part in value.items()}
        except Wrong:  # once more, to say where
            return {name: at(name, check, part) for name, part in value.items()}

    return each


def fields(**wanted: Check | tuple[Check, Any]) -> Check:
    """Accept an object with these fields, and others; a field given as (check, default) may be missing."""
    pairs = [
        (name, *(check if isinstance(check, tuple) else (check, MISSING)))
        for name, check in wanted.items()
    ]

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise Wrong("", "an object", value)
        found = value  # copied only if something in it changes
        for name, inner, default in pairs:
            try:
                if name in value:
                    read = inner(value[name])
                    if read is value[name]:
                        continue
                elif default is LEFT_OUT:
                    continue
                elif default is MISSING:
                    raise Wrong("", "something", "nothing")
                else:
                    read = inner(default() if callable(default) else default)
            except Wrong as error:
                raise error.within(name) from None
            found = {**value} if found is value else found
            found[name] = read
        return found

    return check


def at(place: object, check: Check, value: Any) -> Any:
    """Return what a check returns for a value that stands at a place."""
    try:
        return check(value)
    except Wrong as error:
        raise error.within(place) from None
