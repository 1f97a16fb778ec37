"""A method is a frozen dataclass whose fields, declared with `arg`, are its settings.

The grammar, the checks, `lissom list`, the keys of the store and the columns of the report all read
the fields, so nothing about a setting is stated twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from .parse_methods import Sum, method_of, sum_of
from .settings import checked, setting_fields, setting_types

USER_MODULE = "lissom_user_"  # names of modules imported from a user's file begin with this

_DEFAULTS: dict[type, dict[str, Any]] = {}  # by class: the defaults that were checked already


def arg(
    help: str,
    default: Any = MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    menu: str | None = None,
    sum: bool = False,
    late: bool = False,
) -> Any:
    """Declare one setting of a method: its help, default and allowed values.

    `low` and `high` are inclusive bounds, `above` and `below` exclusive ones. `menu` says that the
    value names a method of that folder; with `sum`, a sum of several. The annotation gives the
    type. Every setting is in the key, even at its default, so that a new default means a new
    network. The exception is a `late` setting, added when stores already held networks made without
    it: at its default, which must mean the earlier behaviour, it is not part of the identity.
    """
    facts = {
        "help": help,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "menu": menu,
        "sum": sum,
        "late": late,
    }
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class Method:
    """A named method with checked settings: abstract as the contract of a menu, or final."""

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        types = setting_types(type(self))
        defaults = _DEFAULTS.setdefault(type(self), {})
        for setting in setting_fields(type(self)):
            name = setting.name
            value = getattr(self, name)
            untouched = value is setting.default
            if untouched and name in defaults:  # the usual case: skip the check
                value = defaults[name]
            else:
                where = f"{self.name()}({name}=...)"
                value = checked(value, types[name], setting.metadata, where)
                if setting.metadata.get("menu") and value is not None:
                    value = str(_named(setting.metadata, value, where))
            if untouched:
                defaults[name] = value
            object.__setattr__(self, name, value)

    @classmethod
    def name(cls) -> str:
        """Return the name used in recipes: that of the file, or of a user's own class."""
        return cls.__name__ if cls.__module__.startswith(USER_MODULE) else cls._file()

    @classmethod
    def _file(cls) -> str:
        return cls.__module__.rsplit(".", 1)[-1]

    def __str__(self) -> str:
        """Return the shortest text that parses back: first and required settings are positional."""
        words = []
        for place, setting in enumerate(setting_fields(type(self))):
            value = getattr(self, setting.name)
            if setting.default is MISSING or (
                place == 0 and value != setting.default and not setting.kw_only
            ):
                words.append(_text(value))
            elif value != setting.default:
                words.append(f"{setting.name}={_text(value)}")
        return self.name() + (f"({', '.join(words)})" if words else "")

    def settings(self) -> dict[str, Any]:
        """Return every setting with its value."""
        return {f.name: getattr(self, f.name) for f in setting_fields(type(self))}

    def identity(self) -> str:
        """Return the identity of this method as text: name, version and every setting.

        A setting that names another method (`by="l1"`) is replaced by the identity of that method,
        so that a new default or version there changes the key here.
        """
        values = self.settings()
        for setting in setting_fields(type(self)):
            value = values[setting.name]
            if setting.metadata.get("late") and value == setting.default:
                del values[setting.name]
            elif setting.metadata.get("menu") and value is not None:
                values[setting.name] = _named(setting.metadata, value).identity()
        return json.dumps([self._file(), self.version, values], sort_keys=True)


def _named(facts: Mapping[str, Any], text: str, where: str | None = None) -> Method | Sum:
    """Build the method of a menu, or the sum of several, that the text of a setting names."""
    return _of_menu(facts["menu"], bool(facts.get("sum")), text, where)


@lru_cache(4096)  # the methods of a space mostly name the same few, and these are frozen
def _of_menu(folder: str, several: bool, text: str, where: str | None) -> Method | Sum:
    return sum_of(folder, text, where) if several else method_of(folder, text, where)


def _text(value: Any) -> str:
    text = repr(value)
    if isinstance(value, str) and text[0] == "'" and '"' not in value:
        return f'"{text[1:-1]}"'
    return text
