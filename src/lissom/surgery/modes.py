"""Put a network into training or eval mode, faster than nn.Module does, or for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a network in eval mode, then restore its modes and buffers."""
    modes = {m: m.training for m in model.modules()}
    buffers = [(b, b.clone()) for b in model.buffers()]
    in_mode(model)
    try:
        yield
    finally:
        for module, mode in modes.items():
            if module.training != mode:
                module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
