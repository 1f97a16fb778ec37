"""Layers by what they do, not by their class: a forward that comes to a plain convolution or linear
layer becomes one.

Somebody's subclass of a convolution may pad its input, or compute its weight from other parameters,
as weight standardisation and weight_norm do, and then convolve. On inputs that the layer really
gets, its calls are recorded; where there is nothing but zeros added around the input and one
product with a weight that the input has no part in, the layer becomes a class of layers.py with
these zeros and this weight. Everything else in lissom then knows it as a convolution.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..trees import Tree, called, first, tensors_in
from .calls import Calls, calls_of
from .computed_weights import computed_by, free_of_hooks
from .layers import BY_NAME, COMPRESSED, SAME, WEIGHTED, CompressedLayer, same_pads, torch_class
from .modes import in_mode
from .small import smaller

if TYPE_CHECKING:
    from ..language.context import Context

INPUTS = 4  # that are looked at, of a layer that is called more often


class NotPlain(Exception):
    """Say, after the name of its class, why a layer does not come to a plain one."""


@dataclass
class PlainLayers:
    """Which layers became plain, and why others of classes that are not PyTorch's did not."""

    done: dict[str, str] = field(default_factory=dict)  # layer -> the class that it had
    # layer -> what computed the weight that it now holds
    baked: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def notes(self, where: str) -> list[str]:
        """Return a sentence for each thing that computed weights and is gone."""
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
    """The plain layer that a forward comes to."""

    geometry: dict[str, Any]
    weight: Tensor  # (out in ...)
    bias: Tensor | None  # (out)


def make_plain(model: nn.Module, example: Tree) -> PlainLayers:
    """Turn each layer of `model` whose forward comes to a plain one into that, in place; no output changes.

    `example` (n ...) is run to see what the layers read. A layer without which the network does not
    do what it did is put back.
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
            with bare(layer):
                plain = plain_of(layer, inputs[name])
            if shares(model, layer):
                raise NotPlain("whose weight is computed of a parameter that another layer has too")
        except NotPlain as error:
            result.left[name] = f"{word}, {error}"
        except Exception as error:  # whatever a forward raises on an input by itself
            result.left[name] = f"{word}, whose forward fails by itself ({type(error).__name__})"
        else:
            outputs = outputs if before else outputs_of(model, example)
            before[name] = state(layer)
            result.done[name] = word
            if plain.weight is not layer._parameters.get("weight"):
                result.baked[name] = computed_by(layer)
            become_plain(layer, plain.geometry, plain.weight, plain.bias)
    if before and not same(model, example, outputs):
        for name in put_back(model, layers, before, example, outputs):
            result.left[name] = (
                f"{result.done.pop(name)}, of which the network uses more than its output"
            )
            result.baked.pop(name, None)
    return result


def settle_plain(model: nn.Module, ctx: Context) -> dict[str, str]:
    """Let layers whose own forward comes to a plain one be that, in place, and note it; return why
    others do not.
    """
    result = make_plain(model, ctx.example)
    ctx.notes += result.notes(ctx.where)
    if result.done:
        ctx.facts["plain"] = result.done
    return result.left


def has_own_forward(layer: nn.Module) -> bool:
    """Return whether the forward or the weight of a layer may be other than those of PyTorch's classes."""
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
    """Return what some layers of a network read on the first item of `example`, or on a part of it
    if that is enough.
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
            with suppress(Exception):  # whatever the network's own code raises on a small image
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
    """Return what a network in eval mode makes of the first item of `example`; its mode stays."""
    with bare(model), torch.no_grad():
        return [t.clone() for t in tensors_in(called(model, first(example, 1)))]


@contextmanager
def bare(model: nn.Module) -> Iterator[None]:
    """Run a network in eval mode for a while; modes and buffers are afterwards as they were."""
    modes = {m: m.training for m in model.modules()}
    buffers = [(b, b.clone()) for b in model.buffers()]
    in_mode(model)
    try:
        yield
    finally:
        for module, mode in modes.items():
            if module.training != mode:
                module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def plain_of(layer: nn.Module, inputs: list[list[Any]]) -> Plain:
    """Return what a layer comes to on the inputs that it was called with; raise NotPlain if it
    comes to no plain one.
    """
    if not inputs:
        raise NotPlain("which is not called as a layer")
    if any(len(args) != 1 or not isinstance(args[0], Tensor) for args in inputs):
        raise NotPlain("which is called with more than one input")
    runs = []
    calls = calls_of(layer, inputs[0][0])
    if calls.other is None:
        runs = [calls_of(layer, x) for (x,) in inputs[1:INPUTS]]
        runs.append(calls_of(layer, inputs[0][0]))  # a weight that is drawn is another one now
    runs.insert(0, calls)
    if calls.other is None and calls.kind != "Linear" and any(calls.pads):
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
    """Yield the calls of a convolution on small inputs of several sizes, as far as it takes them."""
    geometry = calls.geometry()
    least = [
        d * (k - 1) + 1
        for d, k in zip(geometry["dilation"], calls.arguments["weight"].shape[2:], strict=True)
    ]
    for more in range(max(geometry["stride"]) + 1):
        try:
            yield calls_of(layer, x.new_zeros((1, x.shape[1], *(size + more for size in least))))
        except Exception:  # whatever a forward raises on a size that it does not expect
            return


def pads_of(runs: list[Calls]) -> list[int] | str | None:
    """Return the zeros that a convolution adds to inputs of several sizes, before its own padding;
    None for none.
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
        return SAME
    raise NotPlain("whose padding follows the size of its input in a way of its own")


