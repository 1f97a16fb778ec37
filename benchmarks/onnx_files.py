"""Import, quantize, compare and time ONNX files of other projects; writes docs/results/onnx.md.

    python benchmarks/onnx_files.py FILE[=SIZES] ... --rows onnx.jsonl [--text PATTERN]
    [--fixed 'sr=16000'] [-o docs/results/onnx.md]

SIZES is the shape of the first input without the batch, as in det.onnx=3x320x320; needed if the
file leaves it open. Each file runs in a process of its own with limits of time and memory
(--seconds, --memory). A line for it is added to --rows and replaces an older line of that name.
Inputs named in --fixed become constants of these values, also in the original that is timed.

Samples are noise, or for files whose name matches --text generated images of words. Files whose
weights are all one number, as in ONNX's own tests, first get random weights, and batch-norms
calibrated on the samples. If a state has its batch on the second axis, the network to quantize
takes it on the first (BatchFirst).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from coverage import converted_once, limited, noise, reasoned, singles
from integers import normalise
from onnx import numpy_helper
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import lissom
from lissom.bench.inputs import Input
from lissom.bench.latency import latencies
from lissom.bench.machine import machine
from lissom.importing.fixed import with_fixed
from lissom.importing.gate import worst_difference
from lissom.language.grammar import named_values
from lissom.running.plan import one_target
from lissom.trees import Tree, first, tensors_in

RECIPE = "quantize(8)"
RUNTIMES = ("onnxruntime", "openvino")
SAMPLES = 16
WORDS = "total invoice street open paid exit phone number 2026 kiwi 48.50 ticket room menu".split()


class BatchFirst(nn.Module):
    """A wrapper that takes the state of a network as (n c h) instead of (c n h), and returns
    outputs of three axes in the same order.
    """

    def __init__(self, network: nn.Module, *rest: Tensor) -> None:
        super().__init__()
        self.network = network
        self.rest = rest

    def forward(self, input: Tensor, state: Tensor) -> dict[str, Tensor]:
        outputs = self.network(input, state.transpose(0, 1).contiguous(), *self.rest)
        return {
            name: value.transpose(0, 1) if value.ndim == 3 else value
            for name, value in outputs.items()
        }


def sizes_of(path: Path) -> list[tuple[str, list[int], int]]:
    """Return the name, sizes (0 if open) and type of each input."""
    graph = onnx.load(str(path)).graph
    held = {tensor.name for tensor in graph.initializer}
    found = []
    for value in graph.input:
        kind = value.type.tensor_type
        if value.name not in held:
            dims = [max(0, dim.dim_value) for dim in kind.shape.dim]
            found.append((value.name, dims, kind.elem_type))
    return found


def words(count: int, sizes: tuple[int, ...]) -> Tensor:
    """Return images of words on a coloured background (n c h w), from -1 to 1."""
    draw = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        height, width = sizes[1:]
        ground = draw.integers(120, 255, 3)
        picture = Image.new("RGB", (width, height), tuple(map(int, ground)))
        pen = ImageDraw.Draw(picture)
        top = 4
        while top < height - 24:
            size = int(draw.integers(18, min(40, height - 8)))
            line = " ".join(draw.choice(WORDS, 12))
            ink = tuple(map(int, draw.integers(0, 90, 3)))
            pen.text((4, top), line, fill=ink, font=ImageFont.load_default(size))
            top += 2 * size
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1
        pixels += draw.normal(0, 0.02, pixels.shape).astype(np.float32)
        pictures.append(torch.from_numpy(pixels))
    return torch.stack(pictures)


def samples_of(path: Path, sizes: tuple[int, ...], *, text: bool) -> list[Tensor]:
    """Return a batch for each input of a file. States have the batch on the second axis, other
    inputs on the first.
    """
    draw = torch.Generator().manual_seed(1)
    tensors = []
    inputs = sizes_of(path)
    for place, (name, dims, kind) in enumerate(inputs):
        shape = sizes if place == 0 and sizes else tuple(dims[1:])
        if kind != onnx.TensorProto.FLOAT:
            tensors.append(torch.tensor(16000) if not dims else torch.zeros(SAMPLES, *shape).long())
        elif place and len(dims) == 3:
            states = SAMPLES if dims[1] == inputs[0][1][0] else dims[1]
            tensors.append(0.1 * torch.randn(dims[0], states, dims[2], generator=draw))
        elif 0 in shape:
            raise lissom.LissomError(
                f"input {name} is open: give its sizes, as in {path.name}=3x48x320"
            )
        else:
            plain = torch.randn(SAMPLES, *shape, generator=draw)
            tensors.append(words(SAMPLES, shape) if text else plain)
    return tensors


def in_batch(inputs: list[Tensor], start: int, end: int) -> list[Tensor]:
    """Return the samples from `start` to `end` of all inputs."""
    count = len(inputs[0])
    parts = []
    for tensor in inputs:
        axis = next((axis for axis in (0, 1) if tensor.shape[axis : axis + 1] == (count,)), None)
        parts.append(tensor if axis is None else tensor.narrow(axis, start, end - start))
    return parts


def one_number(proto: Any) -> bool:
    """Return whether the weights of a model come from ConstantOfShape nodes, so each is one number."""
    return sum(node.op_type == "ConstantOfShape" for node in proto.graph.node) > 10


def randomise(proto: Any) -> None:
    """Replace the weights of a model by random ones, in place."""
    graph = proto.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: value.shape for name, value in shapes.items() if value.dtype == np.float32}
    made = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    weights |= {node.output[0]: tuple(shapes[node.input[0]].tolist()) for node in made}
    roles: dict[str, Any] = {}
    for node in reversed(graph.node):
        for place, name in enumerate(node.input):
            through = node.op_type in ("Unsqueeze", "Reshape") and place == 0
            roles[name] = roles.get(node.output[0]) if through else (node.op_type, place)
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    del graph.node[:]
    graph.node.extend(kept)
    others = [tensor for tensor in graph.initializer if tensor.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(others)
    draw = np.random.default_rng(0)
    for name, shape in weights.items():
        tensor = random_weight(draw, shape, roles.get(name))
        graph.initializer.append(numpy_helper.from_array(tensor.astype(np.float32), name))


def random_weight(draw: np.random.Generator, shape: tuple[int, ...], role: Any) -> Any:
    """Return an initial weight for a role: an operator and the index of its input."""
    if role in (("Conv", 1), ("Gemm", 1)):
        return draw.standard_normal(shape, np.float32) * math.sqrt(2 / math.prod(shape[1:]))
    if role in (("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)):
        return draw.uniform(0.8, 1.2, shape)
    return 0.1 * draw.standard_normal(shape)


def statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the running mean and variance of a layer (channels)."""
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def settle(path: Path, images: Tensor) -> None:
    """Fit the batch-norm statistics of a file to images, in place."""
    network = lissom.from_onnx(path)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [[values.numpy().tobytes() for values in statistics(norm)] for norm in norms]
    normalise(network, images)
    proto = onnx.load(str(path))
    places = {
        numpy_helper.to_array(tensor).tobytes(): place
        for place, tensor in enumerate(proto.graph.initializer)
    }
    for norm, keys in zip(norms, before, strict=True):
        for key, now in zip(keys, statistics(norm), strict=True):
            tensor = proto.graph.initializer[places[key]]
            tensor.CopyFrom(numpy_helper.from_array(now.numpy(), tensor.name))
    onnx.save(proto, str(path))


