"""Figures for papers: the Pareto front of accuracy and latency or size, or bars over seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import LissomError, listed
from ..store.store import Store, tell
from ..system.scratch import written
from .page import with_references
from .rows import TASK_COLUMNS, Row, over_seeds, rows_of
from .table import metric_title

ENDINGS = (".svg", ".png", ".pdf")
AXES = {  # the costs to draw a front against: column, label, divisor
    "latency": ("ms", "latency of one sample in ms", 1.0),
    "size": ("size_bytes", "size of the file in kB", 1000.0),
    "macs": ("macs", "multiply-adds in millions", 1e6),
}
# distinguishable for colour-blind readers: Okabe and Ito 2008, https://jfly.uni-koeln.de/color
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "v", "D", "P")
LINE_LENGTH = 44  # characters of a recipe in one line


def write_figure(keys: Sequence[str], store: Store, path: Path, of: str = "latency") -> Path:
    """Draw the networks of some keys, by default every measured one; return the file.

    `of`: "latency", "size" or "macs" draws the first metric against that cost, with a Pareto front
    for each runtime. "seeds" draws bars of the first metric, with mean and sample standard
    deviation over seeds, and how much smaller each network is. Raises LissomError without
    matplotlib, if nothing was measured, or if the networks cannot share an axis.
    """
    if path.suffix not in ENDINGS:
        raise LissomError(
            f"--figure: expected a name that ends in {', '.join(ENDINGS)}, got {path}"
        )
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise LissomError(
            "--figure: matplotlib is not installed: pip install 'lissom[figures]'"
        ) from None
    rows = rows_of([record for _, record in store.records(tell, keys or None)])
    rows = [row for row in rows if row["ms"] is not None and row["metric"] is not None]
    if not rows:
        raise LissomError(f"--figure: no network in {store.root} was measured; run takes --to")
    if len(tasks := {tuple(row[name] for name in TASK_COLUMNS) for row in rows}) > 1:
        raise LissomError(
            f"--figure: the networks are of {len(tasks)} tasks, which one axis does not compare; "
            "name the keys of one"
        )
    if of == "latency" and len(machines := {row["machine"] for row in rows}) > 1:
        raise LissomError(
            f"--figure: latencies were measured on {listed(sorted(machines))}, which one axis does "
            "not compare; name the keys of one"
        )
    # keep text as text in SVG, and make equal numbers give equal files
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lissom", "font.size": 9}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        if of == "seeds":
            draw_seeds(figure, over_seeds(rows))
        else:
            draw_front(figure, rows, of)
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        with written(path, "report") as new:
            figure.savefig(new, metadata=metadata, dpi=200, format=path.suffix[1:])
    return path


def draw_front(figure: Any, rows: Sequence[Row], of: str) -> None:
    """Draw each network as a point (hollow: uncompressed), and the Pareto front as a line."""
    column, label, unit = AXES[of]
    axes = figure.add_subplot()
    all_rows = with_references(list(rows))
    for number, target in enumerate(dict.fromkeys(row["target"] for row in rows)):
        color = COLORS[number % len(COLORS)]
        marker = MARKERS[number % len(MARKERS)]
        of_target = [row for row in all_rows if row["target"] == target]
        front = pareto_front(of_target, column)
        axes.step(
            [row[column] / unit for row in front],
            [row["metric"] for row in front],
            where="post",
            color=color,
            linewidth=1,
            linestyle=":",
        )
        for row in of_target:
            axes.errorbar(
                row[column] / unit,
                row["metric"],
                xerr=error_bars(row) if column == "ms" else None,
                fmt=marker,
                color=color,
                markerfacecolor="none" if row.get("reference") else color,
                markersize=7 if row in front else 4,
                elinewidth=0.8,
            )
        axes.plot([], [], marker, color=color, label=target)
    axes.plot([], [], "o", color="black", markerfacecolor="none", label="uncompressed")
    axes.set_xlabel(label)
    axes.set_ylabel(f"test {metric_label(rows)}")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()


def draw_seeds(figure: Any, rows: Sequence[Row]) -> None:
    """Draw a bar with its spread over seeds for each recipe and runtime, and size ratios."""
    figure.set_figheight(1.2 + 0.45 * len(rows))
    axes = figure.add_subplot()
    places = range(len(rows))
    spreads = [row["spread"] or 0.0 for row in rows]
    axes.barh(places, [row["metric"] for row in rows], xerr=spreads, color=COLORS[5], capsize=3)
    counts = sorted({len(row["seeds"]) for row in rows})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    axes.set_xlabel(f"test {metric_label(rows)}, mean of {seeds} seed{'s' * (counts[-1] > 1)}")
    names = [textwrap.fill(f"{row['recipe']}, {row['target']}", LINE_LENGTH) for row in rows]
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    ratio_axes = axes.twiny()
    ratios = [row["float_size_bytes"] / row["size_bytes"] for row in rows]
    ratio_axes.plot(ratios, places, "D-", color=COLORS[1], linewidth=1)
    ratio_axes.set_xlim(left=0)
    ratio_axes.set_xlabel("times smaller than the uncompressed file", color=COLORS[1])


def pareto_front(rows: Sequence[Row], column: str) -> list[Row]:
    """Return the Pareto front of rows: a column is minimised, the first metric maximised.

    Rows with a badly measured latency are left out if that is the column.
    """
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[column], -row["metric"])):
        if column == "ms" and row["wide"]:
            continue
        if not front or row["metric"] > front[-1]["metric"]:
            front.append(row)
    return front


def error_bars(row: Row) -> list[list[float]]:
    """Return the distances of a latency to the ends of its interval, for error bars."""
    return [[row["ms"] - row["low_ms"]], [row["high_ms"] - row["ms"]]]


def metric_label(rows: Sequence[Row]) -> str:
    """Return the name of the first metric if all rows share it, else "metric"."""
    names = {row["metric_name"] for row in rows}
    return metric_title(names.pop()) if len(names) == 1 else "metric"
