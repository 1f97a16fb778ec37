"""Print the results of `lissom bench`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from rich.table import Table

from ..language.amounts import size_text
from .table import BADLY, WHY_BADLY, print_wide
from .terminal import terminal


def print_bench(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of latencies for each batch size and number of threads, fastest first, and
    tables of the latency of each layer.
    """
    console = terminal()
    asked = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    for batch, threads in asked:
        some = sorted(
            (row for row in rows if (row["batch"], row["threads"]) == (batch, threads)),
            key=lambda row: row["latency_ms"]["median"],
        )
        console.print(f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}")
        print_wide(console, timings(some))
        if any(row.get("layers") for row in some):
            print_wide(console, by_layer([row for row in some if row.get("layers")]))
    said = ["rank: one more than those that are surely faster; equal ranks are not told apart"]
    if any(row["faster"] for row in rows):
        said.append(
            "faster: than the fastest uncompressed network in any runtime; level: the "
            "intervals overlap"
        )
    if any(row["disturbed"] for row in rows):
        said.append(WHY_BADLY)
    if any(row["energy_mj"] for row in rows):
        said.append("mJ: what the whole processor used in one call")
    console.print("; ".join(said), soft_wrap=True)


def timings(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of latencies."""
    table = Table(box=None, header_style="bold")
    optional = [
        name
        for name in ("faster", "energy_mj")
        if any(row[name] or (row["disturbed"] and name == "faster") for row in rows)
    ]
    metrics = list(dict.fromkeys(chain(*(row["metrics"] for row in rows))))
    for name in (
        "rank",
        "name",
        "target",
        *metrics,
        "ms",
        "95 %",
        "p99",
        *("mJ" if o == "energy_mj" else o for o in optional),
        "file",
        "load ms",
        "adds MiB",
        "peak MiB",
    ):
        table.add_column(
            name, justify="left" if name in ("name", "target") else "right", no_wrap=True
        )
    for row in rows:
        ms = row["latency_ms"]
        more = [faster(row) if o == "faster" else number(row[o], 2) for o in optional]
        table.add_row(
            str(row["rank"]),
            row["name"],
            row["target"],
            *(number(row["metrics"].get(name), 4) for name in metrics),
            f"{ms['median']:.3f}",
            f"{ms['low']:.3f}-{ms['high']:.3f}",
            f"{ms['p99']:.3f}",
            *more,
            size_text(row["size_bytes"]),
            f"{row['load_ms']:.0f}",
            number(row["resident_mib"], 1),
            number(row["peak_mib"], 0),
        )
    return table


def faster(row: dict[str, Any]) -> str:
    """Return the speedup over the fastest baseline as text, or that it was measured badly, or that
    the two cannot be distinguished.
    """
    if row["disturbed"]:
        return BADLY
    return "-" if row["faster"] is None else "level" if row["level"] else f"{row['faster']:.2f}x"


def number(value: float | None, places: int) -> str:
    """Return a number with `places` decimals, a dash for None."""
    return "-" if value is None else f"{value:.{places}f}"


def by_layer(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of ms of each layer, with a column for each row; a layer that a runtime
    fused into another has no number.
    """
    table = Table(box=None, header_style="bold", title="ms of each layer", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for row in rows:
        table.add_column(f"{row['name']}, {row['target']}", justify="right")
    found = [dict(row["layers"]) for row in rows]
    for name in merged([list(one) for one in found]):
        table.add_row(name, *(f"{one[name]:.4f}" if name in one else "" for one in found))
    table.add_row("sum", *(f"{sum(one.values()):.4f}" for one in found), style="bold")
    return table


def merged(lists: Sequence[Sequence[str]]) -> list[str]:
    """Return every name once, in an order that keeps the order of the lists if they agree.

    >>> merged([["stem", "head"], ["stem", "relu", "head"]])
    ['stem', 'relu', 'head']
    """
    found: list[str] = []
    for names in lists:
        place = 0
        for name in names:
            if name in found:
                place = found.index(name) + 1
            else:
                found.insert(place, name)
                place += 1
    return found
