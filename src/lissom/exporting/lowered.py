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

Made = TypeVar("Made")
# the decomposition of each operator that the target lacks
Table = dict[Any, Callable[..., Any]]
# for each node of the old graph its node in the new graph, or a list of nodes
Now = dict[fx.Node, Any]


class Whole(Exception):
    """Raised with the reason why a graph must be traced again as a whole."""


def by_operator(make: Callable[[], Made]) -> Made:
    """Return the result of the export `make`, run with operators decomposed one by one. If that
    fails, run it once more in PyTorch's own way.
    """
    with lowered_by_operator() as taken:
        try:
            return make()
        except Exception:  # whatever exporters raise
            if not taken:
                raise
    return make()


@contextlib.contextmanager
def lowered_by_operator() -> Iterator[list[ExportedProgram]]:
    """Make `ExportedProgram.run_decompositions` decompose operator by operator in the block, if
    the result is the same.

    The list collects the programs that were decomposed this way.
    """
    whole = ExportedProgram.run_decompositions
    taken = list[ExportedProgram]()

    def run(
        program: ExportedProgram, decomp_table: Table | None = None, **more: Any
    ) -> ExportedProgram:
        if decomp_table is not None and not more:
            try:
                graph, now = lowered(program, decomp_table)
            except Exception:
                # whatever tracing raises: the program is unchanged, so PyTorch decomposes it
                pass
            else:
                taken.append(program)
                return renewed(program, graph, now)
        return whole(program, decomp_table, **more)

    ExportedProgram.run_decompositions = run  # type: ignore[method-assign]
    try:
        yield taken
    finally:
        ExportedProgram.run_decompositions = whole  # type: ignore[method-assign]


def renewed(program: ExportedProgram, graph: fx.Graph, now: Now) -> ExportedProgram:
    """Return a copy of a program with a new graph. Inputs and outputs may have new names; tensors
    are shared with `program`.
    """
    names = {old.name: new.name for old, new in now.items() if isinstance(new, fx.Node)}
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


def lowered(program: ExportedProgram, table: Table) -> tuple[fx.Graph, Now]:
    """Return the graph of a program without the operators in `table` and without operators that
    write into their input.

    Raises Whole if the graph contains another graph, or if an operator writes into a parameter, an
    input or a tensor that is read later under another name.
    """
    nodes = list(program.graph.nodes)
    mode = next(
        part.meta["val"].fake_mode for part in nodes if isinstance(part.meta.get("val"), FakeTensor)
    )
    graph = fx.Graph()
    now = Now()
    graph._codegen = program.graph._codegen
    may_stay = torch.export.default_decompositions()
    for place, node in enumerate(nodes):
        if node.op == "get_attr" or isinstance(node.target, HigherOrderOperator):
            raise Whole(f"{node.target} is a graph in a graph")
        if node.target is operator.getitem and isinstance(now[node.args[0]], list):
            now[node] = now[node.args[0]][node.args[1]]
            continue
        if not isinstance(node.target, OpOverload):
            now[node] = graph.node_copy(node, now.__getitem__)
            continue
        called = node.target
        written = written_by(node)
        if written is not None:
            if written.op == "placeholder" or read_by_other_names(
                written, nodes[:place], nodes[place + 1 :]
            ):
                raise Whole(f"{called} writes into what is read later")
            called = without_writing(called)
        # PyTorch's exporter never keeps composite operators that may return their input, such as
        # flatten and dropout
        if (
            called in table
            or (called._can_decompose() and called not in may_stay)
            or is_attention_to_take_apart(node)
        ):
            with mode:
                now[node] = inlined(graph, node, called, now, table)
        else:
            now[node] = graph.node_copy(node, now.__getitem__)
            now[node].target = called
        if written is not None:
            value = now[node].meta["val"]
            was = written.meta["val"]
            # x.add_(y) keeps the type of x, x + y may not
            if value.dtype != was.dtype or value.shape != was.shape:
                raise Whole(f"{called} returns another type than {node.target}")
            now[written] = now[node]
    return graph, now


def is_attention_to_take_apart(node: fx.Node) -> bool:
    """Return whether a node is attention whose inputs do not have four axes. PyTorch's exporter to
    ONNX cannot write it.
    """
    return node.target is torch.ops.aten.scaled_dot_product_attention.default and any(
        part.meta["val"].ndim != 4 for part in node.all_input_nodes[:3]
    )


def written_by(node: fx.Node) -> fx.Node | None:
    """Return the first argument of an operator if it writes into it, None if it only reads.

    Raises Whole if the operator writes into any other argument.
    """
    schema = node.target._schema  # type: ignore[union-attr]
    into = [k for k, argument in enumerate(schema.arguments) if argument.is_write]
    if not into:
        return None
    if into != [0] or not isinstance(node.args[0], fx.Node):
        raise Whole(f"{node.target} does not write into its first argument alone")
    return node.args[0]


def without_writing(called: OpOverload) -> OpOverload:
    """Return `relu` for `relu_`. Raises Whole if there is no such operator."""
    name = called._schema.name.split("::")[1]
    alone = getattr(getattr(torch.ops, called.namespace), name.removesuffix("_"), None)
    overload = getattr(alone, called._overloadname, None)
    if not isinstance(overload, OpOverload) or overload._schema.is_mutable:
        raise Whole(f"nothing does what {called} does without writing")
    return overload


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


def inlined(graph: fx.Graph, node: fx.Node, called: OpOverload, now: Now, table: Table) -> Any:
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
        return called(*args, **named)

    parts = make_fx(computed, decomposition_table=table)(
        *[part.meta["val"] for part in inputs]
    ).graph
    here = Now(zip(parts.find_nodes(op="placeholder"), [now[part] for part in inputs], strict=True))
    for part in parts.nodes:
        if part.op == "call_function":
            if isinstance(part.target, OpOverload) and part.target._schema.is_mutable:
                raise Whole(f"{called} is made of {part.target}")
            # the exporter to ONNX does not know this operator
            if part.target is torch.ops.aten.sym_numel.default:
                here[part] = count_of(graph, here[part.args[0]])
                continue
            here[part] = graph.node_copy(part, here.__getitem__)
            here[part].meta = {**node.meta, "val": part.meta["val"]}
        elif part.op == "get_attr":
            raise Whole(f"{called} is made of a constant")
    return fx.map_arg(parts.output_node().args[0], here.__getitem__)


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
