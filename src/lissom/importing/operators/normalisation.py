"""Normalisation: batch, instance, group, layer, root mean square, local response."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..build import Op
from ..values import Constant
from .activations import shortest_decimal


def batch_norm(op: Op) -> Any:
    """Make a batch-norm layer for the number of axes of its input."""
    if op.get("training_mode", 0):
        raise ValueError("it learns as it runs; export the network in eval mode")
    if not op.get("spatial", 1):
        raise ValueError("spatial=0 is not known")
    x = op[0]
    tensors = [op[index] for index in range(1, 5)]
    eps = shortest_decimal(op.get("epsilon", 1e-5))
    momentum = 1 - shortest_decimal(op.get("momentum", 0.9))
    if not all(isinstance(tensor, Constant) for tensor in tensors):
        scale, bias, mean, variance = tensors
        return op.call(F.batch_norm, x, mean, variance, scale, bias, False, 0.0, eps)
    axes = min(3, max(1, op.rank(x) - 2))
    count = op.shape(tensors[0])[0]
    kind = getattr(nn, f"BatchNorm{axes}d")
    names = ("weight", "bias", "running_mean", "running_var")
    return op.layer(
        lambda: kind(count, eps, round(momentum, 9)), x, **dict(zip(names, tensors, strict=True))
    )


def instance_norm(op: Op) -> Any:
    """Make an instance norm layer for the number of axes of its input."""
    x = op[0]
    scale = op[1]
    bias = op[2]
    eps = shortest_decimal(op.get("epsilon", 1e-5))
    axes = op.rank(x) - 2
    if not (isinstance(scale, Constant) and isinstance(bias, Constant) and axes in (1, 2, 3)):
        return op.call(F.instance_norm, x, None, None, scale, bias, True, 0.0, eps)
    kind = getattr(nn, f"InstanceNorm{axes}d")
    count = op.shape(scale)[0]
    return op.layer(lambda: kind(count, eps, affine=True), x, weight=scale, bias=bias)


def group_norm(op: Op) -> Any:
    """Make a group norm layer. Before opset 21, scale and bias are per group."""
    x = op[0]
    scale = op[1]
    bias = op[2]
    groups = op.get("num_groups", 1)
    eps = shortest_decimal(op.get("epsilon", 1e-5))
    channels = op.shape(x)[1]
    if op.shape(scale) == [groups] != [channels]:
        repeats = channels // groups
        scale = op.call(torch.repeat_interleave, scale, repeats)
        bias = op.call(torch.repeat_interleave, bias, repeats)
    if not (isinstance(scale, Constant) and isinstance(bias, Constant)):
        return op.call(F.group_norm, x, groups, scale, bias, eps)
    return op.layer(lambda: nn.GroupNorm(groups, channels, eps), x, weight=scale, bias=bias)


def layer_norm(op: Op) -> Any:
    """Make a layer norm over `axis` and all axes after it."""
    if any(op.node.outputs[1:]):
        raise ValueError("its mean or deviation is read, which is not known")
    x = op[0]
    scale = None if op.optional(1) is None else op[1]
    bias = None if op.optional(2) is None else op[2]
    shape = op.shape(x)[op.get("axis", -1) :]
    eps = shortest_decimal(op.get("epsilon", 1e-5))
    scale, bias = expand_to_shape(op, scale, shape), expand_to_shape(op, bias, shape)
    if not all(tensor is None or isinstance(tensor, Constant) for tensor in (scale, bias)):
        return op.call(F.layer_norm, x, shape, scale, bias, eps)
    settings = {"elementwise_affine": scale is not None, "bias": bias is not None}
    return op.layer(lambda: nn.LayerNorm(shape, eps, **settings), x, weight=scale, bias=bias)


def expand_to_shape(op: Op, tensor: Any, shape: list[int]) -> Any:
    """Return a scale or bias in the shape of the normalised axes."""
    if tensor is None or op.shape(tensor) == shape:
        return tensor
    if isinstance(tensor, Constant) and math.prod(op.shape(tensor)) == math.prod(shape):
        return Constant(tensor.tensor.reshape(shape), tensor.source)
    return op.call(Tensor.expand, tensor, shape)


def rms_norm(op: Op) -> Any:
    """Make an RMS norm layer."""
    x = op[0]
    scale = op[1]
    shape = op.shape(x)[op.get("axis", -1) :]
    eps = shortest_decimal(op.get("epsilon", 1e-5))
    scale = expand_to_shape(op, scale, shape)
    if not isinstance(scale, Constant):
        return op.call(F.rms_norm, x, shape, scale, eps)
    return op.layer(lambda: nn.RMSNorm(shape, eps), x, weight=scale)


def local_response_norm(op: Op) -> Any:
    """Make a local response norm layer."""
    settings = (op.get("alpha", 1e-4), op.get("beta", 0.75), op.get("bias", 1.0))
    size = op.get("size", 1)
    return op.layer(lambda: nn.LocalResponseNorm(size, *map(shortest_decimal, settings)), op[0])


OPERATORS = {
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "SimplifiedLayerNormalization": rms_norm,
    "LRN": local_response_norm,
}
