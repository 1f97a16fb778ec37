"""Fold batch-norm into the convolution or linear layer before it."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..trees import Tree
from .by_tensor import ByTensor
from .trace import traced

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Norm = nn.modules.batchnorm._BatchNorm
# for one, two and three axes
NORMS: list[type[Norm]] = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]


def foldable(model: nn.Module, example: Tree) -> list[tuple[str, str]]:
    """Return (layer, batch-norm) for each batch-norm that is the only reader of a convolution or
    linear layer.

    Layers and norms that run more than once are left out: folding for one call would break another.
    """
    trace = traced(model, example)
    reads = trace.uses()
    transposed = ByTensor((op.outputs[0], op.args[0]) for op in trace.ops if op.name == "t")
    weights = ByTensor[str]()  # output -> weight
    norms: list[tuple[Tensor, str]] = []  # input, running mean
    for op in trace.ops:
        if op.name in ("convolution", "addmm", "mm"):
            weight = op.args[1] if op.name == "convolution" else transposed.get(op.args[-1])
            weights[op.outputs[0]] = trace.names.get(weight, "")
        elif (
            "batch_norm" in op.name
            and op.args[3] is not None
            and (op.name.endswith("no_training") or not op.args[5])
        ):
            norms.append((op.args[0], trace.names.get(op.args[3], "")))
    runs = Counter([weight for _, weight in weights.items()] + [mean for _, mean in norms])
    # of layers alone: code that only reads a weight would miss the bias that folding gives
    outputs = ByTensor((output, True) for output in trace.returned.values())
    pairs = [
        (weights.get(read, ""), mean)
        for read, mean in norms
        if reads[read] == 1 and read in outputs
    ]
    candidates = [
        (weight.rpartition(".")[0], mean.rpartition(".")[0])
        for weight, mean in pairs
        if runs[weight] == runs[mean] == 1 and weight and mean
    ]
    return [
        (layer, norm)
        for layer, norm in candidates
        if not read_elsewhere(model.get_submodule(norm), reads)
    ]


def read_elsewhere(norm: nn.Module, reads: Counter[Tensor]) -> bool:
    """Return whether anything except a batch-norm itself reads its tensors.

    Folding would change that computation.
    """
    return any(
        reads[t] > 1 for t in (*norm.parameters(recurse=False), *norm.buffers(recurse=False))
    )


def fold_pair(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear, norm: Norm) -> None:
    """Scale the filters of `layer` (out ...) and set its bias, so that it computes layer and norm.

    w' = w * gamma / sqrt(var + eps);  b' = beta + (b - mean) * gamma / sqrt(var + eps), in float64.
    Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877, section 3.2.
    """
    with torch.no_grad():
        scale, shift = scale_and_shift(norm)
        bias = shift if layer.bias is None else shift + layer.bias.double() * scale
        weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1))
        learns = layer.weight.requires_grad
        layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=learns)
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=learns)


def scale_and_shift(norm: Norm) -> tuple[Tensor, Tensor]:
    """Return batch-norm's factor and shift for each channel in inference, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def fold_batchnorms(model: nn.Module, example: Tree) -> list[str]:
    """Fold every batch-norm that can be folded, in place; return the names of the layers."""
    done = []
    for source, name in foldable(model, example):
        layer = model.get_submodule(source)
        norm = model.get_submodule(name)
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)) and foldable_norm(norm):
            fold_pair(layer, norm)
            replace_norm_by_stand_in(model, norm)
            done.append(source)
    return done


class StandIn(nn.Module):
    """The module in the place of a folded batch-norm, with the norm's attributes.

    A forward may read a norm's number of channels, or its epsilon.
    """

    def stand_in_for(self, norm: nn.Module) -> None:
        """Have the attributes of this norm from now on."""
        # not a submodule: the norm left the network, or belongs to another layer
        self.__dict__["norm"] = norm
        self.num_features = int(getattr(norm, "num_features", 0))

    def narrow(self, width: int) -> None:
        """Act as a norm of so many channels: the network was pruned before the norm was folded."""
        self.num_features = width
        norm = self.__dict__["norm"]
        if norm.num_features > width:
            norm.num_features = width
            for t in (*norm.parameters(recurse=False), *norm.buffers(recurse=False)):
                t.data = t.data[:width] if t.ndim else t.data

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            norm = self.__dict__.get("norm")
            if norm is None or name.startswith("__"):
                raise
            return getattr(norm, name)


class Identity(StandIn, nn.Identity):
    """Nothing, in the place of a batch-norm."""


class Rest(StandIn, nn.Sequential):
    """The rest of a custom batch-norm that was folded: its activation, for example."""


def foldable_norm(layer: nn.Module) -> TypeIs[Norm]:
    """Return whether a layer computes batch-norm and then its own children in order, if any.

    A class that is not PyTorch's is tested on random values, as its code may do anything.
    """
    kind = kind_of_norm(layer)
    if kind is None or type(layer) is kind:
        return kind is not None
    assert isinstance(layer, Norm)
    if layer.running_mean is None or layer.running_var is None:
        return False
    axes = NORMS.index(kind) + 1
    draw = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, layer.num_features, *[3] * axes, generator=draw).to(layer.running_mean)
    modes = {m: m.training for m in layer.modules()}
    layer.eval()
    try:
        with torch.no_grad():
            y = F.batch_norm(
                x,
                layer.running_mean,
                layer.running_var,
                layer.weight,
                layer.bias,
                False,
                0.0,
                layer.eps,
            )
            return torch.equal(layer.forward(x.clone()), Rest(*layer.children())(y))
    except Exception:  # the user's code may raise anything on random values
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode


def kind_of_norm(layer: nn.Module) -> type[Norm] | None:
    """Return the PyTorch batch-norm that a layer is an instance of, or None."""
    return next((kind for kind in NORMS if isinstance(layer, kind)), None)


def replace_norm_by_stand_in(model: nn.Module, layer: nn.Module) -> StandIn:
    """Replace a batch-norm by a stand-in wherever it is in a network, and make it a plain one.

    Return the stand-in: whatever the norm did after normalising, or an identity.
    """
    stand_in = Rest(OrderedDict(layer.named_children())) if layer._modules else Identity()
    for owner in model.modules():
        for key, child in list(owner._modules.items()):
            if child is layer:
                owner.add_module(key, stand_in.train(layer.training))
    kind = kind_of_norm(layer)
    assert kind is not None
    for key in list(layer._modules):
        delattr(layer, key)
    layer.__class__ = kind
    stand_in.stand_in_for(layer)
    return stand_in
