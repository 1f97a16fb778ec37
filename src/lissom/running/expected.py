"""What the uncompressed network is known to reach, which it must reach here before anything is done."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..errors import LissomError, unknown
from ..language.method import values_in
from ..store.record import Measurement
from ..store.store import Store

TOLERANCE = 0.005
CHANCE = 1.2  # times the share that guessing gets right


def expected_in(text: str, metrics: Collection[str]) -> dict[str, float]:
    """Return the values that a text such as top1=0.888 gives to metrics of the task.

    >>> expected_in("top1=0.888", ["top1", "top5"])
    {'top1': 0.888}
    """
    values = values_in(text, "--expect")
    for name, value in values.items():
        if name not in metrics:
            raise unknown("--expect", "metric", name, metrics)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise LissomError(
                f"--expect: {name}: expected a number, as in {name}=0.9, got {value!r}"
            )
    return {name: float(value) for name, value in values.items()}


def check_metric_names(metrics: Collection[str]) -> None:
    """Raise where a metric has the name of something else that is measured of a file."""
    for name in metrics:
        if name in Measurement.__dataclass_fields__:
            raise LissomError(
                f"task: its metric '{name}' has the name of something else that is measured of a "
                "file; call it otherwise"
            )


def chance_note(store: Store, key: str) -> str | None:
    """Return what to say where a network that was brought answers no better than chance."""
    record = store.record(key)
    reached = record["scores"]["test"].get("top1")
    classes = record["task"]["classes"]
    if reached is None or classes < 2 or reached > CHANCE / classes:
        return None
    return (
        f"the uncompressed network is right on {reached:.2%} of the test set, which is chance among "
        f"{classes} classes: are weights given, and are images seen as it was trained (--preprocess)?"
    )


def check_expected(store: Store, key: str, expected: Mapping[str, float]) -> None:
    """Raise unless the network of that key reaches on the test set what is expected of it.

    What is compared becomes a gate in its record: how far it stays below.
    """
    if not expected:
        return
    record = store.record(key)
    reached = record["scores"]["test"]
    gates = [gate for gate in record["gates"] if not gate["name"].startswith("reaches")]
    for name, value in expected.items():
        missing = value - (reached.get(name) or 0.0)
        if missing > TOLERANCE:
            if value > 1 >= (reached.get(name) or 0.0):
                raise LissomError(
                    f"--expect: {name} is a share from 0 to 1, as in {name}=0.9; got {value:g}"
                )
            found = "no number" if reached.get(name) is None else f"{reached[name]:.4f}"
            raise LissomError(
                f"--expect: the uncompressed network reaches {name} {found} on the "
                f"test set of {record['task']['data']}, expected {value:g} to within {TOLERANCE}; "
                "images are seen through "
                f"{record['task']['preprocessing'].get('preprocess')}: is that how it was trained?"
            )
        gates.append(
            {
                "name": f"reaches {name} {value:g}",
                "difference": max(0.0, missing),
                "tolerance": TOLERANCE,
            }
        )
    store.update(key, {"gates": gates})
