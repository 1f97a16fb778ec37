"""Replace a tensor of a network by name, in every layer that shares it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from .by_tensor import ByTensor

# parameter -> the layers that hold it, with its name there
Owners = ByTensor[list[tuple[nn.Module, str]]]


def owners_of(layers: Iterable[nn.Module]) -> Owners:
    """Return the layers that hold each parameter: several if they share it."""
    owners = Owners()
    for layer in dict.fromkeys(layers):
        for key, parameter in layer._parameters.items():
            if parameter is not None:
                owners.setdefault(parameter, []).append((layer, key))
    return owners


def count_holders(model: nn.Module) -> Counter[int]:
    """Return how many times layers of a network hold each parameter, by its address in memory."""
    parameters = chain.from_iterable(m._parameters.values() for m in model.modules())
    return Counter(parameter.data_ptr() for parameter in parameters if parameter is not None)


def replace(
    model: nn.Module,
    name: str,
    value: Tensor,
    buffer: bool | None = None,
    owners: Owners | None = None,
    layer: nn.Module | None = None,
) -> list[nn.Module]:
    """Replace a parameter or buffer by `value`, and return the layers that hold it.

    Layers that share a parameter still share the new one. `buffer` says whether a tensor that the
    layer does not have yet becomes a buffer. To replace many tensors faster, pass `owners`, from
    `owners_of` before the first replacement, and `layer`, which holds the tensor.
    """
    path, _, key = name.rpartition(".")
    layer = model.get_submodule(path) if layer is None else layer
    if buffer or (buffer is None and key in layer._buffers):
        layer.register_buffer(key, value)  # persistent, since a changed buffer must be saved
        return [layer]
    old = layer._parameters.get(key)
    fresh = nn.Parameter(
        value, requires_grad=old.requires_grad if old is not None else value.is_floating_point()
    )
    holders = [(layer, key)]
    if old is not None:
        holders = (owners or owners_of(model.modules())).get(old, holders)
    for owner, alias in holders:
        setattr(owner, alias, fresh)
    if owners is not None:
        owners[fresh] = holders
    return [owner for owner, _ in holders]


class NetworkSnapshot:
    """The classes, attributes, tensors and data of a network, for `restore`."""

    CHANGED_IN_PLACE = ("_parameters", "_buffers", "_flat_weights")  # by `replace`

    def __init__(self, model: nn.Module) -> None:
        self.modules = []
        modules = list(model.modules())
        for module in modules:
            if not isinstance(module, torch.jit.ScriptModule):  # those are never cut
                attributes = vars(module)
                changing = {
                    key: attributes[key].copy()
                    for key in self.CHANGED_IN_PLACE
                    if key in attributes
                }
                self.modules.append((module, module.__class__, dict(attributes), changing))
        tensors = dict[Tensor | None, None]()  # each once
        for module in modules:
            tensors |= dict.fromkeys((*module._parameters.values(), *module._buffers.values()))
        self.data = [(t, t.data) for t in tensors if t is not None]

    def with_current_data(self) -> NetworkSnapshot:
        """Return the same snapshot with the data that the tensors hold now."""
        now = copy.copy(self)
        now.data = [(tensor, tensor.data) for tensor, _ in self.data]
        return now

    def restore(self) -> None:
        """Restore the network. Changes made in place to the tensors' data are not undone."""
        for module, kind, attributes, changing in self.modules:
            if module.__class__ is not kind:
                module.__class__ = kind
            now = vars(module)
            now.clear()
            now.update(attributes)
            for key, value in changing.items():
                now[key] = value.copy()
        for tensor, data in self.data:
            tensor.data = data


def match_widths(layer: nn.Module) -> None:
    """Set a layer's width attributes, such as out_channels, to the shapes of its tensors."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        first, second = layer.weight.shape[:2]
        # depthwise: one group for each remaining channel
        if layer.in_channels == layer.groups > 1:
            layer.groups = (
                first if layer.transposed else first // (layer.out_channels // layer.groups)
            )
        layer.in_channels, layer.out_channels = (
            (first, second * layer.groups) if layer.transposed else (second * layer.groups, first)
        )
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        numbers = layer.weight if layer.weight is not None else layer.running_mean
        layer.num_features = len(numbers) if numbers is not None else layer.num_features
    elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
        layer.num_groups = len(layer.weight) // (layer.num_channels // layer.num_groups)
        layer.num_channels = len(layer.weight)
    elif isinstance(layer, nn.RNNBase):
        layer.input_size = layer.get_parameter("weight_ih_l0").shape[1]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)
