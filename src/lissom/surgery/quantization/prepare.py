"""Prepare the layers of a network for rounding, and insert the roundings of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from ...errors import LissomError
from ...trees import Tree
from ..fold import foldable, foldable_norm, replace_norm_by_stand_in
from ..layers import baked, torch_class
from ..reached import reached
from .bits import Precision, PrecisionPlan
from .dataflow import DataFlow, merge_overlapping, trace_dataflow
from .layers import CLASSES, QuantizedLayer
from .network import QuantizedNetwork
from .rounding import Rounding
from .sites import kind_of

Bounds = tuple[float, float]
# how many times larger the inputs of a layer's other call may be: it costs 2 bits
MAX_RANGE_RATIO = 4


def unrounded(model: nn.Module) -> nn.Module:
    """Return a network without the roundings that an earlier quantization inserted."""
    if not isinstance(model, QuantizedNetwork):
        return model
    for layer in model.layers():
        layer.rounding = layer.own_input_rounding_name = None
        layer.set_input_roundings(None)
    return model.network


def prepare_layers(model: nn.Module, example: Tree, fold: bool = True) -> dict[str, str]:
    """Make every layer that can be rounded a quantized layer, in place, with its batch-norm in it.

    Nothing is rounded yet. Return why other layers of these kinds stay as they are.
    """
    called = trace_dataflow(baked(model), example).inputs
    run = reached(model, example)
    left = dict[str, str]()
    norms = dict(foldable(model, example)) if fold else {}
    for name, layer in list(model.named_modules()):
        kind = torch_class(layer)
        if kind not in CLASSES or isinstance(layer, QuantizedLayer):
            continue
        # a linear layer is rounded by whoever passes its weight to F.linear
        runs = name in called and (layer in run or isinstance(layer, nn.Linear))
        if (why := why_float(model, layer, called=runs)) is not None:
            left[name] = why
            continue
        norm = model.get_submodule(norms[name]) if name in norms else None
        layer.__class__ = CLASSES[kind]
        assert isinstance(layer, QuantizedLayer)
        if norm is not None and foldable_norm(norm):
            replace_norm_by_stand_in(model, norm)
            layer.prepare(norm, f"network.{norms[name]}")
        else:
            layer.prepare()
    model.eval()
    return left


def why_float(model: nn.Module, layer: nn.Module, *, called: bool) -> str | None:
    """Return why a layer of a kind that can be rounded stays float; None if it need not."""
    if not layer._parameters["weight"].numel():  # type: ignore[union-attr]
        return "it has no weights"
    is_table = isinstance(layer, nn.Embedding)
    if called and not is_table:
        return None
    owners = (
        name
        for name, other in model.named_modules()
        if other is not layer and other._parameters.get("weight") is layer.weight
    )
    other = next(owners, None)
    if is_table:
        if other is not None:
            return f"its weight is that of {other} as well"
        if layer.max_norm is not None:
            return "max_norm changes its rows whenever they are looked up"
        if layer.sparse:
            return "its gradient is sparse, which that of rounded rows is not"
        if called:
            return None
    if other is not None:
        return f"its weight is that of {other} as well"
    return "it is not called as a layer"


def insert_rounding(
    model: nn.Module,
    flow: DataFlow,
    plan: PrecisionPlan,
    bounds_of: Callable[[str, Precision], Bounds],
) -> tuple[QuantizedNetwork, dict[str, Bounds]]:
    """Insert the roundings of a plan into a prepared network, in place.

    Return it with the ranges. `bounds_of` returns the range of a site on a grid. Sites that an
    addition or a layer ties together get one scale. Raises LissomError if a grid does not suit a
    layer.
    """
    skipped = relus_read_for_signs(flow, plan)
    bounds = {site: bounds_of(site, spec) for site, spec in plan.sites.items()}
    for site in flow.operands & bounds.keys():
        bounds[site] = around_zero(*bounds[site])
    several = read_in_turn(flow, bounds)
    quantized = QuantizedNetwork(
        model,
        {site: own for site, own in flow.sites.items() if own in plan.sites},
        flow.calls,
        skipped=skipped,
        tied=merge_overlapping([*flow.sums, *several.values()]),
    )
    for site, spec in plan.sites.items():
        quantized.grids[site] = input_rounding(spec, bounds[site])
    quantized.tie()
    for name, reads in flow.inputs.items():
        layer = model.get_submodule(name)
        if not isinstance(layer, QuantizedLayer):
            continue
        layer.site = site_if_one_step(quantized, several[name]) if name in several else reads
        if (weights := plan.weights.get(name)) is not None:
            try:
                round_weights(layer, weights)
            except LissomError as error:
                raise LissomError(f"quantize: {name}: {error}; keep= leaves it float") from None
        if name in plan.own_inputs:
            precision = plan.own_inputs[name]
            key = own_input_rounding_name(name, flow, precision)
            layer.own_input_rounding_name = key
            if key not in quantized.grids:  # layers that read the same sites share a rounding
                if precision.grid.at_run_time:
                    quantized.grids[key] = input_rounding(precision, (0.0, 0.0))
                    continue
                found = [bounds_of(source, precision) for source in flow.sources[name]]
                bounds[key] = min(low for low, _ in found), max(high for _, high in found)
                quantized.grids[key] = input_rounding(precision, bounds[key])
                if not flow.sources[name] <= skipped:
                    check_signs(name, precision, bounds[key])
    quantized.to(next(model.parameters()).device)  # the device on which ranges were measured
    quantized.link()
    return quantized, bounds


def check_signs(layer: str, spec: Precision, bounds: Bounds) -> None:
    """Raise LissomError if a layer is to read only the signs of values that are never negative."""
    if spec.grid.signs and bounds[0] >= 0:
        raise LissomError(
            f"quantize: the inputs of {layer} are never negative, so their signs "
            "carry no information; inputs=1 rounds them to 0 or a step, and keep= "
            "leaves the layer float"
        )


def read_in_turn(flow: DataFlow, bounds: Mapping[str, Bounds]) -> dict[str, set[str]]:
    """Return the sites of each layer that reads several in turn, such as a detector's head that runs
    on every level of a pyramid.

    Integer kernels need one step for all of them. Sites that would lose too much are left out.
    """
    found = {}
    for name, reads in flow.inputs.items():
        sites = flow.sources[name]
        if reads is not None or len(sites) < 2 or not sites <= bounds.keys():
            continue
        sizes = [max(-bounds[site][0], bounds[site][1]) for site in sites]
        if max(sizes) <= MAX_RANGE_RATIO * min(sizes):
            found[name] = sites
    return found


def site_if_one_step(network: QuantizedNetwork, sites: set[str]) -> str | None:
    """Return one of the sites if all are rounded with the same step, else None."""
    grids = [network.grid_of(site) for site in sorted(sites)]
    if any(grid.off or grid.grid.at_run_time for grid in grids):
        return None
    steps = {float(grid.input_codes().step) for grid in grids}
    return min(sites) if len(steps) == 1 else None


def relus_read_for_signs(flow: DataFlow, plan: PrecisionPlan) -> set[str]:
    """Return the ReLUs whose results are read only for their signs; these ReLUs are left out.

    After a ReLU every sign is plus, so the sign is taken before it. If anything else reads the
    ReLU, it has to stay, and `insert_rounding` raises an error.
    """
    return {
        site
        for site, readers in flow.readers.items()
        if kind_of(site) == "relu"
        and readers
        and all(
            name is not None and name in plan.own_inputs and plan.own_inputs[name].grid.signs
            for name in readers
        )
    }


def own_input_rounding_name(layer: str, flow: DataFlow, spec: Precision) -> str:
    """Return the name of a layer's own rounding of its inputs.

    All layers that read the same site on one grid share it.
    """
    sources = flow.sources[layer]
    source = next(iter(sources)) if len(sources) == 1 else layer.replace(".", "-")
    return f"{source}_in_{spec.bits}"


def around_zero(low: float, high: float) -> Bounds:
    """Return the range of an operand of a product of activations.

    It is that of signed integers from -128 to 127, or starts at 0. With a zero point OpenVINO would
    compute the product in float.
    """
    size = max(-low, high)
    return (-size * 128 / 127, size) if low < 0 else (low, high)


def input_rounding(spec: Precision, bounds: Bounds) -> Rounding:
    """Return the rounding of inputs whose range was measured."""
    return Rounding(spec.grid, spec.bits, "inputs", spec.grid.hold_inputs(*bounds, spec.bits))


def round_weights(layer: QuantizedLayer, spec: Precision) -> None:
    """Round the weights of a layer from now on."""
    # set first: the form in which a layer returns its weight depends on the grid
    layer.rounding = Rounding(spec.grid, spec.bits, "weights")
    held = spec.grid.hold_weights(layer.to_grid_form(layer.transformed().detach()), spec.bits)
    layer.rounding = Rounding(spec.grid, spec.bits, "weights", held)
