"""The probabilities of attention: many small ones and a few large ones."""

from __future__ import annotations

from collections.abc import Mapping

from .calibrate import RangeStats
from .dataflow import DataFlow

GRID_STEPS = 255
MAX_ROUNDING_ERROR = 0.02  # root mean square, relative to that of the probabilities
FULL_RANGE_FROM = 0.5  # if a probability is larger than this, another may be 1


def probability_range(seen: RangeStats) -> tuple[float, float]:
    """Return the range of probabilities: from 0 to the largest, since large ones matter most."""
    return 0.0, 1.0 if seen.high > FULL_RANGE_FROM else seen.high


def coarse_probabilities(flow: DataFlow, seen: Mapping[str, RangeStats]) -> list[str]:
    """Return the sites of probabilities for which one grid is too coarse.

    The largest determine the steps, which round too much of the others away. For example, one query
    attends to a single token, and others attend to all of 200 tokens alike: their probabilities are
    about one step each.
    """
    coarse = list[str]()
    for site in sorted(flow.probabilities & seen.keys()):
        values = seen[site].values()
        step = probability_range(seen[site])[1] / GRID_STEPS
        error = (values / step).round() * step - values
        if error.square().mean().sqrt() > MAX_ROUNDING_ERROR * values.square().mean().sqrt():
            coarse.append(site)
    return coarse
