"""Fold batch-norm into the convolution or linear layer before it."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from .trace import traced


def foldable(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Return (layer, batch-norm) for every batch-norm that alone reads a convolution or linear layer.

    Layers and norms that run more than once are left alone: what folds in one place is wrong in the other.
    """
    trace = traced(model, example)
    reads = trace.uses()
    transposed = {id(op.outputs[0]): op.args[0] for op in trace.ops if op.name == "t"}
    made: dict[int, str] = {}  # output -> weight
    norms: list[tuple[int, str]] = []  # what is read, running mean
    for op in trace.ops:
        if op.name in ("convolution", "addmm", "mm"):
            weight = op.args[1] if op.name == "convolution" else transposed.get(id(op.args[-1]))
            made[id(op.outputs[0])] = trace.names.get(id(weight), "")
        elif "batch_norm" in op.name and op.args[3] is not None and (op.name.endswith("no_training") or not op.args[5]):
            norms.append((id(op.args[0]), trace.names.get(id(op.args[3]), "")))
    runs = Counter([*made.values(), *(mean for _, mean in norms)])
    pairs = [(made.get(read, ""), mean) for read, mean in norms if reads[read] == 1]
    return [(weight.rpartition(".")[0], mean.rpartition(".")[0]) for weight, mean in pairs
            if runs[weight] == runs[mean] == 1 and weight and mean]


def fold_pair(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> None:
    """Scale the filters of `layer` (out ...) and set its bias, so that it does what layer and norm did.

    w' = w * gamma / sqrt(var + eps);  b' = beta + (b - mean) * gamma / sqrt(var + eps), in float64.
    Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877, section 3.2.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        gamma = norm.weight.double() if norm.weight is not None else torch.ones_like(norm.running_var).double()
        beta = norm.bias.double() if norm.bias is not None else torch.zeros_like(gamma)
        scale = gamma / (norm.running_var.double() + norm.eps).sqrt()
        bias = layer.bias.double() if layer.bias is not None else torch.zeros_like(beta)
        bias = beta + (bias - norm.running_mean.double()) * scale
        weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.ndim - 1))
        layer.weight = nn.Parameter(weight.to(layer.weight.dtype))
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype))


def folded(model: nn.Module, example: Tensor) -> list[str]:
    """Fold every batch-norm that can be, in place; return the names of the layers that took one in."""
    done = []
    for source, name in foldable(model, example):
        layer, norm = model.get_submodule(source), model.get_submodule(name)
        norm_only = type(norm).__module__.startswith("torch.")  # a subclass may do more, an activation say
        if norm_only and isinstance(layer, (nn.Conv2d, nn.Linear)) and isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            fold_pair(layer, norm)
            for owner in model.modules():
                for key, child in list(owner._modules.items()):
                    if child is norm:
                        owner._modules[key] = nn.Identity()
            done.append(source)
    return done
