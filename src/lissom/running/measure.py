"""Export a finished network and measure the file in its runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..bench.inputs import Input
from ..bench.inputs import images as images_of
from ..bench.intervals import is_disturbed
from ..bench.latency import latencies
from ..bench.machine import machine, machine_text, measured_on
from ..bench.process import file_process
from ..data.inputs import example_in
from ..data.split import evenly_spaced
from ..errors import LissomError, silent
from ..language.target import Images, Target
from ..learning.evaluate import (
    Answers,
    RunFile,
    file_answers,
    join_batches,
    network_outputs,
    numbers,
)
from ..store.record import Measurement
from ..store.snapshot import has_packable_weights, restore, rounded_activations
from ..store.store import Store
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.noise import rounding_only
from ..tasks.task import Task
from ..trees import Tree, concatenated, run_on_copied_inputs
from .baked import as_pixels, metadata, preprocessed
from .integer_share import in_integers
from .measurement_notes import measurement_notes, medians
from .parity import (
    MAX_INTEGER_ERROR,
    MAX_OTHER_ROWS,
    OutputDifference,
    differences_from,
    has_8_bit_weights,
    prove,
)
from .pictures import Album

PROFILED_RUNS = 20  # the latency of each layer is their median
PROVEN_FILES: set[tuple[str, int, int]] = set()  # the files that this process compared, see `stamp`
# test samples for comparing a file with the float network if it fails against PyTorch
FLOAT_CHECK_SAMPLES = 256


def export_if_missing(
    store: Store,
    key: str,
    target: Target,
    bake: bool,
    fresh: Callable[[], nn.Module],
    images: Images | None = None,
    *,
    proven: bool = True,
    say: Callable[[str], None] = silent,
) -> Path:
    """Return the exported file of a network for a target; export it if the store has none. Targets
    with the same file name share it.

    `fresh` builds the network as it was before any step. `images` are the calibration samples of a
    target that quantizes itself, as the network without `bake` takes them. A new file is run and
    compared with the network on a few inputs; `proven=False` skips that if the caller will run it
    on all test samples. A process that was killed may have left a file without that, so a file
    that no record names is compared as well, once in each process.
    """
    home = store.folder(key)
    folder_name, file_name = target.file(
        has_packable_weights(home), rounded_activations(home)
    ).split("/")
    name = folder_name + ("-bake" if bake else "")
    path = home / "artefacts" / name / file_name
    if store.is_trusted_artefact(key, name) and (not proven or is_proven(store, key, path)):
        return path
    with store.lock(f"{key}.{name}"):
        there = store.is_trusted_artefact(key, name)
        if there and (not proven or is_proven(store, key, path)):  # another process did it
            return path
        record = store.record(key)
        whole = preprocessed(restore(fresh, home), record, bake)
        shown = as_pixels(images, record) if images is not None and bake else images
        shape = tuple(record["task"]["shape"])
        example = example_of(record)

        def check(file: Path) -> None:
            say(f"{key}  {target}: the file is run and compared with the network")
            some = example if shown is None else concatenated(shown(2))
            prove(target, file, whole, shape, some, pixels=bake)

        if there:
            try:
                check(path)
            except LissomError:
                store.discard(key, name)
                raise
        else:
            store.discard(key, name)
            say(f"{key}  {target}: export{', with preprocessing' if bake else ''}")
            facts = metadata(record, bake)
            with store.artefact(key, name) as folder:
                target.export(whole, folder / path.name, shape, facts, shown, example)
                if proven:
                    check(folder / path.name)
                # an ONNX file, packed or not, contains the facts itself
                if not path.suffix.startswith(".onnx"):
                    (folder / f"{path.name}.json").write_text(
                        json.dumps(facts, indent=1), encoding="utf-8"
                    )
        if proven:
            PROVEN_FILES.add(stamp(path))
    return path


def stamp(path: Path) -> tuple[str, int, int]:
    """Return what identifies a file until it is written again."""
    found = path.stat()
    return str(path), found.st_ino, found.st_mtime_ns


def is_proven(store: Store, key: str, path: Path) -> bool:
    """Return whether a file was compared with its network: by this process, or when it was
    measured.
    """
    return (path.is_file() and stamp(path) in PROVEN_FILES) or is_named(store, key, path)


def is_named(store: Store, key: str, path: Path) -> bool:
    """Return whether the record of a network has a measurement of a file."""
    return any(found["artefact"] == str(path) for found in store.record(key)["targets"].values())


def example_of(record: dict[str, Any]) -> Tree | None:
    """Return an example input if the network takes anything but one float tensor, else None."""
    inputs = record["task"]["inputs"]
    return example_in(inputs, record["task"]["form"]) if inputs else None


def inputs_in(record: dict[str, Any], batch: int, *, pixels: bool = False) -> list[Input]:
    """Return the inputs for timing a network on batches of `batch` samples."""
    task = record["task"]
    if not task["inputs"]:
        return images_of((batch, *task["shape"]), pixels=pixels)
    return [Input.of({**facts, "shape": [batch, *facts["shape"]]}) for facts in task["inputs"]]


def measure(
    task: Task,
    store: Store,
    key: str,
    source: str,
    targets: Sequence[Target],
    *,
    threads: int = 1,
    bake: bool = False,
    batch: int = 1,
    say: Callable[[str], None] = silent,
) -> list[LissomError]:
    """Measure the network `key` on every target and write the results into its record; return the
    errors of targets that failed.

    Latency is measured alternately with that of the uncompressed network `source` in the same
    runtime. Good earlier measurements under the same settings are kept.
    """
    settings = {"threads": threads, "batch": batch, "bake": bake}
    known = store.record(key)["targets"] if targets else {}
    missing = [target for target in targets if not is_measured(known.get(str(target)), settings)]
    tell_elsewhere(key, [known[str(t)] for t in targets if t not in missing], say)
    if not missing:
        return []
    model = restore(task.fresh, store.folder(key))
    failed = []
    simulated = Answers(model, task.data, task.data.test)
    album = Album(task, store, say)
    for target in missing:
        say(f"{key}  {target}: export, {len(task.data.test)} images, latency")
        path = None
        try:
            path = export_if_missing(
                store, key, target, bake, task.fresh, task.data.calibration, proven=False
            )
            other = export_if_missing(store, source, target.plain(), bake, task.fresh)
            found = measure_file(
                task,
                target,
                path,
                other,
                model,
                simulated,
                inputs_in(store.record(key), batch, pixels=bake),
                threads=threads,
                batch=batch,
                bake=bake,
                album=album,
            )
        except LissomError as error:
            say(f"{key}  {error}")
            failed.append(error)
            if path is not None and not is_named(store, key, path):
                # nothing shows that it is right; the next attempt exports it again
                store.discard(key, path.parent.name)
            continue
        others = medians(store.record(key), str(target), measured_on({}, found))
        found["notes"] = measurement_notes(found, others)
        store.update(key, {"targets": {str(target): found}})
        album.save_file(key, str(target))
        for note in found["notes"]:
            say(f"{key}  note: {target}: {note}")
    album.save_network(source)
    return failed


def tell_elsewhere(key: str, kept: Sequence[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Say which measurements that are kept are of another machine than this one."""
    here = machine_text(machine())
    for place in sorted({found["machine"] for found in kept if found.get("machine")} - {here}):
        say(
            f"{key}  its latencies are kept as measured on {place}; this is {here}, where "
            f"`lissom bench {key}` measures them"
        )


