"""The documentation page of the public functions and classes, made from their docstrings."""

from __future__ import annotations

from inspect import getdoc, isclass, signature
from typing import Any

from docs_prose import prose

import lissom

INTRODUCTION = """# Python

What the command line does can be called from Python. `import lissom` takes no time: PyTorch is
imported when a function needs it. Recipes and [spaces](search.md#the-space) are text. Every error
that a user can make is a `lissom.LissomError` of one line. Steps, losses, grids and other methods of
your own are one file each: see [design](design.md#adding-something)."""
SECTIONS = {
    "Change a network": ("apply", "save", "load", "export", "latency", "from_onnx"),
    "Run recipes": ("run", "search", "Store", "Store.record", "Store.find"),
    "Name a network and data": ("Data.of", "Data.of_dataset", "Task", "Task.of"),
}


def python_page() -> str:
    """Return a section for each public function as Markdown: its signature and what it does."""
    parts = [INTRODUCTION]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}")
        parts += [part_of(name) for name in names]
    return "\n\n".join(parts) + "\n"


def part_of(name: str) -> str:
    """Return the part of one public name, such as `apply` or `Data.of`."""
    found: Any = lissom
    for word in name.split("."):
        found = getattr(found, word)
    text, _, example = (getdoc(found) or "").partition("\n>>> ")
    first, _, rest = text.partition("\n\n")
    parts = [f"### {name}"]
    if not isclass(found):
        parts.append(f"```python\n{call_of(name, found)}\n```")
    parts += [prose(first), prose(rest)]
    if example:
        parts.append(f"```python\n>>> {example.rstrip()}\n```")
    return "\n\n".join(part for part in parts if part)


def call_of(name: str, function: Any) -> str:
    """Return the call of a function with its parameters and their defaults, one on each line."""
    lines = []
    keywords = False
    for each in signature(function).parameters.values():
        if each.name in ("self", "say", "watch", "team"):  # for programs around lissom
            continue
        if each.kind is each.KEYWORD_ONLY and not keywords:
            lines.append("    *,")
            keywords = True
        star = "**" if each.kind is each.VAR_KEYWORD else ""
        default = ""
        if isinstance(each.default, str):
            default = f' = "{each.default}"'
        elif each.default is not each.empty:
            default = f" = {each.default!r}"
        lines.append(f"    {star}{each.name}: {each.annotation}{default},")
    return "\n".join([f"lissom.{name}(", *lines, ")"])
