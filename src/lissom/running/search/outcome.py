"""What one recipe of a search came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Point = dict[str, float]  # by name of a choice: the place of an option, or a number


@dataclass(frozen=True)
class Outcome:
    """What was measured of the network at the end of a recipe.

    `values` are metrics on validation data, by name, and costs: params, macs, and for each runtime
    ms@NAME, bytes@NAME and resident@NAME. A probe is a recipe without what learns: its costs are
    those of the trained network, and its metrics say nothing. `seconds` is what it took to run.
    """

    point: Point
    recipe: str
    key: str
    values: dict[str, float]
    seconds: float
    probe: bool = False

    def json(self) -> dict[str, Any]:
        """Return what JSON takes."""
        return asdict(self)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Outcome:
        """Return the outcome that `json` described."""
        return cls(**settings)
