"""The HTML report: one page that holds its data and its script, and needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import LissomError
from ..store import Store
from .rows import over_seeds, rows_of
from .table import size_lines

TEMPLATE = Path(__file__).with_name("page.html")


def write_report(keys: Sequence[str], store: Store, output: Path) -> Path:
    """Write the report of the given keys, of every measured network if none, to a file; return its path."""
    chosen = list(keys) or [key for key in store if store.record(key)["targets"]] or list(store)
    if not chosen:
        raise LissomError(f"report: the store {store.root} holds no finished network; `lissom run` makes them")
    from plotly.offline import get_plotlyjs

    data = page_data([store.record(key) for key in chosen], store)
    page = TEMPLATE.read_text(encoding="utf-8")
    text = json.dumps(data, allow_nan=False).replace("</", "<\\/")
    page = page.replace("/*PLOTLY*/", get_plotlyjs()).replace("/*DATA*/", text)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise LissomError(f"report: {output} cannot be written ({error})") from None
    return output


def page_data(records: Sequence[dict[str, Any]], store: Store) -> dict[str, Any]:
    """Return what the page draws: rows with their place on the Pareto fronts, and for each run its details."""
    own = rows_of(records)
    rows, means = with_references(own), over_seeds(own)
    for x in ("ms", "size_bytes"):
        for target in {row["target"] for row in rows}:
            mark_front([row for row in rows if row["target"] == target], x)
    return {"rows": rows, "means": means if any(len(row["seeds"]) > 1 for row in means) else [],
            "scores": list(dict.fromkeys(name for row in own for name in row["more"])),
            "runs": {r["key"]: details(r, store) for r in records},
            "machines": list({json.dumps(r["machine"], sort_keys=True): r["machine"] for r in records}.values())}


def with_references(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add a row for the uncompressed network in each target, once."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row["float_ms"] is not None:
            found.setdefault((row["target"], row["seed"], row["float_top1"], row["float_size_bytes"]), {
                **row, "recipe": "the uncompressed network", "key": "", "top1": row["float_top1"], "ms": row["float_ms"],
                "size_bytes": row["float_size_bytes"], "fused": None, "params": None, "macs": None, "reference": True})
    return [*rows, *found.values()]


def mark_front(rows: list[dict[str, Any]], x: str) -> None:
    """Mark the rows that no other beats in both accuracy (more) and `x` (less)."""
    for row in rows:
        if row["top1"] is not None and row[x] is not None:
            row[f"front_{x}"] = not any(
                o[x] is not None and o["top1"] is not None and o[x] <= row[x] and o["top1"] >= row["top1"]
                and (o[x] < row[x] or o["top1"] > row["top1"]) for o in rows)


def details(record: dict[str, Any], store: Store) -> dict[str, Any]:
    """Return layers before and after, training curves, gates and notes of one run."""
    source = record["float"]["key"]
    before = {row["name"]: row for row in (store.record(source)["layers"] if source in store else record["layers"])}
    layers = [{**row, **{f"was_{k}": before.get(row["name"], row)[k] for k in ("params", "macs", "outputs")}}
              for row in record["layers"]]
    chain, key = [], record["key"]
    while key in store:
        entry = store.record(key)
        chain.append({"step": entry["step"], "key": key, "log": store.log(key), "seconds": entry["seconds"],
                      "scores": entry["scores"], "params": entry["params"], "macs": entry["macs"],
                      "gates": entry["gates"], "notes": entry["notes"], "facts": entry["facts"]})
        key = entry["before"] or ""
    return {"recipe": record["recipe"], "seed": record["seed"], "task": record["task"], "layers": layers,
            "chain": chain[::-1], "targets": record["targets"], "sizes": size_lines(record),
            "inspection": record.get("inspection"), "explanation": record.get("explanation")}
