"""Measure the share of known networks that runs in integers after quantize(8); writes
docs/results/integers.md.

    python benchmarks/integers.py --rows docs/results/integers.jsonl [--keep 12] [--only PATTERN,...]
    [-o docs/results/integers.md]

The networks of known_networks.py get random weights, batch-norms that fit the samples, and noise of
the smallest size that they accept. Each is quantized, exported to OpenVINO and ONNX Runtime, and
run there on every sample, in a process of its own with limits of time and memory (--seconds,
--memory). A line for each is added to --rows. Networks that have a line of this version of quantize
are not run again; nor do those of the versions in --keep, which give these networks the same file.
Other lines are dropped. Needs timm.

Multiply-adds are counted in the file: of each convolution, matrix product and recurrent layer, on
one sample. A layer counts as in integers if the runtime's own graph says so.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from by_family import tables
from coverage import agreement, converted_once, inputs, lively, noise, one, reasoned, singles
from known_networks import Known, networks
from torch import Tensor, nn

import lissom
from lissom.bench.machine import machine
from lissom.detection.torchvision import is_detector, without_selection
from lissom.exporting.float_reasons import INTEGERS, MOVES
from lissom.exporting.onnx.names import WEIGHTED
from lissom.language.recipe import Recipe
from lissom.running.integer_share import share_in_integers
from lissom.running.parity import MAX_INTEGER_ERROR, rows_of_one_id
from lissom.running.plan import one_target
from lissom.targets.onnxruntime import INTEGER_KINDS
from lissom.trees import ROW_IDS, Tree, first, output_named, run_on_copied_inputs, tensors_in

RECIPE = "quantize(8)"
RUNTIMES = ("openvino", "onnxruntime")
ENOUGH = 0.95  # share of the multiply-adds in integers
WRONG = 0.1  # largest error of a file relative to its simulation: lissom's own gate
MOVED = 0.5  # error of rounding above which lissom must add a note
# suffixes that OpenVINO adds to the names of operations that it decomposes
ADDED = r"(/WithoutBiases|/Dequantization\w*)+$"
# operations of OpenVINO that pass integers on
CARRIES = MOVES | {"Broadcast", "Gather", "Multiply", "Slice", "Split", "StridedSlice", "Subtract"}
CARRIES |= {"VariadicSplit"}
# operations with multiply-adds, and the number of their inputs that are factors
COUNTED = {"Conv": 2, "ConvTranspose": 2, "MatMul": 2, "Gemm": 2, "Einsum": 2}
COUNTED |= {"LSTM": 3, "GRU": 3, "RNN": 3}
SEVERAL = ("two inputs",)


def version() -> int:
    """Return the version of the step under test."""
    return Recipe(RECIPE).steps[0].version


def node_macs(proto: Any, shape_of: Callable[[str], tuple[int, ...]]) -> dict[str, int]:
    """Return the multiply-adds of each node of an ONNX graph, by its name."""
    counts = Counter[str]()
    for node in proto.graph.node:
        name = node.name or node.output[0]
        if node.op_type in ("Conv", "ConvTranspose"):
            # the multiply-adds of a transposed convolution follow from the size of its input
            made = node.output[0] if node.op_type == "Conv" else node.input[0]
            sites = math.prod(shape_of(made)[2:]) * shape_of(made)[0]
            counts[name] += sites * math.prod(shape_of(node.input[1]))
        elif node.op_type == "MatMul":
            counts[name] += math.prod(shape_of(node.output[0])) * shape_of(node.input[0])[-1]
        elif node.op_type == "Gemm":
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            inner = shape_of(node.input[0])[0 if turned else 1]
            counts[name] += math.prod(shape_of(node.output[0])) * inner
        elif node.op_type == "Einsum":
            equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
            terms = equation.partition("->")[0].replace(" ", "").split(",")
            sizes = dict[str, int]()
            for term, value in zip(terms, node.input, strict=True):
                sizes.update(zip(term, shape_of(value), strict=True))
            counts[name] += math.prod(sizes.values())
        elif node.op_type in ("LSTM", "GRU", "RNN"):
            steps = math.prod(shape_of(node.input[0])[:2])
            held = math.prod(shape_of(node.input[1])) + math.prod(shape_of(node.input[2]))
            counts[name] += steps * held
    return dict(counts)


def macs_in(path: Path, example: Tree) -> dict[str, int]:
    """Return the multiply-adds of each node of a file, by its name, on one sample.

    Sizes are measured in ONNX Runtime, since a file may compute some from the batch.
    """
    import onnxruntime

    proto = onnx.load(str(path))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    shapes |= {
        value.name: tuple(tensor.shape)
        for value, tensor in zip(proto.graph.input, tensors_in(example), strict=True)
    }
    asked = list[str]()
    for node in proto.graph.node:
        if node.op_type in COUNTED:
            asked += [*node.input[: COUNTED[node.op_type]], node.output[0]]
    asked = [name for name in dict.fromkeys(asked) if name not in shapes]
    del proto.graph.output[:]
    kind = onnx.TensorProto.FLOAT
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(n, kind, None) for n in asked)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # hides warnings about unused values
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    given = dict(zip(names, [t.numpy() for t in tensors_in(example)], strict=True))
    shapes |= zip(asked, [value.shape for value in session.run(asked, given)], strict=True)
    return node_macs(proto, shapes.__getitem__)


def in_openvino(path: Path) -> set[str]:
    """Return the names of the nodes of a file that OpenVINO computes in integers."""
    from lissom.exporting.openvino_ir import read_model
    from lissom.targets.openvino import Openvino

    done = set[str]()
    model = read_model(path)
    # a fused operation such as attention reports the precision of only one of its products
    floats = {
        op.get_friendly_name()
        for op in model.get_ops()
        if op.get_type_name() == "MatMul" and not all(map(widened, op.input_values()))
    }
    for op in Openvino().compile_model(model, 1).get_runtime_model().get_ordered_ops():
        facts = op.get_rt_info()
        if str(facts["runtimePrecision"].astype(str)) in ("u8", "i8", "u1"):
            names = str(facts["originalLayersNames"].astype(str)).split(",")
            done |= {re.sub(ADDED, "", name) for name in names}
    return done - floats


def widened(value: Any) -> bool:
    """Return whether a factor of a product in an OpenVINO model comes from integers."""
    node = value.get_node()
    while node.get_type_name() in CARRIES:
        node = node.input_value(0).get_node()
    return (
        node.get_type_name() == "Convert"
        and node.input_value(0).get_element_type().get_type_name() in INTEGERS
    )


def in_onnxruntime(path: Path) -> set[str]:
    """Return the names of the nodes of a file that ONNX Runtime computes in integers."""
    from lissom.targets.onnxruntime import create_session

    nodes = dict[str, Any]()
    for node in onnx.load(str(path)).graph.node:
        nodes.update(dict.fromkeys((*node.output, node.name), node))
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        create_session(path, 1, "cpu", optimised)
        graph = onnx.load(str(optimised)).graph
    done = set[str]()
    for node in graph.node:
        if node.op_type not in INTEGER_KINDS:
            continue
        name = next((n for n in (plain(node.name), plain(node.output[0])) if n in nodes), None)
        found = None if name is None else nodes.get(name)
        # ONNX Runtime names some operations after a later node that was fused into them
        while found is not None and not re.search(WEIGHTED, found.op_type):
            found = nodes.get(found.input[0])
        if found is not None:
            done.add(found.name)
    return done


def plain(name: str) -> str:
    """Return the name of a node without the suffixes that ONNX Runtime adds."""
    return re.sub(r"(_token_\d+|_nchwc|_nhwc|_quant|/MatMul\w*Fusion/?)$", "", name)


def tried(model: nn.Module, images: Tree) -> dict[str, Any]:
    """Quantize, export and run a network, and return the results."""
    example = first(images, 1)
    begin = time.process_time()
    small, notes = lissom.apply(RECIPE, model, example, images, notes=True)
    row: dict[str, Any] = {"notes": notes, "seconds": round(time.process_time() - begin, 1)}
    with torch.no_grad():
        simulated = run_on_copied_inputs(small, images)
        exact = run_on_copied_inputs(model, images)
    row["rounding"] = compared(simulated, exact, other_picks=True)
    with tempfile.TemporaryDirectory() as folder, converted_once():
        for runtime in RUNTIMES:
            row[runtime] = reasoned(
                lambda runtime=runtime: exported(
                    small, runtime, Path(folder) / f"{runtime}.onnx", images, simulated, exact
                )
            )
    return row


def compared(ours: Tree, theirs: Tree, other_picks: bool = False) -> dict[str, float]:
    """Return the share of samples whose first outputs agree, and the largest error of any output.

    If a detector picks rows, the share of them that lissom's gate allows may differ. With
    `other_picks`, only rows that both pick are compared: with random weights all scores are nearly
    equal, and rounding decides which are the best.
    """
    pairs = list(zip(tensors_in(ours), tensors_in(theirs), strict=True))
    if (ids := output_named(theirs, ROW_IDS)) is not None:
        others = MAX_INTEGER_ERROR
        if other_picks:
            own = output_named(ours, ROW_IDS)
            assert own is not None
            lost = sum(int((~torch.isin(a, b)).sum()) for a, b in zip(ids, own, strict=True))
            others = max(others, (lost + 1) / ids.numel())
        pairs = rows_of_one_id(pairs, ids, others)
    pairs = [(a, b) for a, b in pairs if b.is_floating_point() and b.numel()]
    return {
        "agreement": agreement(*pairs[0]),
        "error": max(noise(a, b) for a, b in pairs),
    }


def exported(
    small: nn.Module,
    runtime: str,
    path: Path,
    images: Tree,
    simulated: Tree,
    exact: Tree,
) -> dict[str, Any]:
    """Export and run a network; return the share that ran in integers and the error of the outputs."""
    target = one_target(runtime)
    example = first(images, 1)
    if isinstance(images, Tensor):
        lissom.export(small, runtime, path, tuple(images.shape[1:]), images)
    else:
        lissom.export(small, runtime, path, example=example)
    session = target.load(path, 1)  # safe in this process, since export has tested the file
    parts = [session([t.numpy() for t in tensors_in(part)]) for part in singles(images)]
    outputs = [torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)]
    fused = target.fused(path)
    assert fused is not None
    macs = macs_in(path, example)
    done = (in_openvino if runtime == "openvino" else in_onnxruntime)(path)
    floats = {name: count for name, count in macs.items() if name not in done}
    total = max(sum(macs.values()), 1)
    most = sorted(floats.items(), key=lambda item: -item[1])[:12]
    reasons = {name.partition(" (")[0]: name.partition(" (")[2][:-1] for name in fused.rest}
    return {
        "share": round(1 - sum(floats.values()) / total, 4),
        "said": share_in_integers(small, example, fused, path),
        "layers": [fused.done, fused.total],
        "macs": total,
        "floats": [[name, round(n / total, 4), reasons.get(name, "")] for name, n in most],
        "simulation": compared(outputs, simulated),
        "float": compared(outputs, exact),
    }


def examined(network: Known) -> dict[str, Any]:
    """Return the row of one network."""
    family, name, build, shapes = network
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    whole = build()
    row: dict[str, Any] = {
        "family": family,
        "name": name,
        "version": version(),
        "params": sum(p.numel() for p in whole.parameters()),
    }

    def result() -> dict[str, Any]:
        model = lively(to_places(whole))
        images = inputs(model, shapes, name in SEVERAL)
        normalise(model, images)
        row["input"] = [list(t.shape[1:]) for t in tensors_in(images)]
        return tried(model, images)

    return row | reasoned(result)


def normalise(model: nn.Module, images: Tree) -> None:
    """Scale the statistics of each batch-norm by the root mean square of its inputs, in place.

    With each channel's own mean and variance, as after training, every layer of random weights
    amplifies the error of rounding by a tenth to a half, and after fifty layers only noise is left:
    GoogLeNet's outputs were 35 % off. Trained networks do not do that. So means and variances of
    channels stay those of `lively`, in units of that root mean square.
    """

    def settle(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        size = inputs[0].square().mean()
        norm.running_var.mul_(size)
        norm.running_mean.mul_(size.sqrt())
        handles.pop(norm).remove()

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = {
        norm: norm.register_forward_pre_hook(settle)
        for norm in norms
        if norm.running_mean is not None
    }
    with torch.no_grad():
        run_on_copied_inputs(model, images)
    for handle in handles.values():
        handle.remove()


def to_places(model: nn.Module) -> nn.Module:
    """Return a detector without the selection of boxes, as lissom runs it, and any other network
    unchanged.
    """
    return without_selection(model) if is_detector(model) else model


def faults(row: dict[str, Any]) -> list[str]:
    """Return the errors in a row that lissom did not report."""
    found = list[str]()
    if "rounding" in row:
        silent = not any("rounding moved the outputs" in note for note in row["notes"])
        if silent and not row["rounding"]["error"] <= MOVED:
            found.append(f"rounding moved the outputs by {row['rounding']['error']:.2g}")
    for runtime in RUNTIMES:
        part = row.get(runtime, {})
        if "simulation" in part and not part["simulation"]["error"] <= WRONG:
            found.append(f"{runtime} differs by {part['simulation']['error']:.2g}")
    return found


def reason(row: dict[str, Any]) -> str:
    """Return why a network failed, or the main operations and reasons of its float part."""
    for part in (row, *(row.get(runtime, {}) for runtime in RUNTIMES)):
        for word in ("error", "broken", "reason"):
            if word in part:
                return ("**broken** " * (word == "broken")) + part[word][:200]
    part = row[RUNTIMES[0]]
    if part["share"] >= ENOUGH:
        return ""
    kinds = Counter[str]()
    for name, share, why in part["floats"]:
        kind = name.rpartition("/")[2].rstrip("0123456789_")
        kinds[f"{kind} {f'({why})' if why else ''}".strip()] += share
    return ", ".join(f"{share:.0%} {kind}" for kind, share in kinds.most_common(3))


def line(row: dict[str, Any]) -> str:
    """Return a row as Markdown."""
    cells = [row["name"], "x".join(map(str, row.get("input", [""])[0]))]
    cells.append(f"{row['rounding']['error']:.1%}" if "rounding" in row else "-")
    for runtime in RUNTIMES:
        part = row.get(runtime, {})
        if "share" not in part:
            cells += ["-", "-", "-"]
            continue
        near = part["simulation"]
        cells.append(f"{part['share']:.1%}")
        cells.append("/".join(map(str, part["layers"])))
        cells.append(f"{near['agreement']:.0%}, {near['error']:.1%}")
    told = [f"**wrong: {fault}**" for fault in faults(row)] + [reason(row)]
    cells.append("; ".join(filter(None, told)).replace("|", "/").replace("\n", " "))
    return "| " + " | ".join(cells) + " |"


def counted(rows: list[dict[str, Any]]) -> str:
    """Return the counts of all rows as a sentence."""
    shares = [[row.get(runtime, {}).get("share", 0.0) for row in rows] for runtime in RUNTIMES]
    enough = [sum(share >= ENOUGH for share in of) for of in shares]
    refused = sum(
        any(w in row.get(r, row) for w in ("reason",)) for row in rows for r in RUNTIMES[:1]
    )
    broken = sum("error" in row or "broken" in json.dumps(row) for row in rows)
    return (
        f"{len(rows)} networks. At least {ENOUGH:.0%} of the multiply-adds in integers: "
        f"{enough[0]} in OpenVINO, {enough[1]} in ONNX Runtime. "
        f"Refused for OpenVINO with a reason: {refused}. Raw errors: {broken}. "
        f"Wrong without a word: {sum(map(bool, map(faults, rows)))}."
    )


def versions(rows: list[dict[str, Any]]) -> str:
    """Return how many rows each version of the step made, and on which processors."""
    made = Counter((row["version"], row["cpu"]) for row in rows)
    return ", ".join(
        f"{count} rows by version {number} on {cpu}"
        for (number, cpu), count in sorted(made.items())
    )


def page(rows: list[dict[str, Any]], left: int) -> str:
    """Return the table as Markdown. `left` is the number of networks that are missing."""
    out = [
        "# What runs in integers",
        "",
        "Made by `python benchmarks/integers.py --rows docs/results/integers.jsonl --keep 12 13 -o "
        "docs/results/integers.md`: how is said there.",
        f"torch {machine()['libraries']['torch']}. `{RECIPE}`: {versions(rows)}. Later versions change "
        "only layers that read several values in turn, weights that own code reads, and parts that "
        "no sample reaches.",
        "",
        f"**{counted(rows)}**",
        *([f"{left} more networks are not tried yet; the same command goes on."] if left else []),
        "",
        "*Rounding*: how far rounding moves the outputs of PyTorch. Then, for each runtime: the "
        "share of the file's multiply-adds that run in integers; layers that do, of all; on which "
        "share of the samples its answers agree with the simulation in PyTorch, and how far they "
        "are apart. Distances are root mean squares over that of the outputs, the worst of all "
        "outputs. Weights are random and samples noise, so rounding says little about trained "
        "networks, and the two largest outputs may lie closer together than one rounding step. Attention "
        "of trained networks may be more peaked than this; its probabilities then stay float, and a "
        "note says so.",
        "",
    ]
    columns = (
        "network | input | rounding | OpenVINO | layers | agreement | ONNX Runtime | layers | agreement "
        "| not in integers, or the reason"
    )
    out += tables(rows, columns, line)
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--only", default="*", help="patterns of names, in the order to try them, commas between"
    )
    parser.add_argument("--rows", type=Path, help="a file with a line for each network")
    parser.add_argument(
        "--keep", type=int, nargs="*", default=[], help="versions whose lines are kept too"
    )
    parser.add_argument("--seconds", type=int, default=900, help="a network is given up after")
    parser.add_argument("--memory", type=int, default=12, help="GiB for a network's process")
    parser.add_argument("--list", action="store_true", help="print what is not done yet, and end")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    every = {f"{network[0]}/{network[1]}": network for network in networks()}
    if given.one:
        given.output.write_text(json.dumps(examined(every[given.one])))
        return
    rows = list[dict[str, Any]]()
    if given.rows and given.rows.exists():
        rows = [json.loads(text) for text in given.rows.read_text().splitlines()]
        rows = [row for row in rows if row.get("version") in (version(), *given.keep)]
    done = {f"{row['family']}/{row['name']}" for row in rows}
    asked = [name for pattern in given.only.split(",") for name in every if fits(name, pattern)]
    todo = [name for name in dict.fromkeys(asked) if name not in done]
    if given.list:
        print("\n".join(todo))
        return
    for name in todo:
        row = one(name, given.seconds, given.memory, __file__)
        row |= {"version": version(), "cpu": machine()["cpu"]}
        rows.append(row)
        if given.rows:
            with given.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
        print(line(row), flush=True)
    rows.sort(key=lambda row: list(every).index(f"{row['family']}/{row['name']}"))
    if given.output:
        given.output.write_text(page(rows, len(every) - len(rows)))
    print(counted(rows))
    sys.exit(any(map(faults, rows)))


def fits(name: str, pattern: str) -> bool:
    """Return whether a network, family/name, matches a pattern."""
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.partition("/")[2], pattern)


if __name__ == "__main__":
    main()
