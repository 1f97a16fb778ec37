"""The methods of each menu with their settings, as `lissom list` and the docs show them."""

from __future__ import annotations

from inspect import getdoc
from typing import Any

from ..errors import unknown
from ..language.describe import settings_of
from ..language.menu import WORDS, menu


def method_rows(folder: str = "", name: str = "") -> list[dict[str, Any]]:
    """Return one row for each method of a menu, of all menus, or for the one that is named."""
    if folder and folder not in WORDS and not name:
        name, folder = folder, next((f for f in WORDS if folder in list(menu(f))), "")
        if not folder:
            raise unknown("list", "menu or method", name, [*WORDS, *(n for f in WORDS for n in menu(f))])
    rows = []
    for place in [folder] if folder else WORDS:
        for found in [name] if name else menu(place):
            method = menu(place)[found]
            settings = [{"name": s.name, "type": s.kind, "default": s.default, "required": s.required, "bounds": s.bounds,
                         "help": s.help} for s in settings_of(method)]
            rows.append({"menu": place, "name": found, "does": getdoc(method) or "", "settings": settings})
    return rows


def print_methods(rows: list[dict[str, Any]], long: bool = False) -> None:
    """Print methods, plainly: this answers at once; `long` adds the whole description."""
    place = ""
    for row in rows:
        if row["menu"] != place:
            place = row["menu"]
            print(f"\n{place}")
        lines = row["does"].splitlines()
        print(f"  {row['name']}  {lines[0]}")
        if long:
            print("\n".join(f"  {line}".rstrip() for line in lines[1:]) + "\n")
        for s in row["settings"]:
            default = "required" if s["required"] else f"= {s['default']!r}"
            facts = ", ".join(filter(None, [s["type"], s["bounds"]]))
            print(f"    {s['name']:<11} {default:<15} {facts:<28} {s['help']}")
