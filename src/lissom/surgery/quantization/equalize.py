"""Find layers connected by calls that preserve positive factors, and move factors between them.

f(s x) = s f(x) for every s > 0 holds for ReLU, pooling and the like. So a channel can be divided by
s where it is made and multiplied by s where it is read. Source: Nagel et al. 2019,
https://arxiv.org/abs/1906.04721.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ...trees import Tree, first, run_on_copied_inputs, tensors_in
from ..by_tensor import ByTensor
from ..property_reads import PROPERTY_READS
from ..tensors import count_holders
from .sites import PASS_THROUGH

_T = torch.Tensor
# function of a layer -> the axis of channels, of its input and its output
CHANNEL_AXES: dict[Any, int] = {torch.conv2d: -3, F.linear: -1}
ELEMENTWISE: set[Any] = {
    F.relu,
    torch.relu,
    torch.relu_,
    _T.relu,
    _T.relu_,
    F.leaky_relu,
    F.leaky_relu_,
    torch.prelu,
    _T.prelu,
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
}
OVER_SPACE: set[Any] = {  # over height and width of a channel
    F.max_pool2d,
    torch.max_pool2d,
    F.avg_pool2d,
    F.adaptive_max_pool2d,
    F.adaptive_avg_pool2d,
    F.interpolate,
}
# reductions over given axes
REDUCTIONS: set[Any] = {torch.mean, _T.mean, torch.sum, _T.sum, torch.amax, _T.amax}
SCALE_TOLERANCE = 1e-3  # scales of channels have converged if a sweep changes them by less


@dataclass(frozen=True)
class Pair:
    """Two layers, of which only the second reads the output of the first.

    `owner` (in) is the filter of the first that made each input of the second.
    """

    first: str
    second: str
    owner: Tensor


@dataclass
class Chain:
    """The path of a layer's output: the layer that reads it, and whether it is the only reader."""

    first: str
    second: str = ""
    owner: Tensor | None = None
    has_one_reader: bool = True


@dataclass
class LayerValue:
    """A tensor between two layers, with the filter that made each of its values."""

    labels: Tensor  # in the shape of the tensor
    chain: Chain
    reads: int = 0


class Follower(TorchFunctionMode, ABC):
    """A mode that follows values through calls of Python functions; `inside` tells if one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.inside = True
        try:
            out = func(*args, **kwargs)
            if func not in PROPERTY_READS:
                self.follow(func, args, kwargs, out)
        finally:
            self.inside = False
        return out

    @abstractmethod
    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Record the inputs of a call, and its output."""

    @abstractmethod
    def read(self, tensor: Any) -> Any:
        """Count a read of a tensor; return its value if it is followed."""

    @abstractmethod
    def end(self, value: Any) -> None:
        """Give up a value that `read` returned."""


