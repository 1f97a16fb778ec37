"""Measure the latency of keys of the store, and of files, named on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ..bench.inputs import Input, images
from ..bench.intervals import is_wide
from ..bench.latency import Timing, latencies
from ..bench.machine import machine
from ..data.data import Data
from ..errors import LissomError, silent
from ..importing.file import model_in, weight_files
from ..importing.packed import ENDING
from ..language.parse_methods import method_of
from ..language.target import Target
from ..running.entries import build_from_entry
from ..running.measure import export_if_missing, inputs_in
from ..running.plan import targets_of
from ..store.store import Store
from ..trees import mapped, shapes
from .accuracy import facts_in, file_metrics, preprocess_in, takes_pictures
from .bench_arguments import file_or_key

# baselines of every bench: next to a runtime that is slow in float, any integer file looks fast
FLOAT_TARGETS = ("torch", "onnxruntime", "openvino", 'openvino(precision="bf16")')
PROFILED_RUNS = 50  # runs; the latency of each layer is their median


@dataclass(frozen=True)
class Candidate:
    """A file to time: its name, its target as text, its path, and its inputs for one sample."""

    name: str
    target: str
    path: Path
    inputs: tuple[Input, ...]
    source: str | None = None  # the key of its uncompressed network, None for a file
    baseline: bool = False

    @property
    def shapes(self) -> str:
        """The shapes of all inputs of one sample, as text."""
        return ", ".join(str(each.shape[1:]) for each in self.inputs)

    def is_baseline_of(self, other: Candidate) -> bool:
        """Return whether this is the uncompressed network of another candidate."""
        return self.baseline and self.source == other.source


def bench(
    arguments: list[str],
    store: Store,
    to: str,
    shape: tuple[int, ...] | None,
    batches: Sequence[int],
    threads: Sequence[int],
    *,
    layers: bool = False,
    baselines: bool = True,
    model: str | None = None,
    data: Callable[[str | None], Data] | None = None,
    kind: str | None = None,
    say: Callable[[str], None] = silent,
) -> list[dict[str, Any]]:
    """Time keys and files in every target, in alternation; return a row for each key or file and
    target, batch size and number of threads.

    With `baselines`, keys are compared with their uncompressed network in every installed runtime
    for floats; a baseline that cannot be made is reported and left out. `shape` (c h w) is needed
    for files that do not declare it, as ONNX files do. `model` builds networks whose entries name
    code that is not trusted. `layers` adds the latency of each layer in ms. `data` maps the
    preprocessing text of a file to data, and adds the metrics of each file on the test set for the
    `kind` of task.

    `rank` is 1 plus the number of candidates that are faster under the same settings, judged by
    intervals that do not overlap. `faster` is the speedup over the fastest baseline of the same
    network, None if either measurement was `disturbed`. `level` says that their intervals overlap.
    Raises LissomError if nothing can be timed.
    """
    pairs = candidates(arguments, store, to, shape, model)
    if baselines:
        sources = dict.fromkeys(pair.source for pair in pairs if pair.source)
        pairs += baseline_candidates(list(sources), store, say, model)
    if len({pair.shapes for pair in pairs}) > 1:
        raise LissomError(
            "bench: the networks take inputs of different shapes; time them one by one"
        )
    metrics = measured_metrics(pairs, data, kind, say) if data else {}
    rows: list[dict[str, Any]] = []
    for batch, count in product(batches, threads):
        inputs = [each.in_batches_of(batch) for each in pairs[0].inputs]
        try:
            timings = latencies(
                [(pair.target, pair.path) for pair in pairs],
                inputs,
                threads=count,
                profiled=PROFILED_RUNS if layers else 0,
            )
        except LissomError as error:
            if len(batches) * len(threads) == 1:
                raise
            # the other settings are still measured
            say(f"batches of {batch}, threads {count}: {error}")
            continue
        for pair, timing in zip(pairs, timings, strict=True):
            baseline_timings = [
                t for t, p in zip(timings, pairs, strict=True) if p.is_baseline_of(pair)
            ]
            rows.append(
                {
                    "name": pair.name,
                    "target": pair.target,
                    "baseline": pair.baseline,
                    "artefact": str(pair.path),
                    "batch": batch,
                    "threads": count,
                    "size_bytes": size_bytes(pair.path),
                    "metrics": metrics.get((pair.target, pair.path), {}),
                    "latency_ms": timing.latency_ms(),
                    "rank": 1 + sum(t.high < timing.low for t in timings),
                    **speedup_over(timing, baseline_timings),
                    **timing.costs(),
                }
            )
            if layers:
                rows[-1]["layers"] = timing.layers
    if not rows:
        raise LissomError("bench: nothing could be timed with these batches and threads")
    return rows


def candidates(
    arguments: list[str], store: Store, to: str, shape: tuple[int, ...] | None, model: str | None
) -> list[Candidate]:
    """Return a candidate for every file or key in every target that `to` names."""
    targets = targets_of(to)
    if not targets:
        raise LissomError("bench: --to names no target")
    return [
        resolve(argument, target, store, shape, model)
        for target in targets
        for argument in arguments
    ]


def measured_metrics(
    pairs: Sequence[Candidate],
    data: Callable[[str | None], Data],
    kind: str | None,
    say: Callable[[str], None],
) -> dict[tuple[str, Path], dict[str, float | None]]:
    """Return the metrics of each file in its runtime, by (target, path). Each file has the
    preprocessing in its metadata.
    """
    data_by_preprocessing: dict[str | None, Data] = {}
    metrics = {}
    for pair in pairs:
        text = preprocess_in(pair.path)
        if text not in data_by_preprocessing:
            data_by_preprocessing[text] = data(text)
        of_file = data_by_preprocessing[text]
        data_shapes = shapes(mapped(lambda t: t[0], of_file.example()))
        if data_shapes != pair.shapes:
            raise LissomError(
                f"bench: {pair.path.name} takes inputs of {pair.shapes}, and "
                f"{of_file.name} gives {data_shapes}; --preprocess says how images are seen"
            )
        say(f"{pair.name}  {pair.target}: {len(of_file.test)} test samples")
        metrics[pair.target, pair.path] = file_metrics(pair.path, pair.target, of_file, kind=kind)
    return metrics


def speedup_over(timing: Timing, baselines: Sequence[Timing]) -> dict[str, Any]:
    """Return the speedup over the fastest baseline: None without one, or if either was `disturbed`.

    `level`: the intervals overlap, so neither is certainly faster. Ranks and fronts follow the same
    rule.
    """
    fastest = min(baselines, default=None, key=lambda t: t.median)
    disturbed = any(is_wide(t.latency_ms()) for t in (timing, fastest) if t)
    faster = round(fastest.median / timing.median, 3) if fastest and not disturbed else None
    level = (
        faster is not None
        and fastest is not None
        and timing.low <= fastest.high
        and fastest.low <= timing.high
    )
    return {"faster": faster, "level": level, "disturbed": disturbed}


def size_bytes(path: Path) -> int:
    """Return the size of a file in bytes, including the files with its weights beside it: the .bin
    of OpenVINO's .xml, and external data of ONNX.
    """
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else []
    if path.suffix == ".onnx":
        try:
            beside = weight_files(path)
        except LissomError as error:
            raise LissomError(f"bench: {path}: {error}") from None
    return sum(file.stat().st_size for file in (path, *beside) if file.is_file())


def resolve(
    argument: str,
    target: Target,
    store: Store,
    shape: tuple[int, ...] | None,
    model: str | None = None,
) -> Candidate:
    """Return the candidate that a word of the command line names: a file, or a key, which is
    exported if the store has no file of it.
    """
    named = file_or_key(argument, store)
    source = None
    if isinstance(named, Path):
        path = named
        inputs = inputs_of_file(named) if shape is None else inputs_of_size(named, shape)
    else:
        key = named
        source = store.record(key)["float"]["key"]
        path = export_if_missing(
            store, key, target, False, lambda: build_from_entry(key, store, model)
        )
        inputs = inputs_in(store.record(key), 1)
    endings = (f".{target.ending}", *target.others)
    if path.suffix not in endings:
        raise LissomError(f"bench: {target}: expected {' or '.join(endings)} files, got {path}")
    return Candidate(argument, str(target), path, tuple(inputs), source)


def baseline_candidates(
    keys: Sequence[str], store: Store, say: Callable[[str], None], model: str | None = None
) -> list[Candidate]:
    """Return the uncompressed networks of keys in every runtime for floats that is installed."""
    targets = [
        target for text in FLOAT_TARGETS if isinstance(target := method_of("targets", text), Target)
    ]
    if "amx_bf16" not in machine()["isa"] and "avx512_bf16" not in machine()["isa"]:
        targets = [target for target in targets if not target.rounds()]
    baselines = []
    for key, target in product(keys, [target for target in targets if target.missing() is None]):
        name = "uncompressed" if len(keys) == 1 else f"uncompressed {key}"
        try:
            path = export_if_missing(
                store, key, target, False, partial(build_from_entry, key, store, model)
            )
            inputs = tuple(inputs_in(store.record(key), 1))
            baselines.append(Candidate(name, str(target), path, inputs, key, baseline=True))
        except LissomError as error:
            say(f"no baseline {name} in {target}: {error}")
    return baselines


def inputs_of_size(path: Path, shape: tuple[int, ...]) -> list[Input]:
    """Return the inputs of a file for one sample of `shape` (c h w); they may be 8-bit images."""
    if not takes_pictures(facts_in(path)):
        return images((1, *shape))
    channels, height, width = shape
    return [Input((1, height, width, channels), "uint8", 0, 255)]


def inputs_of_file(path: Path) -> list[Input]:
    """Return the inputs of an ONNX file, packed or not, for one sample.

    Raises LissomError if the file does not declare their shapes.
    """
    if path.suffix not in (".onnx", ENDING):
        raise LissomError(f"bench: {path} does not say what it takes; --size and --channels do")
    inputs = declared_inputs(path)
    if not inputs or not all(all(each.shape[1:]) for each in inputs):
        raise LissomError(
            f"bench: {path} takes inputs of any size; --size and --channels choose one"
        )
    return [each.in_batches_of(each.shape[0] or 1) if each.shape else each for each in inputs]


def declared_inputs(path: Path) -> list[Input]:
    """Return the inputs that an ONNX file, packed or not, declares; 0 stands for any size."""
    import onnx

    graph = model_in(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [
        Input(
            tuple(dim.dim_value for dim in part.type.tensor_type.shape.dim),
            str(onnx.helper.tensor_dtype_to_np_dtype(part.type.tensor_type.elem_type)),
        )
        for part in graph.input
        if part.name not in weights
    ]


def check_shape(path: Path, shape: tuple[int, ...]) -> None:
    """Raise LissomError if an ONNX file does not take inputs of `shape` (n c h w)."""
    if path.suffix in (".onnx", ENDING):
        declared = declared_inputs(path)[0].shape
        if len(declared) != len(shape) or any(
            size not in (0, given) for size, given in zip(declared, shape, strict=True)
        ):
            text = ", ".join(str(size or "any") for size in declared)
            raise LissomError(
                f"latency: {path} takes inputs of shape ({text}), the batch first; got {shape}"
            )
