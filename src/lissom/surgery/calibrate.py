"""Watch a network run on real images: where values are made, who reads them, and between what bounds they lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LissomError
from ..trees import tensors_in
from .layers import torch_class
from .sites import PASSES, Sites, kind_of

SAMPLE = 1 << 16  # values kept of each site and batch


@dataclass
class Seen:
    """What was seen at a site: the bounds over all images and of each batch, and an even sample of the values.

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
        self.low, self.high = min(self.low, self.bounds[-1][0]), max(self.high, self.bounds[-1][1])
        stride = max(1, len(flat) // SAMPLE)
        # one value of each stretch, at a random place: a fixed stride would see one column of every image
        at = torch.arange(len(flat) // stride) * stride + torch.randint(stride, (len(flat) // stride,), generator=self.draw)
        self.parts.append(flat[at.to(flat.device)])

    def values(self) -> Tensor:
        """Return the sample as one vector."""
        return torch.cat(self.parts)

    def half(self) -> Seen:
        """Return what was seen in the first half of the batches, or of the images where there is one batch."""
        if len(self.parts) == 1:
            return Seen(*self.early, [self.early], [self.parts[0][: -(-len(self.parts[0]) // 2)]])
        count = len(self.parts) // 2
        lows, highs = zip(*self.bounds[:count], strict=True)
        return Seen(min(lows), max(highs), self.bounds[:count], self.parts[:count])


@dataclass
class Wiring:
    """Which site's grid each site uses, and which site's values each layer reads.

    `readers` names for each site with a grid of its own the layers that read it, None standing for other calls.
    """

    sites: dict[str, str]
    inputs: dict[str, str | None]  # layer -> site, None where that differs from call to call
    sources: dict[str, set[str]]  # layer -> the sites with a grid of their own whose values it reads, or its `entry`
    calls: dict[str, int]  # kind of call -> how many
    sums: list[set[str]]  # sites that additions tie together: what is added, and where the sum is rounded
    readers: dict[str, set[str | None]]
    makers: dict[str, str]  # site -> the layer whose outputs it has

    @property
    def lost(self) -> set[str]:
        """Return the layers that read what came from no site: calls that are not known have made it."""
        return {layer for layer, found in self.sources.items() if entry(layer) in found}


def entry(layer: str) -> str:
    """Return the name of what a layer reads, whatever made it."""
    return f"to_{layer.replace('.', '_')}"


def wiring(network: nn.Module, images: Tensor) -> Wiring:
    """Decide which activations need a grid, from one forward pass.

    Everything computed is rounded, save what only a ReLU reads (the two are one operation in integers) and
    what the network returns. Max-pooling chooses among values and so keeps the grid of its input.
    """
    weights = {id(layer.weight): name for name, layer in network.named_modules()
               if torch_class(layer) is not None}
    source: dict[int, str] = {id(images): "input"}  # tensor -> site
    reads: dict[str, list[str]] = {"input": []}  # site -> the sites it was made of
    readers: dict[str, list[str]] = {"input": []}  # site -> the calls that read it
    layers: dict[str, list[str | None]] = {}
    layer_of: dict[str, str] = {}  # call -> layer
    alive: list[Any] = [images]

    def read(args: tuple[Any, ...], reader: str) -> list[str]:
        found = [source[id(a)] for a in tensors_in(args) if id(a) in source]
        for site in found:
            readers[site].append(reader)
        return found

    def visit(name: str, args: tuple[Any, ...], out: Tensor) -> Tensor:
        reads[name], readers[name] = read(args, name), []
        weight = args[1] if kind_of(name) in ("conv", "linear") and len(args) > 1 else None
        if id(weight) in weights:
            layer_of[name] = weights[id(weight)]
            layers.setdefault(layer_of[name], []).append(source.get(id(args[0])))
        if id(out) in source:  # an operation in place: a name of its own for the result
            out = out.view_as(out)
        source[id(out)] = name
        alive.extend([args, out])
        return out

    def passed(func: Any, args: tuple[Any, ...], out: Any) -> None:
        alive.extend([args, out])
        outs = list(tensors_in(out))
        if not outs or not isinstance(args[0] if args else None, Tensor):
            return
        if func in PASSES and id(args[0]) in source:
            for o in outs:
                source.setdefault(id(o), source[id(args[0])])
        elif outs[0].is_floating_point():
            read(args, getattr(func, "__name__", "?"))

    with torch.no_grad(), Sites(visit, passed) as made:
        ends = {source.get(id(t)) for t in tensors_in(network.eval()(images))}
    sites: dict[str, str] = {}
    for name, by in readers.items():
        if name in ends or (kind_of(name) in ("conv", "linear", "add", "norm") and [*map(kind_of, by)] == ["relu"]):
            continue
        own = name if kind_of(name) != "maxpool" or not reads[name] else reads[name][0]
        sites[name] = sites.get(own, name)
    sums = [{sites[s] for s in (*reads[name], name if name in sites else readers[name][0]) if s in sites}
            for name in reads if kind_of(name) == "add" and (name in sites or readers[name])]
    reading: dict[str, set[str | None]] = {own: set() for own in sites.values()}
    for name, own in sites.items():
        reading[own] |= {layer_of.get(by) for by in readers[name] if kind_of(by) != "maxpool"}
    sources = {layer: {sites.get(s or "", entry(layer)) for s in found} for layer, found in layers.items()}
    one = {layer: found[0] if len(set(found)) == 1 and found[0] in sites else None for layer, found in layers.items()}
    return Wiring(sites, one, sources, dict(made.counts), merged(sums), reading, layer_of)


def merged(sums: list[set[str]]) -> list[set[str]]:
    """Join the sets that overlap.

    >>> merged([{"a", "b"}, {"c"}, {"b", "d"}]) == [{"c"}, {"a", "b", "d"}]
    True
    """
    out: list[set[str]] = []
    for tied in sums:
        for other in [group for group in out if group & tied]:
            out.remove(other)
            tied = tied | other
        out.append(tied)
    return out


def observed(network: nn.Module, batches: Sequence[Tensor], sites: dict[str, str],
             lost: Iterable[str] = ()) -> dict[str, Seen]:
    """Run `network` on calibration batches (n c h w) and return what was seen at each site with its own grid.

    Of the layers in `lost` it is seen what they read.
    """
    seen = {name: Seen() for name, own in sites.items() if name == own}
    entries = {id(network.get_submodule(layer).weight): entry(layer) for layer in lost}
    seen.update((name, Seen()) for name in entries.values())

    def visit(name: str, args: tuple[Any, ...], out: Tensor) -> Tensor:
        if name in seen:
            seen[name].add(out)
        if entries and kind_of(name) in ("conv", "linear") and len(args) > 1 and id(args[1]) in entries:
            seen[entries[id(args[1])]].add(args[0])
        return out

    with torch.no_grad():
        for images in batches:
            if "input" in seen:
                seen["input"].add(images)
            with Sites(visit):
                network.eval()(images)
    return seen


