"""Assemble a network from an fx graph: layers under dotted names and a generated forward."""

from __future__ import annotations

from torch import Tensor, fx, nn


def empty_network(kind: str) -> nn.Module:
    """Return an empty module of a new class named `kind`. It is no fx.GraphModule: deepcopy keeps
    its class, and errors in its forward are not printed.
    """
    module: nn.Module = type(kind, (nn.Module,), {})()
    return module


def write_forward(root: nn.Module, graph: fx.Graph) -> nn.Module:
    """Add the forward that a graph describes to a network from `empty_network`, in place; return the
    network in eval mode.
    """
    written = fx.GraphModule(root, graph)
    for name in ("forward", "_in_spec", "_out_spec"):
        value = getattr(type(written), name, None) or getattr(written, name, None)
        if value is not None:
            setattr(type(root), name, value)
    return root.eval()


def parent_of(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the parent module of a dotted name, created if missing, and the name's last part."""
    *path, field = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, field


def place(root: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer under a name. It takes over the children that are already there."""
    parent, field = parent_of(root, name)
    if field in parent._modules:
        for child, module in parent.get_submodule(field).named_children():
            layer.add_module(child, module)
    parent.add_module(field, layer)


def hold(root: nn.Module, name: str, tensor: Tensor, *, saved: bool) -> None:
    """Put a parameter or buffer that belongs to no layer under a dotted name."""
    parent, field = parent_of(root, name)
    if isinstance(tensor, nn.Parameter):
        parent.register_parameter(field, tensor)
    else:
        parent.register_buffer(field, tensor, persistent=saved)
