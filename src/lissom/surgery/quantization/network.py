"""A network with rounded activations: the user's own forward, whose calls are found as it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from ...errors import LissomError
from ...language.grid import grid_of
from ...trees import mapped
from ..by_tensor import ByTensor
from ..entering import entering_as
from .kernels import clipped
from .layers import MAX_PACKED_BITS, QuantizedLayer
from .rounding import Rounding
from .sites import Sites, kind_of, paths_of

NO_ARGUMENT = object()  # stands for no positional argument


class QuantizedNetwork(nn.Module):
    """A network whose activations are rounded at `sites`: the user's own forward, untouched.

    `sites` maps a site to the site whose rounding it uses: usually itself; for max-pooling, its
    input. `grids` holds these roundings, and the second roundings of layers.
    `skipped` are ReLUs that are left out, because signs are taken before them. `clipped` are ReLUs
    that the rounding does, as its grid ends at 0; training leaves them out to save a pass over
    memory.
    `unrounded` are the sites of 8 bits, with the upper end of each, in a network whose layers round
    their inputs again to fewer bits. Training does not round them, except for the network's inputs:
    a sixteenth of a 4-bit step teaches nothing. A training step in bfloat16, which has 8 bits
    itself, took 1.34 to 1.39 times a float one with these roundings, and 1.20 to 1.33 times
    without. The output of a ReLU is still clipped to its range, so that inference cuts off nothing
    that training relies on.
    `tied` are the sites that additions tie together, or layers that read several: they get the
    largest of their scales.
    `calls` is the number of calls of each kind; a forward that makes other calls raises
    LissomError. It is empty if that depends on the sample: sites are then named by module.
    """

    counts: Counter[str]  # calls made so far, while it runs

    def __init__(
        self,
        network: nn.Module,
        sites: dict[str, str],
        calls: dict[str, int],
        grids: dict[str, dict[str, Any]] | None = None,
        skipped: Iterable[str] = (),
        tied: Iterable[Iterable[str]] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.shared = dict(sites)
        self.calls = dict(calls)
        self.skipped = frozenset(skipped)
        self.tied = [sorted(sites) for sites in tied]
        self.grids = nn.ModuleDict(
            {site: Rounding.rebuilt(facts) for site, facts in (grids or {}).items()}
        )

    def description(self) -> dict[str, Any]:
        """Return the settings from which the wrapper is rebuilt."""
        return {
            "sites": dict(self.shared),
            "calls": dict(self.calls),
            "skipped": sorted(self.skipped),
            "tied": self.tied,
            "grids": {site: self.grid_of(site).settings() for site in self.grids},
        }

    def grid_of(self, site: str) -> Rounding:
        """Return the rounding of a site with its own grid."""
        found = self.grids[site]
        assert isinstance(found, Rounding)
        return found

    def grid(self, site: str | None) -> Rounding | None:
        """Return the rounding at a site, or None.

        For integer inputs of the network it is one that is off.
        """
        if site == "input" and site not in self.shared and self.shared:
            passing = Rounding(grid_of("uniform"), 8, "inputs")
            passing.off = True
            return passing
        own = self.shared.get(site) if site is not None else None
        return self.grid_of(own) if own is not None and own in self.grids else None

    def link(self) -> None:
        """Tell every layer which rounding its inputs have, and find `clipped` and `unrounded`."""
        for layer in self.layers():
            name = layer.own_input_rounding_name
            layer.set_input_roundings(
                self.grid(layer.site), None if name is None else self.grid_of(name)
            )
        self.clipped = frozenset(
            site for site in self.shared if kind_of(site) == "relu" and self.from_zero(site)
        )
        own = [layer.own_input_rounding for layer in self.layers()]
        rounds_twice = any(r is not None and not r.grid.at_run_time for r in own)
        codes_of = {
            site: grid.input_codes()
            for site in self.shared
            if rounds_twice
            and kind_of(site) != "input"
            and (grid := self.grid(site)) is not None
            and grid.bits == 8
            and not grid.grid.moves
        }
        self.unrounded = {
            site: (codes.top - codes.zero) * float(codes.step) for site, codes in codes_of.items()
        }

    def memory(self) -> dict[str, Any]:
        """Return what `link` found, for a network that resumes training."""
        return {"clipped": sorted(self.clipped), "unrounded": self.unrounded}

    def recall(self, memory: dict[str, Any]) -> None:
        """Restore what `memory` returned."""
        self.clipped = frozenset(memory["clipped"])
        self.unrounded = dict(memory["unrounded"])

    def tie(self) -> None:
        """Give the sites of each set in `tied` one scale, the largest.

        ONNX Runtime rounds before a residual addition; OpenVINO does not if it fuses the two. With
        one scale both are the same, and the addition itself rounds nothing: OpenVINO then agrees
        with the simulation on 99.96 % of CIFAR-10's test images, before on 99.35 %.
        """
        for tied in self.tied:
            scales = [
                grid.held["scale"]
                for grid in map(self.grid, tied)
                if grid is not None and "scale" in grid.names
            ]
            for scale in scales:
                scale.fill_(max(float(other) for other in scales))

    def update_moving_ranges(self) -> None:
        """Update the grids whose ranges move during training.

        It runs after each forward pass, on all grids at once, because sites that an addition ties
        together share a scale.
        """
        moving = [
            grid
            for site in self.grids
            if (grid := self.grid_of(site)).grid.moves and not grid.still
        ]
        for grid in moving:
            grid.grid.settle(grid.bits, grid.held)
        if moving:
            self.tie()
            self.link()

    def from_zero(self, site: str) -> bool:
        """Return whether the rounding at a site maps all negative values to 0, as a ReLU does."""
        grid = self.grid(site)
        if grid is None or grid.grid.at_run_time or grid.grid.moves:
            return False
        codes = grid.input_codes()
        return codes.zero == 0 and not codes.sign

    def forward(self, x: Any = NO_ARGUMENT, /, *more: Any, **named: Any) -> Any:
        # an explicit first argument: torch.export identifies it by position
        inputs = more if x is NO_ARGUMENT else (x, *more)
        inputs, named = self.entered(inputs, named)
        outputs, made = self.run(lambda _: self.network(*inputs, **named), None, Counter())
        for kinds in (("query", "key"), ("value", "softmax")):
            if kinds[0] not in self.calls:  # saved before the operands of attention were counted
                made = Counter({kind: n for kind, n in made.items() if kind not in kinds})
        if self.shared and self.calls and made != self.calls:
            changed = sorted(k for k in made.keys() | self.calls if made[k] != self.calls.get(k, 0))
            raise LissomError(
                "quantized network: it makes other calls than when it was "
                f"quantized ({', '.join(changed)}), "
                "so that activations would meet the wrong grids. "
                + (
                    "Parts that only training runs, such as stochastic depth, have "
                    "to be switched off before "
                    "quantize"
                    if self.training
                    else "They depend on the samples; "
                    "calibration on samples that "
                    "show this names them by module"
                )
            )
        if self.training:
            self.update_moving_ranges()
        return outputs

    def entered(
        self, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call, rounded if they have a grid.

        Integers and booleans never have one.
        """
        grids = ByTensor(
            (x, grid)
            for site, x in entering_as(self.network, inputs, named).items()
            if x.is_floating_point()
            and site in self.shared
            and (grid := self.grid(site)) is not None
        )

        def rounded(x: Tensor) -> Tensor:
            return grids[x](x) if x in grids else x

        return (mapped(rounded, inputs), mapped(rounded, named)) if grids else (inputs, named)

    def run(
        self, part: Callable[[Any], Any], x: Any, before: Counter[str]
    ) -> tuple[Any, Counter[str]]:
        """Run a part of the network with its activations rounded; return its output and the calls
        so far.

        `before` is the number of calls of each kind that the network makes before the part. Sites
        are named by kind and order, so the part runs with the right names.
        """

        def visit(name: str, _: tuple[Any, ...], out: Tensor) -> Tensor:
            grid = self.grid(name)
            if self.training and name in self.unrounded:
                return clipped(out, self.unrounded[name]) if name in self.clipped else out
            return out if grid is None else grid(out)

        with Sites(
            visit,
            skipped=self.skipped,
            clipped=self.clipped if self.training else (),
            paths=None if self.calls else paths_of(self.network),
            layers=ByTensor(
                (layer.weight, layer) for layer in self.layers() if isinstance(layer, nn.Linear)
            ),
            inside=self.shared,
        ) as made:
            made.counts.update(before)
            self.__dict__["counts"] = made.counts  # hooks read it while the network runs
            return part(x), made.counts

    def layers(self) -> list[QuantizedLayer]:
        """Return the layers whose weights or inputs are rounded, or can be."""
        return [m for m in self.modules() if isinstance(m, QuantizedLayer)]

    def has_packable_weights(self) -> bool:
        """Return whether any weights have 4 bits or fewer, which some formats pack."""
        return any(
            layer.rounding is not None and layer.rounding.bits <= MAX_PACKED_BITS
            for layer in self.layers()
        )
