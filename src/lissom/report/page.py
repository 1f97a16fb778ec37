"""The HTML report: one page that contains its data and script, and works offline."""

from __future__ import annotations

import base64
import gzip
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from ..bench.intervals import is_wide
from ..errors import LissomError
from ..language.kind import less_is_better
from ..store.checks import many_read
from ..store.store import Store, tell
from ..system.scratch import written
from .answers import answers_data
from .comparison import layer_rows
from .dropped import dropped_blocks, sentences, with_dropped_layers
from .facets import facets
from .rows import TASK_COLUMNS, drift_notes, over_seeds, rows_of
from .searches import searches_data
from .table import notes_of, size_lines
from .zeros import zeros_of

HERE = Path(__file__).parent  # page.html, page.css and page.js lie beside this file


class CachedStore(Store):
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
    store = CachedStore(store.root)
    with many_read():
        records = [record for _, record in store.records(tell, keys or None)]
        shown = records if keys else [record for record in records if record["targets"]] or records
        if not shown:
            raise LissomError(
                f"report: the store {store.root} holds no finished network; `lissom run` makes them"
            )
        data = orjson.dumps(page_data(shown, store))
    from plotly.offline import get_plotlyjs

    parts = {
        "/*STYLE*/": (HERE / "page.css").read_text(encoding="utf-8"),
        "/*SCRIPT*/": (HERE / "page.js").read_text(encoding="utf-8"),
        "/*PLOTLY*/": gzip_base64(get_plotlyjs().encode()),
        "/*DATA*/": gzip_base64(data),
    }
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for place, part in parts.items():
        page = page.replace(place, part)
    with written(output, "report") as new:
        new.write_text(page, encoding="utf-8")
    return output


def gzip_base64(text: bytes) -> str:
    """Return UTF-8 text as gzip in base64, which the page unpacks; equal texts give equal pages.

    With Plotly and the data packed, a page takes 2 MB instead of 5, and has room for 500 runs.
    """
    return base64.b64encode(gzip.compress(text, 4, mtime=0)).decode()


def decompressed(text: str) -> str:
    """Undo `gzip_base64`."""
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
    measured = rows_of(records)
    rows = with_references(measured)
    means = over_seeds(measured)
    scores = list(dict.fromkeys(name for row in measured for name in row["more"]))
    return {
        "uncompressed": uncompressed(records, store),
        "rows": rows,
        "drifts": drift_notes(measured),
        "means": means if any(len(row["seeds"]) > 1 for row in means) else [],
        "scores": scores,
        "less": list(filter(less_is_better, scores)),
        "runs": runs,
        "steps": steps,
        "answers": answers_data(records, store),
        "searches": searches_data(store),
        "facets": set_filters(rows, means),
        "machines": distinct([record["machine"] for record in records]),
    }


def distinct(values: Sequence[Any]) -> list[Any]:
    """Return the distinct values, in order."""
    return list(
        {orjson.dumps(value, option=orjson.OPT_SORT_KEYS): value for value in values}.values()
    )


def uncompressed(records: Sequence[dict[str, Any]], store: Store) -> dict[str, dict[str, Any]]:
    """Return the layers of each uncompressed network, by key and name; all its runs share them."""
    by_key = {record["float"]["key"]: record for record in records}
    return {
        key: {row["name"]: row for row in uncompressed_layers(record, store)}
        for key, record in by_key.items()
    }


def uncompressed_layers(record: dict[str, Any], store: Store) -> list[dict[str, Any]]:
    """Return the layers of the network that a run began with; its own if that is gone."""
    layers: list[dict[str, Any]] = (store.readable(record["float"]["key"]) or record)["layers"]
    return layers


def set_filters(
    rows: Sequence[dict[str, Any]], means: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return names and values of the settings in which rows differ; set the values of each row as
    `by`, with None for the settings of steps in a reference.
    """
    kinds = dict.fromkeys(
        tuple(row[name] for name in ("recipe", *TASK_COLUMNS))
        for row in rows
        if not row.get("reference")
    )
    places = {kind: place for place, kind in enumerate(kinds)}
    filters = facets(
        [kind[0] for kind in kinds],
        [dict(zip(TASK_COLUMNS, kind[1:], strict=True)) for kind in kinds],
    )
    for row in (*rows, *means):
        if row.get("reference"):
            row["by"] = [
                row[name] if (name := facet["name"]) in TASK_COLUMNS else None for facet in filters
            ]
        else:
            place = places[tuple(row[name] for name in ("recipe", *TASK_COLUMNS))]
            row["by"] = [facet["values"][place] for facet in filters]
    return [
        {"name": facet["name"], "values": sorted(set(facet["values"]), key=natural_key)}
        for facet in filters
    ]


def natural_key(text: str) -> list[tuple[float, str]]:
    """Return a sort key that compares numbers in a text as numbers.

    >>> sorted(["10", "9", "a"], key=natural_key)
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
    references: dict[tuple[Any, ...], dict[str, Any]] = {}
    known = [row for row in rows if row["float_ms"] is not None]
    for row in sorted(known, key=float_wide):
        references.setdefault(
            (
                *(row[name] for name in TASK_COLUMNS),
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
    return [*rows, *references.values()]


def float_wide(row: dict[str, Any]) -> bool:
    """Return whether the latency of the uncompressed network of a row was not measured well."""
    return is_wide({"low": row["float_low_ms"], "high": row["float_high_ms"]})


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
    dropped = dropped_blocks(chain)
    return {
        "recipe": record["recipe"],
        "seed": record["seed"],
        "task": record["task"],
        "layers": with_dropped_layers(
            layer_rows(record, store),
            uncompressed_layers(record, store),
            list(itertools.chain.from_iterable(dropped.values())),
        ),
        "uncompressed": record["float"]["key"],
        "chain": [entry["key"] for entry in reversed(chain)],
        "targets": record["targets"],
        "notes": [
            f"{target}: {note}"
            for target, file in record["targets"].items()
            for note in notes_of(file)
        ]
        + sentences(dropped),
        "sizes": size_lines(record),
        "zeros": zeros_of(record, store),
        "inspection": record.get("inspection"),
        "explanation": record.get("explanation"),
    }