def same_numbers(one: Calls, two: Calls) -> bool:
    """Return whether two calls of a layer computed with the same weight and bias."""
    return all(unchanged(one.arguments[name], two.arguments[name]) for name in ("weight", "bias"))


def unchanged(one: Tensor | None, two: Tensor | None) -> bool:
    """Return whether two tensors are one, or hold the same."""
    return one is two or (one is not None and two is not None and torch.equal(one, two))


def become_plain(
    layer: nn.Module, geometry: dict[str, Any], weight: Tensor, bias: Tensor | None
) -> None:
    """Turn a layer into a plain one of this geometry, weight and bias, in place; what computed them goes.

    A tensor that is a parameter already stays that parameter, for those who share it.
    """
    free_of_hooks(layer)
    for name in ("weight", "bias"):
        layer.__dict__.pop(name, None)
    for held in (layer._modules, layer._buffers, layer._parameters):
        held.clear()
    layer.__class__ = COMPRESSED[BY_NAME[geometry["kind"]]]
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value.detach().clone())
        layer.register_parameter(name, value)
    for name, value in attributes_of(geometry, weight).items():
        setattr(layer, name, value)


def attributes_of(geometry: dict[str, Any], weight: Tensor) -> dict[str, Any]:
    """Return what a plain layer of this geometry and weight (out in ...) says of itself."""
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
    """Return whether another layer has a parameter that this one would lose, since its weight is
    computed of it.
    """
    mine = set(layer.parameters()) - {layer._parameters.get(name) for name in ("weight", "bias")}
    others = set(model.modules()) - set(layer.modules())
    return any(not mine.isdisjoint(other._parameters.values()) for other in others)


def state(layer: nn.Module) -> tuple[type, dict[str, Any]]:
    """Return what makes a layer what it is, to put it back."""
    return type(layer), {
        key: copy.copy(value) if isinstance(value, dict) else value
        for key, value in vars(layer).items()
    }


def same(model: nn.Module, example: Tree, outputs: list[Tensor]) -> bool:
    """Return whether a network still returns these outputs, to float rounding: a kernel may sum in
    another order.
    """
    try:
        now = outputs_of(model, example)
    except Exception:  # whatever the network's own code raises on a layer of another class
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
    """Give layers the class back without which the network does not do what it did; return which."""
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
