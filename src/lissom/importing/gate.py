"""The gate: an imported network must give the outputs that ONNX Runtime gives for the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ..errors import LissomError, first_line
from ..trees import tensors_in
from .build import Build
from .packed import is_packed
from .values import MOST_ELEMENTS

LIMIT = 1e-4  # relative to the largest output
BATCHES = (1, 3)
# input types of a file that the network takes in a wider type
TYPES = {"tensor(float16)": np.float16, "tensor(int32)": np.int32, "tensor(double)": np.float64}
WEIGHTS_IN = "session.model_external_initializers_file_folder_path"


def check_outputs(network: nn.Module, build: Build, proto: Any, path: Path | None) -> None:
    """Compare the outputs of a network with those of ONNX Runtime on noise.

    Raises LissomError with the first node that differs. `path` is the file of `proto`, None if
    `proto` was changed after it was read.
    """
    folder = build.file.folder
    session = session_of(proto, folder, path)
    check_sizes(build)
    names = [value.name for value in build.file.inputs]
    for batch, more in cases(build):
        inputs = random_inputs(build, batch, more)
        try:
            wanted = answers(session, names, inputs)
        except LissomError:
            if not more:
                raise
            continue  # the file does not take such sizes either
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        what = f"an input {shapes}" if more else f"a batch of {batch}"
        outputs = outputs_for(network, inputs, what)
        worst = worst_difference(outputs, wanted)
        if not worst <= LIMIT and any(node.op_type == "Sigmoid" for node in proto.graph.node):
            proto = with_exact_sigmoids(proto)
            session = session_of(proto, folder)
            worst = worst_difference(outputs, answers(session, names, inputs))
        if not worst <= LIMIT:
            raise LissomError(
                f"its outputs differ from ONNX Runtime's by {worst:.2g} of their size (limit {LIMIT}) "
                f"for {what}; {first_apart(network, build, proto, inputs)}"
            )


def cases(build: Build) -> list[tuple[int, int]]:
    """Return the batches to compare, each with what is added to open sizes: 1 makes them odd."""
    batches = BATCHES if build.fixed_batch is None else (build.fixed_batch,)
    found = [(batch, 0) for batch in batches]
    same = input_shapes(build, 1) == input_shapes(build, 1, 1)
    return found if same else [*found, (batches[0], 1)]


def outputs_for(network: nn.Module, inputs: list[Tensor], what: str) -> list[Tensor]:
    """Return the outputs of a network. Raises LissomError, which says `what` it got, if it fails."""
    try:
        with torch.no_grad():
            return list(tensors_in(network(*inputs)))
    except Exception as error:  # PyTorch raises errors of many kinds
        raise LissomError(
            f"ONNX Runtime runs it for {what}, and the network fails: {first_line(error)}"
        ) from error


def check_sizes(build: Build) -> None:
    """Raise LissomError if a tensor is too large at the batch size of the file."""
    few, more = build.batches
    for node in build.graph.nodes:
        first, second = node.meta.get("stand_ins", (None, None))
        if not isinstance(first, Tensor) or build.fixed_batch is None:
            continue
        by_sample = (second.numel() - first.numel()) // (more - few)
        numbers = first.numel() + by_sample * (build.fixed_batch - few)
        if numbers > MOST_ELEMENTS:
            raise LissomError(
                f"for the batch of {build.fixed_batch} that it was made for, {node.name!r:.80} is "
                f"larger than {MOST_ELEMENTS} numbers; export it with a dynamic batch"
            )


def with_exact_sigmoids(proto: Any) -> Any:
    """Return a model that computes sigmoids as 1 / (1 + exp(-x)).

    The sigmoid of ONNX Runtime has an absolute error of 1e-7. That is much if all outputs are tiny,
    such as the probabilities that a detector gives for noise.
    """
    import onnx

    exact = onnx.ModelProto()
    exact.CopyFrom(proto)
    graph = exact.graph
    nodes = [*graph.node]
    del graph.node[:]
    for node in nodes:
        if node.op_type != "Sigmoid":
            graph.node.append(node)
            continue
        x = node.input[0]
        value = node.output[0]
        minus, power, zero, one, total = (f"{value} (step {step} of 6)" for step in range(1, 6))
        steps = [
            ("Neg", [x], minus),
            ("Exp", [minus], power),
            ("Sub", [x, x], zero),
            ("Exp", [zero], one),  # a one of the same type as x
            ("Add", [power, one], total),
            ("Reciprocal", [total], value),
        ]
        for op, reads, makes in steps:
            graph.node.append(onnx.helper.make_node(op, reads, [makes]))
    return exact


def session_of(proto: Any, folder: Path, path: Path | None = None) -> Any:
    """Return an ONNX Runtime session of a model, whose external weights lie in `folder`.

    If `path` is an unpacked file, it is loaded instead of `proto`. Raises LissomError if it cannot.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = max(1, torch.get_num_threads())
    options.add_session_config_entry(WEIGHTS_IN, str(folder.resolve()))
    # otherwise ONNX Runtime rounds activations between dequantized weights to integers
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    as_file = path is not None and not is_packed(path)
    try:
        model = str(path) if as_file else proto.SerializeToString()
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has its own error classes
        raise LissomError(f"ONNX Runtime cannot read it ({first_line(error)})") from error


