"""Which grid, with how many bits, each layer and each activation of a network gets.

Recipes are read with it, so it does not import torch at the top.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import LissomError
from ...language.grid import Grid, grid_of

if TYPE_CHECKING:
    from .dataflow import DataFlow

FLOAT_BITS = 32


@dataclass(frozen=True)
class Precision:
    """A grid, and its number of bits."""

    grid: Grid
    bits: int


Precisions = dict[str, Precision | None]  # by name; None stays float


def precision_of(bits: int | str, grid: str | None, of: str, where: str) -> Precision | None:
    """Return the grid for `bits`: a number, "ternary", "binary" or "dynamic"; None for 32: float.

    `of` is "weights" or "inputs"; only inputs can be "dynamic". Without `grid`, 5 bits and more get
    uniform, fewer get lsq, and weights of 1 bit get binary.
    Raises LissomError if the grid does not have so many bits.
    """
    if bits == FLOAT_BITS:
        return None
    wanted = None if grid is None else grid_of(grid, where)
    if isinstance(bits, str):
        kind = wanted if wanted is not None and wanted.name() == bits else grid_of(bits)
        return Precision(kind, (kind.of_weights or kind.of_inputs)[0])
    usual = "uniform" if bits > 4 else "lsq" if bits > 1 or of == "inputs" else "binary"
    kind = wanted or grid_of(usual)
    fits = kind.of_weights if of == "weights" else kind.of_inputs
    if bits not in fits:
        raise LissomError(
            f"{where}: {kind.name()} has no {bits} bits for {of}; "
            + (f"it has {', '.join(map(str, fits))}" if fits else f"it does not round {of}")
        )
    return Precision(kind, bits)


def at_least(precision: Precision | None, bits: int) -> Precision | None:
    """Return the precision of a first or last layer: at least so many bits; None for float.

    A grid that does not fit there is replaced by uniform.
    """
    if precision is None or bits == FLOAT_BITS:
        return None
    if precision.bits >= bits and not precision.grid.only_inner:
        return precision
    grid = precision.grid if precision.grid.anywhere else grid_of("uniform")
    return Precision(grid, max(bits, precision.bits))


def saturates() -> bool:
    """Return whether sums of 8-bit products overflow on this processor: x86 without VNNI.

    It adds such products in pairs of 16 bits. Source:
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, reduce_range.
    """
    import torch

    return platform.machine().lower() in ("x86_64", "amd64") and not torch.cpu._is_vnni_supported()


def without_saturation(
    weights: Precisions, inputs: Precisions, reduce_range: bool | None
) -> Precisions:
    """Return grids of weights, by name, with 7 bits instead of 8 if inputs are integers too.

    This is done if `reduce_range`; None means if this processor's sums would saturate.
    """
    reduces = saturates() if reduce_range is None else reduce_range
    return {
        name: Precision(precision.grid, 7)
        if reduces
        and precision is not None
        and inputs[name] is not None
        and precision.bits == 8
        and 7 in precision.grid.of_weights
        else precision
        for name, precision in weights.items()
    }


@dataclass
class PrecisionPlan:
    """The grids of weights and inputs of each layer, and where inputs are rounded to them."""

    weights: Precisions
    inputs: Precisions
    sites: dict[str, Precision]  # sites with their own grid
    own_inputs: dict[str, Precision]  # layers that round their inputs themselves, once more

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each layer, for the record."""

        def text(precision: Precision | None) -> dict[str, Any]:
            return {
                "bits": FLOAT_BITS if precision is None else precision.bits,
                "grid": None if precision is None else str(precision.grid),
            }

        return [
            {"name": name, "weights": text(self.weights[name]), "inputs": text(self.inputs[name])}
            for name in self.weights
        ]


def plan_precision(
    weights: Precisions,
    inputs: Precisions,
    flow: DataFlow,
    rest: Precision | None,
) -> PrecisionPlan:
    """Decide where values are rounded, so that each layer reads the precision in `inputs`.

    A site whose readers all want the same grid has that grid. A site with other readers has `rest`,
    and a layer that wants fewer bits rounds the value again for itself. The same holds wherever
    values are added: operands and sum share the steps of `rest`, so rounding before and after the
    addition is the same, and runtimes agree. The sum has to be on these steps, too: with a grid of
    4 bits there, OpenVINO and ONNX Runtime disagreed.
    `rest` is None if values that no layer reads stay float.
    """
    plan = PrecisionPlan(weights, inputs, {}, {})
    added = set[str]().union(*flow.sums)
    for site, readers in flow.readers.items():
        wants = {rest if reader is None else inputs.get(reader, rest) for reader in readers} or {
            rest
        }
        wanted = next(iter(wants))
        if rest is not None and site in added:
            plan.sites[site] = rest
        elif len(wants) == 1 and wanted is not None and not wanted.grid.private:
            plan.sites[site] = wanted
        elif rest is not None and rest in wants:
            plan.sites[site] = rest
    for name, want in inputs.items():
        precisions = {plan.sites.get(site) for site in flow.sources[name]}
        if want is not None and precisions != {want}:
            plan.own_inputs[name] = want
    return plan
