"""The methods of each menu with their settings, as `lissom list` and the docs show them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from inspect import getdoc
from typing import Any

from ..errors import unknown
from ..language.describe import settings_of
from ..language.menu import WORDS, menu

Row = dict[str, Any]  # menu, name, does, also, settings
# if so many settings equal those of an earlier method, only their names are printed
MIN_SHARED_SETTINGS = 5


def method_rows(folder: str = "", name: str = "") -> list[Row]:
    """Return one row for each method of a menu, of all menus, or for the methods that a word names.

    The word may be the name of a method, or another name for it in the field: `adaround`, `cle`.
    Raises LissomError if it names nothing.
    """
    if name:
        return [row_of(folder, name)]
    if not folder or folder in WORDS:
        menus = [folder] if folder else WORDS
        return [row_of(place, each) for place in menus for each in menu(place)]
    rows = method_rows()
    by_name = [row for row in rows if row["name"] == folder]
    by_other_name = [row for row in rows if any(means(other, folder) for other in row["also"])]
    if not by_name and not by_other_name:
        raise unknown("list", "menu or method", folder, [*WORDS, *(row["name"] for row in rows)])
    return by_name or by_other_name


def row_of(folder: str, name: str) -> Row:
    """Return the description of one method."""
    method = menu(folder)[name]
    settings = [
        {
            "name": setting.name,
            "type": setting.kind,
            "default": setting.default,
            "required": setting.required,
            "bounds": setting.bounds,
            "help": setting.help,
        }
        for setting in settings_of(method)
    ]
    does = getdoc(method) or ""
    return {
        "menu": folder,
        "name": name,
        "does": does,
        "also": other_names(does),
        "settings": settings,
    }


def other_names(text: str) -> list[str]:
    """Return the names after `Also known as:` in a docstring; the list may span several lines.

    >>> other_names("Do it.\\n\\nAlso known as: one name (ON),\\nanother.\\nSource: none")
    ['one name', 'ON', 'another']
    """
    match = re.search(
        r"^Also known as: (.*?)(?=\n\s*\n|\n[A-Z][a-z]+: |\Z)", text, re.DOTALL | re.MULTILINE
    )
    if match is None:
        return []
    names = re.split(r"[,;()]|\.(?:\s|$)", " ".join(match[1].split()))
    return [name.strip() for name in names if name.strip()]


def means(other: str, word: str) -> bool:
    """Return whether `word` is a word of the name `other`, or all of it, ignoring case and hyphens.

    >>> means("AdaRound for rounding=learned", "adaround"), means("batch-norm folding", "fold")
    (True, False)
    """
    plain = re.sub(r"[-_ ]+", " ", other.lower())
    return bool(re.search(rf"\b{re.escape(re.sub('[-_ ]+', ' ', word.lower()))}\b", plain))


def print_methods(rows: Sequence[Row], long: bool = False) -> None:
    """Print methods as plain text, which is fast; `long` adds the whole description."""
    menu_name = ""
    printed: dict[str, str] = {}  # setting as it was printed -> method
    for row in rows:
        if row["menu"] != menu_name:
            menu_name = row["menu"]
            printed = {}
            print(f"\n{menu_name}")
        first, *rest = row["does"].splitlines()
        print(f"  {row['name']}  {first}")
        if long:
            print("\n".join(f"  {line}".rstrip() for line in rest) + "\n")
        shared = [s for s in row["settings"] if str(s) in printed]
        if long or len(shared) < MIN_SHARED_SETTINGS:
            shared = []
        for setting in row["settings"]:
            if setting not in shared:
                print_setting(setting, long)
            printed.setdefault(str(setting), row["name"])
        if shared:
            names = ", ".join(setting["name"] for setting in shared)
            print(f"    and, as in {printed[str(shared[0])]}: {names}")


def print_setting(setting: dict[str, Any], long: bool) -> None:
    """Print name, default and help of one setting; `long` adds a line with its allowed values."""
    default = "required" if setting["required"] else f"= {setting['default']!r}"
    print(f"    {setting['name']:<13} {default:<15} {setting['help']}".rstrip())
    if long:
        facts = ", ".join(filter(None, [setting["type"], setting["bounds"]]))
        print(f"{'':<34}{facts}")
