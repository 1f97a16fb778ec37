"""The ranges of rounded values, and whether there were enough samples to find them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import counted
from ...language.parse_methods import method_of
from .bits import Precision
from .calibrate import RangeStats
from .dataflow import DataFlow
from .probabilities import probability_range

if TYPE_CHECKING:
    from ...language.context import Context

MAX_RANGE_SHIFT = 0.15  # share of a range by which that of half the samples may differ
MAX_NAMED_RANGES = 3  # in the note about ranges that have not settled: the worst


@dataclass
class SiteRanges:
    """The ranges of a network's sites, from their statistics on `count` samples.

    `range` is a method of the menu; None means percentile at 8 bits, and mse below. `wanted` is the
    number of samples that were asked for.
    """

    seen: dict[str, RangeStats]
    flow: DataFlow
    ctx: Context
    range: str | None
    count: int
    wanted: int
    unsettled: dict[str, tuple[float, str]] = field(default_factory=dict)  # site -> shift, text

    def of(self, site: str, spec: Precision) -> tuple[float, float]:
        """Return the range of a site, and remember it if half of the samples give quite another."""
        if site in self.flow.probabilities:
            return probability_range(self.seen[site])
        pick: Any = method_of("ranges", self.range or ("percentile" if spec.bits > 7 else "mse"))
        top = 2**spec.bits - 1
        low, high = pick(self.seen[site], top)
        half_low, half_high = pick(self.seen[site].half(), top)
        shift = abs((high - low) - (half_high - half_low))
        if self.count > 1 and shift > MAX_RANGE_SHIFT * (high - low):
            text = (
                f"{low:.3g} to {high:.3g}, with half the images {half_low:.3g} to {half_high:.3g}"
            )
            self.unsettled[site] = (shift / (high - low), f"{self._what(site)} ({text})")
        return low, high

    def note_unsettled(self) -> None:
        """Add one note about all ranges that have not settled, or that nobody can tell."""
        where = self.ctx.where
        if self.seen and self.count == 1:
            self.ctx.notes.append(
                f"{where}: ranges of one image do not show whether they have settled; "
                "more samples= would"
            )
        if not self.unsettled:
            return
        texts = [text for _, text in sorted(self.unsettled.values(), reverse=True)]
        more = (
            f"; and {len(texts) - MAX_NAMED_RANGES} more" if len(texts) > MAX_NAMED_RANGES else ""
        )
        cures = ["a percentile"] if self.count < self.wanted else ["more samples=", "a percentile"]
        self.ctx.notes.append(
            f"{where}: {counted(len(texts), 'range')} of {self.count} images "
            f"{'has' if len(texts) == 1 else 'have'} not settled: "
            f"{'; '.join(texts[:MAX_NAMED_RANGES])}{more}; {' or '.join(cures)} would help"
        )

    def _what(self, site: str) -> str:
        layers = sorted(name for name in self.flow.readers.get(site, ()) if name)[:3]
        if layers:
            return f"what {' and '.join(layers)} read"
        return f"what {self.flow.makers.get(site, site)} returned"
