"""Which modules a forward pass calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ..trees import Tree, run_on_copied_inputs
from .modes import evaluating


def reached(model: nn.Module, samples: Tree) -> set[nn.Module]:
    """Return the modules that are called on `samples` (n ...) in eval mode.

    Code that passes the weight of a layer to a function itself does not call the layer; code that
    calls its `forward` does.
    """
    modules: set[nn.Module] = set()
    with ExitStack() as undone:
        undone.enter_context(evaluating(model))
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            undone.callback(restore, module, module.__dict__.get("forward"))
            module.__dict__["forward"] = noting(module, modules)
        with torch.no_grad():
            run_on_copied_inputs(model, samples)
    return modules


def noting(module: nn.Module, modules: set[nn.Module]) -> Callable[..., Any]:
    """Return the forward of a module that also adds the module to a set."""
    forward = module.forward

    def noted(*args: Any, **named: Any) -> Any:
        modules.add(module)
        return forward(*args, **named)

    return noted


def restore(module: nn.Module, forward: Any) -> None:
    """Give a module the forward that it had of its own, or that of its class if None."""
    del module.__dict__["forward"]
    if forward is not None:
        module.__dict__["forward"] = forward
