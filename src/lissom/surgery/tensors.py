"""Replace a tensor of a network by name, wherever it is used."""

from __future__ import annotations

from torch import Tensor, nn


def replace(model: nn.Module, name: str, value: Tensor, buffer: bool | None = None) -> None:
    """Put `value` in the place of a parameter or buffer; layers that share a parameter go on sharing it.

    `buffer` says what a tensor is that the layer does not have yet.
    """
    path, _, key = name.rpartition(".")
    layer = model.get_submodule(path)
    if buffer if buffer is not None else key in layer._buffers:
        layer.register_buffer(key, value)
        return
    old = layer._parameters.get(key)
    fresh = nn.Parameter(value, requires_grad=old.requires_grad if old is not None else value.is_floating_point())
    owners = [(layer, key)] if old is None else [
        (m, k) for m in model.modules() for k, p in m._parameters.items() if p is old]
    for owner, alias in owners:
        owner._parameters[alias] = fresh


def match_widths(layer: nn.Module) -> None:
    """Make the widths that a layer states agree with the shapes of its tensors."""
    if isinstance(layer, nn.modules.conv._ConvNd) and not layer.transposed:
        if layer.in_channels == layer.groups == layer.out_channels > 1:
            layer.groups = layer.weight.shape[0]
        layer.out_channels = layer.weight.shape[0]
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        kept = layer.weight if layer.weight is not None else layer.running_mean
        layer.num_features = len(kept) if kept is not None else layer.num_features
