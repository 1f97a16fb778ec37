"""Concatenations whose parts differ much in size: no grid suits both boxes and scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import counted, listed
from .calibrate import RangeStats
from .dataflow import DataFlow
from .probabilities import fine_flow

if TYPE_CHECKING:
    from ...language.context import Context

NOTHING = 1e-6  # relative to the largest part: smaller ones carry nothing and may be rounded away
UNEVEN = 16  # how many times larger a part may be: 4 of 8 bits are left for the smaller


def uneven_concatenations(wires: DataFlow, seen: Mapping[str, RangeStats]) -> dict[str, float]:
    """Return the sites of concatenations whose parts differ too much for one grid, with the ratio.

    A detector that joins boxes of up to 640 pixels and scores of up to 1 would have all its scores
    rounded to 0 or 2.5. Parts close to 0 throughout fit any grid.
    Source: reports of users, https://github.com/ultralytics/ultralytics/issues/23987.
    """
    ratios = {}
    for site, parts in wires.joined.items():
        sizes = [max(-seen[part].low, seen[part].high) for part in parts if part in seen]
        sizes = [size for size in sizes if NOTHING * max(sizes) < size < float("inf")]
        if len(sizes) > 1 and max(sizes) > UNEVEN * min(sizes):
            ratios[site] = max(sizes) / min(sizes)
    return ratios


def even_flow(
    wires: DataFlow, seen: Mapping[str, RangeStats], ctx: Context
) -> tuple[DataFlow, list[str]]:
    """Return the data flow without uneven concatenations and probabilities; note it.

    These stay float. Also return the layers that read such concatenations.
    """
    ratios = uneven_concatenations(wires, seen)
    apart = sorted(layer for layer, read in wires.sources.items() if read & ratios.keys())
    if ratios:
        ctx.notes.append(
            f"{ctx.where}: {counted(len(ratios), 'concatenation')} of parts whose ranges differ by up "
            f"to {max(ratios.values()):.0f}x stayed float, and so did the inputs of "
            f"{listed(apart) if apart else 'no layer'}; one grid would round the smaller part away"
        )
    return fine_flow(wires.without(ratios), seen, ctx), apart
