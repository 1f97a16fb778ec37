"""Tables of networks in Markdown, one for each family; what coverage.py and integers.py share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]


def tables(rows: Sequence[Row], columns: str, line: Callable[[Row], str]) -> list[str]:
    """Return the lines of a table for each family of rows, of which `line` makes Markdown; `columns`
    are their titles, with | between them.
    """
    out = list[str]()
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        ruler = "|" + "---|" * len(columns.split("|"))
        out += [f"## {family}: {len(mine)}", "", f"| {columns} |", ruler, *map(line, mine), ""]
    return out
