"""Tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from rich.console import Console
from rich.table import Table

from ..bench.intervals import MAX_ENDS_RATIO, is_disturbed
from ..bench.machine import machine_text
from ..errors import counted
from ..language.amounts import count_text, size_text
from ..store.store import Store
from .rows import TASK_COLUMNS, Row, csv_of, drift_notes, over_seeds, rows_of
from .terminal import plain, plain_line, terminal
from .zeros import print_zeros, zeros_of

LEFT_ALIGNED = ("target", "key", "keys", "model", "data", "kind", "machine")
DISTURBED = "not measured well"
DISTURBED_NOTE = (
    f"{DISTURBED}: the ends of an interval of latency are more than {MAX_ENDS_RATIO}x apart; measure "
    "again when the machine is "
    "idle"
)
INT8_NOTE = (
    "int8: layers and additions that run in integers, as each runtime counts them: OpenVINO "
    "computes an addition within "
    "the convolution before it, and counts them as one"
)
Column = tuple[str, Callable[[Row], str]]


def columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns for rows over seeds: titles, and functions from a row to a cell."""
    several = any(len(row["seeds"]) > 1 for row in rows)
    more = list(dict.fromkeys(name for row in rows for name in row["more"]))
    differ: list[Column] = [
        (name, itemgetter(name))
        for name in (*TASK_COLUMNS, "machine")
        if len({row[name] for row in rows}) > 1
    ]
    return [
        *differ,
        ("seeds" if several else "seed", lambda row: ranges_text(row["seeds"])),
        ("target", lambda row: row["target"]),
        (
            metric_title(rows[0]["metric_name"])
            if len({row["metric_name"] for row in rows}) == 1
            else "metric",
            lambda row: (
                number(row["metric"], 4)
                + (f" ±{row['spread']:.4f}" if row["spread"] is not None else "")
            ),
        ),
        *((metric_title(name), partial(score_text, name)) for name in more),
        (
            "vs float",
            lambda row: (
                "-"
                if None in (row["metric"], row["float_metric"])
                else f"{row['metric'] - row['float_metric']:+.4f}"
            ),
        ),
        ("ms", lambda row: number(row["ms"], 3)),
        ("faster", speedup_text),
        ("file", lambda row: size_text(row["size_bytes"])),
        ("smaller", lambda row: f"{row['float_size_bytes'] / row['size_bytes']:.2f}x"),
        ("params", lambda row: count_text(row["params"])),
        ("MACs", lambda row: count_text(row["macs"])),
        ("int8", lambda row: row["fused"] or "-"),
        ("keys" if several else "key", lambda row: " ".join(row["keys"])),
    ]


def speedup_text(row: Row) -> str:
    """Return the speedup over the uncompressed network as text, or that it was measured badly, or
    that the two cannot be distinguished.
    """
    if row["ms"] is None:
        return "-"
    if row["disturbed"]:
        return DISTURBED
    return "level" if row["level"] else f"{row['float_ms'] / row['ms']:.2f}x"


def score_text(name: str, row: Row) -> str:
    """Return a further score of a row as text."""
    return number(row["more"].get(name), 4)


def metric_title(name: str) -> str:
    """Return the name of a score as a column title.

    >>> metric_title("top5")
    'top-5'
    """
    return re.sub(r"^top(\d+)$", r"top-\1", name)


