"""Which grid, of how many bits, each layer and each activation of a network gets. Recipes are read
by it, without torch.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import LissomError
from ...language.grid import Grid
from ...language.method import method_of

if TYPE_CHECKING:
    from .dataflow import DataFlow

FLOAT = 32
# the grids that, given for weights, are meant for inputs too
ALIKE = ("uniform", "lsq", "dorefa", "pact", "dynamic")
# grids for layers between others: what these read is never negative, and batch-norm follows
INNER = ("dorefa",)
# grids of inputs for a layer alone: what else reads the value does without
OWN = ("dorefa", "binary", "ternary", "dynamic")


@dataclass(frozen=True)
class Precision:
    """A grid with its settings, as text, and its bits."""

    grid: str
    bits: int

    def made(self) -> Grid:
        """Return the grid itself."""
        found = method_of("grids", self.grid)
        assert isinstance(found, Grid)
        return found

    @property
    def at_run_time(self) -> bool:
        """Whether the range of inputs is found at each call."""
        return self.made().at_run_time

    @property
    def signs(self) -> bool:
        """Whether all that counts of inputs is on which side of 0 they lie."""
        return self.grid.partition("(")[0] == "binary"

    @property
    def shared(self) -> bool:
        """Whether every reader of a value can be given it on this grid."""
        return self.grid.partition("(")[0] not in OWN


def precision_of(bits: int | str, grid: str | None, of: str, where: str) -> Precision | None:
    """Return the grid for `bits`, a number, "ternary", "binary" or "dynamic"; None for 32, which is float.

    `of` is "weights" or "inputs", which alone can be "dynamic". Without `grid`, uniform is taken
    for 5 bits and more, lsq for fewer.
    Raises LissomError where the grid does not have so many bits.
    """
    if bits == FLOAT:
        return None
    if isinstance(bits, str):
        found = grid if grid is not None and grid.partition("(")[0] == bits else bits
        return Precision(
            str(method_of("grids", found)), {"ternary": 2, "binary": 1, "dynamic": 8}[bits]
        )
    usual = "uniform" if bits > 4 else "lsq" if bits > 1 or of == "inputs" else "binary"
    made = method_of("grids", grid or usual, where)
    assert isinstance(made, Grid)
    fits = made.of_weights if of == "weights" else made.of_inputs
    if bits not in fits:
        raise LissomError(
            f"{where}: {made.name()} has no {bits} bits for {of}; "
            + (f"it has {', '.join(map(str, fits))}" if fits else f"it does not round {of}")
        )
    return Precision(str(made), bits)


def at_least(found: Precision | None, bits: int) -> Precision | None:
    """Return the grid of a first or last layer: at least so many bits, equal steps in place of what
    does not fit.
    """
    if found is None or bits == FLOAT:
        return None
    name = found.grid.partition("(")[0]
    if found.bits >= bits and name not in INNER:
        return found
    return Precision(found.grid if name == "uniform" else "uniform", max(bits, found.bits))


def reduced(found: Precision | None) -> Precision | None:
    """Return a grid of weights with 7 bits in place of 8, if it has them."""
    return (
        Precision(found.grid, 7)
        if found is not None and found.bits == 8 and 7 in found.made().of_weights
        else found
    )


def saturates() -> bool:
    """Return whether this processor adds products of 8 bits in pairs of 16 bits, which overflow:
    x86 without VNNI.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html,
    reduce_range.
    """
    import torch

    return platform.machine().lower() in ("x86_64", "amd64") and not torch.cpu._is_vnni_supported()


@dataclass
class PrecisionPlan:
    """The grids of a network: of each layer's weights, of each site, and of inputs that a layer
    rounds itself.
    """

    weights: dict[str, Precision | None]
    inputs: dict[str, Precision | None]
    sites: dict[str, Precision]  # sites with a grid of their own
    own: dict[str, Precision]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each layer, for the record."""

        def text(found: Precision | None) -> dict[str, Any]:
            return {
                "bits": FLOAT if found is None else found.bits,
                "grid": None if found is None else found.grid,
            }

        return [
            {"name": name, "weights": text(self.weights[name]), "inputs": text(self.inputs[name])}
            for name in self.weights
        ]


def plan_precision(
    weights: dict[str, Precision | None],
    inputs: dict[str, Precision | None],
    wires: DataFlow,
    rest: Precision | None,
) -> PrecisionPlan:
    """Decide where values are rounded, so that each layer reads what `inputs` says.

    A site whose readers all want the same grid has that grid; one that anything else reads has
    `rest`, and a layer that wants fewer bits rounds the value once more for itself. So it is
    wherever values are added: on the steps of `rest`, which what is added shares, rounding before
    and after the addition are the same, and runtimes agree. That needs the sum on these steps, too:
    with a grid of 4 bits there, OpenVINO and ONNX Runtime disagreed.
    `rest` is None where what no layer reads stays float.
    """
    plan = PrecisionPlan(weights, inputs, {}, {})
    added = {site for tied in wires.sums for site in tied}
    for site, readers in wires.readers.items():
        wants = {rest if reader is None else inputs.get(reader, rest) for reader in readers} or {
            rest
        }
        one = next(iter(wants))
        if rest is not None and site in added:
            plan.sites[site] = rest
        elif len(wants) == 1 and one is not None and one.shared:
            plan.sites[site] = one
        elif rest is not None and rest in wants:
            plan.sites[site] = rest
    for name, want in inputs.items():
        given = {plan.sites.get(site) for site in wires.sources[name]}
        if want is not None and given != {want}:
            plan.own[name] = want
    return plan
