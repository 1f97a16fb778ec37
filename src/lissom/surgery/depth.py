"""Find the residual blocks of a network that can be dropped, and drop them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..trees import Tree, copied, first, run_on_copied_inputs, tensors_in
from .by_tensor import ByTensor
from .modes import in_mode
from .trace import Op, traced

ADDITIONS = {"add", "add_"}
# operations that change the form of a tensor, but not its values
MOVES = {"view", "_unsafe_view", "alias", "clone", "contiguous", "detach", "permute", "transpose"}
MOVES |= {"reshape", "squeeze", "unsqueeze", "flatten", "unflatten"}


class DroppedBlock(nn.Module):
    """The place of a block that was dropped: it returns its first input."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return next(iter((*inputs, *named.values())))


class BlockCalls:
    """The first input and the output of each module in a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.calls = Counter[str]()
        self.inputs = dict[str, Any]()
        self.outputs = dict[str, Any]()
        self.hooks = ExitStack()
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # which take no hooks
                continue
            hook = module.register_forward_hook(self._note(name), with_kwargs=True)
            self.hooks.callback(hook.remove)

    def _note(self, name: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            self.calls[name] += 1
            self.inputs[name] = next(iter((*inputs, *named.values())), None)
            self.outputs[name] = output

        return note


def residual_blocks(model: nn.Module, example: Tree) -> list[str]:
    """Return the names of the blocks that add their input to what they compute from it, in order.

    Their output has the shape of their input, so the network still runs if the block just returns
    its input. A block runs once and has parameters.
    """
    calls = BlockCalls(model)
    with calls.hooks:
        trace = traced(model, example)
    made_by = ByTensor[list[Op]]()
    for op in trace.ops:
        for tensor in op.outputs:
            made_by.setdefault(tensor, []).append(op)
    found = {
        name
        for name, module in model.named_modules()
        if name
        and calls.calls[name] == 1
        and type(module).forward is not nn.Sequential.forward
        and next(module.parameters(), None) is not None
        and adds_its_input(calls.inputs[name], calls.outputs[name], made_by)
    }
    classes = {name: type(module) for name, module in model.named_modules() if name in found}
    return blocks_among(classes)


def droppable_blocks(model: nn.Module, example: Tree) -> list[str]:
    """Return the residual blocks without any one of which the network runs."""
    names = residual_blocks(model, example)
    return [name for name in names if runs_without(model, name, example) is None]


def adds_its_input(x: Any, y: Any, made_by: Mapping[Any, Sequence[Op]]) -> bool:
    """Return whether an output is computed from a sum of the input itself and something that is
    computed from the input.
    """
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return False
    if x is y or x.shape != y.shape or x.dtype != y.dtype:
        return False
    seen = {x}
    todo = [y]
    while todo:
        tensor = todo.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for op in made_by.get(tensor, ()):
            if op.name in ADDITIONS:
                one, other = op.args[:2]
                if is_moved(one, x, made_by) and depends_on(other, x, made_by):
                    return True
                if is_moved(other, x, made_by) and depends_on(one, x, made_by):
                    return True
            todo += op.inputs()
    return False


def depends_on(value: Any, x: Tensor, made_by: Mapping[Any, Sequence[Op]]) -> bool:
    """Return whether a value is computed from `x`, and not a constant such as a learned position."""
    seen = set[Tensor]()
    todo = [value] if isinstance(value, Tensor) else []
    while todo:
        tensor = todo.pop()
        if tensor is x:
            return True
        if tensor not in seen:
            seen.add(tensor)
            for op in made_by.get(tensor, ()):
                todo += op.inputs()
    return False


def is_moved(tensor: Any, x: Tensor, made_by: Mapping[Any, Sequence[Op]]) -> bool:
    """Return whether a tensor is `x`, or the values of `x` in another form."""
    while tensor is not x:
        makers = made_by.get(tensor, ()) if isinstance(tensor, Tensor) else ()
        if len(makers) != 1 or makers[0].name not in MOVES:
            return False
        tensor = makers[0].args[0]
    return True


def blocks_among(classes: Mapping[str, type]) -> list[str]:
    """Return which of some nested modules count as blocks; `classes` has their classes.

    A module counts with everything inside it, unless it holds two of one class: then it is a stage
    or the like, and these count.

    >>> blocks_among({"stage": nn.Module, "stage.0": nn.Linear, "stage.1": nn.Linear,
    ...            "layer": nn.Module, "layer.attention": nn.Bilinear, "layer.mlp": nn.Linear})
    ['stage.0', 'stage.1', 'layer']
    """
    blocks = list[str]()
    for name in classes:
        inside = [kind for other, kind in classes.items() if other.startswith(f"{name}.")]
        is_stage = len(set(inside)) < len(inside)
        is_inside = any(name.startswith(f"{block}.") for block in blocks)
        if not is_stage and not is_inside:
            blocks.append(name)
    return blocks


def drop(model: nn.Module, name: str) -> nn.Module:
    """Put a DroppedBlock in all places of a block, in place, and return the block."""
    block = model.get_submodule(name)
    exchange(model, block, DroppedBlock())
    return block


def put_back(model: nn.Module, name: str, block: nn.Module) -> None:
    """Undo `drop`."""
    exchange(model, model.get_submodule(name), block)


def exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in all places of another; one may have several names."""
    for owner in list(model.modules()):
        for child, module in list(owner._modules.items()):
            if module is old:
                setattr(owner, child, new)


def runs_without(model: nn.Module, name: str, example: Tree) -> str | None:
    """Return None if the network runs without a block and its outputs keep their shapes, else why
    not.
    """
    shapes = [t.shape for t in tensors_in(run_on_copied_inputs(in_mode(model), first(example, 1)))]
    block = drop(model, name)
    calls = list[Any]()
    model.get_submodule(name).register_forward_hook(lambda *call: calls.append(call[0]))
    try:
        outputs = run_on_copied_inputs(in_mode(model), first(example, 1))
    except Exception as error:  # whatever the user's forward raises
        said = str(error).splitlines() or [type(error).__name__]
        return f"the network does not run without it: {said[0]:.100}"
    finally:
        put_back(model, name, block)
    if not calls:
        return "the network calls it where it has no name"
    same = shapes == [t.shape for t in tensors_in(outputs)]
    return None if same else "the network's outputs have other shapes without it"


def skipping(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Return a copy of a network whose blocks `names` still run, but return their first input."""
    model = copy.deepcopy(model)
    for name in names:
        kept = list[Any]()

        def keep(_: nn.Module, inputs: Any, named: Any, kept: list[Any] = kept) -> None:
            kept[:] = [copied(next(iter((*inputs, *named.values()))))]  # the block may change it

        def give_back(*_: Any, kept: list[Any] = kept) -> Any:
            return kept.pop()

        block = model.get_submodule(name)
        block.register_forward_pre_hook(keep, with_kwargs=True)
        block.register_forward_hook(give_back)
    return model
