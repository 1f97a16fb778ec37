"""A program of torch.export (.pt2) as a network of layers.

A program is a graph of aten calls. Here, each call of a layer of torch.nn becomes that layer again,
under the name of its weight. Each other call becomes the public function that it stands for. So
batch-norm and dropout work in training again, and the network is pruned and quantized as the one
that was exported.

Reading a program can run code: PyTorch unpickles its objects, looks up any function of torch that
it names, and evaluates its expressions. So a program is the user's own code, like a .py file.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter, getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.passes import move_to_device_pass
from torch.utils._pytree import tree_unflatten

from ..errors import LissomError, first_line, listed
from ..importing.assembled import empty_network, hold, place, write_forward
from ..trees import tensors_in
from .code import describe_error
from .program_calls import CHECKS, LAYERS, TURNS, Call, Layer, layer_of, use_function

# operators of PyTorch, and arithmetic with sizes
NAMESPACES = ("aten", "prim", "prims", "torch", "_operator", "math")


def program_network(path: str) -> nn.Module:
    """Return the network in a file of torch.export.save, in eval mode.

    Raises LissomError for any other file, and for a program that changes its own buffers, calls
    operators that are not PyTorch's, or takes batches of only one size.
    """
    where = f"model: pt2:{path}"
    program = program_in(path, where)
    try:
        check_constants(program, where)
        exported = program.module(check_guards=False)
        check_calls(exported.graph, where)
        network = rebuilt(exported, program.state_dict)
        check_batches(network, exported.graph, where)
    except LissomError:
        raise
    except Exception as error:  # PyTorch's own errors for a program that it cannot run
        raise LissomError(
            f"{where}: building its network raised {describe_error(error, first_line(error))}"
        ) from error
    return network


def program_in(path: str, where: str) -> torch.export.ExportedProgram:
    """Read a program onto the CPU. Raises LissomError if PyTorch cannot."""
    ends = ("models/model.json", "serialized_exported_program.json")
    try:
        with zipfile.ZipFile(path) as archive:
            known = any(name.endswith(ends) for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        known = False
    if not known:
        raise LissomError(
            f"{where}: expected a file that torch.export.save wrote; weights go "
            "with --weights, beside the --model that builds the network"
        )
    try:
        with quiet():  # PyTorch logs one traceback and raises another error
            program = torch.export.load(path)
        if any(tensor.device.type != "cpu" for tensor in program.state_dict.values()):
            return move_to_device_pass(program, "cpu")
        return program
    except Exception as error:  # PyTorch's reader raises errors of many kinds
        raise LissomError(
            f"{where}: PyTorch {torch.__version__} cannot read it "
            f"({describe_error(error, first_line(error))}); was it exported by another version?"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's warnings from the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def check_constants(program: torch.export.ExportedProgram, where: str) -> None:
    """Raise LissomError if a constant of a program is not a tensor."""
    other = [name for name, value in program.constants.items() if not isinstance(value, Tensor)]
    if other:
        raise LissomError(f"{where}: expected constants that are tensors; {listed(other)} is none")


def check_calls(graph: fx.Graph, where: str) -> None:
    """Raise LissomError if a program calls operators not of PyTorch or changes its buffers."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        target: Any = node.target
        space = getattr(target, "namespace", None) or target.__module__
        if space not in NAMESPACES:
            raise LissomError(f"{where}: it calls {target}, which is no operator of PyTorch's aten")
        call = Call(node)
        changes = call.name.endswith("_") and node.args[0].op == "get_attr"
        learns = LAYERS.get(call.name) == "batch_norm" and call.get("training")
        if changes or learns:
            raise LissomError(
                f"{where}: it changes its own buffers as it runs ({node.name}); call "
                "network.eval() before torch.export.export"
            )


def rebuilt(exported: fx.GraphModule, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the network with layers instead of their calls; `state` is its state dict."""
    graph = exported.graph
    root = empty_network("Program")
    tensors = {
        node: attrgetter(node.target)(exported) for node in graph.nodes if node.op == "get_attr"
    }
    layers: dict[str, Layer] = {}
    moved: dict[str, str] = {}  # tensor -> its new name in a layer
    for node in [*graph.nodes]:
        if node.op != "call_function":
            continue
        call = Call(node)
        layer = layer_of(call, tensors)
        if layer is None:
            continue
        name = layer.name
        while not layers.get(name, layer).same(layer):  # another layer with the same weights
            name = f"{name}_{node.name}"
        if name not in layers:
            place(root, name, layer.module)
            layers[name] = layer
            if (count := state.get(f"{name}.num_batches_tracked")) is not None:
                layer.module.register_buffer("num_batches_tracked", count)
        moved.update({tensor: f"{name}.{field}" for tensor, field in layer.holds.items()})
        with graph.inserting_before(node):
            new = graph.create_node("call_module", name, (layer.reads,))
        new.meta = node.meta
        # users that pick one of several results
        for user in [user for user in node.users if user.target is getitem]:
            user.replace_all_uses_with(new)
            graph.erase_node(user)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    for node in reversed([*graph.nodes]):
        if node.op != "call_function":
            continue
        call = Call(node)
        if call.name in CHECKS or (call.name in TURNS and not node.users):
            graph.erase_node(node)
        else:
            use_function(call)
    for node, tensor in tensors.items():
        if not node.users:
            graph.erase_node(node)
        elif node.target in moved:
            node.target = moved[node.target]
        else:
            hold(root, node.target, tensor, saved=node.target in state)
    return write_forward(root, graph)


def check_batches(network: nn.Module, graph: fx.Graph, where: str) -> None:
    """Raise LissomError if a program takes only batches of the size that it was exported with."""
    examples = [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]
    if not examples or not all(isinstance(value, Tensor) and value.ndim for value in examples):
        return
    sizes = [value.shape[0] for value in examples]
    if not all(isinstance(size, int) for size in sizes) or len(set(sizes)) > 1:
        return
    count = sizes[0]
    spec: Any = network._in_spec
    more = [
        torch.zeros(count + 1, *map(int, value.shape[1:]), dtype=value.dtype) for value in examples
    ]
    try:
        with torch.no_grad():
            args, kwargs = tree_unflatten(more, spec)
            outputs = tensors_in(network(*args, **kwargs))
        fits = any(out.ndim and len(out) == count + 1 for out in outputs)
    except (RuntimeError, IndexError):
        fits = False
    if not fits:
        raise LissomError(
            f"{where}: it was exported for batches of {count} and takes no others; export it with "
            "dynamic_shapes, as in ({0: torch.export.Dim.DYNAMIC},)"
        )