def is_measured(found: dict[str, Any] | None, settings: dict[str, Any]) -> bool:
    """Return whether a target has an undisturbed measurement under these settings, and its file."""
    return (
        found is not None
        and all(found.get(k) == v for k, v in settings.items())
        and not is_disturbed(found)
        and Path(found["artefact"]).is_file()
    )


def measure_file(
    task: Task,
    target: Target,
    path: Path,
    other: Path,
    model: nn.Module,
    simulated: Answers,
    inputs: Sequence[Input],
    *,
    threads: int,
    batch: int,
    bake: bool,
    album: Album,
) -> dict[str, Any]:
    """Return the measurement of a network's file for its record. `other` is the file of the
    uncompressed network. The answers to a few samples are put into `album`.
    """
    tally = task.tally()
    alike = task.agreement()
    rounded = model if isinstance(model, QuantizedNetwork) else None
    quantized = rounded is not None or target.rounds()
    difference = OutputDifference(MAX_INTEGER_ERROR if quantized else MAX_OTHER_ROWS)
    form = run_on_copied_inputs(model, task.data.example())
    with file_process(str(target), path, inputs, threads=threads) as process:
        found = file_answers(process.run, task, task.data.test, bake, form)
        for (outputs, targets), (wanted, _) in zip(found, simulated, strict=True):
            tally.add(outputs, targets)
            alike.add(outputs, wanted)
            difference.add(outputs, wanted)
        album.look(str(target), lambda few: file_answers(process.run, task, few, bake, form))
        gates = [
            difference.check(
                target,
                quantized=quantized,
                has_8_bit_weights=rounded is not None and has_8_bit_weights(rounded),
                from_float=rounded and partial(from_float, rounded, task, process.run, bake, form),
            )
        ]
    own, float_own = latencies(
        [(str(target), path), (str(target.plain()), other)],
        inputs,
        threads=threads,
        profiled=PROFILED_RUNS,
    )
    return Measurement(
        threads=threads,
        batch=batch,
        bake=bake,
        machine=machine_text(machine()),
        artefact=str(path),
        size_bytes=path.stat().st_size,
        agreement=alike.values().get("agreement"),
        gates=gates,
        latency_ms=own.latency_ms(),
        float_latency_ms=float_own.latency_ms(),
        float_size_bytes=other.stat().st_size,
        load_ms=own.load_ms,
        peak_mib=own.peak_mib,
        resident_mib=own.resident_mib,
        **in_integers(rounded, target, path, task.data.example()),
        layers_ms=own.layers_ms(),
        float_layers_ms=float_own.layers_ms(),
    ).json(numbers(tally.values()))


def from_float(
    model: QuantizedNetwork, task: Task, run: RunFile, bake: bool, form: Tree
) -> tuple[OutputDifference, OutputDifference]:
    """Return how far the outputs of a file, and of its simulation, are from those of the network
    without rounding, on a few test samples.
    """
    few = evenly_spaced(task.data.test, FLOAT_CHECK_SAMPLES)
    answered, _ = join_batches(file_answers(run, task, few, bake, form))
    simulated, _ = network_outputs(model, task.data, few)
    with rounding_only(model, []):
        floats, _ = network_outputs(model, task.data, few)
    return differences_from(floats, answered, simulated)
