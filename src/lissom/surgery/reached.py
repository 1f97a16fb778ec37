"""Which modules a forward pass calls."""

from __future__ import annotations

import torch
from torch import nn

from ..trees import Tree, called


def reached(model: nn.Module, samples: Tree) -> set[nn.Module]:
    """Return the modules that are called on `samples` (n ...) in eval mode.

    Code that passes the weight of a layer to a function itself does not call the layer.
    """
    modules: set[nn.Module] = set()
    mode = model.training
    hooks = [
        m.register_forward_pre_hook(lambda layer, _: modules.add(layer)) for m in model.modules()
    ]
    try:
        with torch.no_grad():
            called(model.eval(), samples)
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    return modules
