"""A method is a frozen dataclass whose fields, declared with `arg`, are its settings.

The grammar, the checks, `lissom list`, the keys of the store and the columns of the report all read
the fields; nothing about a setting is said twice.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import lru_cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from .errors import LissomError, unknown
from .menu import menu as menu_of

if TYPE_CHECKING:
    from .sums import Sum

BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "above": (">", operator.gt), "low": (">=", operator.ge), "below": ("<", operator.lt), "high": ("<=", operator.le)}

_KINDS: dict[type, dict[str, Any]] = {}  # by class: the type of each setting
_ORDERED: dict[type, tuple[Field[Any], ...]] = {}  # by class: its fields
_DEFAULTS: dict[type, dict[str, Any]] = {}  # by class: the defaults that were found to fit


def arg(help: str, default: Any = MISSING, *, low: float | None = None, high: float | None = None,
        above: float | None = None, below: float | None = None, menu: str | None = None, sum: bool = False,
        late: bool = False) -> Any:
    """Declare one setting of a method: its help, default and what it may be.

    `low` and `high` are bounds that are allowed themselves, `above` and `below` are not;
    `menu` says that the value names a method of that folder, with `sum` several that are added up. The type is
    the annotation's. A setting that came `late`, when networks made without it were in stores already, leaves their keys
    as they are: at its default, which must mean what was done before, it is no part of the identity.
    """
    facts = {"help": help, "low": low, "high": high, "above": above, "below": below, "menu": menu, "sum": sum,
             "late": late}
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class Method:
    """A named method with checked settings; every subclass is final and lives in a file of its name."""

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        kinds, defaults = kinds_of(type(self)), _DEFAULTS.setdefault(type(self), {})
        for setting in ordered(type(self)):
            name, value = setting.name, getattr(self, setting.name)
            untouched = value is setting.default
            if untouched and name in defaults:  # as most settings of most methods are
                value = defaults[name]
            else:
                value = checked(value, kinds[name], setting.metadata, f"{self.name()}({name}=...)")
            if untouched:
                defaults[name] = value
            object.__setattr__(self, name, value)

    def __call__(self, *given: Any) -> Any:  # noqa: ARG002
        """Do what the method does; every menu says what it is given."""
        raise TypeError(f"{type(self).__name__} does not say what it does")

    @classmethod
    def name(cls) -> str:
        """Return the name used in recipes: that of the file."""
        return cls.__module__.rsplit(".", 1)[-1]

    def __str__(self) -> str:
        """Return the shortest text that parses back: the first and the required by place, others by name."""
        words = []
        for place, setting in enumerate(ordered(type(self))):
            value = getattr(self, setting.name)
            if setting.default is MISSING or (place == 0 and value != setting.default and not setting.kw_only):
                words.append(_text(value))
            elif value != setting.default:
                words.append(f"{setting.name}={_text(value)}")
        return self.name() + (f"({', '.join(words)})" if words else "")

    def settings(self) -> dict[str, Any]:
        """Return every setting with its value."""
        return {f.name: getattr(self, f.name) for f in ordered(type(self))}

    def identity(self) -> str:
        """Return what makes this method this method: name, version and every setting.

        A setting that names another method (`by="l1"`) stands for that method's own identity, so
        that a new default or version there changes the key here.
        """
        values = self.settings()
        for setting in ordered(type(self)):
            value = values[setting.name]
            if setting.metadata.get("late") and value == setting.default:
                del values[setting.name]
            elif setting.metadata.get("menu") and value is not None:
                values[setting.name] = _named(setting.metadata, value).identity()
        return json.dumps([self.name(), self.version, values], sort_keys=True)


def ordered(method: type[Method]) -> tuple[Field[Any], ...]:
    """Return the fields of a method class: those that can be given by place, then those by name alone."""
    if method not in _ORDERED:
        _ORDERED[method] = tuple(sorted(fields(method), key=lambda f: bool(f.kw_only)))
    return _ORDERED[method]


def kinds_of(method: type[Method]) -> dict[str, Any]:
    """Return the type of each setting; Python evaluates annotations anew at each call, and a space makes thousands."""
    if method not in _KINDS:
        _KINDS[method] = get_type_hints(method)
    return _KINDS[method]


@dataclass(frozen=True)
class Setting:
    """What is known of one setting, for `lissom list` and the docs."""

    name: str
    kind: str
    default: Any
    required: bool
    bounds: str
    help: str


def settings_of(method: type[Method]) -> list[Setting]:
    """Return the settings of a method class in order."""
    kinds = kinds_of(method)
    return [_described(f, kinds[f.name]) for f in ordered(method)]


def _described(setting: Field[Any], kind: Any) -> Setting:
    facts = setting.metadata
    required = setting.default is MISSING
    words = [f"{sign} {facts[key]:g}" for key, (sign, _) in BOUNDS.items() if facts.get(key) is not None]
    if facts.get("menu"):
        words = [("a sum of " if facts.get("sum") else "") + " | ".join(menu_of(facts["menu"]))]
    default = None if required else setting.default
    return Setting(setting.name, kind_text(kind), default, required, ", ".join(words), facts.get("help", ""))


def kind_text(kind: Any) -> str:
    """Return a type the way a user would say it.

    >>> kind_text(int | None)
    'int or None'
    """
    if get_origin(kind) is Literal:
        return " | ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join("None" if k is NoneType else kind_text(k) for k in get_args(kind))
    return str(getattr(kind, "__name__", kind))


def checked(value: Any, kind: Any, facts: Mapping[str, Any], where: str) -> Any:
    """Return `value` as the type that was declared, or raise the error that says what fits."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None and NoneType in options:
        return None
    for option in options:
        ok, cast = _fits(value, option)
        if ok:
            break
    else:
        literal = next((k for k in options if get_origin(k) is Literal), None)
        words = [choice for choice in get_args(literal) if isinstance(choice, str)]
        if isinstance(value, str) and words and value not in map(str, get_args(literal)):  # '8' is no 8
            raise unknown(where, "choice", value, map(str, get_args(literal)))
        raise LissomError(f"{where}: {value!r} was given; {kind_text(kind)} fits")
    for key, (sign, holds) in BOUNDS.items():
        if facts.get(key) is not None and not isinstance(cast, str) and not holds(cast, facts[key]):
            raise LissomError(f"{where}: {value!r} was given; it must be {sign} {facts[key]:g}")
    if facts.get("menu"):
        return str(_named(facts, cast, where))
    return cast


def _named(facts: Mapping[str, Any], text: str, where: str | None = None) -> Method | Sum:
    """Build what the text of a setting names: a method of its menu, or a sum of several."""
    return _of_menu(facts["menu"], bool(facts.get("sum")), text, where)


@lru_cache(4096)  # the methods of a space mostly name the same ones, and these are frozen
def _of_menu(folder: str, several: bool, text: str, where: str | None) -> Method | Sum:
    return menu_of(folder).sum(text, where) if several else menu_of(folder).make(text, where)


def _fits(value: Any, kind: Any) -> tuple[bool, Any]:
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind)), value
    if kind is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e308 \
            and float(value) == value  # a whole number that no float is would become another
        return good, float(value) + 0.0 if good else value  # + 0.0 makes one zero of two
    if kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole, value
    return isinstance(value, kind), value


def _text(value: Any) -> str:
    text = repr(value)
    if isinstance(value, str) and text[0] == "'" and '"' not in value:
        return f'"{text[1:-1]}"'
    return text
