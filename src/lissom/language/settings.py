"""The declared settings of a method class: their types, their allowed values, and the check of a
value against them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import LissomError, unknown

# by name of a bound in `arg`: its sign, and whether a value keeps to it
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "above": (">", operator.gt),
    "low": (">=", operator.ge),
    "below": ("<", operator.lt),
    "high": ("<=", operator.le),
}

_TYPES: dict[type, dict[str, Any]] = {}  # by class: the type of each setting
_FIELDS: dict[type, tuple[Field[Any], ...]] = {}  # by class: its fields


def setting_fields(method: type[Any]) -> tuple[Field[Any], ...]:
    """Return the fields of a method class: positional ones, then keyword-only ones."""
    if method not in _FIELDS:
        _FIELDS[method] = tuple(sorted(fields(method), key=lambda f: bool(f.kw_only)))
    return _FIELDS[method]


def setting_types(method: type[Any]) -> dict[str, Any]:
    """Return the type of each setting. They are cached: Python evaluates annotations at each call,
    and a space makes thousands of methods.
    """
    if method not in _TYPES:
        _TYPES[method] = get_type_hints(method)
    return _TYPES[method]


def type_text(declared: Any) -> str:
    """Return a type as text for users.

    >>> type_text(int | None)
    'int or None'
    """
    parts = get_args(declared)
    if get_origin(declared) is Literal:
        return " | ".join(repr(choice) for choice in parts)
    if get_origin(declared) in (Union, UnionType):
        return " or ".join("None" if part is NoneType else type_text(part) for part in parts)
    if get_origin(declared) is tuple:
        return f"({type_text(parts[0])}, ...)"
    return str(getattr(declared, "__name__", declared))


def checked(value: Any, declared: Any, facts: Mapping[str, Any], where: str) -> Any:
    """Return `value` converted to its declared type. Raises LissomError if it does not fit the type
    or a bound in `facts`.
    """
    options = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
    if value is None and NoneType in options:
        return None
    for option in options:
        fits, converted = _converted(value, option)
        if fits:
            break
    else:
        literal = next((option for option in options if get_origin(option) is Literal), None)
        words = [choice for choice in get_args(literal) if isinstance(choice, str)]
        # not for '8' instead of 8
        if isinstance(value, str) and words and value not in map(str, get_args(literal)):
            raise unknown(where, "choice", value, map(str, get_args(literal)))
        raise LissomError(f"{where}: expected {type_text(declared)}, got {value!r}")
    numbers = converted if isinstance(converted, tuple) else (converted,)
    for key, (sign, holds) in BOUNDS.items():
        if facts.get(key) is None or isinstance(converted, str):
            continue
        if not all(holds(number, facts[key]) for number in numbers):
            raise LissomError(f"{where}: expected a value {sign} {facts[key]:g}, got {value!r}")
    return converted


def _converted(value: Any, declared: Any) -> tuple[bool, Any]:
    """Return whether a value fits a type that is no union, and the value converted to it."""
    if get_origin(declared) is Literal:
        choices = get_args(declared)
        # 1, 1.0 and True are equal
        return any(type(value) is type(c) and value == c for c in choices), value
    if get_origin(declared) is tuple:
        if not isinstance(value, tuple) or not value:
            return False, value
        items = [_converted(item, get_args(declared)[0]) for item in value]
        return all(fits for fits, _ in items), tuple(item for _, item in items)
    if declared is float:
        fits = (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and abs(value) < 1e308
            and float(value) == value
        )  # an int that no float equals would become another number
        return fits, float(value) + 0.0 if fits else value  # + 0.0 turns -0.0 into 0.0
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, declared), value
