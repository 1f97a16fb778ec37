"""Read JSON as values of known types, ranges and depth, or raise an error in one line.

A check is a function that returns a value as readers get it, or raises Wrong; the checks of objects
and lists add the place. A listing reads thousands of records, so correct values are not copied.
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
MAX_INTEGER = 2**63
MISSING: Any = object()  # as default: the field is required
LEFT_OUT: Any = object()  # as default: the field may be missing, and then stays missing

Check = Callable[[Any], Any]


class Wrong(ValueError):
    """Say where a file has an unexpected value."""

    def __init__(self, place: str, expected: str, got: Any) -> None:
        said = repr(got)
        self.place = place
        self.said = f"expected {expected}, got {said if len(said) <= 60 else said[:57] + '...'}"

    def within(self, place: object) -> Wrong:
        """Add an outer place to the error; return the error."""
        self.place = f"{place}.{self.place}" if self.place else str(place)
        return self

    def __str__(self) -> str:
        return f"{self.place or 'it'}: {self.said}"


# files


def text_of(path: Path) -> str:
    """Return the text of a regular file of at most 16 MiB. Raises Wrong for links and others."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Wrong(path.name, "a regular file", stat.filemode(found.st_mode))
    if found.st_size > MOST_BYTES:
        raise Wrong(path.name, f"at most {MOST_BYTES} bytes", found.st_size)
    return path.read_text(encoding="utf-8")


def is_regular(path: Path) -> bool:
    """Return whether there is a file, and no link, device or pipe."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, replaced by one rename. Raises LissomError if that fails."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise LissomError(f"store: {path} cannot be written ({error})") from None


@contextmanager
def many_read() -> Iterator[None]:
    """Pause Python's garbage collector while the block reads many files: it would take a third of
    the time, and JSON has no reference cycles.
    """
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()


def parsed(text: str, constant: Callable[[str], Any] | None = None) -> Any:
    """Return the value of JSON: finite numbers, integers of at most 64 bits, nested at most 32
    deep.

    `constant` maps NaN and Infinity to values; they are errors without it. orjson is five times as
    fast as the standard library. If it fails, the standard library reads the text again, for NaN in
    logs and for the text of the error. Raises ValueError, such as Wrong.
    """
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parsed_in_python(text, constant or _constant)
    _shallow(found)
    return found


def _parsed_in_python(text: str, constant: Callable[[str], Any]) -> Any:
    """Parse JSON with NaN, which orjson refuses, or raise an error that says what is wrong."""
    try:
        found = json.loads(text, parse_constant=constant)
    except RecursionError:
        raise Wrong("JSON", f"at most {MOST_DEPTH} levels", "more") from None
    _shallow(found, _of_64_bits)
    try:  # a lone surrogate could not be printed
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Wrong("JSON", "whole characters", "half of one") from None
    return found


def _constant(text: str) -> float:
    raise Wrong("JSON", "finite numbers", text)


def _shallow(value: Any, at_each: Callable[[list[Any]], object] | None = None) -> None:
    """Raise Wrong if a value is nested too deeply; call `at_each` on each level."""
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
    """Raise Wrong for larger numbers, which orjson refuses but Python accepts."""
    for found in level:
        if not (
            math.isfinite(found)
            if type(found) is float
            else type(found) is not int or abs(found) <= MAX_INTEGER
        ):
            raise Wrong("JSON", "finite numbers of 64 bits", found)


# checks


def number(low: float = -MAX_INTEGER, high: float = MAX_INTEGER, what: str = "a number") -> Check:
    """Accept a finite number from `low` to `high`."""

    def check(value: Any) -> Any:
        if type(value) not in (int, float) or not low <= value <= high:
            raise Wrong(
                "", what if what != "a number" else f"a number from {low:g} to {high:g}", value
            )
        return value

    return check


def whole(low: int = 0, high: int = MAX_INTEGER) -> Check:
    """Accept an integer from `low` to `high`."""

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
    """Accept null as well."""
    return lambda value: None if value is None else check(value)


def listing(check: Check) -> Check:
    """Accept a list of values that pass `check`."""

    def each(value: Any) -> Any:
        if type(value) is not list:
            raise Wrong("", "a list", value)
        try:
            return [check(part) for part in value]
        except Wrong:  # again, to find the place
            return [at(place, check, part) for place, part in enumerate(value)]

    return each


def mapping(check: Check) -> Check:
    """Accept an object with any names, whose values pass `check`."""

    def each(value: Any) -> Any:
        if type(value) is not dict:
            raise Wrong("", "an object", value)
        try:
            return {name: check(part) for name, part in value.items()}
        except Wrong:  # again, to find the place
            return {name: at(name, check, part) for name, part in value.items()}

    return each


def fields(**wanted: Check | tuple[Check, Any]) -> Check:
    """Accept an object with these fields and others; a field (check, default) may be missing."""
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
    """Return the result of a check; an error gets the place of the value."""
    try:
        return check(value)
    except Wrong as error:
        raise error.within(place) from None
