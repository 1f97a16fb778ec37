"""Values that no calibration sample reaches: they have no range, and stay float."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import counted, listed
from .calibrate import RangeStats
from .dataflow import DataFlow

if TYPE_CHECKING:
    from ...language.context import Context


def reached_flow(
    wires: DataFlow, seen: Mapping[str, RangeStats], ctx: Context
) -> tuple[DataFlow, list[str]]:
    """Return the data flow without sites that had no value on any sample; note it.

    So it is with the second stage of a detector that found nothing. Also return the layers that
    read such sites: their inputs stay float.
    """
    empty = {site for site, stats in seen.items() if not stats.bounds}
    layers = sorted(layer for layer, read in wires.sources.items() if read & empty)
    if layers:
        ctx.notes.append(
            f"{ctx.where}: no calibration sample reaches an input of {counted(len(layers), 'layer')} "
            f"({listed(layers)}), whose inputs stay float; other images may"
        )
    return wires.without(empty), layers
