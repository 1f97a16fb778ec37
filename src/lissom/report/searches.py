"""The data of a store's searches for the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..language.amounts import amount_text
from ..running.search.goal import Bound, Goal
from ..running.search.outcome import Outcome
from ..store.store import Store, tell

# labels of axes, and divisors of their numbers
UNITS = {
    "ms": ("latency in ms", 1),
    "bytes": ("file in kB", 1_000),
    "resident": ("memory in MiB", 1),
    "params": ("thousand parameters", 1_000),
    "macs": ("million multiply-adds", 1_000_000),
}
LOG_AXIS_RATIO = 8  # an axis is logarithmic if its maximum is more than this many times its minimum


def searches_data(store: Store) -> list[dict[str, Any]]:
    """Return the data of each search of a store, newest first; report those that cannot be read."""
    paths = sorted((store.root / ".searches").glob("*.json"), key=modified_s, reverse=True)
    searches = list[dict[str, Any]]()
    for path in paths:
        try:
            if not path.is_file():
                raise ValueError("expected a file")
            searches.append(search_data(json.loads(path.read_text(encoding="utf-8"))))
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            tell(f"report: {path} is no search that can be read ({reason}); delete it")
    return searches


def modified_s(path: Path) -> float:
    """Return when a file was last changed; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def search_data(search: dict[str, Any]) -> dict[str, Any]:
    """Return the points of a search in order, its limits, and the progress of the best."""
    reference = {name: float(value) for name, value in search["reference"].items()}
    metric = next(iter(reference))
    aims = [str(name) for name in search["aims"]]
    cost = next((name for name in aims if name != metric), None)
    bounds = list(map(Bound.of, search["bounds"]))
    if cost is None:  # the first bounded cost, or else the multiply-adds
        cost = next((bound.name for bound in bounds if not bound.least), "macs")
    goal = Goal(tuple((name, 1 if name == metric else -1) for name in aims), tuple(bounds))
    outcomes = [Outcome.of(each) for each in search["outcomes"]]
    trained = [each for each in outcomes if each.finished]
    chosen = {str(recipe) for recipe in search["chosen"]}
    costs = [each[cost] for each in (reference, *(one.values for one in trained)) if cost in each]
    return {
        "want": str(search["want"]),
        "space": str(search["space"]),
        "by": str(search["by"]),
        "met": bool(search["met"]),
        "minutes": float(search["seconds"]) / 60,
        "probes": sum(each.probe for each in outcomes),
        "stopped": sum(each.stopped for each in outcomes),
        "metric": metric,
        "cost": cost,
        "label": label_of(cost),
        "wide": max(costs) > LOG_AXIS_RATIO * min(costs) > 0,
        "reference": [in_axis_unit(cost, reference.get(cost)), reference[metric]],
        "limits": {bound.name: in_axis_unit(bound.name, bound.number) for bound in bounds},
        "points": [
            point_of(each, metric, cost)
            | {
                "fits": goal.meets(each),
                "chosen": each.recipe in chosen,
                "why": str(search["why_not"].get(each.recipe, "")),
            }
            for each in trained
        ],
        "best": improvements(goal, outcomes),
        "aim": label_of(aims[0]) if len(aims) == 1 else None,
        "importances": {str(k): float(v) for k, v in search["importances"].items()},
    }


def point_of(outcome: Outcome, metric: str, cost: str) -> dict[str, Any]:
    """Return the coordinates of a recipe in the plot, and its cost as text."""
    value = outcome.values.get(cost)
    return {
        "recipe": outcome.recipe,
        "x": in_axis_unit(cost, value),
        "y": outcome.values[metric],
        "cost": "–" if value is None else amount_text(cost, value),
    }


def improvements(goal: Goal, outcomes: Sequence[Outcome]) -> list[list[float]]:
    """Return the time in minutes and the value of each improvement of the best so far."""
    spent_s = 0.0
    steps = list[list[float]]()
    for place, each in enumerate(outcomes):
        spent_s += each.seconds
        best = goal.best(outcomes[: place + 1])
        name = goal.aims[0][0]
        value = None if best is None else in_axis_unit(name, best.values[name])
        if value is not None and (not steps or steps[-1][1] != value):
            steps.append([spent_s / 60, value])
    return steps


def label_of(name: str) -> str:
    """Return the label of a value, with its unit.

    >>> label_of("ms@onnxruntime"), label_of("top1")
    ('latency in ms, onnxruntime', 'top1')
    """
    quantity, _, target = name.partition("@")
    label = UNITS[quantity][0] if quantity in UNITS else quantity
    return f"{label}, {target}" if target else label


def in_axis_unit(name: str, value: float | None) -> float | None:
    """Return a value in the unit of its axis.

    >>> in_axis_unit("bytes@openvino", 60_421), in_axis_unit("top1", 0.98)
    (60.421, 0.98)
    """
    unit = UNITS.get(name.partition("@")[0])
    if value is None or unit is None:
        return value
    return value / unit[1]
