"""Check that the widths of layers fit their tensors: PyTorch itself notices only when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..surgery.channels.attention import HeadAttention

Norm = nn.modules.batchnorm._NormBase


def _convolution(layer: Any) -> bool:
    groups = layer.groups
    shape = layer.weight.shape
    if len(shape) < 2 or groups < 1 or shape[0] % groups:
        return False
    first = shape[0]
    second = shape[1] * groups
    widths = (first, second) if layer.transposed else (second, first)
    return (
        widths == (layer.in_channels, layer.out_channels)
        and layer.out_channels % groups == 0
        and _long(layer.bias, layer.out_channels)
    )


def _linear(layer: Any) -> bool:
    return tuple(layer.weight.shape) == (layer.out_features, layer.in_features) and _long(
        layer.bias, layer.out_features
    )


def _norm(layer: Any) -> bool:
    held = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    return all(_long(tensor, layer.num_features) for tensor in held)


def _group_norm(layer: Any) -> bool:
    return (
        layer.num_groups >= 1
        and layer.num_channels % layer.num_groups == 0
        and all(_long(tensor, layer.num_channels) for tensor in (layer.weight, layer.bias))
    )


def _prelu(layer: Any) -> bool:
    return _long(layer.weight, layer.num_parameters)


def _attention(layer: Any) -> bool:
    cut = isinstance(layer, HeadAttention)
    if layer.num_heads < 1 or not (cut or layer.num_heads * layer.head_dim == layer.embed_dim):
        return False
    if layer.in_proj_weight is None:  # keys or values have other widths: there are three weights
        return True
    wide = layer.num_heads * layer.head_dim
    shape = tuple(layer.in_proj_weight.shape)
    return (
        len(shape) == 2
        and shape[0] == 3 * wide
        and (cut or shape[1] == layer.embed_dim)
        and _long(layer.in_proj_bias, 3 * wide)
        and layer.out_proj.weight.shape[-1] == wide
    )


def _long(tensor: Tensor | None, width: int) -> bool:
    """Return whether a tensor is None or has one value for each channel."""
    return not isinstance(tensor, Tensor) or tuple(tensor.shape) == (width,)


KINDS: tuple[tuple[type[nn.Module], tuple[str, ...], Callable[[Any], bool]], ...] = (
    (nn.modules.conv._ConvNd, ("in_channels", "out_channels", "groups"), _convolution),
    (nn.Linear, ("in_features", "out_features"), _linear),
    (Norm, ("num_features",), _norm),
    (nn.GroupNorm, ("num_channels", "num_groups"), _group_norm),
    (nn.PReLU, ("num_parameters",), _prelu),
    (nn.MultiheadAttention, ("num_heads", "embed_dim"), _attention),
)


def misfit(layer: nn.Module) -> str:
    """Return as text the widths of a layer and the shape of its weight if they do not fit; "" if
    they do.
    """
    for kind, names, fits in KINDS:
        if isinstance(layer, kind):
            said: Any = {name: getattr(layer, name) for name in names}
            weight = getattr(layer, "weight", None)
            if kind in (nn.Linear, nn.modules.conv._ConvNd) and not isinstance(weight, Tensor):
                return ""  # its weight is computed, or does not exist yet
            if any(type(value) is not int for value in said.values()) or not fits(layer):
                shape = f", its weight {tuple(weight.shape)}" if isinstance(weight, Tensor) else ""
                return ", ".join(f"{name} {value}" for name, value in said.items()) + shape
    return ""
