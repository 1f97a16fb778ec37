"""Sites that stay float: calibration shows that no grid suits them, or has no value for them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

from ...errors import counted, listed
from .calibrate import RangeStats
from .dataflow import DataFlow
from .probabilities import coarse_probabilities
from .sites import kind_of

if TYPE_CHECKING:
    from ...language.context import Context

# relative to the largest part of a concatenation: smaller ones carry nothing and may be rounded away
MIN_PART_SIZE = 1e-6
MAX_PART_RATIO = 16  # how many times larger a part may be: 4 of 8 bits are left for the smaller


def without_float_sites(
    flow: DataFlow, seen: Mapping[str, RangeStats], ctx: Context
) -> tuple[DataFlow, list[str]]:
    """Return the data flow without the sites that stay float, and the layers that read floats."""
    flow = flow.without(flow.rounded_by_readers)
    flow, reading_unreached = without_unreached_sites(flow, seen, ctx)
    flow, reading_uneven = without_uneven_concatenations(flow, seen, ctx)
    flow = without_coarse_probabilities(flow, seen, ctx)
    return flow, [*reading_unreached, *reading_uneven]


def without_unreached_sites(
    flow: DataFlow, seen: Mapping[str, RangeStats], ctx: Context
) -> tuple[DataFlow, list[str]]:
    """Return the data flow without sites that had no value on any sample; note it.

    So it is with the second stage of a detector that found nothing. Also return the layers that
    read such sites: their inputs stay float.
    """
    empty = {site for site, stats in seen.items() if not stats.bounds}
    layers = readers_of(empty, flow)
    if layers:
        ctx.notes.append(
            f"{ctx.where}: no calibration sample reaches an input of {counted(len(layers), 'layer')} "
            f"({listed(layers)}), whose inputs stay float; other images may"
        )
    return flow.without(empty), layers


def without_uneven_concatenations(
    flow: DataFlow, seen: Mapping[str, RangeStats], ctx: Context
) -> tuple[DataFlow, list[str]]:
    """Return the data flow without concatenations of parts of very different sizes; note it.

    Also return the layers that read them: their inputs stay float.
    """
    ratios = uneven_concatenations(flow, seen)
    layers = readers_of(ratios, flow)
    if ratios:
        ctx.notes.append(
            f"{ctx.where}: {counted(len(ratios), 'concatenation')} of parts whose ranges differ by up "
            f"to {max(ratios.values()):.0f}x stayed float, and so did the inputs of "
            f"{listed(layers) if layers else 'no layer'}; one grid would round the smaller part away"
        )
    return flow.without(ratios), layers


def uneven_concatenations(flow: DataFlow, seen: Mapping[str, RangeStats]) -> dict[str, float]:
    """Return the sites of concatenations whose parts differ too much for one grid, with the ratio.

    A detector that joins boxes of up to 640 pixels and scores of up to 1 would have all its scores
    rounded to 0 or 2.5. Parts close to 0 throughout fit any grid.
    Source: reports of users, https://github.com/ultralytics/ultralytics/issues/23987.
    """
    ratios = {}
    for site, parts in flow.concatenations.items():
        sizes = [max(-seen[part].low, seen[part].high) for part in parts if part in seen]
        sizes = [size for size in sizes if MIN_PART_SIZE * max(sizes) < size < float("inf")]
        if len(sizes) > 1 and max(sizes) > MAX_PART_RATIO * min(sizes):
            ratios[site] = max(sizes) / min(sizes)
    return ratios


def without_coarse_probabilities(
    flow: DataFlow, seen: Mapping[str, RangeStats], ctx: Context
) -> DataFlow:
    """Return the data flow without probabilities for which one grid is too coarse; note it.

    They stay float, and so do the values that they weigh.
    """
    coarse = coarse_probabilities(flow, seen)
    if not coarse:
        return flow
    ctx.notes.append(
        f"{ctx.where}: the probabilities of {counted(len(coarse), 'attention')} stayed float; one grid "
        "would round the small ones away beside the large ones"
    )
    values = {site.replace("softmax", "value") for site in coarse if kind_of(site) == "softmax"}
    return flow.without({*coarse, *values})


def readers_of(sites: Container[str], flow: DataFlow) -> list[str]:
    """Return the layers that read any of some sites, in alphabetical order."""
    return sorted(
        layer for layer, read in flow.sources.items() if any(site in sites for site in read)
    )
