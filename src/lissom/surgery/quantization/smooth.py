"""SmoothQuant: move large activations of a few channels into the weights that read them.

A linear layer computes X W^T = (X / s) (W s)^T for any s > 0 of its inputs. The producer of X can
be divided by s at no cost if it has a parameter for each channel: a normalization of tokens, or the
layer whose values attention averages.
Source: Xiao et al. 2022, SmoothQuant, https://arxiv.org/abs/2211.10438.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...language.parse_methods import method_of
from ...trees import Tree, first, run_on_copied_inputs, tensors_in
from ..by_tensor import ByTensor
from ..compare import gate_same
from ..tensors import count_holders
from .bits import Precision
from .equalize import DispatchReads, Follower, labels_after_call, owners, shared
from .rows import rounding_error, rows_read
from .sites import NORMS, PASS_THROUGH

if TYPE_CHECKING:
    from ...language.context import Context

# the share of the differences between channels that goes into the weights
ALPHAS = (0.5, 0.65, 0.8, 0.95)
MIN_BITS = 3  # with fewer, training decides what is best
SAMPLED_ROWS = 512  # rows of a layer's inputs on which alpha is chosen
# Channels are smoothed if at most this share of the mean square error is left. A smaller gain may
# be chance, and does not justify a change.
MAX_ERROR_LEFT = 0.7
NEGLIGIBLE_SIZE = 1e-5  # relative to the largest channel: smaller ones count as 0
_T = torch.Tensor
PRODUCTS = {torch.matmul, _T.matmul, _T.__matmul__, torch.bmm, _T.bmm}
SCALES = {torch.mul, _T.mul, _T.__mul__, _T.__rmul__}
SHIFTS = {torch.add, _T.add, _T.__add__, _T.__radd__}


@dataclass
class Source:
    """Values with a parameter for each channel, and the linear layers that read them.

    Dividing `parameters` (channels ...) along their first axis divides the channels. Channels that
    are `fixed` (channels) have other readers, too. `readers` has for each layer the channel of each
    of its inputs.
    """

    parameters: list[str]
    fixed: Tensor
    readers: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class SourceValue:
    """A tensor computed from a source, with the channel of each of its values.

    `ready`: whether layers that read it may take its factors. A layer's output is ready once
    attention has averaged it; layers that follow layers are left to `equalize_pairs`.
    """

    labels: Tensor  # in the shape of the tensor
    source: Source
    ready: bool


@dataclass
class Smoothing:
    """The divisors of a source's channels, and the alpha that gave them.

    `gain` is the error of the outputs of the layers that read it, over the error before.
    """

    source: Source
    factor: Tensor  # (channels), in float64
    alpha: float
    gain: float

    def row(self) -> dict[str, Any]:
        """Return a row for the record."""
        return {
            "scaled": self.source.parameters,
            "readers": [*self.source.readers],
            "alpha": self.alpha,
            "error": self.gain,
            "largest": float(torch.maximum(self.factor, 1 / self.factor).max()),
        }


class Sources(Follower):
    """Follow the values of each source through a forward pass to the layers that read them.

    An unknown call fixes the channels that it reads.
    """

    def __init__(self, parameters: ByTensor[str]) -> None:
        super().__init__()
        self.parameters = parameters
        self.values = ByTensor[SourceValue]()
        self.sources: list[Source] = []
        self.runs = Counter[str]()  # parameter -> calls that read it

    def read(self, tensor: Any) -> SourceValue | None:
        """Count a read of a parameter; return the value of a tensor if it is followed."""
        if tensor in self.parameters:
            self.runs[self.parameters[tensor]] += 1
        return self.values.get(tensor)

    def end(self, value: SourceValue | None) -> None:
        """Fix the channels of a value."""
        if value is not None:
            value.source.fixed[value.labels.flatten().unique()] = True

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Count the reads of a call, and follow its output."""
        read = [(t, self.read(t)) for t in tensors_in([args, kwargs])]
        taken: Any = None  # the tensor whose channels stay free
        if func is F.linear:
            taken = self.linear(*args, **kwargs, out=out)
        elif func in NORMS:
            self.normalized(args, kwargs, out)
        elif func in SCALES | SHIFTS and len(args) == 2:
            taken = self.elementwise(func, *args, out=out)
        elif func is F.scaled_dot_product_attention:
            taken = self.averaged(args[2] if len(args) > 2 else kwargs["value"], out)
        elif func in PRODUCTS and len(args) == 2:
            taken = self.averaged(args[1], out)
        elif args and args[0] in self.values:
            taken = self.handed_on(func, args, kwargs, out)
        for tensor, value in read:
            if tensor is not taken:
                self.end(value)

    def linear(self, input: Tensor, weight: Tensor, bias: Any = None, *, out: Tensor) -> Any:
        """Record the layer as a reader of its input, and begin a source at its output."""
        value = self.values.get(input)
        name = self.parameters.get(weight, "")
        layer = None
        if value is not None and value.ready and name.endswith(".weight"):
            owner = owners(value.labels, -1)
            if owner is not None:
                value.source.readers[name.removesuffix(".weight")] = owner
                layer = input
        if name and (bias is None or bias in self.parameters):
            self.begin([weight] if bias is None else [weight, bias], out, ready=False)
        return layer

    def normalized(self, args: tuple[Any, ...], named: dict[str, Any], out: Tensor) -> None:
        """Begin a source at the output of a normalization of tokens, if each feature has a gain."""
        given = {**dict(zip(("input", "shape", "weight", "bias"), args, strict=False)), **named}
        weight = given.get("weight")
        # rms_norm has eps there
        bias = given["bias"] if isinstance(given.get("bias"), Tensor) else None
        scaled = [p for p in (weight, bias) if p is not None]
        if weight is not None and weight.ndim == 1 and all(p in self.parameters for p in scaled):
            self.begin(scaled, out, ready=True)

    def elementwise(self, func: Any, one: Any, two: Any, *, out: Tensor) -> Any:
        """Follow hand-written gains and shifts of features, as for root mean squares."""
        x, p = (two, one) if one in self.parameters else (one, two)
        if p not in self.parameters or p.ndim != 1 or out.shape[-1:] != p.shape:
            return None
        if func in SCALES:
            self.begin([p], out, ready=True)
            return None
        value = self.values.get(x)
        features = torch.arange(len(p), device=p.device)
        if value is None or not torch.equal(value.labels, features.expand(value.labels.shape)):
            return None
        value.source.parameters.append(self.parameters[p])
        self.values[out] = value
        return x

    def averaged(self, values: Any, out: Tensor) -> Any:
        """Follow values that attention averages over tokens; each channel keeps its factor."""
        value = self.values.get(values)
        if value is None:
            return None
        try:
            labels = shared(value.labels, (-2,), keepdim=True).expand(out.shape)
        except (RuntimeError, ValueError):
            return None
        self.values[out] = SourceValue(labels, value.source, ready=True)
        return values

    def handed_on(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """Follow a call that moves values or preserves positive factors."""
        value = self.values[args[0]]
        if func in PASS_THROUGH and not isinstance(out, Tensor):
            parts = func(value.labels.contiguous(), *args[1:], **kwargs)
        else:
            parts = (labels_after_call(func, value.labels, args, kwargs, out),)
        outs = [out] if isinstance(out, Tensor) else [*tensors_in(out)]
        if any(labels is None for labels in parts) or len(parts) != len(outs):
            return None
        for part, labels in zip(outs, parts, strict=True):
            self.values[part] = SourceValue(labels, value.source, value.ready)
        return args[0]

    def begin(self, parameters: list[Any], out: Tensor, *, ready: bool) -> None:
        """Begin a source at a tensor that was made with parameters (channels ...)."""
        channels = torch.arange(out.shape[-1], device=out.device)
        names = [self.parameters[p] for p in parameters]
        source = Source(names, torch.zeros_like(channels, dtype=torch.bool))
        self.sources.append(source)
        self.values[out] = SourceValue(channels.expand(out.shape), source, ready)


def sources(model: nn.Module, example: Tree) -> list[Source]:
    """Return the sources whose channels can be divided by factors, with the layers that read them.

    They are found by running `model` in eval mode on the first item of `example` (n ...). A source
    is left out if it runs more than once, shares a parameter, has a parameter that anything else
    reads, or if all its channels have readers other than linear layers.
    """
    holders = count_holders(model)
    parameters = dict(model.named_parameters())
    watch = Sources(ByTensor((p, name) for name, p in parameters.items()))
    mode = model.training
    try:
        with torch.no_grad(), watch, DispatchReads(watch):
            outputs = run_on_copied_inputs(model.eval(), first(example, 1))
    finally:
        model.train(mode)
    for tensor in tensors_in(outputs):
        watch.end(watch.read(tensor))

    def is_read_once(name: str) -> bool:
        return watch.runs[name] == holders[parameters[name].data_ptr()] == 1

    def usable(source: Source) -> bool:
        weights = [f"{name}.weight" for name in source.readers]
        return all(map(is_read_once, [*source.parameters, *weights])) and not bool(
            source.fixed.all()
        )

    return [source for source in watch.sources if source.readers and usable(source)]


def chosen_factors(
    model: nn.Module,
    found: Sequence[Source],
    batches: Sequence[Tree],
    weights: Precision,
    inputs: Precision,
    pick: Any,
) -> list[Smoothing]:
    """Return the factors of each source, for the alpha with which its layers have the least error.

    Errors are measured on calibration batches, with weights and inputs rounded. A source that no
    alpha improves much is left out. `pick` is the range of inputs.

        s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)    X_j, W_j: inputs and weights of channel j
    """
    names = dict.fromkeys(chain.from_iterable(source.readers for source in found))
    layers = {name: model.get_parameter(f"{name}.weight") for name in names}
    seen = rows_read(model, names, batches, SAMPLED_ROWS)
    smoothings = []
    for source in found:
        largest = torch.zeros(len(source.fixed), device=source.fixed.device)
        read = torch.zeros_like(largest)
        for name, owner in source.readers.items():
            largest.scatter_reduce_(0, owner, seen.largest[name], "amax")
            read.scatter_reduce_(0, owner, layers[name].detach().abs().amax(0).float(), "amax")
        rows = {name: seen.sample(name) for name in source.readers}

        def error(factor: Tensor, source: Source = source, rows: Any = rows) -> float:
            return sum(
                rounding_error(rows[name], layers[name], factor[owner], weights, inputs, pick)
                for name, owner in source.readers.items()
            )

        before = error(torch.ones_like(largest))
        tried = [(alpha, factor_of(largest, read, source.fixed, alpha)) for alpha in ALPHAS]
        errors = [error(factor.float()) for _, factor in tried]
        if min(errors) < MAX_ERROR_LEFT * before:
            alpha, factor = tried[errors.index(min(errors))]
            smoothings.append(Smoothing(source, factor, alpha, min(errors) / before))
    return smoothings


def factor_of(largest: Tensor, read: Tensor, fixed: Tensor, alpha: float) -> Tensor:
    """Return the divisor of each channel, in float64, from its largest value and weight (channels).

    It is 1 for channels that are fixed or next to 0.
    """
    one = largest.double()
    two = read.double()
    free = ~fixed & (one > NEGLIGIBLE_SIZE * one.max()) & (two > NEGLIGIBLE_SIZE * two.max())
    size = torch.where(free, one, 1.0) ** alpha / torch.where(free, two, 1.0) ** (1 - alpha)
    # the geometric mean of all factors is 1
    mean = size[free].log().mean().exp() if free.any() else 1.0
    return torch.where(free, size / mean, 1.0)


def divide(model: nn.Module, smoothings: Sequence[Smoothing]) -> None:
    """Divide the channels of sources and multiply the weights that read them, in place."""
    with torch.no_grad():
        for smoothing in smoothings:
            factor = smoothing.factor
            for name in smoothing.source.parameters:
                parameter = model.get_parameter(name)
                by = factor.view(-1, *[1] * (parameter.ndim - 1))
                parameter.copy_(parameter.double() / by)
            for name, owner in smoothing.source.readers.items():
                weight = model.get_parameter(f"{name}.weight")
                weight.copy_(weight.double() * factor[owner])


def smooth_network(
    model: nn.Module,
    batches: Sequence[Tree],
    ctx: Context,
    precisions: tuple[Precision | None, Precision | None],
    range: str | None = None,
) -> None:
    """Smooth a network whose weights and inputs will be rounded as `precisions` say, in place.

    Add a row for each source to the record.
    """
    weights, inputs = precisions
    if weights is None or inputs is None or min(weights.bits, inputs.bits) < MIN_BITS:
        return
    before = copy.deepcopy(model)
    smoothings = smooth(model, batches, weights, inputs, range)
    if not smoothings:
        return
    ctx.facts["smoothed"] = [smoothing.row() for smoothing in smoothings]
    gate_same(
        ctx,
        "smoothed = unsmoothed",
        before,
        model,
        first(batches[0], 32),
        lambda net, _: divide(net, smoothings),
    )


def smooth(
    model: nn.Module,
    batches: Sequence[Tree],
    weights: Precision,
    inputs: Precision,
    range: str | None = None,
) -> list[Smoothing]:
    """Divide the inputs of linear layers by factors of their channels, if errors fall, in place.

    Return the factors. No output changes.
    """
    found = sources(model, batches[0])
    if not found:
        return []
    pick = method_of("ranges", range or ("percentile" if inputs.bits > 7 else "mse"))
    smoothings = chosen_factors(model, found, batches, weights, inputs, pick)
    divide(model, smoothings)
    return smoothings
