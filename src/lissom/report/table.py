"""Tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("recipe", "seed", "target", "top-1", "vs float", "ms", "faster", "file", "smaller", "params", "MACs", "int8",
           "key")


def main_score(scores: dict[str, Any]) -> float | None:
    """Return the first score of a record: the one that tables go by."""
    return next(iter(scores.values()), None)


def rows_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each record and target, plain numbers by column; `top1` is measured in that target."""
    rows = []
    for record in records:
        name = next(iter(record["scores"]["test"]), "top1")
        reference = main_score(record["float"]["scores"]["test"])
        common = {"key": record["key"], "recipe": record["recipe"] or "as given", "seed": record["seed"],
                  "params": record["params"], "macs": record["macs"], "float_top1": reference}
        for target, found in record["targets"].items():
            ms, float_ms = found["latency_ms"]["median"], found["float_latency_ms"]["median"]
            rows.append({**common, "target": target, "top1": found.get(name), "ms": ms, "float_ms": float_ms,
                         "low_ms": found["latency_ms"]["low"], "high_ms": found["latency_ms"]["high"],
                         "size_bytes": found["size_bytes"], "float_size_bytes": found["float_size_bytes"],
                         "fused": found["fused"], "peak_mib": found["peak_mib"]})
        if not record["targets"]:
            rows.append({**common, "target": "PyTorch", "top1": main_score(record["scores"]["test"]), "ms": None,
                         "float_ms": None, "size_bytes": record["weights_bytes"], "fused": None,
                         "float_size_bytes": record["float"]["weights_bytes"]})
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row as texts, in the order of COLUMNS."""
    score, reference = row["top1"], row["float_top1"]
    gap = f"{score - reference:+.4f}" if score is not None and reference is not None else "-"
    return [row["recipe"], str(row["seed"]), row["target"], "-" if score is None else f"{score:.4f}", gap,
            "-" if row["ms"] is None else f"{row['ms']:.3f}",
            "-" if row["ms"] is None else f"{row['float_ms'] / row['ms']:.2f}x",
            size_text(row["size_bytes"]), f"{row['float_size_bytes'] / row['size_bytes']:.2f}x", count_text(row["params"]),
            count_text(row["macs"]), row["fused"] or "-", row["key"]]


def print_table(records: list[dict[str, Any]]) -> None:
    """Print one row for each record and target; narrow terminals get the recipes above, by number."""
    rows = sorted(rows_of(records), key=lambda r: -(r["top1"] or 0))
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for name in ("#", *COLUMNS[1:]):
        table.add_column(name, justify="left" if name in ("target", "key") else "right", no_wrap=True)
    for row in rows:
        table.add_row(str(recipes.index(row["recipe"]) + 1), *cells(row)[1:])
    for number, recipe in enumerate(recipes, 1):
        console.print(f"{number}  {recipe}", soft_wrap=True, markup=False)
    print_wide(console, table)
    if records:
        machine = records[0]["machine"]
        console.print(f"test accuracy of the exported file; median latency of one image; against the uncompressed network "
                      f"in the same runtime. {machine['cpu']}, {machine['cores']} cores", soft_wrap=True, markup=False)


def print_wide(console: Console, table: Table) -> None:
    """Print a table in full: a line that is too long for the terminal is better than a number cut short."""
    wide = Console(highlight=False, width=max(console.width, 200)) if not console.is_terminal else console
    wide.print(table)


def print_record(record: dict[str, Any]) -> None:
    """Print what matters of one record."""
    task, before = record["task"], record["float"]
    lines = [f"{record['key']}  {record['recipe'] or 'the network as given'}  seed {record['seed']}",
             f"{task['model']} on {task['data']} ({task['train']} train, {task['valid']} valid, {task['test']} test)"]
    lines += [f"{split} {name}: {value} (float {before['scores'][split].get(name)})"
              for split, scores in record["scores"].items() for name, value in scores.items()]
    lines += [f"{count}: {record[count]:,} of {before[count]:,}" for count in ("params", "macs")]
    lines += size_lines(record)
    lines += [f"gate: {g['name']}: {g['difference']:.3g}, at most {g['tolerance']:g}" for g in record["gates"]]
    print("\n".join([*lines, *(f"note: {note}" for note in record["notes"])]))
    print_table([record])


def size_lines(record: dict[str, Any]) -> list[str]:
    """Return what a network takes: in theory and packed, and for each target in its file and when it runs.

    Records of earlier versions do not have all of it.
    """
    found, lines = record.get("sizes"), []
    if found:
        lines.append(f"bytes: {found['theory_bytes']:,} in theory, {found['packed_bytes']:,} packed, "
                     f"{record['weights_bytes']:,} as PyTorch holds them")
    for target, held in record["targets"].items():
        resident = f"{held['resident_mib']} MiB" if "resident_mib" in held else "not measured"
        lines.append(f"{target}: {held['size_bytes']:,} bytes in the file, {resident} when running, "
                     f"{held['peak_mib']} MiB at most with the runtime")
    return lines


def print_bench(rows: list[dict[str, Any]]) -> None:
    """Print timings."""
    table = Table(box=None, header_style="bold")
    for name in ("name", "target", "ms", "95 %", "file", "load ms", "adds MiB", "peak MiB"):
        table.add_column(name, justify="left" if name in ("name", "target") else "right")
    for row in rows:
        ms = row["latency_ms"]
        table.add_row(row["name"], row["target"], f"{ms['median']:.3f}", f"{ms['low']:.3f}-{ms['high']:.3f}",
                      size_text(row["size_bytes"]), f"{row['load_ms']:.0f}", f"{row['resident_mib']:.1f}",
                      f"{row['peak_mib']:.0f}")
    print_wide(Console(highlight=False), table)


def print_store(rows: list[dict[str, Any]]) -> None:
    """Print the entries of a store."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold")
    for name in ("key", "size", "age", "seed", "", "recipe"):
        table.add_column(name, justify="right" if name in ("size", "age", "seed") else "left")
    for row in rows:
        table.add_row(row["key"], size_text(row["size_bytes"]), f"{row['age_s'] / 3600:.1f} h", str(row["seed"]),
                      "finished" if row["finished"] else "", (row["recipe"] or "the network as given").replace("[", r"\["))
    print_wide(console, table)
    console.print(f"{len(rows)} networks, {size_text(sum(row['size_bytes'] for row in rows))}")


def size_text(count: float) -> str:
    """Return bytes as a person says them.

    >>> size_text(1_107_651)
    '1.11 MB'
    """
    return scaled(count, (" B", " kB", " MB", " GB"))


def count_text(count: float) -> str:
    """Return a count as a person says it.

    >>> count_text(269_722)
    '270k'
    """
    return scaled(count, ("", "k", "M", "G"))


def scaled(count: float, units: tuple[str, ...]) -> str:
    """Return three digits of a number with the unit that fits."""
    place = 0
    while count >= 999.5 and place < len(units) - 1:
        count, place = count / 1000, place + 1
    return f"{count:.3g}{units[place]}"
