"""What the page shows of the searches of a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..language.want import COSTS
from ..running.search.goal import Bound, Goal
from ..running.search.outcome import Outcome
from ..store.store import Store, tell

LABELS = {"ms": "latency in ms", "bytes": "file in bytes", "resident": "memory in MiB"}


def searches_data(store: Store) -> list[dict[str, Any]]:
    """Return what each search of a store came to, the newest first; what cannot be read is told."""
    places = sorted(
        (store.root / ".searches").glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True
    )
    found = list[dict[str, Any]]()
    for place in places:
        try:
            found.append(search_data(json.loads(place.read_text(encoding="utf-8"))))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            tell(f"report: {place} is no search that can be read ({error}); delete it")
    return found


def search_data(found: dict[str, Any]) -> dict[str, Any]:
    """Return the points of a search in order, its limits, and how the best came about."""
    reference = {name: float(value) for name, value in found["reference"].items()}
    metric = next(iter(reference))
    aims = [str(name) for name in found["aims"]]
    cost = next((name for name in aims if name != metric), None)
    bounds = [bound_in(str(text)) for text in found["bounds"]]
    if cost is None:  # what is bounded, or else the multiply-adds
        cost = next((bound.name for bound in bounds if not bound.least), "macs")
    goal = Goal(tuple((name, 1 if name == metric else -1) for name in aims), tuple(bounds))
    outcomes = [Outcome.of(each) for each in found["outcomes"]]
    trained = [each for each in outcomes if not each.probe]
    chosen = {str(recipe) for recipe in found["chosen"]}
    return {
        "want": str(found["want"]),
        "space": str(found["space"]),
        "by": str(found["by"]),
        "met": bool(found["met"]),
        "minutes": float(found["seconds"]) / 60,
        "probes": len(outcomes) - len(trained),
        "metric": metric,
        "cost": cost,
        "label": label_of(cost),
        "reference": [reference.get(cost), reference[metric]],
        "limits": {bound.name: bound.number for bound in bounds},
        "points": [
            {
                "recipe": each.recipe,
                "x": each.values.get(cost),
                "y": each.values[metric],
                "fits": goal.meets(each),
                "chosen": each.recipe in chosen,
                "why": str(found["why_not"].get(each.recipe, "")),
            }
            for each in trained
        ],
        "best": bettered(goal, outcomes),
        "aim": label_of(aims[0]) if len(aims) == 1 else None,
        "importances": {str(k): float(v) for k, v in found["importances"].items()},
    }


def bettered(goal: Goal, outcomes: Sequence[Outcome]) -> list[list[float]]:
    """Return minutes and value where the best so far became better."""
    spent_s = 0.0
    steps = list[list[float]]()
    for place, each in enumerate(outcomes):
        spent_s += each.seconds
        best = goal.best(outcomes[: place + 1])
        value = None if best is None else best.values[goal.aims[0][0]]
        if value is not None and (not steps or steps[-1][1] != value):
            steps.append([spent_s / 60, value])
    return steps


def bound_in(text: str) -> Bound:
    """Return the bound that a text such as `top1 >= 0.9` says."""
    name, sign, number = text.split()
    metric = name.partition("@")[0] not in COSTS
    return Bound(name, sign == ">=", float(number), metric)


def label_of(name: str) -> str:
    """Return a value's name for a reader.

    >>> label_of("ms@onnxruntime"), label_of("top1")
    ('latency in ms, onnxruntime', 'top1')
    """
    quantity, _, target = name.partition("@")
    return f"{LABELS.get(quantity, quantity)}, {target}" if target else name
