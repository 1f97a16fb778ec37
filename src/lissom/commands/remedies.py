"""What might help a quantized network that lost accuracy: other settings, other steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..errors import LissomError
from ..language.recipe import Recipe
from ..language.step import Step
from ..report.explanation import UNLIKE_OUTPUTS
from ..steps.equalize import Equalize
from ..steps.quantize import Quantize


def remedies(
    steps: Sequence[Step], quantize_at: int, found: dict[str, Any]
) -> list[tuple[str, Recipe]]:
    """Return changes of a recipe that might help its network, each as text and as a recipe.

    `quantize_at` is the index of the step quantize, and `found` is what explain found of the network.
    """
    step = steps[quantize_at]
    assert isinstance(step, Quantize)
    changes: list[tuple[str, dict[str, Any]]] = [
        *(
            (f"range={name}", {"range": name})
            for name in ("minmax", "percentile", "mse")
            if step.inputs != 32 and not (step.range or "").startswith(name)
        ),
        *(
            []
            if step.rounding != "nearest" or step.weights == 32
            else [("learned rounding", {"rounding": "learned"})]
        ),
        *([] if step.correct or step.weights == 32 else [("corrected biases", {"correct": True})]),
        *(
            [("weights of 7 bits", {"reduce_range": True})]
            if any(
                row["noise"] > UNLIKE_OUTPUTS
                for target in found["targets"].values()
                for row in target["capped"]
            )
            else []
        ),
        ("the worst layer float", {"keep": joined(step.keep, found["worst"][:1])}),
        ("the worst three layers float", {"keep": joined(step.keep, found["worst"])}),
    ]
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


def joined(patterns: str, names: Sequence[str]) -> str:
    """Return a comma-separated list of patterns with names added.

    >>> joined("a*", ["b"])
    'a*,b'
    """
    return ",".join([*filter(None, [patterns]), *names])
