"""Faster exports: decompose only the operators that a target lacks, each by itself.

`torch.onnx.export` traces a network and then traces its whole graph again, with symbolic sizes, to
decompose a handful of operators and to replace `relu_` by `relu`. The second trace takes half to
two thirds of an export. ExecuTorch does the same several times. Here each such operator is traced
by itself. PyTorch still does the whole graph if the result could differ: if code writes into part
of a tensor, or into memory that is read under another name later. The files are equal.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

Exported = TypeVar("Exported")
# the decomposition of each operator that the target lacks
Table = dict[Any, Callable[..., Any]]
# for each node of the old graph its node in the new graph, or a list of nodes
NodeMap = dict[fx.Node, Any]


class NeedsFullDecomposition(Exception):
    """Raised with the reason why a graph must be traced again as a whole."""


def export_decomposing_by_operator(make: Callable[[], Exported]) -> Exported:
    """Return the result of the export `make`, run with operators decomposed one by one. If that
    fails, run it once more in PyTorch's own way.
    """
    with decomposing_by_operator() as programs:
        try:
            return make()
        except Exception:  # whatever exporters raise
            if not programs:
                raise
    return make()


@contextlib.contextmanager
def decomposing_by_operator() -> Iterator[list[ExportedProgram]]:
    """Make `ExportedProgram.run_decompositions` decompose operator by operator in the block, if
    the result is the same.

    The list collects the programs that were decomposed this way.
    """
    original = ExportedProgram.run_decompositions
    programs = list[ExportedProgram]()

    def run(
        program: ExportedProgram, decomp_table: Table | None = None, **more: Any
    ) -> ExportedProgram:
        if decomp_table is not None and not more:
            try:
                graph, new_nodes = decomposed(program, decomp_table)
            except Exception:
                # whatever tracing raises: the program is unchanged, so PyTorch decomposes it
                pass
            else:
                programs.append(program)
                return with_graph(program, graph, new_nodes)
        return original(program, decomp_table, **more)

    ExportedProgram.run_decompositions = run  # type: ignore[method-assign]
    try:
        yield programs
    finally:
        ExportedProgram.run_decompositions = original  # type: ignore[method-assign]


def with_graph(program: ExportedProgram, graph: fx.Graph, new_nodes: NodeMap) -> ExportedProgram:
    """Return a copy of a program with a new graph. Inputs and outputs may have new names; tensors
    are shared with `program`.
    """
    names = {old.name: new.name for old, new in new_nodes.items() if isinstance(new, fx.Node)}
    fresh = copy.copy(program)
    signature = copy.copy(program.graph_signature)
    for kind in ("input_specs", "output_specs"):
        specs = [copy.copy(spec) for spec in getattr(signature, kind)]
        for spec in specs:
            spec.arg = dataclasses.replace(spec.arg, name=names.get(spec.arg.name, spec.arg.name))
        setattr(signature, kind, specs)
    fresh._graph_signature = signature
    fresh._graph_module = fx.GraphModule(program.graph_module, graph)
    fresh._graph_module.meta.update(program.graph_module.meta)
    return fresh


def decomposed(program: ExportedProgram, table: Table) -> tuple[fx.Graph, NodeMap]:
    """Return the graph of a program without the operators in `table` and without operators that
    write into their input.

    Raises NeedsFullDecomposition if the graph contains another graph, or if an operator writes into
    a parameter, an input or a tensor that is read later under another name.
    """
    nodes = list(program.graph.nodes)
    mode = next(
        part.meta["val"].fake_mode for part in nodes if isinstance(part.meta.get("val"), FakeTensor)
    )
    graph = fx.Graph()
    new_nodes = NodeMap()
    graph._codegen = program.graph._codegen
    may_stay = torch.export.default_decompositions()
    for place, node in enumerate(nodes):
        if node.op == "get_attr" or isinstance(node.target, HigherOrderOperator):
            raise NeedsFullDecomposition(f"{node.target} is a graph in a graph")
        if node.target is operator.getitem and isinstance(new_nodes[node.args[0]], list):
            new_nodes[node] = new_nodes[node.args[0]][node.args[1]]
            continue
        if not isinstance(node.target, OpOverload):
            new_nodes[node] = graph.node_copy(node, new_nodes.__getitem__)
            continue
        overload = node.target
        written = written_by(node)
        if written is not None:
            if written.op == "placeholder" or read_by_other_names(
                written, nodes[:place], nodes[place + 1 :]
            ):
                raise NeedsFullDecomposition(f"{overload} writes into what is read later")
            overload = without_writing(overload)
        # PyTorch's exporter never keeps composite operators that may return their input, such as
        # flatten and dropout
        if (
            overload in table
            or (overload._can_decompose() and overload not in may_stay)
            or is_attention_to_take_apart(node)
        ):
            with mode:
                new_nodes[node] = inlined(graph, node, overload, new_nodes, table)
        else:
            new_nodes[node] = graph.node_copy(node, new_nodes.__getitem__)
            new_nodes[node].target = overload
        if written is not None:
            value = new_nodes[node].meta["val"]
            was = written.meta["val"]
            # x.add_(y) keeps the type of x, x + y may not
            if value.dtype != was.dtype or value.shape != was.shape:
                raise NeedsFullDecomposition(f"{overload} returns another type than {node.target}")
            new_nodes[written] = new_nodes[node]
    return graph, new_nodes


def is_attention_to_take_apart(node: fx.Node) -> bool:
    """Return whether a node is attention whose inputs do not have four axes. PyTorch's exporter to
    ONNX cannot write it.
    """
    return node.target is torch.ops.aten.scaled_dot_product_attention.default and any(
        part.meta["val"].ndim != 4 for part in node.all_input_nodes[:3]
    )


def written_by(node: fx.Node) -> fx.Node | None:
    """Return the first argument of an operator if it writes into it, None if it only reads.

    Raises NeedsFullDecomposition if the operator writes into any other argument.
    """
    schema = node.target._schema  # type: ignore[union-attr]
    into = [k for k, argument in enumerate(schema.arguments) if argument.is_write]
    if not into:
        return None
    if into != [0] or not isinstance(node.args[0], fx.Node):
        raise NeedsFullDecomposition(f"{node.target} does not write into its first argument alone")
    return node.args[0]


def without_writing(overload: OpOverload) -> OpOverload:
    """Return `relu` for `relu_`. Raises NeedsFullDecomposition if there is no such operator."""
    name = overload._schema.name.split("::")[1]
    packet = getattr(getattr(torch.ops, overload.namespace), name.removesuffix("_"), None)
    reading = getattr(packet, overload._overloadname, None)
    if not isinstance(reading, OpOverload) or reading._schema.is_mutable:
        raise NeedsFullDecomposition(f"nothing does what {overload} does without writing")
    return reading


def read_by_other_names(written: fx.Node, before: list[fx.Node], after: list[fx.Node]) -> bool:
    """Return whether an earlier node that shares the memory of `written` is read later."""
    later = set(after)
    return any(
        earlier is not written
        and memory(earlier) == memory(written)
        and not later.isdisjoint(earlier.users)
        for earlier in before
    )


def memory(node: fx.Node) -> int | None:
    """Return an id of the memory of a node's tensor. It is equal for nodes that share memory."""
    value = node.meta.get("val")
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


