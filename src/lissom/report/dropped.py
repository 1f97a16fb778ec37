"""The layers of the blocks that a network lost, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import listed
from ..store.checks import Wrong, fields, listing, maybe, number, text

DROP_FACTS = fields(
    dropped_blocks=listing(fields(block=text, removed=number(), error=maybe(number())))
)


def dropped_blocks(chain: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the blocks that each step of a recipe dropped, by the text of the step. `chain` has the
    records of the recipe, the last first.

    >>> rows = [{"block": name, "removed": 0.1, "error": None} for name in ("a", "b")]
    >>> chain = [{"step": "drop(0.2)", "facts": {"dropped_blocks": [row]}} for row in rows]
    >>> dropped_blocks(chain)
    {'drop(0.2)': ['b', 'a']}
    """
    found = dict[str, list[str]]()
    for entry in reversed(chain):
        if "dropped_blocks" not in entry["facts"]:
            continue
        try:
            rows = DROP_FACTS(entry["facts"])["dropped_blocks"]
        except Wrong:
            continue  # then the record says too little of them
        found.setdefault(entry["step"], []).extend(row["block"] for row in rows)
    return found


def sentences(blocks: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each step that dropped blocks.

    >>> sentences({"drop(0.4)": ["blocks.5", "blocks.7"]})
    ['drop(0.4): dropped blocks.5, blocks.7']
    """
    return [f"{step}: dropped {listed(names)}" for step, names in blocks.items()]


def with_dropped_layers(
    layers: Sequence[dict[str, Any]],
    before: Sequence[dict[str, Any]],
    blocks: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the layers of a network and, in their places, those of its blocks that were dropped,
    with nothing left of them. `before` are the layers of the uncompressed network.

    >>> before = [{"name": "stem"}, {"name": "block.conv", "kind": "Conv2d", "outputs": 8}]
    >>> rows = with_dropped_layers([{"name": "stem"}, {"name": "new"}], before, ["block"])
    >>> [row["name"] for row in rows], rows[1]["kind"], rows[1]["outputs"]
    (['stem', 'block.conv', 'new'], 'dropped', 0)
    """
    inside = tuple(f"{block}." for block in blocks)
    rows = list(layers)
    place = 0
    for row in before:
        names = [each["name"] for each in rows]
        if row["name"] in names:
            place = names.index(row["name"]) + 1
        elif row["name"].startswith(inside) and row.get("outputs") and "Norm" not in row["kind"]:
            nothing = {"outputs": 0, "params": 0, "macs": 0, "bits": None}
            rows.insert(place, {"name": row["name"], "kind": "dropped", **nothing})
            place += 1
    return rows
