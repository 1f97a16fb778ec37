"""Describe the settings of a method, for `lissom list` and the docs."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass
from typing import Any

from .menu import menu
from .method import Method
from .settings import BOUNDS, setting_fields, setting_types, type_text


@dataclass(frozen=True)
class Setting:
    """The description of one setting."""

    name: str
    kind: str
    default: Any
    required: bool
    bounds: str
    help: str


def settings_of(method: type[Method]) -> list[Setting]:
    """Return the settings of a method class in order."""
    types = setting_types(method)
    return [_described(f, types[f.name]) for f in setting_fields(method)]


def _described(setting: Field[Any], declared: Any) -> Setting:
    facts = setting.metadata
    required = setting.default is MISSING
    words = [
        f"{sign} {facts[key]:g}" for key, (sign, _) in BOUNDS.items() if facts.get(key) is not None
    ]
    if facts.get("menu"):
        words = [("a sum of " if facts.get("sum") else "") + " | ".join(menu(facts["menu"]))]
    default = None if required else setting.default
    return Setting(
        setting.name,
        type_text(declared),
        default,
        required,
        ", ".join(words),
        facts.get("help", ""),
    )
