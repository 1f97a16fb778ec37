"""Test pruning, quantization and export on known networks; writes docs/results/coverage.md.

    python benchmarks/coverage.py --rows docs/results/coverage.jsonl [--only PATTERN,...] [-o
    docs/results/coverage.md]

Networks have random weights, normalisations with random statistics, and the smallest images that
they accept. First the weights that produce randomly chosen channels are set to zero, and these
channels are cut out. The outputs in float64 must be the same up to rounding (a detector keeps the
boxes that the uncut network chose). Then prune(0.5), quantize(8) and both are applied, saved and
loaded, which must give the same bits, and exported to ONNX Runtime and OpenVINO, whose outputs must
match PyTorch's. Each network runs in a process of its own with limits of time and memory
(--seconds, --memory). A line for each is added to --rows; networks that have a line are not run
again. Needs timm.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import json
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from by_family import tables
from known_networks import Known, networks
from torch import Tensor, nn

import lissom
from lissom.bench.machine import machine
from lissom.exporting.onnx import export as _onnx
from lissom.language.recipe import Recipe
from lissom.running.plan import one_target
from lissom.surgery.channels.choose import lowest
from lissom.surgery.channels.slice import Cut, slice_channels
from lissom.surgery.channels.trial_cut import cuttable
from lissom.surgery.compare import difference_from, record_outputs
from lissom.surgery.count import macs
from lissom.surgery.quantization.network import QuantizedNetwork
from lissom.trees import Tree, first, in_float, run_on_copied_inputs, tensors_in

EXACT = 1e-9
RECIPES = ("prune(0.5)", "quantize(8)", "prune(0.5) | quantize(8)")
RUNTIMES = ("onnxruntime", "openvino")
IMAGES = 8
UNMARKED = 7  # the version of quantize in rows without one


def lively(model: nn.Module) -> nn.Module:
    """Randomise normalisation statistics and one-dimensional parameters, in place."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None:
                assert layer.running_var is not None
                layer.running_mean.copy_(
                    0.3 * torch.randn(layer.running_mean.shape, generator=draw)
                )
                layer.running_var.copy_(0.5 + torch.rand(layer.running_var.shape, generator=draw))
        for p in model.parameters():
            if p.numel() < 65_536 and (p.ndim < 2 or p.min() == p.max()):
                p.add_(0.3 * torch.randn(p.shape, generator=draw))
    return model.eval()


def inputs(model: nn.Module, shapes: tuple[tuple[int, ...], ...], several: bool) -> Tree:
    """Return noise of the first of `shapes` that works, or if `several` one input of each shape."""
    draw = torch.Generator().manual_seed(1)
    if several:
        return tuple(torch.randn(IMAGES, *shape, generator=draw) for shape in shapes)
    for shape in shapes:
        images = torch.randn(IMAGES, *shape, generator=draw)
        try:
            with torch.no_grad():
                model(images[:1])
        except Exception as error:  # forward may raise anything for images of a wrong size
            last = error
        else:
            return images
    raise last


