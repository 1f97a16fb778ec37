"""The ranges of rounded values, and whether there were enough samples to find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...language.method import method_of
from .bits import Precision
from .calibrate import RangeStats
from .dataflow import DataFlow
from .probabilities import probability_range

if TYPE_CHECKING:
    from ...language.context import Context

SHIFT = 0.15  # share of a range by which that of half the samples may differ


@dataclass
class Ranges:
    """The ranges of a network's sites, from their statistics on `count` samples.

    `range` is a method of the menu; None means percentile at 8 bits, and mse below. `wanted` is the
    number of samples that were asked for.
    """

    seen: dict[str, RangeStats]
    wires: DataFlow
    ctx: Context
    range: str | None
    count: int
    wanted: int

    def of(self, site: str, spec: Precision) -> tuple[float, float]:
        """Return the range of a site; note it if half of the samples would give quite another."""
        if site in self.wires.probabilities:
            return probability_range(self.seen[site])
        pick: Any = method_of("ranges", self.range or ("percentile" if spec.bits > 7 else "mse"))
        top = 2**spec.bits - 1
        low, high = pick(self.seen[site], top)
        less, more = pick(self.seen[site].half(), top)
        where = self.ctx.where
        if self.count == 1:
            said = (
                f"{where}: ranges of one image do not show whether they have settled; "
                "more samples= would"
            )
            self.ctx.notes += [] if said in self.ctx.notes else [said]
        elif abs((high - low) - (more - less)) > SHIFT * (high - low):
            self.ctx.notes.append(
                f"{where}: the range of what {self._what(site)} has not settled ({low:.3g} to "
                f"{high:.3g}, of half the {self.count} images {less:.3g} to {more:.3g}); "
                f"{'more samples= or ' if self.count >= self.wanted else ''}a percentile would steady it"
            )
        return low, high

    def _what(self, site: str) -> str:
        layers = sorted(name for name in self.wires.readers.get(site, ()) if name)[:3]
        if layers:
            return f"{' and '.join(layers)} read"
        return f"{self.wires.makers.get(site, site)} returned"