def answers(session: Any, names: Sequence[str], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs of ONNX Runtime for inputs with the given names."""
    kinds = {entry.name: entry.type for entry in session.get_inputs()}
    given = {}
    for name, tensor in zip(names, inputs, strict=True):
        given[name] = tensor.numpy().astype(TYPES.get(kinds.get(name, ""), tensor.numpy().dtype))
    try:
        results = session.run(None, given)
    except Exception as error:  # ONNX Runtime has its own error classes
        raise LissomError(f"ONNX Runtime cannot run it ({first_line(error)})") from error
    return [torch.from_numpy(np.asarray(result)) for result in results]


def random_inputs(build: Build, batch: int, more: int = 0) -> list[Tensor]:
    """Return random inputs: normally distributed floats, or integers 0 and 1.

    Open sizes are those of the first trace plus `more`.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = []
    shapes = input_shapes(build, batch, more)
    for (first, _), shape in zip(showings_in(build), shapes, strict=True):
        noise = torch.randn(shape, generator=generator)
        if not first.is_floating_point():
            noise = noise > 0
        inputs.append(noise.to(first.dtype))
    return inputs


def showings_in(build: Build) -> list[tuple[Tensor, Tensor]]:
    """Return the stand-ins of each input in the two traces."""
    nodes = [build.values[value.name] for value in build.file.inputs]
    return [node.meta["stand_ins"] for node in nodes if isinstance(node, fx.Node)]


def input_shapes(build: Build, batch: int, more: int = 0) -> list[list[int]]:
    """Return the shapes of the inputs for a batch; open sizes are those of the first trace plus
    `more`.
    """
    shapes = []
    for first, second in showings_in(build):
        shape = []
        for pair in zip(first.shape, second.shape, strict=True):
            opened = pair[0] + more if pair[0] != pair[1] else pair[0]
            shape.append(batch if pair == build.batches else opened)
        shapes.append(shape)
    return shapes


def worst_difference(outputs: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the largest `difference` over all outputs."""
    return max(difference(a, b) for a, b in zip(outputs, wanted, strict=True))


def differs(out: Tensor, wanted: Tensor) -> bool:
    """Return whether two outputs differ by more than the limit."""
    return out.shape != wanted.shape or not difference(out, wanted) <= LIMIT


def difference(out: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of two outputs, relative to the largest finite number wanted.

    It is inf if infinities and NaNs are in different places, 1 if the shapes differ.
    """
    if out.shape != wanted.shape or out.numel() == 0:
        return float(out.shape != wanted.shape)
    a, b = out.double(), wanted.double()
    finite = torch.isfinite(b)
    if not torch.equal(finite, torch.isfinite(a)):
        return float("inf")
    a, b = a[finite], b[finite]
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) if a.numel() else 0.0


class Recorded(fx.Interpreter):
    """A run of a graph that keeps the result of each node."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, garbage_collect_values=False, graph=graph)


def first_apart(network: nn.Module, build: Build, proto: Any, inputs: list[Tensor]) -> str:
    """Return in words the first node whose output differs from that of ONNX Runtime."""
    import onnx

    names = [value.name for value in build.file.inputs]
    wanted = onnx.ModelProto()
    wanted.CopyFrom(proto)
    named = {name: node for name, node in build.values.items() if isinstance(node, fx.Node)}
    makers = {name: node for name, node in build.file.makers.items() if name in named}
    there = {output.name for output in wanted.graph.output}
    for name in makers:
        if name not in there:
            wanted.graph.output.add().name = name
    try:
        session = session_of(wanted, build.file.folder)
        order = [output.name for output in session.get_outputs()]
        theirs = dict(zip(order, answers(session, names, inputs), strict=True))
        with torch.no_grad():
            run = Recorded(network, build.graph)
            run.run(*inputs)
    except (LissomError, ValueError, RuntimeError) as error:
        return f"where they part cannot be told ({first_line(error)})"
    for name, node in makers.items():
        ours = run.env.get(named[name])
        if isinstance(ours, Tensor) and differs(ours, theirs[name]):
            return f"the first node where they part is {node}"
    return "no single node parts from it"
