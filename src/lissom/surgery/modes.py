"""Put a network into training or eval mode, faster than nn.Module does."""

from __future__ import annotations

import torch
from torch import nn


def in_mode(model: nn.Module, training: bool = False) -> nn.Module:
    """Do the same as model.train(training), and return the model.

    A network with layers that override train() or eval() is left to these methods.
    """
    modules = [model]
    seen = {model}
    for module in modules:  # the list grows during the loop; faster than model.modules()
        for layer in module._modules.values():
            if layer is not None and layer not in seen:
                seen.add(layer)
                modules.append(layer)
    if all(module.training == training for module in modules):
        return model
    kinds = {type(module) for module in modules}
    if (
        all(
            kind.train is nn.Module.train and not issubclass(kind, torch.jit.ScriptModule)
            for kind in kinds
        )
        and type(model).eval is nn.Module.eval
    ):
        for module in modules:
            module.__dict__["training"] = training
        return model
    return model.train() if training else model.eval()
