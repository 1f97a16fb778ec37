"""The rows of tables: one for each network and target, or one for all seeds of a recipe."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any

from ..bench.intervals import is_disturbed, is_wide
from ..bench.machine import measured_on

Row = dict[str, Any]
FORMULA_STARTS = tuple("=+-@\t\r")  # first characters of a spreadsheet formula
DRIFT_FACTOR = 1.15  # times that latencies of one network differ if the machine's speed has changed
TASK_COLUMNS = ("model", "data", "kind", "size")  # columns that distinguish tasks
AVERAGED_COLUMNS = (
    "metric",
    "float_metric",
    "ms",
    "low_ms",
    "high_ms",
    "float_ms",
    "float_low_ms",
    "float_high_ms",
    "size_bytes",
    "float_size_bytes",
    "params",
    "macs",
)


def main_score(scores: dict[str, Any]) -> float | None:
    """Return the first score of a record, which tables use; None if there is none."""
    return next(iter(scores.values()), None)


def rows_of(records: Sequence[dict[str, Any]]) -> list[Row]:
    """Return one row for each record and target: plain numbers by column.

    `metric` is the first metric and `metric_name` its name, `more` are the others: of the file in
    that target, or of PyTorch if nothing was exported. `machine` is the machine that measured the
    latency, or "". `wide`: the latency was measured badly; `disturbed`: it, or that of the
    uncompressed network, was.
    """
    rows = []
    for record in records:
        name, *others = record["scores"]["test"] or ["accuracy"]
        common = {
            "key": record["key"],
            "metric_name": name,
            "model": record["task"]["model"],
            "data": record["task"]["data"],
            "kind": record["task"].get("kind", ""),
            "size": "x".join(map(str, record["task"].get("shape", []))),
            "created": record.get("created", 0),
            "recipe": record["recipe"] or "as given",
            "seed": record["seed"],
            "params": record["params"],
            "macs": record["macs"],
            "float_metric": main_score(record["float"]["scores"]["test"]),
            "float_params": record["float"]["params"],
            "float_macs": record["float"]["macs"],
        }
        for target, file in record["targets"].items():
            rows.append(
                {
                    **common,
                    "target": target,
                    "machine": measured_on(record, file),
                    "metric": file.get(name),
                    "more": {o: file.get(o) for o in others},
                    "ms": file["latency_ms"]["median"],
                    "float_ms": file["float_latency_ms"]["median"],
                    "low_ms": file["latency_ms"]["low"],
                    "high_ms": file["latency_ms"]["high"],
                    "float_low_ms": file["float_latency_ms"]["low"],
                    "float_high_ms": file["float_latency_ms"]["high"],
                    "size_bytes": file["size_bytes"],
                    "float_size_bytes": file["float_size_bytes"],
                    "wide": is_wide(file["latency_ms"]),
                    "disturbed": is_disturbed(file),
                    "fused": in_integers(file),
                    "peak_mib": file["peak_mib"],
                }
            )
        if not record["targets"]:
            rows.append(
                {
                    **common,
                    "target": "PyTorch",
                    "machine": "",
                    "metric": main_score(record["scores"]["test"]),
                    "ms": None,
                    "more": {o: record["scores"]["test"][o] for o in others},
                    "float_ms": None,
                    "low_ms": None,
                    "high_ms": None,
                    "float_low_ms": None,
                    "float_high_ms": None,
                    "size_bytes": record.get("sizes", {}).get(
                        "packed_bytes", record["weights_bytes"]
                    ),
                    "fused": None,
                    "peak_mib": None,
                    "wide": False,
                    "disturbed": False,
                    "float_size_bytes": record["float"]["weights_bytes"],
                }
            )
    return rows


def drift_notes(rows: Sequence[Row]) -> list[str]:
    """Return a note for each runtime on whose rows one uncompressed network took different times:
    the machine was not equally fast when these files were measured.
    """
    times: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if row["float_ms"] and not row["disturbed"]:
            group = (*(row[name] for name in TASK_COLUMNS), row["machine"], row["target"])
            times.setdefault(group, []).append(row["float_ms"])
    return [
        f"{target}: the uncompressed network took {min(latencies):.3g} to {max(latencies):.3g} ms when these "
        "files were measured, so compare 'faster' instead of ms; `lissom bench KEY KEY` measures files "
        "in turns"
        for (*_, target), latencies in times.items()
        if max(latencies) > DRIFT_FACTOR * min(latencies)
    ]


def in_integers(file: dict[str, Any]) -> str | None:
    """Return how many layers of a file run in integers, and their share of MACs if it is small.

    >>> in_integers({"fused": "1/50", "macs_in_integers": 0.031}), in_integers({"fused": "50/50"})
    ('1/50, 3% of MACs', '50/50')
    """
    layers = file["fused"]
    share = file.get("macs_in_integers")
    if not layers or share is None or share >= 0.5:
        return layers
    return f"{layers}, {share:.0%} of MACs"


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each recipe, task, target and machine, with means over its seeds,
    best first.

    `seeds` lists them; `spread` is the sample standard deviation of the first metric, None for a
    single seed. If two rows have the same seed, because of other settings or an older version, the
    newer one gets its own row.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["created"]):
        group_key = (
            row["recipe"],
            row["target"],
            row["machine"],
            *(row[name] for name in TASK_COLUMNS),
        )
        number = 0
        while any(other["seed"] == row["seed"] for other in groups.get((*group_key, number), [])):
            number += 1
        groups.setdefault((*group_key, number), []).append(row)
    means = [
        {
            **group[0],
            "seeds": [row["seed"] for row in group],
            "keys": [row["key"] for row in group],
            "more": {
                name: mean([row["more"].get(name) for row in group]) for name in group[0]["more"]
            },
            "spread": standard_deviation([row["metric"] for row in group]),
            "level": all(intervals_overlap(row) for row in group),
            "wide": any(row["wide"] for row in group),
            "disturbed": any(row["disturbed"] for row in group),
            **{name: mean([row[name] for row in group]) for name in AVERAGED_COLUMNS},
        }
        for group in groups.values()
    ]
    return sorted(means, key=lambda row: -(row["metric"] or 0))


def intervals_overlap(row: Row) -> bool:
    """Return whether the latency intervals of a network and its uncompressed network overlap."""
    return (
        bool(row["ms"])
        and row["low_ms"] <= row["float_high_ms"]
        and row["float_low_ms"] <= row["high_ms"]
    )


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, None if a value is missing."""
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return None
    # equal values stay as they are: integers stay integers
    return statistics.fmean(known) if len(set(known)) > 1 else known[0]


def standard_deviation(values: Sequence[float | None]) -> float | None:
    """Return the sample standard deviation; None for fewer than two values or if one is missing."""
    known = [v for v in values if v is not None]
    return statistics.stdev(known) if len(known) == len(values) > 1 else None


def csv_of(rows: Sequence[Row]) -> str:
    """Return rows as CSV with a header and unrounded numbers; each score has its own column.

    Text that a spreadsheet would read as a formula is prefixed with an apostrophe.
    """
    if not rows:
        return ""
    flat = [
        {
            spreadsheet_value(k): spreadsheet_value(v)
            for k, v in ({k: v for k, v in row.items() if k != "more"} | row["more"]).items()
        }
        for row in rows
    ]
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def spreadsheet_value(value: Any) -> Any:
    """Return a value for a spreadsheet; text that would be a formula gets an apostrophe before it.

    >>> spreadsheet_value("=1+1"), spreadsheet_value("prune(0.5)"), spreadsheet_value(-0.5)
    ("'=1+1", 'prune(0.5)', -0.5)
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in FORMULA_STARTS else value