def dead_difference(model: nn.Module, images: Tree) -> dict[str, Any]:
    """Zero the weights that produce random channels, cut these channels, and return the difference
    of the outputs, the share of channels that can be cut, and the layers left out.
    """
    begin = time.process_time()
    groups = cuttable(model, first(images, 1))
    seconds = time.process_time() - begin
    free = sum(int((m.unit >= 0).sum()) for g in groups for m in g.members if m.role == "out")
    every = sum(
        layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        for layer in model.modules()
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear))
    )
    every += sum(
        len(m.in_proj_weight) for m in model.modules() if isinstance(m, nn.MultiheadAttention)
    )
    draw = torch.Generator().manual_seed(1)
    cut: Cut = []
    for group in groups:
        step = group.step(1)
        count = int(torch.randint(1, max(2, group.size // step), (1,), generator=draw)) * step
        cut.append(
            (
                group,
                lowest(
                    torch.rand(group.size, generator=draw),
                    min(count, group.size - step),
                    group.blocks,
                ),
            )
        )
    model = copy.deepcopy(model).double()
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    with torch.no_grad():
        for group, units in cut:
            for m in group.members:
                if m.role != "in" and "running" not in m.tensor:
                    dead = (m.unit >= 0) & units[m.unit.clamp_min(0)]
                    parts = (
                        tensors[m.tensor].chunk(len(dead))
                        if dead.ndim == 2
                        else [tensors[m.tensor]]
                    )
                    for part, gone in zip(parts, dead if dead.ndim == 2 else [dead], strict=True):
                        part.index_fill_(m.axis, gone.nonzero().flatten(), 0)
        some = in_float(first(images, 1), torch.float64)
        before = record_outputs(model, some)
        slice_channels(model, cut)
        found = difference_from(before, model, some)
    return {
        "reachable": free / max(every, 1),
        "difference": found,
        "left": groups.left_whole,
        "seconds": seconds,
    }


def tried(recipe: str, model: nn.Module, fresh: nn.Module, images: Tree) -> dict[str, Any]:
    """Apply a recipe, save, load and export the result, and return the results of each check."""
    example = first(images, 1)
    small, notes = lissom.apply(recipe, model, example, images, notes=True)
    found: dict[str, Any] = {"notes": notes, "channels": [channels(model), channels(small)]}
    with torch.no_grad():
        wanted = list(tensors_in(run_on_copied_inputs(small, images)))
    found["noise"] = noise(
        wanted[0], next(tensors_in(run_on_copied_inputs(model, images))).detach()
    )
    with tempfile.TemporaryDirectory() as folder:
        lissom.save(small, folder)
        again = lissom.load(folder, fresh).eval()
        with torch.no_grad():
            same = [
                torch.equal(a, b)
                for a, b in zip(
                    wanted, tensors_in(run_on_copied_inputs(again, images)), strict=True
                )
            ]
        if not all(same):
            raise AssertionError("the network that was saved and loaded answers otherwise")
        with converted_once():
            for runtime in RUNTIMES:
                found[runtime] = reasoned(
                    lambda runtime=runtime: exported(
                        small, runtime, Path(folder), images, wanted[0]
                    )
                )
    return found


def exported(
    small: nn.Module, runtime: str, folder: Path, images: Tree, wanted: Tensor
) -> dict[str, Any]:
    """Export and run a network; return the layers that run in integers and how far the outputs
    agree with PyTorch's.
    """
    target = one_target(runtime)
    path = folder / f"net.{target.ending}"
    if isinstance(images, Tensor):
        lissom.export(small, runtime, path, tuple(images.shape[1:]), images)
    else:
        lissom.export(small, runtime, path, example=first(images, 1))
    session = target.load(path, 1)  # safe in this process, since export has tested the file
    outputs = torch.from_numpy(
        np.concatenate([answered(session, example) for example in singles(images)])
    )
    fused = (
        target.fused(path)
        if any(isinstance(m, QuantizedNetwork) for m in small.modules())
        else None
    )
    return {
        "agreement": agreement(outputs, wanted),
        "noise": noise(outputs, wanted),
        "integers": str(fused) if fused else None,
        "rest": list(fused.rest[:5]) if fused else [],
    }


@contextmanager
def converted_once() -> Iterator[None]:
    """Make PyTorch's slow exporter convert a network once for both runtimes."""
    kept: dict[str, Any] = {}
    convert = _onnx.convert

    def converted(model: nn.Module, inputs: Any) -> Any:
        if "model" not in kept:
            kept["model"] = convert(model, inputs)
        return copy.deepcopy(kept["model"])

    _onnx.convert = converted
    try:
        yield
    finally:
        _onnx.convert = convert


def answered(session: Any, example: Tree) -> np.ndarray:
    """Return the first output of a session for one input of the network."""
    given = [t.numpy() for t in tensors_in(example)]
    return np.asarray(session(given[0]) if len(given) == 1 else session(given)[0])


def singles(images: Tree) -> list[Tree]:
    """Return each sample as a batch of 1."""
    count = len(next(iter(tensors_in(images))))
    return [tuple(t[k : k + 1] for t in tensors_in(images)) for k in range(count)]


def agreement(one: Tensor, two: Tensor) -> float:
    """Return the share of samples for which two outputs have the same argmax."""
    return (
        float((one.argmax(1) == two.argmax(1)).float().mean())
        if one.ndim > 1 and one.shape[1] > 1
        else 1.0
    )


def noise(one: Tensor, two: Tensor) -> float:
    """Return the relative root mean square of the difference, infinity if shapes differ."""
    if one.shape != two.shape:
        return float("inf")
    return float(
        (one - two).float().square().mean().sqrt()
        / two.float().square().mean().sqrt().clamp_min(1e-9)
    )


def channels(model: nn.Module) -> int:
    """Return the number of output channels of all layers of a network."""
    return sum(
        len(m.weight)
        for m in model.modules()
        if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))
    )


def reasoned(call: Any) -> dict[str, Any]:
    """Return the result of a call, the reason if lissom refuses it, or the error and its traceback."""
    try:
        return dict(call())
    except lissom.LissomError as error:
        return {"reason": str(error)[:400]}
    except Exception as error:
        return {
            "broken": f"{type(error).__name__}: {error}"[:400],
            "where": traceback.format_exc()[-1500:],
        }


def examined(network: Known) -> dict[str, Any]:
    """Return the row of one network."""
    family, name, build, shapes = network
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = lively(build())
    several = name == "two inputs"
    images = inputs(model, shapes, several)
    row: dict[str, Any] = {
        "family": family,
        "name": name,
        "params": sum(p.numel() for p in model.parameters()),
        "input": [list(t.shape[1:]) for t in tensors_in(images)],
        "quantize": Recipe("quantize(8)").steps[0].version,
    }
    row["dead"] = reasoned(lambda: dead_difference(model, images))
    row["macs"] = reasoned(lambda: {"before": macs(model, first(images, 1))})
    for recipe in RECIPES:
        row[recipe] = reasoned(lambda recipe=recipe: tried(recipe, model, build(), images))
    return row


def limited(memory: int) -> None:
    """Limit the memory of this process, in GiB."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (memory << 30, memory << 30))


def one(name: str, seconds: int, memory: int, script: str = __file__) -> dict[str, Any]:
    """Try one network in a process of its own, which runs a script with --one."""
    family, _, plain = name.partition("/")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        try:
            done = subprocess.run(
                [sys.executable, script, "--one", name, "-o", str(out)],
                timeout=seconds,
                capture_output=True,
                text=True,
                preexec_fn=lambda: limited(memory),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"family": family, "name": plain, "error": f"not done after {seconds} s"}
        if out.exists():
            return dict(json.loads(out.read_text()))
        said = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        return {"family": family, "name": plain, "error": said[0][:300]}


def verdict(row: dict[str, Any]) -> tuple[int, int]:
    """Return how many results of a row are silently wrong, and how many failed with a raw error."""
    parts = (
        [
            row["dead"],
            *(row[r] for r in RECIPES),
            *(row[r].get(t, {}) for r in RECIPES for t in RUNTIMES),
        ]
        if "dead" in row
        else [{"broken": row["error"]}]
    )
    wrong = sum(
        "AssertionError" in part.get("broken", "") or part.get("difference", 0) > EXACT
        for part in parts
    )
    return wrong, sum("broken" in part and "AssertionError" not in part["broken"] for part in parts)


def line(row: dict[str, Any]) -> str:
    """Return a row as Markdown."""
    if "error" in row:
        return f"| {row['name']} | | | | | | | {row['error']} |"
    dead, cut, rounded, both = row["dead"], *(row[r] for r in RECIPES)
    reach = f"{dead['reachable']:.0%}" if "reachable" in dead else "-"
    proof = (
        (
            f"{dead['difference']:.0e}"
            if dead["difference"] <= EXACT
            else f"**wrong: {dead['difference']:.2g}**"
        )
        if "difference" in dead
        else "-"
    )
    left = f"{cut['channels'][1] / cut['channels'][0]:.0%}" if "channels" in cut else "-"
    ints = [
        " ".join(part.get(t, {}).get("integers") or "-" for t in RUNTIMES)
        for part in (rounded, both)
    ]
    files = [
        part[t] for part in (cut, rounded, both) for t in RUNTIMES if "agreement" in part.get(t, {})
    ]
    alike = (
        f"{min(f['agreement'] for f in files):.0%}, {max(f['noise'] for f in files):.0e}"
        if files
        else "-"
    )
    cells = (
        row["name"],
        "x".join(map(str, row["input"][0])),
        reach,
        proof,
        left,
        *ints,
        alike,
        reasons(row),
    )
    return "| " + " | ".join(cells) + " |"


def reasons(row: dict[str, Any]) -> str:
    """Return the most common reasons for layers that were left out."""
    found: dict[str, int] = {}
    for why in row["dead"].get("left", {}).values():
        if why not in ("an output of the network", "the input of the network"):
            found[f"whole: {why}"] = found.get(f"whole: {why}", 0) + 1
    said = [
        f"{why} ({count})" for why, count in sorted(found.items(), key=lambda item: -item[1])[:2]
    ]
    for recipe in RECIPES:
        for where, part in (
            ("", row[recipe]),
            *((f" to {t}", row[recipe].get(t, {})) for t in RUNTIMES),
        ):
            for word in ("reason", "broken"):
                if word in part:
                    mark = "**broken** " * (word == "broken")
                    said.append(f"{recipe.replace(' | ', ', ')}{where}: {mark}{part[word][:160]}")
    return "; ".join(dict.fromkeys(text.replace("|", "/").replace("\n", " ") for text in said))


def versions(rows: list[dict[str, Any]]) -> str:
    """Return the number of rows for each version of quantize."""
    counts = Counter(row.get("quantize", UNMARKED) for row in rows)
    parts = [f"{counts[version]} rows by version {version}" for version in sorted(counts)]
    return (
        f"Of `quantize`: {', '.join(parts)}. What runs in integers now, by multiply-adds, is in "
        "[integers.md](integers.md)."
    )


def page(rows: list[dict[str, Any]]) -> str:
    """Return the table as Markdown."""
    here, wrong, broken = (
        machine(),
        sum(verdict(r)[0] for r in rows),
        sum(verdict(r)[1] for r in rows),
    )
    out = [
        "# What can be cut, rounded and exported",
        "",
        "Made by `python benchmarks/coverage.py --rows docs/results/coverage.jsonl -o "
        "docs/results/coverage.md`: how is "
        "said there.",
        f"{here['cpu']}, torch {here['libraries']['torch']}. {len(rows)} networks: {wrong} "
        "results wrong without a "
        f"word, {broken} raw errors. {versions(rows)}",
        "",
        "*Can be cut*: of the channels that its layers make. *Dead*: the largest difference in "
        "float64 after channels "
        "that were dead have been cut out. *Left*: channels after `prune(0.5)`. *In integers*: "
        "layers of those of "
        "the file, in ONNX Runtime and in OpenVINO. *Agreement*: of answers with PyTorch, the "
        "least of all files, and "
        f"the largest difference, as root mean square over that of the outputs. The {IMAGES} "
        "images are noise and the "
        "weights random, so that the two largest outputs may lie closer together than one rounding step.",
        "",
    ]
    columns = (
        "network | input | can be cut | dead | left | quantize(8) in integers | "
        "prune(0.5), quantize(8) in integers | agreement | reasons"
    )
    out += tables(rows, columns, line)
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--only", default="*", help="patterns of names, or of family/name, with commas between"
    )
    parser.add_argument(
        "--rows",
        type=Path,
        help="a file with a line for each network; those there are not tried again",
    )
    parser.add_argument(
        "--seconds", type=int, default=900, help="after which a network is given up"
    )
    parser.add_argument(
        "--memory", type=int, default=12, help="GiB that a network's process may take"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    every = {f"{network[0]}/{network[1]}": network for network in networks()}
    if given.one:
        given.output.write_text(json.dumps(examined(every[given.one])))
        return
    rows = (
        [json.loads(text) for text in given.rows.read_text().splitlines()]
        if given.rows and given.rows.exists()
        else []
    )
    done = {f"{row['family']}/{row['name']}" for row in rows}
    for name in every:
        if name not in done and any(
            fnmatch.fnmatch(name, p) or fnmatch.fnmatch(name.partition("/")[2], p)
            for p in given.only.split(",")
        ):
            row = one(name, given.seconds, given.memory)
            rows.append(row)
            if given.rows:
                with given.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print(line(row), flush=True)
    if given.output:
        given.output.write_text(
            page(sorted(rows, key=lambda row: list(every).index(f"{row['family']}/{row['name']}")))
        )
    wrong, broken = sum(verdict(row)[0] for row in rows), sum(verdict(row)[1] for row in rows)
    print(f"{len(rows)} networks: {wrong} results wrong without a word, {broken} raw errors")
    sys.exit(bool(wrong or broken))


if __name__ == "__main__":
    main()
