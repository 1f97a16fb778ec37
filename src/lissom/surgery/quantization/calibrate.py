"""Run a network on calibration samples and record the range of the values at each site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LissomError
from ...trees import Tree, copied, run_network
from ..by_tensor import ByTensor
from ..entering import entering
from .dataflow import input_name_of
from .sites import Sites, kind_of, paths_of

SAMPLED_VALUES = 1 << 16  # values kept per site and batch


@dataclass
class RangeStats:
    """Statistics of the values at a site: bounds over all samples and per batch, and a sample.

    The sample is spread evenly over the values. `early` are the bounds of the first half of the
    first batch.
    """

    low: float = float("inf")
    high: float = float("-inf")
    bounds: list[tuple[float, float]] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    early: tuple[float, float] = (0.0, 0.0)
    draw: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def add(self, x: Tensor, site: str) -> None:
        """Add the values of one batch. Raises LissomError, naming the site, if one is not finite."""
        flat = x.detach().float().flatten()
        if not torch.isfinite(flat).all():
            raise LissomError(
                f"quantize: an activation is NaN or infinite on a calibration sample: that of {site}"
            )
        if not self.bounds:
            early = flat[: max(1, len(flat) // 2)]
            self.early = float(early.min()), float(early.max())
        self.bounds.append((float(flat.min()), float(flat.max())))
        self.low = min(self.low, self.bounds[-1][0])
        self.high = max(self.high, self.bounds[-1][1])
        stride = max(1, len(flat) // SAMPLED_VALUES)
        # one random value of each stretch: a fixed stride would see one column of every image
        at = torch.arange(len(flat) // stride) * stride + torch.randint(
            stride, (len(flat) // stride,), generator=self.draw
        )
        self.parts.append(flat[at.to(flat.device)])

    def values(self) -> Tensor:
        """Return the sampled values as one vector."""
        return torch.cat(self.parts)

    def half(self) -> RangeStats:
        """Return the statistics of the first half of the batches.

        If there is only one batch, use the first half of its samples.
        """
        if len(self.parts) == 1:
            return RangeStats(
                *self.early, [self.early], [self.parts[0][: -(-len(self.parts[0]) // 2)]]
            )
        count = len(self.parts) // 2
        lows, highs = zip(*self.bounds[:count], strict=True)
        return RangeStats(min(lows), max(highs), self.bounds[:count], self.parts[:count])


def observe_ranges(
    network: nn.Module,
    batches: Sequence[Tree],
    sites: Mapping[str, str],
    layers_without_site: Iterable[str] = (),
    *,
    calls: Mapping[str, int] | None = None,
    by_module: bool = False,
) -> dict[str, RangeStats]:
    """Run `network` on calibration batches; return statistics of each site with its own grid.

    For layers in `layers_without_site`, the statistics are of their inputs. `calls` is the number
    of calls of each kind that every batch must make, if any are given. `by_module`: sites are named
    by module, and batches may make any calls. Raises LissomError if a batch makes other calls.
    """
    seen = {name: RangeStats() for name, own in sites.items() if name == own}
    input_names = ByTensor(
        (network.get_parameter(f"{layer}.weight"), input_name_of(layer))
        for layer in layers_without_site
    )
    seen.update((name, RangeStats()) for name in input_names.values())

    def visit(name: str, args: tuple[Any, ...], out: Tensor) -> Tensor:
        if name in seen and out.numel():
            seen[name].add(out, name)
        if (
            input_names
            and kind_of(name) in ("conv", "linear")
            and len(args) > 1
            and args[1] in input_names  # the second argument of such a call is its weight
            and args[0].numel()
        ):
            name = input_names[args[1]]
            seen[name].add(args[0], name)
        return out

    paths = paths_of(network) if by_module else None
    with torch.no_grad():
        for batch in batches:
            inputs = copied(batch)
            for site, x in entering(network, inputs).items():
                if site in seen:
                    seen[site].add(x, site)
            with Sites(visit, paths=paths) as made:
                run_network(network.eval(), inputs)
            if calls and made.counts != calls:
                raise LissomError(
                    "quantize: the network runs different operations on different calibration "
                    "samples, so activations have no fixed ranges; quantize(8, 32) rounds only "
                    "weights"
                )
    return seen
