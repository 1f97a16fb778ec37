"""Watch a network run on real images: between what bounds the values lie that are made at each site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LissomError
from ...trees import Tree, copied, handed
from ..by_tensor import ByTensor
from ..entering import entering
from .dataflow import entry
from .sites import Sites, kind_of, paths_of

SAMPLE = 1 << 16  # values kept of each site and batch


@dataclass
class RangeStats:
    """What was seen at a site: the bounds over all images and of each batch, and an even sample of
    the values.

    `early` are the bounds of the first half of the first batch.
    """

    low: float = float("inf")
    high: float = float("-inf")
    bounds: list[tuple[float, float]] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    early: tuple[float, float] = (0.0, 0.0)
    draw: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def add(self, x: Tensor) -> None:
        """Take in the values of one batch."""
        flat = x.detach().float().flatten()
        if not torch.isfinite(flat).all():
            raise LissomError("quantize: an activation is NaN or infinite on a calibration image")
        if not self.bounds and len(flat) > 1:
            early = flat[: len(flat) // 2]
            self.early = float(early.min()), float(early.max())
        self.bounds.append((float(flat.min()), float(flat.max())))
        self.low = min(self.low, self.bounds[-1][0])
        self.high = max(self.high, self.bounds[-1][1])
        stride = max(1, len(flat) // SAMPLE)
        # one value of each stretch, at a random place: a fixed stride would see one column of every
        # image
        at = torch.arange(len(flat) // stride) * stride + torch.randint(
            stride, (len(flat) // stride,), generator=self.draw
        )
        self.parts.append(flat[at.to(flat.device)])

    def values(self) -> Tensor:
        """Return the sample as one vector."""
        return torch.cat(self.parts)

    def half(self) -> RangeStats:
        """Return what was seen in the first half of the batches, or of the images where there is
        one batch.
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
    lost: Iterable[str] = (),
    calls: Mapping[str, int] | None = None,
) -> dict[str, RangeStats]:
    """Run `network` on calibration batches and return what was seen at each site with its own grid.

    Of the layers in `lost` it is seen what they read. `calls` are those that every batch has to
    make; none of them: sites are named by module, and batches may make any.
    """
    seen = {name: RangeStats() for name, own in sites.items() if name == own}
    entries = ByTensor((network.get_parameter(f"{layer}.weight"), entry(layer)) for layer in lost)
    seen.update((name, RangeStats()) for name in entries.values())

    def visit(name: str, args: tuple[Any, ...], out: Tensor) -> Tensor:
        if name in seen and out.numel():
            seen[name].add(out)
        if (
            entries
            and kind_of(name) in ("conv", "linear")
            and len(args) > 1
            and args[1] in entries
            and args[0].numel()
        ):
            seen[entries[args[1]]].add(args[0])
        return out

    paths = paths_of(network) if calls is not None and not calls else None
    with torch.no_grad():
        for batch in batches:
            inputs = copied(batch)
            for site, x in entering(network, inputs).items():
                if site in seen:
                    seen[site].add(x)
            with Sites(visit, paths=paths) as made:
                handed(network.eval(), inputs)
            if calls and made.counts != calls:
                raise LissomError(
                    "quantize: the network makes other calls on some calibration "
                    "samples than on the others, "
                    "so that activations have no fixed places; quantize(8, 32) "
                    "rounds weights alone"
                )
    return seen
