"""The outcome of one recipe of a search."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Point = dict[str, float]  # by name of a choice: the index of an option, or a number


@dataclass(frozen=True)
class Outcome:
    """The measurements of the network at the end of a recipe.

    `values` has metrics on validation data, by name, and costs: params, macs, and for each runtime
    ms@NAME, bytes@NAME and resident@NAME. A probe is a recipe without its learning steps: it costs
    the same as the trained network, but its metrics mean nothing. `seconds` is the time it took.
    `midway` is the first metric after a third of the epochs of the last step that trains, if it was
    measured. If that step was `stopped` there, all values are predictions.
    """

    point: Point
    recipe: str
    key: str
    values: dict[str, float]
    seconds: float
    probe: bool = False
    midway: float | None = None
    stopped: bool = False

    @property
    def finished(self) -> bool:
        """Whether the whole recipe was run."""
        return not (self.probe or self.stopped)

    def json(self) -> dict[str, Any]:
        """Return the outcome as a dict for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Outcome:
        """Return the outcome that `json` wrote."""
        return cls(**settings)
