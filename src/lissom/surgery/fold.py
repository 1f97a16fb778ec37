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
# over one, two and three axes
NORMS: list[type[Norm]] = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]


def foldable(model: nn.Module, example: Tree) -> list[tuple[str, str]]:
    """Return (layer, batch-norm) for every batch-norm that alone reads a convolution or linear layer.

    Layers and norms that run more than once are left alone: what folds in one place is wrong in the
    other.
    """
    trace = traced(model, example)
    reads = trace.uses()
    transposed = ByTensor((op.outputs[0], op.args[0]) for op in trace.ops if op.name == "t")
    weights = ByTensor[str]()  # output -> weight
    norms: list[tuple[Tensor, str]] = []  # what is read, running mean
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
    pairs = [(weights.get(read, ""), mean) for read, mean in norms if reads[read] == 1]
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
    """Return whether something beside a batch-norm itself computes with its tensors, which folding
    would change.
    """
    return any(
        reads[t] > 1 for t in (*norm.parameters(recurse=False), *norm.buffers(recurse=False))
    )


def fold_pair(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear, norm: Norm) -> None:
    """Scale the filters of `layer` (out ...) and set its bias, so that it does what layer and norm did.

    w' = w * gamma / sqrt(var + eps);  b' = beta + (b - mean) * gamma / sqrt(var + eps), in float64.
    Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877, section 3.2.
    """
    with torch.no_grad():
        scale, shift = scale_and_shift(norm)
        bias = shift if layer.bias is None else shift + layer.bias.double() * scale
        weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1))
        layer.weight = nn.Parameter(weight.to(layer.weight.dtype))
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype))


def scale_and_shift(norm: Norm) -> tuple[Tensor, Tensor]:
    """Return by what batch-norm multiplies each channel in inference, and what it adds, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def fold_batchnorms(model: nn.Module, example: Tree) -> list[str]:
    """Fold every batch-norm that can be, in place; return the names of the layers that took one in."""
    done = []
    for source, name in foldable(model, example):
        layer = model.get_submodule(source)
        norm = model.get_submodule(name)
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)) and foldable_norm(norm):
            fold_pair(layer, norm)
            taken_out(model, norm)
            done.append(source)
    return done


class StandIn(nn.Module):
    """What stands in the place of a batch-norm that went into the layer before it: it answers what
    the norm would.

    A forward may ask how many channels a norm has, or what its epsilon is.
    """

    def stand_in_for(self, norm: nn.Module) -> None:
        """Answer from now on as this norm does."""
        # no submodule: it is no part of the network any more, or one of another layer
        self.__dict__["norm"] = norm
        self.num_features = int(getattr(norm, "num_features", 0))

    def narrow(self, width: int) -> None:
        """Answer as a norm of so many channels would: the network had been cut before the norm went."""
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
    """Nothing in the place of a batch-norm."""


class Rest(StandIn, nn.Sequential):
    """What is left of a batch-norm of somebody's own that went into the layer before: its activation, say."""


def foldable_norm(layer: nn.Module) -> TypeIs[Norm]:
    """Return whether a layer is batch-norm, and then its own children in order, if it has any.

    That of a class which is not PyTorch's is tried on random values: its code may do anything.
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
    except Exception:  # whatever the code of the user's own raises on random values
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode


def kind_of_norm(layer: nn.Module) -> type[Norm] | None:
    """Return which of PyTorch's batch-norms a layer is, or is a subclass of."""
    return next((kind for kind in NORMS if isinstance(layer, kind)), None)


def taken_out(model: nn.Module, layer: nn.Module) -> StandIn:
    """Take a batch-norm out of a network, wherever it is, and leave it plain; what it did after
    normalising stays there.

    Return that, or what does nothing.
    """
    left = Rest(OrderedDict(layer.named_children())) if layer._modules else Identity()
    for owner in model.modules():
        for key, child in list(owner._modules.items()):
            if child is layer:
                owner.add_module(key, left.train(layer.training))
    kind = kind_of_norm(layer)
    assert kind is not None
    for key in list(layer._modules):
        delattr(layer, key)
    layer.__class__ = kind
    left.stand_in_for(layer)
    return left
