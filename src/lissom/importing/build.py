"""The network under construction: function calls, layers and free tensors, added node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from .assembled import empty_network, hold, place
from .names import argument_name, module_name, name_of_node, name_of_scope, name_of_weight
from .nodes import File, Node
from .values import (
    MOST_FOLDED,
    MOST_LISTED,
    Constant,
    Sizes,
    Value,
    numbers_only,
    plain,
    run_in_both_traces,
)

# attributes that repeat the shapes, or that matter only in training or for low-bit types
WITHOUT_EFFECT = (
    "kernel_shape",
    "extrapolation_value",
    "nearest_mode",
    "cubic_coeff_a",
    "stash_type",
    "saturate",
    "round_mode",
    "is_test",
    "seed",
    "sorted",
    "consumed_inputs",
    "softmax_precision",
    "qk_matmul_output_mode",
)


class Build:
    """An fx graph with the layers that it calls, and the value of each name in the file so far."""

    def __init__(self, file: File, batches: tuple[int, int], fixed_batch: int | None) -> None:
        self.file = file
        self.batches = batches  # of the two traces
        self.fixed_batch = fixed_batch  # batch size of the file, None if it is open
        self.graph = fx.Graph()
        self.root = empty_network("OnnxNetwork")
        self.values: dict[str, Value] = {
            name: Constant(tensor, name) for name, tensor in file.tensors.items()
        }
        self.users = file.users
        self.notes: list[str] = []
        self.parameters: dict[object, Tensor] = {}
        # keeps tensors alive whose id is part of a key: Python reuses the ids of deleted objects
        self.named: list[Tensor] = []
        self.layers: dict[str, object] = {}
        self.homes: dict[object, str] = {}  # tensor of the file -> its name in the network
        self.taken: set[str] = set()
        self.holders: set[str] = set()  # modules that hold a tensor that belongs to no layer
        held = sum(tensor.numel() for tensor in file.tensors.values())
        # a file computes a few tensors from each constant that it holds, and a few from none
        self.most_folded = MOST_FOLDED + 8 * held
        self.folded = 0

    def argument(self, name: str, stand_ins: tuple[Tensor, Tensor]) -> None:
        """Add an input."""
        argument = argument_name(name)
        while argument in self.taken:
            argument += "_"
        self.taken.add(argument)
        node = self.graph.placeholder(argument)
        node.meta["stand_ins"] = stand_ins
        self.values[name] = node

    def count_folded(self, results: Any) -> None:
        """Count the numbers computed from constants. Raises ValueError if they become too many."""
        for part in results if isinstance(results, (list, tuple)) else [results]:
            self.folded += part.numel() if isinstance(part, Tensor) else 0
        if self.folded > self.most_folded:
            raise ValueError(
                f"what it computes of constants is more than {self.most_folded} numbers"
            )

    def parameter(self, constant: Constant) -> Tensor:
        """Return the parameter or buffer that holds a constant: one for each tensor of the file."""
        if constant.key not in self.parameters:
            self.named.append(constant.tensor)
            tensor = constant.tensor.contiguous()
            is_learned = bool(constant.source) and tensor.is_floating_point()
            self.parameters[constant.key] = nn.Parameter(tensor) if is_learned else tensor
        return self.parameters[constant.key]

    def free_name(self, name: str) -> str:
        """Return a name close to the given one that no layer and no tensor has."""
        while self.inside_layer(name):  # next to it: conv.bias becomes conv_bias
            name = "_".join(name.rsplit(".", 1))
        number = 0
        free = name
        while free in self.taken:
            number += 1
            free = f"{name}_{number}"
        self.taken.add(free)
        return free

    def layer_place(self, name: str, what: object) -> str:
        """Return the name of an equal layer if one exists, otherwise a free name for a new layer."""
        number = 0
        free = name
        while self.layers.get(free, what) != what or (
            free not in self.layers and (free in self.taken or free in self.holders)
        ):
            number += 1
            free = f"{name}_{number}"
        return free

    def inside_layer(self, name: str) -> bool:
        """Return whether a name lies directly inside an existing layer, as conv.bias in conv."""
        return name.rpartition(".")[0] in self.layers

    def attribute(self, constant: Constant) -> fx.Node:
        """Return a node that reads a tensor that belongs to no layer."""
        key = constant.key
        if key not in self.homes:
            name = self.free_name(module_name(constant.source) or "constant")
            hold(self.root, name, self.parameter(constant), saved=True)
            self.holders.add(name.rpartition(".")[0])
            self.homes[key] = name
        node = self.graph.get_attr(self.homes[key])
        stand_in = constant.tensor.to("meta")
        node.meta["stand_ins"] = (stand_in, stand_in)
        return node

    def concrete(self, tree: Any) -> Any:
        """Return a tree of values as fx wants it: nodes that read tensors instead of constants."""

        def node_for(part: Any) -> Any:
            return self.attribute(part) if isinstance(part, Constant) else part

        return map_aggregate(tree, node_for)


class Op:
    """A node of the file with its inputs, and the methods that extend the network."""

    def __init__(self, build: Build, node: Node) -> None:
        self.build = build
        self.node = node
        self.opset = build.file.opset
        self.read = {*WITHOUT_EFFECT}
        self.inputs = [build.values[name] if name else None for name in node.inputs]
        # number of positions before the batch in the axis that it was merged into
        self.size_before_batch = next(
            (self.size_before_batch_in(v) for v in self.inputs if isinstance(v, fx.Node)), 1
        )

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self.inputs)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute. Raises ValueError if its type differs from that of the default."""
        self.read.add(name)
        value = self.node.attributes.get(name, default)
        if default is not None and type(value) is not type(default):
            raise ValueError(f"expected {name} as {type(default).__name__}, got {value!r:.80}")
        return value

    def optional(self, place: int) -> Value | None:
        """Return an input, None if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def raw(self, place: int) -> Value:
        """Return an input, sizes unconverted. Raises ValueError if it is left out."""
        value = self.optional(place)
        if value is None:
            raise ValueError(f"it has no input {place}")
        return value

    def __getitem__(self, place: int) -> Constant | fx.Node:
        """Return an input as a tensor."""
        return self.tensor(self.raw(place))

    def size_before_batch_in(self, x: fx.Node) -> int:
        """Return the number of positions before the batch in the axis that it was merged into."""
        return int(x.meta.get("size_before_batch", 1))

    def note_size_before_batch(self, made: Any) -> None:
        """Record in the results of the node the number of positions before the batch."""
        for value in made:
            if isinstance(value, fx.Node):
                value.meta["size_before_batch"] = self.size_before_batch

    def tensor(self, value: Value) -> Constant | fx.Node:
        """Return a value as a tensor; sizes are converted to a tensor."""
        if not isinstance(value, Sizes):
            return value
        return self.call(tensor_of_sizes, list(value.parts), value.single)

    def constant(self, place: int) -> Tensor:
        """Return the tensor of an input. Raises ValueError if it is not a constant."""
        value = self.raw(place)
        if not isinstance(value, Constant):
            name = self.node.inputs[place]
            raise ValueError(f"expected a constant as input {place}; {name!r:.80} is computed")
        return value.tensor

    def numbers(self, place: int) -> list[Any]:
        """Return the numbers of an input. Raises ValueError if it is no constant or too large."""
        tensor = self.constant(place)
        if tensor.numel() > MOST_LISTED:
            raise ValueError(f"input {place} has too many numbers")
        return list(tensor.flatten().tolist())

    def integers(self, attribute: str, place: int) -> list[int] | None:
        """Return integers that are an attribute, or an input in later versions of the operator."""
        if (given := self.get(attribute)) is not None:
            return [int(number) for number in (given if isinstance(given, list) else [given])]
        if self.optional(place) is None:
            return None
        return [int(number) for number in self.numbers(place)]

    def sizes(self, place: int) -> list[Any]:
        """Return the numbers of an input; some may be nodes, read from tensors at run time."""
        value = self.raw(place)
        if isinstance(value, Sizes):
            return list(value.parts)
        return self.numbers(place)

    def shape(self, value: Value, which: int = 0) -> list[int]:
        """Return the sizes of a tensor in one of the two traces."""
        if isinstance(value, Sizes):
            return [] if value.single else [len(value.parts)]
        tensor = value.tensor if isinstance(value, Constant) else value.meta["stand_ins"][which]
        return list(tensor.shape)

    def rank(self, value: Value) -> int:
        """Return the number of axes of a tensor."""
        return len(self.shape(value))

    def size(self, value: Constant | fx.Node, axis: int) -> Any:
        """Return a size: a number, or a node if it differs between the two traces."""
        first = self.shape(value)[axis]
        return first if first == self.shape(value, 1)[axis] else self.call(Tensor.size, value, axis)

    def dtype(self, value: Value) -> torch.dtype:
        """Return the dtype of a value."""
        if isinstance(value, Sizes):
            return torch.int64
        tensor = value.tensor if isinstance(value, Constant) else value.meta["stand_ins"][0]
        return tensor.dtype

    def is_float(self, value: Value) -> bool:
        """Return whether a tensor holds floats."""
        return self.dtype(value).is_floating_point

    def number(self, function: Callable[..., Any], *numbers: Any) -> Any:
        """Return the result of a function of numbers, some of which may be nodes."""
        return self.call(function, *numbers)

    def row_of(self, parts: list[Any], single: bool = False) -> Value:
        """Return numbers as sizes, or as a constant if none of them is a node."""
        if any(isinstance(part, fx.Node) for part in parts):
            return Sizes(tuple(parts), single)
        return Constant(torch.tensor(parts[0] if single else parts))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on values: now if all are constants, otherwise at run time."""
        results = run_in_both_traces(function, args, kwargs)
        if numbers_only(args, kwargs):
            self.build.count_folded(results[0])
            with torch.no_grad():
                made = function(*plain(args), **plain(kwargs))
            return map_aggregate(made, folded)
        build = self.build
        node = build.graph.call_function(function, build.concrete(args), build.concrete(kwargs))
        node.meta["stand_ins"] = results
        node.meta["made_by"] = (function, args, kwargs)
        return node

    def calls(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Call a function that returns several tensors; return each of them."""
        made = self.call(function, *args, **kwargs)
        if not isinstance(made, fx.Node):
            return list(made)
        return [self.call(pick, made, place) for place in range(len(made.meta["stand_ins"][0]))]

    def layer(self, make: Callable[[], nn.Module], *reads: Value, **held: Any) -> Any:
        """Call a layer that holds tensors of the file. Nodes with the same layer share it.

        `make` builds the layer; `held` has the tensors of its parameters and buffers by name.
        """
        build = self.build
        with torch.device("meta"):
            module = make().eval()
        constants = {f: given_as(value) for f, value in held.items() if value is not None}
        for field, constant in constants.items():
            wanted = tuple(getattr(module, field).shape)
            if wanted != tuple(constant.tensor.shape):
                raise ValueError(f"expected {field} {wanted}, got {tuple(constant.tensor.shape)}")
        inputs = [value if isinstance(value, tuple) else self.tensor(value) for value in reads]
        results = run_in_both_traces(module, inputs, {})
        what = (repr(module), *(constants[field].key for field in sorted(constants)))
        name = self.layer_name(constants.get("weight") or next(iter(constants.values()), None))
        name = build.layer_place(name, what)
        if name not in build.layers:
            build.layers[name] = what
            build.taken.add(name)
            self.fill(module, name, constants)
            place(build.root, name, module)
        node = build.graph.call_module(name, tuple(build.concrete(inputs)))
        node.meta["stand_ins"] = results
        return node

    def fill(self, module: nn.Module, name: str, constants: dict[str, Constant]) -> None:
        """Set the parameters and buffers of a new layer to tensors of the file."""
        build = self.build
        for field, constant in constants.items():
            tensor = build.parameter(constant)
            if field in module._buffers:
                module._buffers[field] = tensor.detach()
            else:
                parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
                build.parameters[constant.key] = parameter
                module.register_parameter(field, parameter)
                build.homes.setdefault(constant.key, f"{name}.{field}")
        if "num_batches_tracked" in module._buffers:
            module._buffers["num_batches_tracked"] = torch.tensor(0)

    def layer_name(self, weight: Constant | None) -> str:
        """Return the name of a layer: that of its weight, its node or its operator."""
        named = name_of_weight(weight.source) if weight is not None else ""
        named = named or name_of_scope(self.node.scope)
        named = named or name_of_node(self.node.name, self.node.op)
        if not named:  # a computed weight has no name, but a tensor that the node reads may have
            held = filter(self.build.file.tensors.__contains__, self.node.inputs)
            named = next(filter(None, map(name_of_weight, held)), "")
        if named:
            return named
        number = sum(name.rpartition("_")[0] == self.node.op.lower() for name in self.build.layers)
        return module_name(f"{self.node.op.lower()}_{number}")


def given_as(value: Constant | Tensor) -> Constant:
    """Return a tensor of a layer as a constant."""
    return value if isinstance(value, Constant) else Constant(value)


def folded(part: Any) -> Any:
    """Return a computed tensor as a constant."""
    return Constant(part) if isinstance(part, Tensor) else part


def pick(several: Any, place: int) -> Any:
    """Return one of several results."""
    return several[place]


def tensor_of_sizes(parts: list[Any], single: bool) -> Tensor:
    """Return sizes as a tensor."""
    return torch.tensor(parts[0] if single else parts)
