"""Find the widths at which a network reaches a requested latency, measured on the target."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ...errors import LissomError
from .slice import slice_channels

if TYPE_CHECKING:
    from ...language.context import Clock
    from ...trees import Tree
    from .budget import WidthSearch

LATENCY_TOLERANCE = (
    0.02  # fraction of the latency: two measurements do not agree more closely than this
)
MAX_TRIED_CUTS = 8


@dataclass(frozen=True)
class MeasuredCut:
    """The units each group keeps, and the latency removed: predicted by the layer table, and
    measured.
    """

    widths: list[int]
    removed: float  # fraction of the latency, measured
    predicted: float
    before_ms: float
    after_ms: float
    measured: int  # how many cuts were timed


def reachable(search: WidthSearch, amount: float, where: str) -> None:
    """Raise LissomError if `amount` is far more than the layer table says can be removed."""
    if amount > search.max_removed + 0.1:
        raise LissomError(
            f"{where}: {amount:.3g} of the latency cannot be removed; by the times "
            "of its layers this "
            f"network can lose at most {search.max_removed:.3g}"
        )


def widths_for_latency(
    model: nn.Module, search: WidthSearch, amount: float, clock: Clock, example: Tree, where: str
) -> MeasuredCut:
    """Return the widths at which the measured latency of `model` falls by the fraction `amount`.

    The layer table proposes widths. The pruned network is then measured beside the original, and
    the next proposal corrects for the table's error. `model` is not changed. Raises LissomError if
    the nearest result is off by more than 0.1.
    """
    reachable(search, amount, where)
    tried: dict[tuple[int, ...], tuple[float, float, float]] = {}
    # the fraction removed (by the table, measured) of the nearest tries on either side
    below = (0.0, 0.0)
    above = (search.max_removed, 1.0)
    goal = amount
    for _ in range(MAX_TRIED_CUTS):
        widths = search.widths_for(min(goal, search.max_removed))
        if tuple(widths) in tried:
            break
        trial = copy.deepcopy(model)
        slice_channels(trial, search.cut(widths))
        before, after = clock.latencies([model, trial], example)
        removed = 1 - after / before
        predicted = search.removed(widths)
        tried[tuple(widths)] = (removed, before, after)
        if abs(removed - amount) <= LATENCY_TOLERANCE:
            break
        below, above = (
            ((predicted, removed), above) if removed < amount else (below, (predicted, removed))
        )
        share = (amount - below[1]) / max(above[1] - below[1], 1e-6)
        goal = below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])
    best = min(tried, key=lambda widths: abs(tried[widths][0] - amount))
    removed, before, after = tried[best]
    if abs(removed - amount) > 0.1:
        shares = sorted(share for share, _, _ in tried.values())
        raise LissomError(
            f"{where}: {amount:.3g} of the latency cannot be removed; the cuts that were measured "
            f"removed {shares[0]:.3g} to {shares[-1]:.3g}"
        )
    return MeasuredCut(
        list(best),
        removed,
        round(search.removed(best), 4),
        round(before, 4),
        round(after, 4),
        len(tried),
    )
