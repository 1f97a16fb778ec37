"""Replace custom layers that compute a plain convolution or linear layer by that layer.

A custom subclass of a convolution may pad its input, or compute its weight from other parameters,
as weight standardisation and weight_norm do, and then convolve. The calls of its forward are
recorded on inputs that the layer really gets. If they only add zeros around the input and make one
convolution or linear product with a weight that does not depend on the input, the layer becomes a
class of layers.py with these zeros and this weight. The rest of lissom then treats it as a plain
layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..trees import Tree, first, run_on_copied_inputs, tensors_in
from .calls import Calls, calls_of
from .computed_weights import computed_by, remove_weight_hooks
from .layers import (
    BY_NAME,
    COMPRESSED,
    SAME_PADDING,
    WEIGHTED,
    CompressedLayer,
    same_pads,
    torch_class,
)
from .modes import evaluating
from .small import smaller

if TYPE_CHECKING:
    from ..language.context import Context

MAX_CHECKED_INPUTS = 4  # of a layer that is called more often


class NotPlain(Exception):
    """The reason why a layer is not a plain one, to be read after the name of its class."""


@dataclass
class PlainLayers:
    """Which layers became plain, and why others of custom classes did not."""

    done: dict[str, str] = field(default_factory=dict)  # layer -> its former class
    # layer -> what computed the weight that it now stores
    baked: dict[str, str] = field(default_factory=dict)
    not_plain: dict[str, str] = field(default_factory=dict)

    def notes(self, where: str) -> list[str]:
        """Return a sentence for each computation of weights that was removed."""
        counts = {what: list(self.baked.values()).count(what) for what in self.baked.values()}
        return [
            f"{where}: {count} "
            f"layer{'s hold their weights' if count > 1 else ' holds its weight'} as {what} computed "
            f"{'them' if count > 1 else 'it'}, which takes no part in later "
            "training"
            for what, count in counts.items()
        ]


@dataclass
class Plain:
    """The plain layer that a forward is equal to."""

    geometry: dict[str, Any]
    weight: Tensor  # (out in ...)
    bias: Tensor | None  # (out)


def make_plain(model: nn.Module, example: Tree) -> PlainLayers:
    """Turn each layer of `model` with the forward of a plain layer into that, in place.

    No output changes. `example` (n ...) is run to see the inputs of layers. A layer whose change
    would alter the network's outputs is put back.
    """
    result = PlainLayers()
    layers = {name: layer for name, layer in model.named_modules() if has_own_forward(layer)}
    if not layers:
        return result
    inputs = inputs_of(model, layers, example)
    before: dict[str, Any] = {}
    outputs: list[Tensor] = []
    for name, layer in layers.items():
        word = type(layer).__name__
        try:
            with evaluating(layer):
                plain = plain_of(layer, inputs[name])
            if shares(model, layer):
                raise NotPlain("whose weight is computed of a parameter that another layer has too")
        except NotPlain as error:
            result.not_plain[name] = f"{word}, {error}"
        except Exception as error:  # a forward may raise anything when run by itself
            result.not_plain[name] = (
                f"{word}, whose forward fails by itself ({type(error).__name__})"
            )
        else:
            outputs = outputs if before else outputs_of(model, example)
            before[name] = state(layer)
            result.done[name] = word
            if plain.weight is not layer._parameters.get("weight"):
                result.baked[name] = computed_by(layer)
            become_plain(layer, plain.geometry, plain.weight, plain.bias)
    if before and not same(model, example, outputs):
        for name in put_back(model, layers, before, example, outputs):
            result.not_plain[name] = (
                f"{result.done.pop(name)}, of which the network uses more than its output"
            )
            result.baked.pop(name, None)
    return result


def make_plain_and_note(model: nn.Module, ctx: Context) -> dict[str, str]:
    """Turn layers with the forward of a plain layer into that, in place, and note it.

    Return why other layers did not become plain.
    """
    result = make_plain(model, ctx.example)
    ctx.notes += result.notes(ctx.where)
    if result.done:
        ctx.facts["plain"] = result.done
    return result.not_plain


def has_own_forward(layer: nn.Module) -> bool:
    """Return whether a layer's forward or weight may differ from those of PyTorch's classes."""
    if isinstance(layer, (torch.jit.ScriptModule, CompressedLayer)) or type(
        layer
    ).__module__.startswith("lissom."):
        return False
    if isinstance(layer, WEIGHTED):
        return torch_class(layer) is None and (
            layer._parameters.get("weight") is None
            or not type(layer).__module__.startswith("torch.nn.modules")
        )
    return not type(layer).__module__.startswith("torch.") and any(
        p is not None and p.ndim > 1 for p in layer._parameters.values()
    )


def inputs_of(
    model: nn.Module, layers: dict[str, nn.Module], example: Tree
) -> dict[str, list[Any]]:
    """Return the inputs of some layers on the first item of `example`.

    A smaller part of the item is used if the network runs on it.
    """
    inputs: dict[str, list[Any]] = {name: [] for name in layers}
    small = smaller(example)
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: inputs[name].append([*args, *kwargs.values()]),
            with_kwargs=True,
        )
        for name, layer in layers.items()
    ]
    try:
        if small is not None:
            with suppress(Exception):  # the network's code may raise anything on a small image
                outputs_of(model, small)
                return inputs
            for read in inputs.values():
                read.clear()
        outputs_of(model, example)
        return inputs
    finally:
        for hook in hooks:
            hook.remove()


def outputs_of(model: nn.Module, example: Tree) -> list[Tensor]:
    """Return the outputs of a network in eval mode on the first item of `example`.

    Its mode and buffers are restored.
    """
    with evaluating(model), torch.no_grad():
        return [t.clone() for t in tensors_in(run_on_copied_inputs(model, first(example, 1)))]


def plain_of(layer: nn.Module, inputs: list[list[Any]]) -> Plain:
    """Return the plain layer that a layer is equal to on the inputs of its calls.

    Raises NotPlain if there is none.
    """
    if not inputs:
        raise NotPlain("which is not called as a layer")
    if any(len(args) != 1 or not isinstance(args[0], Tensor) for args in inputs):
        raise NotPlain("which is called with more than one input")
    runs = []
    calls = calls_of(layer, inputs[0][0])
    if calls.other is None:
        runs = [calls_of(layer, x) for (x,) in inputs[1:MAX_CHECKED_INPUTS]]
        runs.append(calls_of(layer, inputs[0][0]))  # a randomly drawn weight would differ now
    runs.insert(0, calls)
    if calls.other is None and calls.kind != "Linear":
        runs += other_sizes(layer, calls, inputs[0][0])
    if other := next((run.other for run in runs if run.other), None):
        raise NotPlain(other)
    if not all(same_numbers(run, calls) for run in runs):
        raise NotPlain("whose weight changes from call to call")
    geometry = calls.geometry()
    if calls.kind != "Linear":
        geometry["pads"] = pads_of(runs)
    return Plain(geometry, calls.arguments["weight"], calls.arguments["bias"])


def other_sizes(layer: nn.Module, calls: Calls, x: Tensor) -> Iterator[Calls]:
    """Yield the calls of a convolution on small inputs of several sizes, until one fails."""
    geometry = calls.geometry()
    least = [
        d * (k - 1) + 1
        for d, k in zip(geometry["dilation"], calls.arguments["weight"].shape[2:], strict=True)
    ]
    for more in range(max(geometry["stride"]) + 1):
        try:
            yield calls_of(layer, x.new_zeros((1, x.shape[1], *(size + more for size in least))))
        except Exception:  # a forward may raise anything on an unexpected size
            return


def pads_of(runs: list[Calls]) -> list[int] | str | None:
    """Return the zeros that a convolution adds to inputs of several sizes, before its own padding.

    None if it adds none. Raises NotPlain if they follow no known rule.
    """
    zeros = [run.zeros() for run in runs]
    if all(pads == zeros[0] for pads in zeros):
        return zeros[0] if any(zeros[0]) else None
    geometry = runs[0].geometry()
    kernel = runs[0].arguments["weight"].shape[2:]
    if all(
        pads == same_pads(run.input.shape[2:], kernel, geometry["stride"], geometry["dilation"])
        for pads, run in zip(zeros, runs, strict=True)
    ):
        return SAME_PADDING
    raise NotPlain("whose padding follows the size of its input in a way of its own")


def same_numbers(one: Calls, two: Calls) -> bool:
    """Return whether two calls of a layer used the same weight and bias."""
    return all(unchanged(one.arguments[name], two.arguments[name]) for name in ("weight", "bias"))


def unchanged(one: Tensor | None, two: Tensor | None) -> bool:
    """Return whether two tensors are identical or have equal values."""
    return one is two or (one is not None and two is not None and torch.equal(one, two))


def become_plain(
    layer: nn.Module, geometry: dict[str, Any], weight: Tensor, bias: Tensor | None
) -> None:
    """Turn a layer into a plain one of this geometry, weight and bias, in place.

    Whatever computed them is removed. A tensor that is a parameter stays that parameter, for layers
    that share it.
    """
    own = [p.requires_grad for p in layer.parameters()]
    learns = any(own) or not own
    remove_weight_hooks(layer)
    for name in ("weight", "bias"):
        layer.__dict__.pop(name, None)
    for held in (layer._modules, layer._buffers, layer._parameters):
        held.clear()
    layer.__class__ = COMPRESSED[BY_NAME[geometry["kind"]]]
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value.detach().clone(), requires_grad=learns)
        layer.register_parameter(name, value)
    for name, value in attributes_of(geometry, weight).items():
        setattr(layer, name, value)


def attributes_of(geometry: dict[str, Any], weight: Tensor) -> dict[str, Any]:
    """Return the attributes of a plain layer of this geometry and weight (out in ...)."""
    if geometry["kind"] == "Linear":
        return {
            "geometry": geometry,
            "out_features": len(weight),
            "in_features": weight.shape[1],
        }
    stated = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in geometry.items()
        if key not in ("kind", "bias", "pads")
    }
    return {
        "geometry": geometry,
        **stated,
        "pads": geometry["pads"],
        "padding_mode": "zeros",
        "transposed": False,
        "output_padding": (0,) * (weight.ndim - 2),
        "kernel_size": tuple(weight.shape[2:]),
        "out_channels": len(weight),
        "in_channels": weight.shape[1] * geometry["groups"],
    }


def shares(model: nn.Module, layer: nn.Module) -> bool:
    """Return whether this layer would lose a parameter that another layer has too.

    Its weight is computed from such parameters.
    """
    mine = set(layer.parameters()) - {layer._parameters.get(name) for name in ("weight", "bias")}
    others = set(model.modules()) - set(layer.modules())
    return any(not mine.isdisjoint(other._parameters.values()) for other in others)


def state(layer: nn.Module) -> tuple[type, dict[str, Any]]:
    """Return the class and attributes of a layer, to restore it."""
    return type(layer), {
        key: copy.copy(value) if isinstance(value, dict) else value
        for key, value in vars(layer).items()
    }


def same(model: nn.Module, example: Tree, outputs: list[Tensor]) -> bool:
    """Return whether a network still returns these outputs, up to float rounding.

    A kernel may sum in another order.
    """
    try:
        now = outputs_of(model, example)
    except Exception:  # the network's code may raise anything on another class
        return False

    def near(a: Tensor, b: Tensor) -> bool:
        size = float(b.abs().max()) if b.numel() else 0.0
        return a.shape == b.shape and torch.allclose(
            a.double(), b.double(), rtol=0, atol=1e-6 * size, equal_nan=True
        )

    return len(now) == len(outputs) and all(map(near, now, outputs))


def put_back(
    model: nn.Module,
    layers: dict[str, nn.Module],
    before: dict[str, Any],
    example: Tree,
    outputs: list[Tensor],
) -> list[str]:
    """Restore the layers whose change alters the network's outputs; return their names."""
    plain = {name: state(layers[name]) for name in before}
    needed = list[str]()

    def put(name: str, states: dict[str, Any]) -> None:
        layers[name].__class__ = states[name][0]
        layers[name].__dict__ = dict(states[name][1])

    for name in before:
        put(name, before)
    for name in before:
        put(name, plain)
        if not same(model, example, outputs):
            put(name, before)
            needed.append(name)
    return needed
