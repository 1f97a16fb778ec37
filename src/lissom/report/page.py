"""The HTML report: one page that contains its data and script, and works offline."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from ..bench.intervals import wide
from ..errors import LissomError
from ..language.kind import less_is_better
from ..store.checks import many_read
from ..store.store import Store, tell
from ..system.scratch import written
from .answers import answers_data
from .comparison import layer_rows
from .facets import facets
from .rows import TASK, drifts, over_seeds, rows_of
from .searches import searches_data
from .table import notes_of, size_lines
from .zeros import zeros_of

HERE = Path(__file__).parent  # page.html, page.css and page.js lie beside this file


class Once(Store):
    """A store that reads each record only once: earlier records of a chain are needed by every
    network made from them.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self.known: dict[str, dict[str, Any]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.known or super().__contains__(key)

    def record(self, key: str) -> dict[str, Any]:
        """Return the record of an entry, from memory if it was read before."""
        if key not in self.known:
            self.known[key] = super().record(key)
        return self.known[key]


def write_report(keys: Sequence[str], store: Store, output: Path) -> Path:
    """Write the report of the given keys, by default of every measured network, to a file; return
    its path.

    Records that cannot be read are reported and left out. Raises LissomError if none is left.
    """
    store = Once(store.root)
    with many_read():
        records = [record for _, record in store.records(tell, keys or None)]
        chosen = records if keys else [record for record in records if record["targets"]] or records
        if not chosen:
            raise LissomError(
                f"report: the store {store.root} holds no finished network; `lissom run` makes them"
            )
        data = orjson.dumps(page_data(chosen, store))
    from plotly.offline import get_plotlyjs

    parts = {
        "/*STYLE*/": (HERE / "page.css").read_text(encoding="utf-8"),
        "/*SCRIPT*/": (HERE / "page.js").read_text(encoding="utf-8"),
        "/*PLOTLY*/": packed(get_plotlyjs().encode()),
        "/*DATA*/": packed(data),
    }
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for place, part in parts.items():
        page = page.replace(place, part)
    with written(output, "report") as new:
        new.write_text(page, encoding="utf-8")
    return output


def packed(text: bytes) -> str:
    """Return UTF-8 text as gzip in base64, which the page unpacks; equal texts give equal pages.

    With Plotly and the data packed, a page takes 2 MB instead of 5, and has room for 500 runs.
    """
    return base64.b64encode(gzip.compress(text, 4, mtime=0)).decode()


def unpacked(text: str) -> str:
    """Undo `packed`."""
    return gzip.decompress(base64.b64decode(text)).decode()


def page_data(records: Sequence[dict[str, Any]], store: Store) -> dict[str, Any]:
    """Return the data of the page: rows, filters, and the details of each run and each step."""
    steps: dict[str, dict[str, Any]] = {}
    runs: dict[str, dict[str, Any]] = {}
    for record in records:
        try:
            runs[record["key"]] = details(record, store, steps)
        except LissomError as error:
            tell(str(error))
    records = [record for record in records if record["key"] in runs]
    own = rows_of(records)
    rows = with_references(own)
    means = over_seeds(own)
    scores = list(dict.fromkeys(name for row in own for name in row["more"]))
    return {
        "uncompressed": uncompressed(records, store),
        "rows": rows,
        "drifts": drifts(own),
        "means": means if any(len(row["seeds"]) > 1 for row in means) else [],
        "scores": scores,
        "less": list(filter(less_is_better, scores)),
        "runs": runs,
        "steps": steps,
        "answers": answers_data(records, store),
        "searches": searches_data(store),
        "facets": chosen_by(rows, means),
        "machines": different([record["machine"] for record in records]),
    }


def different(values: Sequence[Any]) -> list[Any]:
    """Return the distinct values, in order."""
    return list(
        {orjson.dumps(value, option=orjson.OPT_SORT_KEYS): value for value in values}.values()
    )


def uncompressed(records: Sequence[dict[str, Any]], store: Store) -> dict[str, dict[str, Any]]:
    """Return the layers of each uncompressed network, by key and name; all its runs share them."""
    found = {record["float"]["key"]: record for record in records}
    return {
        key: {row["name"]: row for row in (store.readable(key) or record)["layers"]}
        for key, record in found.items()
    }


def chosen_by(
    rows: Sequence[dict[str, Any]], means: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return names and values of the settings in which rows differ; set the values of each row as
    `by`, with None for the settings of steps in a reference.
    """
    kinds = dict.fromkeys(
        tuple(row[name] for name in ("recipe", *TASK)) for row in rows if not row.get("reference")
    )
    places = {kind: place for place, kind in enumerate(kinds)}
    found = facets(
        [kind[0] for kind in kinds], [dict(zip(TASK, kind[1:], strict=True)) for kind in kinds]
    )
    for row in (*rows, *means):
        if row.get("reference"):
            row["by"] = [row[name] if (name := facet["name"]) in TASK else None for facet in found]
        else:
            place = places[tuple(row[name] for name in ("recipe", *TASK))]
            row["by"] = [facet["values"][place] for facet in found]
    return [
        {"name": facet["name"], "values": sorted(set(facet["values"]), key=natural)}
        for facet in found
    ]


def natural(text: str) -> list[tuple[float, str]]:
    """Return a sort key that compares numbers in a text as numbers.

    >>> sorted(["10", "9", "a"], key=natural)
    ['9', '10', 'a']
    """
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [
        (float(part), "") if number % 2 else (float("inf"), part)
        for number, part in enumerate(parts)
        if part
    ]


def with_references(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with one more for the uncompressed network in each target and on each machine:
    its best measurement.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    known = [row for row in rows if row["float_ms"] is not None]
    for row in sorted(known, key=float_wide):
        found.setdefault(
            (
                *(row[name] for name in TASK),
                row["target"],
                row["machine"],
                row["seed"],
                row["float_metric"],
                row["float_size_bytes"],
            ),
            {
                **row,
                "recipe": "the uncompressed network",
                "key": "",
                "metric": row["float_metric"],
                "ms": row["float_ms"],
                "low_ms": row["float_low_ms"],
                "high_ms": row["float_high_ms"],
                "size_bytes": row["float_size_bytes"],
                "more": {},
                "peak_mib": None,
                "fused": None,
                "params": row["float_params"],
                "macs": row["float_macs"],
                "wide": float_wide(row),
                "disturbed": float_wide(row),
                "reference": True,
            },
        )
    return [*rows, *found.values()]


def float_wide(row: dict[str, Any]) -> bool:
    """Return whether the latency of the uncompressed network of a row was not measured well."""
    return wide({"low": row["float_low_ms"], "high": row["float_high_ms"]})


def details(
    record: dict[str, Any], store: Store, steps: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return the details of one run, such as layers and targets; add its new steps to `steps`."""
    chain = store.chain(record)
    for entry in chain:
        if entry["key"] not in steps:
            steps[entry["key"]] = {
                "step": entry["step"],
                "log": store.log(entry["key"]),
                "seconds": entry["seconds"],
                "scores": entry["scores"],
                "params": entry["params"],
                "macs": entry["macs"],
                "gates": entry["gates"],
                "notes": entry["notes"],
                "sparsified": entry["facts"].get("sparsified"),
            }
    return {
        "recipe": record["recipe"],
        "seed": record["seed"],
        "task": record["task"],
        "layers": layer_rows(record, store),
        "uncompressed": record["float"]["key"],
        "chain": [entry["key"] for entry in reversed(chain)],
        "targets": record["targets"],
        "notes": [
            f"{target}: {note}"
            for target, found in record["targets"].items()
            for note in notes_of(found)
        ],
        "sizes": size_lines(record),
        "zeros": zeros_of(record, store),
        "inspection": record.get("inspection"),
        "explanation": record.get("explanation"),
    }
