"""Weights that PyTorch computes from other parameters before a layer runs.

Parametrizations and hooks of torch.nn.utils do so.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def computed_by(layer: nn.Module) -> str:
    """Return the name of what computes a layer's weight: weight_norm's class, for example.

    If nothing else does, it is the layer's own class.
    """
    parts = layer._modules.get("parametrizations")
    computation = (
        []
        if parts is None
        else [
            # weight.0: the first parametrization of a list
            m
            for name, m in parts.named_modules()
            if name.rpartition(".")[2].isdecimal()
        ]
    )
    names = [type(m).__name__.strip("_") for m in computation]
    names += [
        type(owner_of(hook)).__name__
        for hook in layer._forward_pre_hooks.values()
        if computes_weight(hook)
    ]
    return " and ".join(dict.fromkeys(names)) or type(layer).__name__


def owner_of(hook: Any) -> Any:
    """Return the object of a hook that is a method, else the hook."""
    hook = getattr(hook, "hook", hook)
    return getattr(hook, "__self__", hook)


def computes_weight(hook: Any) -> bool:
    """Return whether a hook is of torch.nn.utils: of weight_norm, spectral_norm or prune."""
    return type(owner_of(hook)).__module__.startswith("torch.nn.utils.")


def remove_weight_hooks(layer: nn.Module) -> None:
    """Remove the hooks that compute weights before each call, in place."""
    for hooks in (
        layer._forward_pre_hooks,
        layer._state_dict_hooks,
        layer._load_state_dict_pre_hooks,
    ):
        for key, hook in list(hooks.items()):
            if computes_weight(hook):
                del hooks[key]