def answers_of(path: Path, inputs: list[Tensor]) -> list[Tensor]:
    """Return the outputs of a file in ONNX Runtime, run sample by sample."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def answer(*tensors: Tensor) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return one_by_one(answer, inputs)


def one_by_one(network: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
    """Run a network sample by sample and return the concatenated outputs."""
    with torch.no_grad():
        rows = [
            list(tensors_in(network(*in_batch(inputs, k, k + 1)))) for k in range(len(inputs[0]))
        ]
    return [torch.cat(part, batch_axis(part[0])) for part in zip(*rows, strict=True)]


def batch_axis(output: Tensor) -> int:
    """Return the batch axis of an output for one sample: 1 for a state, else 0."""
    return 1 if output.ndim == 3 and output.shape[:2] == (2, 1) else 0


def agreement(one: Tensor, two: Tensor) -> float:
    """Return the share of outputs on which two files agree: the same argmax, or for a single number
    the same side of one half.
    """
    axis = one.ndim - 1 if one.ndim == 3 else 1
    if one.shape[axis] > 1:
        return float((one.argmax(axis) == two.argmax(axis)).float().mean())
    return float(((one > 0.5) == (two > 0.5)).float().mean())


def facts_of(path: Path) -> dict[str, Any]:
    """Return the opset, number of nodes and operators of a file."""
    proto = onnx.load(str(path))
    operators = Counter(node.op_type for node in proto.graph.node)
    return {
        "opset": next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")),
        "nodes": len(proto.graph.node),
        "operators": [op for op, _ in operators.most_common() if not op.startswith("Constant")],
    }


def tried(
    path: Path, sizes: tuple[int, ...], fixed: dict[str, Any], *, text: bool
) -> dict[str, Any]:
    """Import, quantize, export, compare and time a file, and return the results."""
    row: dict[str, Any] = {"samples": "images of words" if text else "noise"}
    proto = onnx.load(str(path))
    with tempfile.TemporaryDirectory() as folder:
        names = {value.name for value in proto.graph.input}
        if here := {name: value for name, value in fixed.items() if name in names}:
            proto = with_fixed(proto, here)
            path = Path(folder) / path.name
            onnx.save(proto, str(path))
        network = lissom.from_onnx(path)  # with its own weights
        row["random"] = one_number(proto)
        inputs = samples_of(path, sizes, text=text)
        row["input"] = "x".join(map(str, inputs[0].shape[1:]))
        if row["random"]:
            randomise(proto)
            path = Path(folder) / path.name
            onnx.save(proto, str(path))
            settle(path, inputs[0])
            network = lissom.from_onnx(path)
        del proto
        row["bytes"] = path.stat().st_size
        wanted = answers_of(path, inputs)
        row["imported"] = worst_difference(one_by_one(network, inputs), wanted)
        return row | reasoned(lambda: quantized(path, network, inputs, wanted, Path(folder)))


def quantized(
    path: Path, network: nn.Module, inputs: list[Tensor], wanted: list[Tensor], folder: Path
) -> dict[str, Any]:
    """Quantize the network of a file and return the comparison of its files with the original."""
    original = path
    images: Tree = inputs[0] if len(inputs) == 1 else tuple(inputs)
    if (
        len(inputs) > 1
        and len(inputs[1]) != len(inputs[0])
        and len(inputs[0]) == inputs[1].shape[1]
    ):
        network = BatchFirst(network, *inputs[2:])
        images = (inputs[0], inputs[1].transpose(0, 1).contiguous())
        wanted = [value.transpose(0, 1) if value.ndim == 3 else value for value in wanted]
        original = folder / "float.onnx"  # with the batch of the state on the first axis
        lissom.export(network, "onnxruntime", original, example=first(images, 2))
    small, notes = lissom.apply(RECIPE, network, first(images, 1), images, notes=True)
    row: dict[str, Any] = {"notes": notes}
    pairs = []
    with converted_once():
        for runtime in RUNTIMES:
            file = folder / f"{runtime}.onnx"
            row[runtime] = reasoned(
                lambda runtime=runtime, file=file: compared(small, runtime, file, images, wanted)
            )
            if "error" in row[runtime]:
                pairs += [(runtime, original), (runtime, file)]
    shapes = [Input((1, *tensor.shape[1:])) for tensor in tensors_in(images)]
    timings = latencies(pairs, shapes) if pairs else []
    for (runtime, file), timing in zip(pairs, timings, strict=True):
        which = "original_ms" if file == original else "ms"
        row[runtime][which] = [round(t, 4) for t in (timing.median, timing.low, timing.high)]
    return row


def compared(
    small: nn.Module, runtime: str, file: Path, images: Tree, wanted: list[Tensor]
) -> dict[str, Any]:
    """Export for a runtime, run there, and return the comparison with the original's outputs."""
    target = one_target(runtime)
    lissom.export(small, runtime, file, example=first(images, 2))
    session = target.load(file, 1)
    rows = [session([t.contiguous().numpy() for t in tensors_in(part)]) for part in singles(images)]
    outputs = [torch.from_numpy(np.concatenate(part)) for part in zip(*rows, strict=True)]
    fused = target.fused(file)
    assert fused is not None
    return {
        "layers": [fused.done, fused.total],
        "rest": list(fused.rest),
        "bytes": file.stat().st_size,
        "agreement": agreement(outputs[0], wanted[0]),
        "error": max(noise(a, b) for a, b in zip(outputs, wanted, strict=True)),
    }


