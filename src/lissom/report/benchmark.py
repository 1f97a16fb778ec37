"""Print the results of `lissom bench`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from rich.table import Table

from ..language.amounts import size_text
from .table import DISTURBED, DISTURBED_NOTE, number, print_wide
from .terminal import terminal


def print_bench(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of latencies for each batch size and number of threads, fastest first, and
    tables of the latency of each layer.
    """
    console = terminal()
    settings = list(dict.fromkeys((row["batch"], row["threads"]) for row in rows))
    for batch, threads in settings:
        of_setting = sorted(
            (row for row in rows if (row["batch"], row["threads"]) == (batch, threads)),
            key=lambda row: row["latency_ms"]["median"],
        )
        console.print(f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}")
        print_wide(console, latency_table(of_setting))
        if any(row.get("layers") for row in of_setting):
            print_wide(console, layer_table([row for row in of_setting if row.get("layers")]))
    legend = ["rank: one more than those that are surely faster; equal ranks are not told apart"]
    if any(row["faster"] for row in rows):
        legend.append(
            "faster: than the fastest uncompressed network in any runtime; level: the "
            "intervals overlap"
        )
    if any(row["disturbed"] for row in rows):
        legend.append(DISTURBED_NOTE)
    if any(row["energy_mj"] for row in rows):
        legend.append("mJ: what the whole processor used in one call")
    console.print("; ".join(legend), soft_wrap=True)


def latency_table(rows: Sequence[dict[str, Any]]) -> Table:
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
        more = [speedup_text(row) if o == "faster" else number(row[o], 2) for o in optional]
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


def speedup_text(row: dict[str, Any]) -> str:
    """Return the speedup over the fastest baseline as text, or that it was measured badly, or that
    the two cannot be distinguished.
    """
    if row["disturbed"]:
        return DISTURBED
    if row["faster"] is None:
        return "-"
    return "level" if row["level"] else f"{row['faster']:.2f}x"


def layer_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of ms of each layer, with a column for each row; a layer that a runtime
    fused into another has no number.
    """
    table = Table(box=None, header_style="bold", title="ms of each layer", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for row in rows:
        table.add_column(f"{row['name']}, {row['target']}", justify="right")
    latencies = [dict(row["layers"]) for row in rows]
    for name in merge_names([list(one) for one in latencies]):
        table.add_row(name, *(f"{one[name]:.4f}" if name in one else "" for one in latencies))
    table.add_row("sum", *(f"{sum(one.values()):.4f}" for one in latencies), style="bold")
    return table


def merge_names(lists: Sequence[Sequence[str]]) -> list[str]:
    """Return every name once, in an order that keeps the order of the lists if they agree.

    >>> merge_names([["stem", "head"], ["stem", "relu", "head"]])
    ['stem', 'relu', 'head']
    """
    merged: list[str] = []
    for names in lists:
        position = 0
        for name in names:
            if name in merged:
                position = merged.index(name) + 1
            else:
                merged.insert(position, name)
                position += 1
    return merged
