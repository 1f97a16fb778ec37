"""What might help a quantized network that lost accuracy: other settings, other steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..errors import LissomError
from ..language.recipe import Recipe
from ..language.step import Step
from ..report.explanation import MAX_CAPPED_DIFFERENCE
from ..steps.equalize import Equalize
from ..steps.quantize import Quantize


def remedies(
    steps: Sequence[Step], quantize_at: int, findings: dict[str, Any]
) -> list[tuple[str, Recipe]]:
    """Return changes of a recipe that might help its network, each as text and as a recipe.

    `quantize_at` is the index of the step quantize, and `findings` are those of explain.
    """
    step = steps[quantize_at]
    assert isinstance(step, Quantize)
    changes = list[tuple[str, dict[str, Any]]]()
    for name in ("minmax", "percentile", "mse"):
        if step.inputs != 32 and not (step.range or "").startswith(name):
            changes.append((f"range={name}", {"range": name}))
    if step.rounding == "nearest" and step.weights != 32:
        changes.append(("learned rounding", {"rounding": "learned"}))
    if not step.correct and step.weights != 32:
        changes.append(("corrected biases", {"correct": True}))
    rows = [row for target in findings["targets"].values() for row in target["capped"]]
    if any(row["noise"] > MAX_CAPPED_DIFFERENCE for row in rows):
        changes.append(("weights of 7 bits", {"reduce_range": True}))
    worst = findings["worst"]
    changes.append(("the worst layer float", {"keep": add_patterns(step.keep, worst[:1])}))
    changes.append(("the worst three layers float", {"keep": add_patterns(step.keep, worst)}))
    recipes = list[tuple[str, Recipe]]()
    for what, change in changes:
        with suppress(LissomError):  # some settings exclude each other
            other = replace(step, **change)
            recipes.append((what, Recipe((*steps[:quantize_at], other, *steps[quantize_at + 1 :]))))
    if not any(isinstance(earlier, (Quantize, Equalize)) for earlier in steps[:quantize_at]):
        recipes.append(
            (
                "equalized before",
                Recipe((*steps[:quantize_at], Equalize(), *steps[quantize_at:])),
            )
        )
    return recipes


def add_patterns(patterns: str, names: Sequence[str]) -> str:
    """Return a comma-separated list of patterns with names added.

    >>> add_patterns("a*", ["b"])
    'a*,b'
    """
    return ",".join([*filter(None, [patterns]), *names])