def line(row: dict[str, Any]) -> str:
    """Return a row as Markdown."""
    cells = [row["name"] + ("*" if row.get("random") else ""), str(row.get("opset", ""))]
    cells.append(f"{row['imported']:.1e}" if "imported" in row else "-")
    written = [row[runtime]["bytes"] for runtime in RUNTIMES if "bytes" in row.get(runtime, {})]
    cells.append(f"{row['bytes'] / 1e6:.2f}, {written[0] / 1e6:.2f}" if written else "-")
    for runtime in RUNTIMES:
        part = row.get(runtime, {})
        if "error" not in part:
            cells += ["-"] * 4
            continue
        before, after = part["original_ms"], part["ms"]
        cells.append("/".join(map(str, part["layers"])))
        cells.append(f"{part['agreement']:.1%}, {part['error']:.1%}")
        cells.append(f"{before[0]:.2f}, {after[0]:.2f}")
        apart = before[2] < after[1] or after[2] < before[1]
        cells.append(f"{before[0] / after[0]:.2f}x" if apart else "level")
    cells.append(reason(row).replace("|", "/").replace("\n", " "))
    return "| " + " | ".join(cells) + " |"


def counted(rows: list[dict[str, Any]]) -> str:
    """Return the counts of all rows as a sentence."""
    imported = sum("imported" in row for row in rows)
    quantized = sum(all("ms" in row.get(runtime, {}) for runtime in RUNTIMES) for row in rows)
    return (
        f"Of {len(rows)} files, {imported} are imported, and {quantized} become files of integers in "
        "both runtimes."
    )