class Chains(Follower):
    """Follow the output of each named layer through a forward pass; `names` maps weights to layers.

    Every read counts: a value that is read twice, or by an unknown call, ends its chain.
    """

    def __init__(self, names: ByTensor[str]) -> None:
        super().__init__()
        self.names = names
        self.values = ByTensor[LayerValue]()
        self.chains: list[Chain] = []
        self.runs = Counter[Tensor]()  # weight or bias -> calls that read it
        self.biases: dict[str, Tensor | None] = {}  # layer -> the bias it was called with

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Count the reads of a call, and follow its output."""
        arguments = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
        value = self.read(arguments.get("input"))
        for other in tensors_in([[*args[1:]], {k: v for k, v in kwargs.items() if k != "input"}]):
            self.end(self.read(other))
        if not isinstance(out, Tensor) or not out.is_floating_point():
            self.end(value)
        elif func in CHANNEL_AXES:
            self.follow_layer(value, arguments, out, CHANNEL_AXES[func])
        elif value is not None:
            labels = labels_after_call(func, value.labels, args, kwargs, out)
            if labels is None:
                self.end(value)
            else:  # an in-place operation returns the old tensor, which is a new value all the same
                self.values[out] = LayerValue(labels, value.chain)

    def read(self, tensor: Any) -> LayerValue | None:
        """Count a read; return the value if the tensor is on a chain."""
        if isinstance(tensor, nn.Parameter):
            self.runs[tensor] += 1
        value = self.values.get(tensor)
        if value is not None:
            value.reads += 1
            value.chain.has_one_reader &= value.reads == 1
        elif not isinstance(tensor, Tensor):  # a list, as in cat
            for part in tensors_in(tensor):
                self.end(self.read(part))
        return value

    def end(self, value: LayerValue | None) -> None:
        """Give up the chain of a value."""
        if value is not None:
            value.chain.has_one_reader = False

    def follow_layer(
        self, value: LayerValue | None, arguments: dict[str, Any], out: Tensor, axis: int
    ) -> None:
        """End the chain that led to a layer, and begin the chain of its output."""
        name = self.names.get(arguments["weight"], "")
        owner = None if value is None or not name else owners(value.labels, axis)
        if value is not None and owner is not None:
            value.chain.second = name
            value.chain.owner = owner
        else:
            self.end(value)
        if name:
            self.biases[name] = arguments.get("bias")
            self.chains.append(Chain(name))
            filters = torch.arange(out.shape[axis], device=out.device).view(-1, *[1] * (-1 - axis))
            self.values[out] = LayerValue(filters.expand(out.shape), self.chains[-1])


class DispatchReads(TorchDispatchMode):
    """Count the reads that calls of Python functions do not show, as in scripted modules."""

    def __init__(self, follower: Follower) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.follower = follower

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.follower.inside:
            for tensor in tensors_in([args, kwargs]):
                self.follower.end(self.follower.read(tensor))
        return func(*args, **(kwargs or {}))


def labels_after_call(
    func: Any, labels: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
) -> Tensor | None:
    """Return the labels of a call's output from the `labels` of its input.

    None if the call does not preserve positive factors.
    """
    try:
        if func in ELEMENTWISE:
            after = labels
        elif func in OVER_SPACE or (func is F.pad and pads_only_space(*args, **kwargs)):
            after = shared(labels, (-2, -1), keepdim=True).expand(out.shape)
        elif func in REDUCTIONS and len(args) + len(kwargs) > 1:
            after = shared(labels, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        elif func in PASS_THROUGH and args:
            after = func(labels.contiguous(), *args[1:], **kwargs)
        else:
            return None
    except (RuntimeError, TypeError, ValueError):
        # channels are mixed, or the call has a form that does not fit labels
        return None
    return after if after.shape == out.shape else None


def shared(labels: Tensor, *axes: Any, **settings: Any) -> Tensor:
    """Return the common label along some axes. Raises ValueError if there are several."""
    low = torch.amin(labels, *axes, **settings)
    high = torch.amax(labels, *axes, **settings)
    if not torch.equal(low, high):
        raise ValueError("several channels")
    return low


def pads_only_space(
    input: Tensor, pad: Any, mode: str = "constant", value: float | None = None
) -> bool:
    """Return whether padding adds only to height and width, and only zeros or existing values."""
    return input.ndim > 2 and len(pad) <= 4 and (mode != "constant" or not value)


def owners(labels: Tensor, axis: int) -> Tensor | None:
    """Return the label of each channel (in) along `axis`; None if a channel has several labels,
    or none.
    """
    if labels.ndim < -axis:
        return None
    rows = labels.movedim(axis, -1).flatten(0, -2) if labels.ndim > 1 else labels[None]
    if not len(rows):  # nothing ran, as of a detector that found nothing
        return None
    return rows[0].clone() if torch.equal(rows, rows[:1].expand_as(rows)) else None


def pairs(model: nn.Module, example: Tree) -> list[Pair]:
    """Return the pairs of layers in which only the second reads the first.

    The calls between them preserve positive factors. Pairs are found by running `model` in eval
    mode on the first item of `example` (n ...). Layers that run more than once, that share a
    parameter, or whose parameters anything else reads are in no pair.
    """
    holders = count_holders(model)
    layers = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
        and m._parameters.get("weight") is not None
        and m.weight.is_floating_point()
    }
    chains = Chains(ByTensor((m.weight, name) for name, m in layers.items()))
    mode = model.training
    try:
        with torch.no_grad(), chains, DispatchReads(chains):
            outputs = run_on_copied_inputs(model.eval(), first(example, 1))
    finally:
        model.train(mode)
    for tensor in tensors_in(outputs):
        chains.end(chains.read(tensor))

    def is_read_once(name: str) -> bool:
        layer = layers[name]
        return chains.biases[name] is layer.bias and all(
            chains.runs[p] == holders[p.data_ptr()] == 1
            for p in (layer.weight, layer.bias)
            if p is not None
        )

    return [
        Pair(c.first, c.second, c.owner)
        for c in chains.chains
        if c.has_one_reader
        and c.owner is not None
        and is_read_once(c.first)
        and is_read_once(c.second)
    ]


def equalize_pairs(model: nn.Module, linked: list[Pair], sweeps: int = 40) -> list[list[Any]]:
    """Scale the channels between the layers of each pair, in place.

    Return rows of first, second and the largest factor.
    s = sqrt(r1 / r2), r1 = max|w| of a filter of the first, r2 = max|w| of the weights that read
    it. Channels where either is 0 stay. Layers in two pairs are scaled from both sides, so all
    pairs are swept until no scale changes by more than SCALE_TOLERANCE.
    """
    names = dict.fromkeys(chain.from_iterable((pair.first, pair.second) for pair in linked))
    weights = {name: model.get_parameter(f"{name}.weight") for name in names}
    # Scales depend only on the largest weight of each kernel (out in/groups). They are multiplied
    # into the weights once, at the end.
    largest = {
        name: w.detach().abs().flatten(1).unflatten(1, (w.shape[1], -1)).amax(2).float()
        for name, w in weights.items()
    }
    scales = [
        torch.ones(len(weights[pair.first]), dtype=torch.float64, device=pair.owner.device)
        for pair in linked
    ]
    for _ in range(sweeps):
        largest_change = 0.0
        for pair, scale in zip(linked, scales, strict=True):
            s = balance(largest[pair.first], largest[pair.second], pair.owner)
            largest[pair.first] /= s[:, None]
            by_input(largest[pair.second], len(pair.owner)).mul_(
                for_inputs(largest[pair.second], s[pair.owner])
            )
            scale *= s
            largest_change = max(largest_change, float((s - 1).abs().max()))
        if largest_change < SCALE_TOLERANCE:
            break
    for pair, scale in zip(linked, scales, strict=True):
        rescale(
            model.get_submodule(pair.first), model.get_submodule(pair.second), pair.owner, scale
        )
    return [
        [pair.first, pair.second, float(torch.maximum(scale, 1 / scale).max())]
        for pair, scale in zip(linked, scales, strict=True)
    ]


def balance(first: Tensor, second: Tensor, owner: Tensor) -> Tensor:
    """Return sqrt(r1 / r2) for each filter (out), in float64; 1 where r1 or r2 is 0.

    `first` and `second` (out in/groups) are the largest weights of each kernel of two layers.
    `owner` (in) is the filter of the first that each input of the second comes from.
    """
    largest = first.amax(1).double()
    columns = by_input(second, len(owner)).amax(1).flatten().double()
    read = torch.zeros_like(largest).scatter_reduce_(0, owner, columns, "amax")
    return torch.where((largest > 0) & (read > 0), largest.sqrt() / read.sqrt(), 1.0)


def by_input(weight: Tensor, inputs: int) -> Tensor:
    """Return a view of a weight (out in/groups ...) as (groups out/groups in/groups ...)."""
    return weight.unflatten(0, (inputs // weight.shape[1], -1))


def for_inputs(weight: Tensor, values: Tensor) -> Tensor:
    """Return a value for each input (in), shaped to broadcast to a weight from `by_input`."""
    return values.view(-1, 1, weight.shape[1], *[1] * (weight.ndim - 2))


def rescale(first: nn.Module, second: nn.Module, owner: Tensor, scale: Tensor) -> None:
    """Divide the filters of `first` by `scale` (out) and multiply the weights that read them by it.

    Both are changed in place.
    """
    with torch.no_grad():
        for tensor in (first.weight, first.bias):
            if isinstance(tensor, Tensor):
                tensor.copy_(tensor.double() / scale.view(-1, *[1] * (tensor.ndim - 1)))
        weight = second.weight
        assert isinstance(weight, Tensor)
        weight.copy_(
            (by_input(weight.double(), len(owner)) * for_inputs(weight, scale[owner])).flatten(0, 1)
        )
