"""Check that the uncompressed network reaches its known metrics before it is compressed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from ..errors import LissomError, unknown
from ..language.grammar import finite, named_values
from ..language.kind import less_is_better
from ..store.record import Measurement
from ..store.store import Store

METRIC_TOLERANCE = 0.005
CHANCE_FACTOR = 1.2  # times the accuracy of guessing, which a bias to a frequent class reaches
CHANCE_DEVIATIONS = 3  # standard deviations of the accuracy of guessing


def expected_in(text: str, metrics: Collection[str]) -> dict[str, float]:
    """Return the expected metrics in a text such as top1=0.888.

    Raises LissomError for unknown metrics, and for values that are not numbers.

    >>> expected_in("top1=0.888", ["top1", "top5"])
    {'top1': 0.888}
    """
    number = text.strip() if re.fullmatch(r"\s*[0-9]*\.?[0-9]+\s*", text) else "0.9"
    values = named_values(text, "--expect", example=f"{next(iter(metrics))}={number}")
    for name, value in values.items():
        if name not in metrics:
            raise unknown("--expect", "metric", name, metrics)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not finite(value):
            raise LissomError(
                f"--expect: {name}: expected a number, as in {name}=0.9, got {str(value)[:40]!r}"
            )
    return {name: float(value) for name, value in values.items()}


def check_metric_names(metrics: Collection[str]) -> None:
    """Raise LissomError if a metric has the name of another field of a measurement."""
    for name in metrics:
        if name in Measurement.__dataclass_fields__:
            raise LissomError(
                f"task: its metric '{name}' has the name of something else that is measured of a "
                "file; call it otherwise"
            )


def chance_note(store: Store, key: str) -> str | None:
    """Return a note if a network that the user brought is no better than chance, else None."""
    record = store.record(key)
    reached = record["scores"]["test"].get("top1")
    classes = record["task"]["classes"]
    count = record["task"]["test"]
    if reached is None or classes < 2:
        return None
    chance = 1 / classes
    margin = CHANCE_DEVIATIONS * math.sqrt(chance * (1 - chance) / count)
    if reached > max(CHANCE_FACTOR * chance, chance + margin):
        return None
    return (
        f"the uncompressed network is right on {reached:.2%} of the {count} test samples, which is "
        f"chance among {classes} classes or hardly more (guessing: {chance:.2%} ± {margin:.2%}, "
        f"{CHANCE_DEVIATIONS} standard deviations): does it have its weights (--weights), and are "
        "inputs seen as it was trained (--preprocess)?"
    )


def check_expected(store: Store, key: str, expected: Mapping[str, float]) -> None:
    """Raise LissomError unless a network reaches the expected metrics on the test set.

    Each comparison becomes a gate in its record, with the shortfall.
    """
    if not expected:
        return
    record = store.record(key)
    reached = record["scores"]["test"]
    gates = [gate for gate in record["gates"] if not gate["name"].startswith("reaches")]
    for name, value in expected.items():
        found = reached.get(name)
        if less_is_better(name):
            missing = (math.inf if found is None else found) - value
        else:
            missing = value - (found or 0.0)
        if missing > METRIC_TOLERANCE:
            if value > 1 >= (found or 0.0) and not less_is_better(name):
                raise LissomError(
                    f"--expect: {name} is a share from 0 to 1, as in {name}=0.9; got {value:g}"
                )
            said = "no number" if found is None else f"{found:.4f}"
            raise LissomError(
                f"--expect: the uncompressed network reaches {name} {said} on the "
                f"test set of {record['task']['data']}, expected {value:g} to within {METRIC_TOLERANCE}; "
                "images are seen through "
                f"{record['task']['preprocessing'].get('preprocess')}: is that how it was trained?"
            )
        gates.append(
            {
                "name": f"reaches {name} {value:g}",
                "difference": max(0.0, missing),
                "tolerance": METRIC_TOLERANCE,
            }
        )
    store.update(key, {"gates": gates})
