"""The probabilities of attention: many small ones and a few large ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import counted
from .calibrate import RangeStats
from .dataflow import DataFlow
from .sites import kind_of

if TYPE_CHECKING:
    from ...language.context import Context

STEPS = 255  # of the grid of probabilities
LOST = 0.02  # relative to the size of probabilities: the largest rounding error allowed
CERTAIN = 0.5  # if a probability is larger than this, another may be 1


def probability_range(seen: RangeStats) -> tuple[float, float]:
    """Return the range of probabilities: from 0 to the largest, since large ones matter most."""
    return 0.0, 1.0 if seen.high > CERTAIN else seen.high


def coarse_probabilities(wires: DataFlow, seen: Mapping[str, RangeStats]) -> list[str]:
    """Return the sites of probabilities for which one grid is too coarse.

    The largest determine the steps, which round too much of the others away. For example, one query
    attends to a single token, and others attend to all of 200 tokens alike: their probabilities are
    about one step each.
    """
    coarse = list[str]()
    for site in sorted(wires.probabilities & seen.keys()):
        values = seen[site].values()
        step = probability_range(seen[site])[1] / STEPS
        lost = (values / step).round() * step - values
        if lost.square().mean().sqrt() > LOST * values.square().mean().sqrt():
            coarse.append(site)
    return coarse


def fine_flow(wires: DataFlow, seen: Mapping[str, RangeStats], ctx: Context) -> DataFlow:
    """Return the data flow without probabilities for which one grid is too coarse; note it.

    They stay float, and so do the values that they weigh.
    """
    coarse = coarse_probabilities(wires, seen)
    if not coarse:
        return wires
    ctx.notes.append(
        f"{ctx.where}: the probabilities of {counted(len(coarse), 'attention')} stayed float; one grid "
        "would round the small ones away beside the large ones"
    )
    values = {site.replace("softmax", "value") for site in coarse if kind_of(site) == "softmax"}
    return wires.without({*coarse, *values})