def reason(row: dict[str, Any]) -> str:
    """Return why a file or its export is refused, else the layers that stay float."""
    for part in (row, *(row.get(runtime, {}) for runtime in RUNTIMES)):
        for word in ("reason", "broken"):
            if word in part:
                said = textwrap.shorten(str(part[word]).rpartition(".onnx: ")[2], 240)
                return ("**broken** " * (word == "broken")) + said
        if isinstance(part.get("error"), str):
            return f"**broken** {part['error']}"
    floats = [note.partition("float: ")[2] for note in row["notes"] if " float: " in note]
    rest = floats + [name for runtime in RUNTIMES for name in row[runtime].get("rest", [])]
    return textwrap.shorten(", ".join(dict.fromkeys(rest)), 160, placeholder=" ...")


def operators_line(row: dict[str, Any]) -> str:
    """Return the operators of a file as Markdown."""
    found = ", ".join(row.get("operators", [])) or "-"
    cells = (
        row["name"],
        row.get("input", "-"),
        row.get("samples", "-"),
        row.get("nodes", "-"),
        found,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def page(rows: list[dict[str, Any]], table: Path, out: Path) -> str:
    """Return the tables as Markdown."""
    files = " ".join(row["given"] for row in rows)
    command = textwrap.fill(
        f"python benchmarks/onnx_files.py {files} --text 'ch_*' --fixed sr=16000 "
        f"--rows {table} -o {out}",
        110,
        break_long_words=False,
        break_on_hyphens=False,
    ).replace("\n", " \\\n    ")
    here = machine()
    versions = here["libraries"]
    libraries = ", ".join(f"{n} {versions[n]}" for n in ("torch", *RUNTIMES) if n in versions)
    columns = ["layers", "agreement, error", "ms", "faster"]
    head = ["file", "opset", "imported", "MB"]
    head += [f"{runtime}: {column}" for runtime in ("ORT", "OpenVINO") for column in columns]
    head.append("stays float, or refused")
    return "\n".join(
        [
            "# ONNX files of other people",
            "",
            f"{here['cpu']}, {libraries}; one thread, shared with other work. Made by",
            "",
            f"```\n{command}\n```",
            "",
            f"Each file is imported and quantized with `{RECIPE}` on {SAMPLES} samples. {counted(rows)}",
            "",
            "- *Imported*: the largest difference between the imported network and the file in ONNX "
            "Runtime, beside the largest output. The limit is 1e-4.",
            "- *Layers*: how many of all compute in integers in that runtime.",
            "- *Agreement, error*: of the integer file with the original. Agreement is the share of "
            "answers (classes, letters, pixels) that are the same; the error is the root mean square "
            "of the difference beside that of the outputs, of the worst output. Noise is no speech: "
            "there the error says more.",
            "- *MB, ms*: of the original and of the integer file, in the same runtime, measured in "
            "turns for one sample. *Faster* is level where the intervals meet. Silero's files are timed "
            "beside lissom's export of the same network without integers, whose state has its batch first.",
            "- \\*: the weights of the file are one number each. It is imported as it is; the rest is "
            "measured with random weights, as are those MB.",
            "",
            "| " + " | ".join(head) + " |",
            "|" + "---|" * len(head),
            *map(line, rows),
            "",
            "| file | input | samples | nodes | operators |",
            "|---|---|---|---|---|",
            *map(operators_line, rows),
            "",
        ]
    )


def one(given: str, text: str, fixed: str, seconds: int, memory: int) -> dict[str, Any]:
    """Return the row of one file, tested in a process of its own."""
    path, _, sizes = given.partition("=")
    name = Path(path).name
    facts = {"name": name, "given": f"{name}={sizes}" if sizes else name}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, __file__, given, "--one", "--text", text, "--fixed", fixed]
        command += ["--rows", str(out)]
        try:
            done = subprocess.run(
                command,
                timeout=seconds,
                capture_output=True,
                text=True,
                preexec_fn=lambda: limited(memory),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return facts | {"error": f"not done after {seconds} s"}
        if out.exists():
            row = out.read_text().replace(f"{Path(path).parent}/", "")  # a local path
            return facts | json.loads(row)
        said = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        return facts | {"error": said[0][:300]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE[=SIZES]")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--text", default="", metavar="PATTERN")
    parser.add_argument("--fixed", default="", metavar="NAME=VALUE")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--memory", type=int, default=14)
    parser.add_argument("-o", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        path, _, sizes = args.files[0].partition("=")
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        shape = tuple(int(size) for size in sizes.split("x") if size)
        text = fnmatch.fnmatch(Path(path).name, args.text)
        fixed = named_values(args.fixed, "--fixed")
        row = facts_of(Path(path)) | reasoned(lambda: tried(Path(path), shape, fixed, text=text))
        args.rows.write_text(json.dumps(row))
        return
    rows = {}
    if args.rows.exists():
        for text in args.rows.read_text().splitlines():
            rows[json.loads(text)["name"]] = json.loads(text)
    for given in args.files:
        row = one(given, args.text, args.fixed, args.seconds, args.memory)
        rows[row["name"]] = row
        args.rows.write_text("".join(json.dumps(rows[name]) + "\n" for name in sorted(rows)))
        print(line(row), flush=True)
    if args.o:
        args.o.write_text(page([rows[name] for name in sorted(rows)], args.rows, args.o))


if __name__ == "__main__":
    main()