def number(value: float | None, digits: int) -> str:
    """Return a number with `digits` decimals, a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def ranges_text(seeds: Sequence[int]) -> str:
    """Return seeds as text in the form of the command line.

    >>> ranges_text([0, 1, 2, 7])
    '0-2,7'
    """
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def print_records(records: list[dict[str, Any]], form: str = "table") -> None:
    """Print records: as a table or Markdown with a row for all seeds, sorted by the first score, or
    as CSV with a row for each.
    """
    if form == "csv":
        print(plain(csv_of(rows_of(records))), end="")
    elif form == "markdown":
        print(plain(markdown(over_seeds(rows_of(records)))))
    else:
        print_table(records)


def markdown(rows: list[Row]) -> str:
    """Return rows over seeds as a Markdown table."""
    shown_columns: list[Column] = [
        ("recipe", lambda row: code_cell(row["recipe"])),
        *((name, lambda row, text=text: cell(text(row))) for name, text in columns(rows)),
    ]
    return "\n".join(
        [
            "| " + " | ".join(cell(name) for name, _ in shown_columns) + " |",
            "|---" * len(shown_columns) + "|",
            *("| " + " | ".join(text(row) for _, text in shown_columns) + " |" for row in rows),
        ]
    )


def cell(text: object) -> str:
    """Return a text escaped for a cell of a Markdown table.

    >>> cell("a|b `c`")
    'a\\\\|b \\\\`c\\\\`'
    """
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(str(text).split()))


def code_cell(text: str) -> str:
    """Return a text as code in a cell, between more backticks than it contains in a row.

    >>> code_cell("a | b")
    '`a \\\\| b`'
    """
    text = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{fence}{space}{text}{space}{fence}"


def print_table(records: list[dict[str, Any]]) -> None:
    """Print one row for each recipe and target; the numbered recipes are listed above."""
    seed_rows = rows_of(records)
    rows = over_seeds(seed_rows)
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    console = terminal()
    shown_columns = columns(rows)
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for name in ("#", *(name for name, _ in shown_columns)):
        table.add_column(
            name, justify="left" if name in LEFT_ALIGNED else "right", no_wrap=name != "keys"
        )
    for row in rows:
        table.add_row(
            str(recipes.index(row["recipe"]) + 1), *(text(row) for _, text in shown_columns)
        )
    for place, recipe in enumerate(recipes, 1):
        console.print(f"{place}  {plain_line(recipe)}", soft_wrap=True)
    print_wide(console, table)
    if records:
        machine_names = dict.fromkeys(row["machine"] for row in rows if row["machine"])
        machines = ", or ".join(machine_names) or machine_text(records[0]["machine"])
        legend = [
            "metrics in PyTorch on the test data",
            "sizes as packed, since no file was measured (--to names runtimes)",
        ]
        if any(row["ms"] for row in rows):
            legend = [
                "metrics of the exported file on the test data",
                "median latency of one sample",
                "against the uncompressed network in the same runtime",
            ]
        if any(row["level"] and not row["disturbed"] for row in rows):
            legend.append("level: the intervals of both overlap")
        if any(row["disturbed"] for row in rows):
            legend.append(DISTURBED_NOTE)
        if len({row["fused"] for row in rows if row["fused"]}) > 1:
            legend.append(INT8_NOTE)
        if any(len(row["seeds"]) > 1 for row in rows):
            legend.insert(0, "means over seeds, ± the standard deviation of one")
        console.print(f"{'; '.join(legend)}. {plain_line(machines)}", soft_wrap=True)
        for note in drift_notes(seed_rows):
            console.print(plain_line(note), soft_wrap=True)
        if versions := versions_text(records):
            console.print(plain_line(versions), soft_wrap=True, style="dim")


def versions_text(records: Sequence[dict[str, Any]]) -> str:
    """Return the versions of PyTorch and of the runtimes in a table, and the GPU; "" if they are
    unknown.

    >>> machine = {"libraries": {"torch": "2.14.1", "onnxruntime": "1.32.0", "ncnn": "1.0"}}
    >>> versions_text([{"machine": machine, "targets": {"onnxruntime": {}}}])
    'torch 2.14.1, onnxruntime 1.32.0'
    """
    machine = records[0]["machine"]
    targets = {target.partition("(")[0].lower() for each in records for target in each["targets"]}
    libraries = machine.get("libraries", {})
    named = [
        f"{name} {version}"
        for name, version in libraries.items()
        if name == "torch" or name.lower() in targets
    ]
    graphics = machine.get("gpu", {})
    if graphics:
        named.append(f"{graphics['name']} with CUDA {graphics.get('cuda', 'of unknown version')}")
    return ", ".join(named)


def print_wide(console: Console, table: Table) -> None:
    """Print a table; outside a terminal, up to 200 columns wide, so that no number is cut."""
    wide = terminal(width=max(console.width, 200)) if not console.is_terminal else console
    wide.print(table)


def print_record(record: dict[str, Any], store: Store | None = None) -> None:
    """Print a summary of one record; with its store, also the zeros of a mask in its recipe."""
    task = record["task"]
    uncompressed = record["float"]
    lines = [
        f"{record['key']}  {record['recipe'] or 'the network as given'}  seed {record['seed']}",
        f"{task['model']} on {task['data']} ({task['train']} train, {task['valid']} valid, "
        f"{task['test']} test)" + (f", {kind}" if (kind := task.get("kind")) else ""),
    ]
    lines += [
        f"{split} {name}: {number(value, 4)} (float {number(uncompressed['scores'][split].get(name), 4)})"
        for split in ("valid", "test")
        for name, value in record["scores"][split].items()
    ]
    lines += [
        f"{count}: {record[count]:,} of {uncompressed[count]:,}" for count in ("params", "macs")
    ]
    lines += size_lines(record)
    lines += [
        f"gate: {g['name']}: {g['difference']:.3g}, at most {g['tolerance']:g}"
        for g in record["gates"]
    ]
    records = [record] if store is None else store.chain(record)[::-1]
    notes = [*task.get("notes", []), *(note for entry in records for note in entry["notes"])]
    lines += [f"note: {note}" for note in dict.fromkeys(notes)]
    lines += [
        f"note: {target}: {note}"
        for target, found in record["targets"].items()
        for note in notes_of(found)
    ]
    print("\n".join(map(plain_line, lines)))
    if store is not None and (found := zeros_of(record, store)):
        print_zeros(found)
    print_table([record])


def notes_of(file: dict[str, Any]) -> list[str]:
    """Return the notes on a measurement; earlier versions did not note that it was disturbed."""
    return file["notes"] if "notes" in file else [DISTURBED_NOTE] if is_disturbed(file) else []


def size_lines(record: dict[str, Any]) -> list[str]:
    """Return lines on the size of a network: in theory and packed, and for each target the size of
    its file and its memory.

    Records of earlier versions lack some of them.
    """
    sizes = record.get("sizes")
    lines = []
    if sizes:
        lines.append(
            f"bytes: {sizes['theory_bytes']:,} in theory, {sizes['packed_bytes']:,} packed, "
            f"{record['weights_bytes']:,} as PyTorch holds them"
        )
    for target, file in record["targets"].items():
        resident, peak = (
            f"{file[mib]} MiB" if file.get(mib) is not None else "not measured"
            for mib in ("resident_mib", "peak_mib")
        )
        lines.append(
            f"{target}: {file['size_bytes']:,} bytes in the file, {resident} when running, "
            f"{peak} at most with the runtime"
        )
    return lines


def print_store(rows: list[dict[str, Any]]) -> None:
    """Print the entries of a store as plain lines: a table of thousands would be slow."""
    cells = [("key", "size", "age", "seed", "", "recipe")]
    cells += [
        (
            row["key"],
            size_text(row["size_bytes"]),
            f"{row['age_s'] / 3600:.1f} h",
            str(row["seed"]),
            "finished" if row["finished"] else "",
            plain_line(row["recipe"]) or "the network as given",
        )
        for row in rows
    ]
    key, size, age, seed, mark, _ = (max(map(len, column)) for column in zip(*cells, strict=True))
    lines = [
        f" {a:{key}}  {b:>{size}}  {c:>{age}}  {d:>{seed}}  {e:{mark}}  {recipe}"
        for a, b, c, d, e, recipe in cells
    ]
    console = terminal()
    console.print(lines[0], style="bold", soft_wrap=True)
    print(
        *lines[1:],
        f"{counted(len(rows), 'network')}, {size_text(sum(row['size_bytes'] for row in rows))}",
        sep="\n",
    )
