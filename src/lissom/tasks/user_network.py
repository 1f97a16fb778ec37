"""A network passed by the user: unwrapped, checked and copied."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from ..errors import LissomError, cut
from ..surgery.modes import in_mode
from ..trees import Tree, tensors_in

WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
COPYING = (
    "__deepcopy__",
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__new__",
    "__slots__",
)  # a module's class may define any of these to control how it is copied
ATOMS = {bool, int, float, str, type(None)}  # immutable: a copy shares them with the original
HOLDERS = (dict, OrderedDict, set, list)


def network_of(model: object, where: str) -> nn.Module:
    """Return the network inside the wrappers of torch.compile and (distributed) data parallel.

    Raises LissomError if it is no nn.Module, is TorchScript, or has parameters without data.
    """
    if not isinstance(model, nn.Module):
        raise LissomError(
            f"{where}: expected a torch.nn.Module as the network, got {type(model).__name__}"
        )
    while (inner := WRAPPERS.get(type(model).__name__)) in model._modules and inner is not None:
        model = model.get_submodule(inner)
    if isinstance(model, torch.jit.ScriptModule):
        raise LissomError(
            f"{where}: the network is a TorchScript module, whose layers cannot be "
            "changed; give the "
            "nn.Module that it was made from"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise LissomError(
                f"{where}: {name} is on the meta device and holds no numbers; load "
                "the weights first, as with "
                "model.to_empty(device='cpu') and model.load_state_dict(...)"
            )
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise LissomError(
                f"{where}: {name} has no shape yet; run the network once, so that "
                "its lazy layers are made"
            )
    return model


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of a network's first floating-point parameter, float32 if it has none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def copied_network(model: nn.Module, where: str) -> nn.Module:
    """Return a copy of a network in eval mode.

    Raises LissomError with the name of the attribute that cannot be copied.
    """
    try:
        return in_mode(copied_module(model, {}))
    except RuntimeError as error:
        # tensors with gradients that user code keeps inside its own objects
        raise LissomError(
            f"{where}: the network cannot be copied ({str(error).split('.')[0]}); "
            "where a layer keeps "
            "tensors that it computed, remove these first"
        ) from None
    except Exception as error:  # whatever an attribute raises when it is copied
        name = next((name for name in attributes(model) if not copies(model, name)), None)
        what = "the network" if name is None else f"the attribute '{name}' of the network"
        raise LissomError(
            f"{where}: {what} cannot be copied "
            f"({cut(str(error) or type(error).__name__, 120)}); "
            "make it where it is used, or give its class a __deepcopy__"
        ) from error


def copy_computed(kept: Tree, memo: dict[int, Any]) -> None:
    """Copy the computed tensors that a layer keeps, such as weights made by hooks, and caches.

    copy.deepcopy refuses tensors that are no leaves of the autograd graph. `memo` gets the copies.
    """
    for tensor in tensors_in(kept):
        if not tensor.is_leaf and id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone()


def copied_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a deep copy of a module. Faster than copy.deepcopy, which inspects every attribute.

    `memo` maps the ids of copied objects to the copies, like that of copy.deepcopy.
    """
    kind = type(module)
    if (
        id(module) in memo
        or kind in copyreg.dispatch_table
        or any(getattr(kind, name, None) is not getattr(nn.Module, name, None) for name in COPYING)
    ):
        for layer in module.modules():
            copy_computed(vars(layer), memo)
        copied: nn.Module = copy.deepcopy(module, memo)
        return copied
    twin: nn.Module = kind.__new__(kind)
    memo[id(module)] = twin
    state: dict[str, Any] = {}
    for name, value in vars(module).items():
        if type(value) in ATOMS or (type(value) is tuple and ATOMS.issuperset(map(type, value))):
            state[name] = value
        elif name == "_modules" and type(value) is dict:
            state[name] = {
                key: layer if layer is None else copied_module(layer, memo)
                for key, layer in value.items()
            }
        elif type(value) in HOLDERS and not value:
            state[name] = memo[id(value)] = type(value)()
        else:
            copy_computed(value, memo)
            state[name] = copy.deepcopy(value, memo)
    twin.__setstate__(state)
    return twin


def attributes(model: nn.Module) -> list[str]:
    """Return the names of attributes of modules other than tensors and layers."""
    return [
        f"{path}.{name}".lstrip(".")
        for path, layer in model.named_modules()
        for name in vars(layer)
        if not hasattr(nn.Module(), name)
    ]


def copies(model: nn.Module, name: str) -> bool:
    """Return whether an attribute can be copied."""
    path, _, leaf = name.rpartition(".")
    try:
        copy.deepcopy(getattr(model.get_submodule(path), leaf))
    except Exception:  # as above
        return False
    return True