def inlined(
    graph: fx.Graph, node: fx.Node, overload: OpOverload, new_nodes: NodeMap, table: Table
) -> Any:
    """Add the decomposition of an operator to `graph`. Return the node of its result, or a list of
    nodes if it has several.
    """
    leaves, structure = tree_flatten((node.args, node.kwargs))
    inputs = [part for part in leaves if isinstance(part, fx.Node)]

    def computed(*values: Any) -> Any:
        following = iter(values)
        args, named = tree_unflatten(
            [next(following) if isinstance(part, fx.Node) else part for part in leaves], structure
        )
        return overload(*args, **named)

    parts = make_fx(computed, decomposition_table=table)(
        *[part.meta["val"] for part in inputs]
    ).graph
    inner_nodes = NodeMap(
        zip(parts.find_nodes(op="placeholder"), [new_nodes[part] for part in inputs], strict=True)
    )
    for part in parts.nodes:
        if part.op == "call_function":
            if isinstance(part.target, OpOverload) and part.target._schema.is_mutable:
                raise NeedsFullDecomposition(f"{overload} is made of {part.target}")
            # the exporter to ONNX does not know this operator
            if part.target is torch.ops.aten.sym_numel.default:
                inner_nodes[part] = count_of(graph, inner_nodes[part.args[0]])
                continue
            inner_nodes[part] = graph.node_copy(part, inner_nodes.__getitem__)
            inner_nodes[part].meta = {**node.meta, "val": part.meta["val"]}
        elif part.op == "get_attr":
            raise NeedsFullDecomposition(f"{overload} is made of a constant")
    return fx.map_arg(parts.output_node().args[0], inner_nodes.__getitem__)


def count_of(graph: fx.Graph, tensor: fx.Node) -> fx.Node | int:
    """Add the product of a tensor's sizes to `graph`; return its node, or the number if known."""
    total: fx.Node | int = 1
    for axis, size in enumerate(tensor.meta["val"].shape):
        part: fx.Node | int = size
        if not isinstance(size, int):
            part = graph.call_function(torch.ops.aten.sym_size.int, (tensor, axis))
            part.meta = {**tensor.meta, "val": size}
        if isinstance(total, int) and isinstance(part, int):
            total *= part
            continue
        values = [each if isinstance(each, int) else each.meta["val"] for each in (total, part)]
        total = graph.call_function(operator.mul, (total, part))
        total.meta = {**tensor.meta, "val": values[0] * values[1]}
    return total
