"""Markdown tables of networks, one for each family, for coverage.py and integers.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


def tables(rows: Sequence[Row], columns: str, line: Callable[[Row], str]) -> list[str]:
    """Return the lines of one table for each family of rows. `line` turns a row into Markdown;
    `columns` are the titles, separated by |.
    """
    out = list[str]()
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        ruler = "|" + "---|" * len(columns.split("|"))
        out += [f"## {family}: {len(mine)}", "", f"| {columns} |", ruler, *map(line, mine), ""]
    return out
