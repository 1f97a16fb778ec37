"""Import an ONNX file as a network of layers, and check it against ONNX Runtime.

The graph is simplified, and each node becomes a layer or a function call. The network must give the
same outputs as ONNX Runtime. No code in the file is run, and every size in it is checked before
memory is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import fx, nn

from ..errors import LissomError, first_line, listed
from .assembled import write_forward
from .build import Build, Op
from .file import content_mark, model_in
from .fixed import with_fixed
from .gate import check_outputs, random_inputs, session_of
from .halves import in_32_bits, types_said
from .nodes import File, Node, file_of, node_of, opset_of, tensor_of
from .openings import BATCHES, OPENINGS, Opening, dims_of, fixed_batch, opened_sizes, stand_ins_for
from .operators.table import OPERATORS, REFUSED
from .ordered import sort_nodes
from .original import MIN_SAMPLES, check_rewritten, difference_from
from .patterns import simplify
from .quantized import NOTE, in_pairs, is_quantized, without_rounding
from .values import Constant

OLDEST_OPSET = 9  # first opset that is fully supported; most operators of older ones are the same
# notes by content of the files that passed the check: a run builds the same network many times
CHECKED: dict[str, tuple[str, ...]] = {}


def onnx_network(path: str | Path, **fixed: Any) -> nn.Module:
    """Return the network in an ONNX file, in eval mode; inputs named in `fixed` are constants.

    Several inputs are separate arguments; several outputs are a dict by name. The network has the
    attributes `input_names`, `output_names`, `metadata` and `notes` of the file. Quantized files and
    files of 16-bit floats are read in float32, and `notes` says so.
    Raises LissomError if the file is damaged, has unknown operators or takes only one batch size, or
    if the outputs differ from ONNX Runtime's.
    """
    path = Path(path)
    where = f"model: onnx:{path}"
    if not path.is_file():
        raise LissomError(f"model: there is no file {path}")
    proto = model_in(path)
    try:
        given = with_fixed(proto, fixed)
        sort_nodes(given.graph)
        forms = forms_of(given)
        file = file_of(forms.floats, path.parent)
        file.notes += notes_of(forms)
        check_operators(file)
        simplify(file)
        build, network = opened_network(file)
        mark = f"{content_mark(str(path))} {fixed}"
        if mark not in CHECKED:
            is_file = forms.floats is proto
            CHECKED[mark] = checked(network, build, forms, path if is_file else None)
        vars(network)["notes"] += CHECKED[mark]
        vars(network)["fixed"] = fixed
    except LissomError as error:
        raise LissomError(f"{where}: {error}{age_of(proto)}") from error
    except Exception as error:  # a damaged file can raise anything
        raise LissomError(f"{where}: {first_line(error)} ({type(error).__name__})") from error
    return network


@dataclass
class Forms:
    """The forms of a model, each made from the one before: as in the file, in 32 bits, with Q/DQ
    nodes instead of integer operators, and without rounding.
    """

    original: Any
    wide: Any
    paired: Any
    floats: Any


def forms_of(proto: Any) -> Forms:
    """Return the forms of a model. A form without changes is the same object as the one before."""
    wide = in_32_bits(proto)
    paired = in_pairs(wide)
    return Forms(proto, wide, paired, without_rounding(paired))


def is_rounded(proto: Any) -> bool:
    """Return whether a file computes in fewer bits than its network, which computes in float32."""
    return is_quantized(proto) or in_32_bits(proto) is not proto


def notes_of(forms: Forms) -> list[str]:
    """Return notes for the user on how a file was read."""
    notes = []
    if forms.wide is not forms.original:
        types = "".join(f"; {said}" for said in types_said(forms.original.graph))
        notes.append(f"the file has 16-bit floats, and the network computes in float32{types}")
    if is_quantized(forms.original):
        notes.append(NOTE)
    return notes


def checked(network: nn.Module, build: Build, forms: Forms, path: Path | None) -> tuple[str, ...]:
    """Compare a network with ONNX Runtime; return notes for the user.

    `path` is the file, None if it was changed before it was read.
    """
    check_outputs(network, build, forms.floats, path)
    if forms.paired is not forms.original:
        integers = forms.paired is not forms.wide
        why = check_rewritten(forms.original, forms.paired, build, integers=integers)
        if why is not None:
            return (f"it was compared with the file in 32 bits only: {why}",)
    if not is_quantized(forms.original):
        return ()
    inputs = random_inputs(build, build.fixed_batch or MIN_SAMPLES)
    session = session_of(forms.original, build.file.folder)
    apart = difference_from(network, session, inputs)
    return (f"on noise, its outputs differ from the file's by {apart:.2g} of their size",)


def age_of(proto: Any) -> str:
    """Return a hint for an error if the opset of a file is not fully supported, otherwise ""."""
    opset = opset_of(proto)
    if opset >= OLDEST_OPSET:
        return ""
    return (
        f"; its opset is {opset}, older than {OLDEST_OPSET}: convert it with "
        f"onnx.version_converter.convert_version(model, 17)"
    )


def check_operators(file: File) -> None:
    """Raise LissomError with all operators of a file that are not known, if there are any."""
    unknown = []
    nodes = [*file.nodes]
    for node in nodes:
        for graph in node.branches:
            nodes += [node_of(inner, file.folder) for inner in graph.node]
        if node.domain and (node.domain, node.op) not in OTHERS:
            unknown.append(f"{node} of {node.domain!r:.40}")
        elif node.op in REFUSED:
            unknown.append(f"{node}: {REFUSED[node.op]}")
        elif node.op not in OPERATORS and node.op != "If":
            unknown.append(str(node))
    if unknown:
        what = "1 operator is" if len(unknown) == 1 else f"{len(unknown)} operators are"
        raise LissomError(f"{what} not known: {listed(unknown)}")


# operators of other domains that are read like those of ONNX
OTHERS = {
    ("com.microsoft", "Gelu"),
    ("com.microsoft", "QuantizeLinear"),
    ("com.microsoft", "DequantizeLinear"),
    ("com.microsoft", "SimplifiedLayerNormalization"),
}


def opened_network(file: File) -> tuple[Build, nn.Module]:
    """Return the network built with the first of OPENINGS that it takes.

    Raises LissomError if it takes none of them: the error of the first.
    """
    failed: LissomError | None = None
    tried = set()
    for opening in OPENINGS:
        sizes = tuple(opened_sizes(file, opening))
        if sizes in tried:
            continue
        tried.add(sizes)
        try:
            build = built(file, opening=opening)
            network = finished(build)
        except LissomError as error:
            failed = failed or error
        else:
            return build, network
    assert failed is not None
    raise failed


def note_sizes(build: Build, opening: Opening) -> None:
    """Add notes on the input sizes that are open in the file and fixed in the network."""
    for value, pairs in zip(build.file.inputs, opened_sizes(build.file, opening), strict=True):
        dims = zip(dims_of(value), pairs, strict=True)
        fixed = [
            f"axis {axis} is {pair[0]}"
            for axis, (size, pair) in enumerate(dims)
            if isinstance(size, str) and pair[0] == pair[1]
        ]
        if fixed:
            build.notes.append(
                f"input {value.name!r:.80} is open in the file; here {' and '.join(fixed)}"
            )


def built(file: File, *, opened: bool = True, opening: Opening = OPENINGS[0]) -> Build:
    """Build the network node by node; if `opened`, for any batch size."""
    build = Build(file, BATCHES, fixed_batch(file) if opened else None)
    if opened:
        note_sizes(build, opening)
    for value, pairs in zip(file.inputs, opened_sizes(file, opening, opened=opened), strict=True):
        build.argument(value.name, stand_ins_for(value, pairs))
    for node in file.nodes:
        add(build, node)
    return build


def add(build: Build, node: Node) -> None:
    """Add the layers and calls of a node. Raises LissomError with its name if that is impossible."""
    try:
        op = Op(build, node)
        made = branch(op) if node.op == "If" else OPERATORS[node.op](op)
        if unread := sorted(set(node.attributes) - op.read):
            raise ValueError(f"its attribute {unread[0]!r:.60} is not known")
        results = made if isinstance(made, list) else [made]
        op.note_size_before_batch(results)
        for name, value in zip(node.outputs, results, strict=False):
            build.values[name] = value
        unmade = filter(None, node.outputs[len(results) :])
        unknown = [name for name in unmade if build.users[name]]
        if unknown:
            raise ValueError(f"its output {unknown[0]!r:.80} is read, which is not known")
    except LissomError:
        raise
    except Exception as error:  # PyTorch raises errors of many kinds if shapes do not fit
        said = first_line(error)
        if isinstance(error, KeyError):
            said = f"it reads {error}, which nothing before it makes"
        fixed = build.fixed_batch
        hint = (
            ""
            if fixed is None
            else f"; the file is made for batches of {fixed}: export it with a dynamic batch"
        )
        raise LissomError(f"{node}: {said}{hint}") from error


def branch(op: Op) -> list[Any]:
    """Add the branch that an If with a constant condition takes; return its outputs.

    Raises ValueError if the condition is computed.
    """
    condition = op.optional(0)
    if not isinstance(condition, Constant):
        raise ValueError(
            f"which branch it takes depends on the input, which is not known{to_fix(op)}"
        )
    taken = op.get("then_branch" if bool(condition.tensor) else "else_branch")
    op.read |= {"then_branch", "else_branch"}
    folder = op.build.file.folder
    for tensor in taken.initializer:
        op.build.values[tensor.name] = Constant(tensor_of(tensor, folder), tensor.name)
    for inner in taken.node:
        add(op.build, node_of(inner, folder))
    return [op.build.values[value.name] for value in taken.output]


def to_fix(op: Op) -> str:
    """Return the advice to fix the first input that is a single number, "" if there is none."""
    for value in op.build.file.inputs:
        if not dims_of(value):
            return (
                f"; if on {value.name!r:.80}, give it a value: --model-args '{value.name:.80}=...'"
            )
    return ""


def finished(build: Build) -> nn.Module:
    """Return the network after all nodes were added. Raises LissomError if it has no outputs."""
    file = build.file
    results = {name: build.values[name] for name in file.outputs}
    op = Op(build, Node("output", "", [], []))
    nodes = {name: build.concrete(op.tensor(value)) for name, value in results.items()}
    if not nodes:
        raise LissomError("it has no outputs")
    check_batches(build, nodes)
    only = next(iter(nodes.values()))
    build.graph.output(only if len(nodes) == 1 else nodes)
    for node in reversed([*build.graph.nodes]):
        if not node.users and node.op not in ("placeholder", "output"):
            build.graph.erase_node(node)
    network = write_forward(build.root, build.graph)
    vars(network).update(
        input_names=tuple(value.name for value in file.inputs),
        output_names=tuple(file.outputs),
        metadata=dict(file.metadata),
        notes=tuple(dict.fromkeys([*file.notes, *build.notes])),
    )
    return network


def check_batches(build: Build, nodes: dict[str, fx.Node]) -> None:
    """Raise LissomError if a file was made for one batch size and takes no other."""
    stand_ins = [node.meta["stand_ins"] for node in nodes.values()]
    if any(first.shape[:1] == (2,) and second.shape[:1] == (3,) for first, second in stand_ins):
        return
    if build.fixed_batch is not None:
        raise LissomError(
            f"it was made for batches of {build.fixed_batch} and takes no others; export it with a "
            "dynamic batch"
        )
