"""Compare two finished networks layer by layer, for `lissom compare`."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from rich.console import Console
from rich.table import Table

from ..bench.intervals import is_wide
from ..bench.machine import measured_on
from ..errors import LissomError
from ..language.amounts import count_text, size_text
from ..language.recipe import Recipe
from ..store.store import Store
from .rows import main_score
from .table import DISTURBED, DISTURBED_NOTE, metric_title, number, print_wide
from .terminal import terminal

OTHER_MACHINE = "another machine"
OTHER_METRIC = "another metric"
COLUMNS = ("outputs", "params", "macs", "bits")


def layer_rows(record: dict[str, Any], store: Store) -> list[dict[str, Any]]:
    """Return the layers of a record, with the `bits` of weights and inputs, such as 4/8, if a step
    quantized them.
    """
    bits: dict[str, str] = {}
    for entry in store.chain(record):
        if "quantized" in entry["facts"]:
            bits = {
                row["name"]: "/".join(
                    str(row[of]["bits"]) if row[of] else "float" for of in ("weights", "inputs")
                )
                for row in entry["facts"].get("layers", [])
            }
            break
    return [{**row, "bits": bits.get(row["name"])} for row in record["layers"]]


def compare_records(first: dict[str, Any], second: dict[str, Any], store: Store) -> dict[str, Any]:
    """Return two records as pairs: facts of the `task` that differ, `steps` that only one has,
    the names of their first `metrics`, scores, counts, targets that both have, layers.
    """
    rows = [{row["name"]: row for row in layer_rows(record, store)} for record in (first, second)]
    names = list(rows[0]) + [name for name in rows[1] if name not in rows[0]]
    layers = [
        {
            "name": name,
            **{
                column: [found[name][column] if name in found else None for found in rows]
                for column in COLUMNS
            },
        }
        for name in names
    ]
    shared = [name for name in first["targets"] if name in second["targets"]]
    steps = [steps_of(record["recipe"]) for record in (first, second)]
    main_metrics = [next(iter(record["scores"]["test"]), "accuracy") for record in (first, second)]
    return {
        "keys": [first["key"], second["key"]],
        "recipes": [first["recipe"], second["recipe"]],
        "seeds": [first["seed"], second["seed"]],
        "task": differing_facts(facts_of(first["task"]), facts_of(second["task"])),
        "steps": differing_steps(*steps),
        "metrics": main_metrics,
        "scores": {
            split: [main_score(r["scores"].get(split, {})) for r in (first, second)]
            for split in ("valid", "test")
        },
        **{name: [r[name] for r in (first, second)] for name in ("params", "macs")},
        "targets": {
            name: {
                **{
                    what: [
                        r["targets"][name].get(main if what == "metric" else what)
                        for r, main in zip((first, second), main_metrics, strict=True)
                    ]
                    for what in ("metric", "latency_ms", "size_bytes", "fused")
                },
                "machine": [measured_on(r, r["targets"][name]) for r in (first, second)],
            }
            for name in shared
        },
        "layers": layers,
    }


def facts_of(task: dict[str, Any]) -> dict[str, str]:
    """Return what a record says of its task, as text by name."""
    spec = task.get("spec", {})
    return {
        "model": task["model"],
        "arguments": ", ".join(f"{name}={spec[name]}" for name in spec if name != "model"),
        "data": task["data"],
        "samples": ", ".join(
            f"{task[split]} {split}" for split in ("train", "valid", "test") if split in task
        ),
        "kind": task.get("kind", ""),
        "shape": "x".join(map(str, task.get("shape", []))),
        "preprocessing": task.get("preprocessing", {}).get("preprocess") or "",
    }


def differing_facts(first: dict[str, str], second: dict[str, str]) -> dict[str, list[str]]:
    """Return the facts in which two tasks differ, as pairs.

    >>> differing_facts({"data": "a", "kind": "segment"}, {"data": "a", "kind": "classify"})
    {'kind': ['segment', 'classify']}
    """
    return {name: [first[name], second[name]] for name in first if first[name] != second[name]}


def steps_of(recipe: str) -> list[str]:
    """Return the steps of a recipe as text; a recipe of another version is one text."""
    try:
        return [str(step) for step in Recipe(recipe).steps] if recipe else []
    except LissomError:
        return [recipe]


def differing_steps(first: Sequence[str], second: Sequence[str]) -> list[list[str]]:
    """Return the steps that only the first and only the second have.

    >>> differing_steps(["train(3)", "prune(0.5)"], ["train(3)", "prune(0.3)", "fold"])
    [['prune(0.5)'], ['prune(0.3)', 'fold']]
    """
    opcodes = [
        c
        for c in SequenceMatcher(a=list(first), b=list(second), autojunk=False).get_opcodes()
        if c[0] != "equal"
    ]
    return [
        [step for c in opcodes for step in first[c[1] : c[2]]],
        [step for c in opcodes for step in second[c[3] : c[4]]],
    ]


def print_comparison(found: dict[str, Any]) -> None:
    """Print the differences of two networks: tasks, steps, numbers, layers."""
    console = terminal()
    for side, (key, recipe, seed, only) in enumerate(
        zip(found["keys"], found["recipes"], found["seeds"], found["steps"], strict=True)
    ):
        console.print(f"{key}  {recipe or 'the network as given'}  seed {seed}", soft_wrap=True)
        for name, values in found["task"].items():
            console.print(f"    {name}: {values[side] or '-'}", soft_wrap=True)
        console.print(f"    only here: {' | '.join(only) or 'nothing'}", soft_wrap=True)
    table = Table(box=None, header_style="bold")
    for name in ("", *found["keys"], "change"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    metrics = dict.fromkeys(map(metric_title, found["metrics"]))
    metric = " and ".join(metrics)
    other = OTHER_METRIC if len(metrics) > 1 else None
    for split, scores in found["scores"].items():
        _row(table, f"{split} {metric}, PyTorch", scores, metric_text, share=False, said=other)
    for name in ("params", "macs"):
        _row(table, name, found[name], count_text)
    for target, values in found["targets"].items():
        _row(table, f"{target} {metric}", values["metric"], metric_text, share=False, said=other)
        _row(
            table,
            f"{target} ms",
            [ms["median"] for ms in values["latency_ms"]],
            lambda v: number(v, 3),
            said=why_no_ratio(values),
        )
        _row(table, f"{target} file", values["size_bytes"], size_text)
    print_wide(console, table)
    for note in latency_notes(found["targets"]):
        console.print(note, soft_wrap=True)
    print_layers(console, found)


def print_layers(console: Console, found: dict[str, Any]) -> None:
    """Print the layers of both networks that differ, and those that only one has."""
    only_in = [
        [row["name"] for row in found["layers"] if row["params"][1 - side] is None]
        for side in (0, 1)
    ]
    changed = [
        row
        for row in found["layers"]
        if row["name"] not in only_in[0] + only_in[1]
        and any(row[column][0] != row[column][1] for column in COLUMNS)
    ]
    shared = len(found["layers"]) - len(only_in[0]) - len(only_in[1])
    if shared:
        console.print(
            f"\nlayers in both: {shared}, of which "
            + (f"{len(changed)} differ:" if changed else "none differs")
        )
    if changed:
        print_wide(console, layer_table(changed))
    for key, names in zip(found["keys"], only_in, strict=True):
        if names:
            console.print(f"only in {key} ({len(names)}): {', '.join(names)}", soft_wrap=True)


def metric_text(value: float) -> str:
    """Return a metric as text."""
    return number(value, 4)


def why_no_ratio(values: dict[str, Any]) -> str | None:
    """Return why the latencies of a target have no ratio, None if they have one."""
    if len({*values["machine"]}) > 1:
        return OTHER_MACHINE
    return DISTURBED if any(map(is_wide, values["latency_ms"])) else None


def latency_notes(targets: dict[str, Any]) -> list[str]:
    """Return notes on latencies that are shown next to each other."""
    latencies = [ms for values in targets.values() for ms in values["latency_ms"]]
    notes = (
        ["ms were taken in different runs; `lissom bench` takes them in turns"] if latencies else []
    )
    machines = dict.fromkeys(" and ".join(values["machine"]) for values in targets.values())
    notes += [
        f"{OTHER_MACHINE}: {pair}, whose ms do not compare"
        for pair in machines
        if len({*pair.split(" and ")}) > 1
    ]
    return [*notes, DISTURBED_NOTE] if any(is_wide(ms) for ms in latencies) else notes


def layer_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of layers that differ, with `before > after` for numbers that differ."""
    table = Table(box=None, header_style="bold")
    for name in ("layer", "channels", "params", "MACs", "bits w/in"):
        table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=True)
    for row in rows:
        cells = []
        for column in COLUMNS:
            texts = [
                "-" if v is None else str(v) if column == "bits" else count_text(v)
                for v in row[column]
            ]
            cells.append(texts[0] if row[column][0] == row[column][1] else " > ".join(texts))
        table.add_row(row["name"], *cells)
    return table


def _row(
    table: Table,
    name: str,
    pair: Sequence[Any],
    text: Any,
    share: bool = True,
    said: str | None = None,
) -> None:
    first, second = pair
    change = said or ""
    if said is None and first is not None and second is not None:
        change = (f"{second / first:.2f}x" if first else "") if share else f"{second - first:+.4f}"
    table.add_row(name, *("-" if v is None else text(v) for v in pair), change)
