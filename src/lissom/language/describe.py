"""Describe the settings of a method, for `lissom list` and the docs."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass
from typing import Any

from .menu import menu
from .method import BOUNDS, Method, kind_text, kinds_of, ordered


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
    kinds = kinds_of(method)
    return [_described(f, kinds[f.name]) for f in ordered(method)]


def _described(setting: Field[Any], kind: Any) -> Setting:
    facts = setting.metadata
    required = setting.default is MISSING
    words = [
        f"{sign} {facts[key]:g}" for key, (sign, _) in BOUNDS.items() if facts.get(key) is not None
    ]
    if facts.get("menu"):
        words = [("a sum of " if facts.get("sum") else "") + " | ".join(menu(facts["menu"]))]
    default = None if required else setting.default
    return Setting(
        setting.name, kind_text(kind), default, required, ", ".join(words), facts.get("help", "")
    )
