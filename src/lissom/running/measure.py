"""Export a finished network and measure the file where it will run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bench.inputs import Input
from ..bench.inputs import images as images_of
from ..bench.intervals import disturbed
from ..bench.latency import latencies
from ..bench.machine import machine, machine_text, measured_on
from ..bench.process import loaded
from ..data.data import AS_GIVEN
from ..data.inputs import example_in
from ..data.split import spread
from ..errors import LissomError
from ..exporting.onnx.names import layers_in, products_in
from ..language.preprocess import Preprocess
from ..language.target import Fused, Images, Target
from ..learning.evaluate import Answers, RunFile, file_answers, network_outputs, numbers, together
from ..store.record import Measurement
from ..store.snapshot import few_bits, restore, rounded_activations
from ..store.store import Store
from ..surgery.count import layer_macs
from ..surgery.quantization.layers import QuantizedLayer
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.noise import rounding_only
from ..tasks.task import Task
from ..trees import Tree, called, concatenated
from .parity import NOISE, OTHERS, Gap, ParityError, gaps_from, in_eight_bits, prove
from .pictures import Album

PROFILED = 20  # runs that the time of each layer is a median of
FEW = 256  # test samples on which a file that is far from its simulation is held against float


def silent(_: str) -> None:
    """Say nothing."""


class Baked(nn.Module):
    """A network with its preprocessing inside: it takes pixels in 0..255 (n c h w)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network((pixels - self.mean) / self.std)


def metadata(record: dict[str, Any], bake: bool) -> dict[str, Any]:
    """Return what an exported file says of itself; one that normalises by itself gives no numbers
    to do it again.
    """
    seen = record["task"]["preprocessing"]
    said = {name: value for name, value in seen.items() if name not in ("mean", "std")}
    if seen.get("mean") and not bake:
        said.update(mean=seen["mean"], std=seen["std"])
    if seen.get("preprocess") == AS_GIVEN:
        takes = "as the data set gives it"
    elif bake:
        takes = "pixels 0..255"
    else:
        takes = "(pixels / 255 - mean) / std"
    return {
        "key": record["key"],
        "recipe": record["recipe"],
        "model": record["task"]["model"],
        "baked": "true" if bake else "false",
        "input": takes,
        **said,
        "kind": record["task"]["kind"],
        "preprocess": shown_preprocess(record, bake),
    }


def shown_preprocess(record: dict[str, Any], bake: bool) -> str:
    """Return what is to be done to a picture before a file is given it, as text."""
    shape = record["task"]["shape"]
    # a record of an earlier version tells the size only
    text = record["task"]["preprocessing"].get("preprocess") or "resize({1}, {2})".format(*shape)
    if text == AS_GIVEN or not bake:
        return str(text)
    return str(replace(Preprocess.of(text), numbers=()))


def preprocessed(model: nn.Module, record: dict[str, Any], bake: bool) -> nn.Module:
    """Return the network as a file has it: with its normalisation inside if `bake`."""
    seen = record["task"]["preprocessing"]
    if not bake:
        return model
    if not seen.get("mean"):
        raise LissomError(
            "--bake: inputs are taken as the data set gives them; there is nothing to put into the "
            "file"
        )
    return Baked(model, seen["mean"], seen["std"])


def exported(
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
    """Return the file of a network for a target, making it if the store has none; targets of one
    file share it.

    `fresh` builds the network as it was before any step; `images` are what a target's own quantizer
    looks at. What is made is run and compared with the network on a few inputs if `proven`; whoever
    runs it on all of them next says no.
    """
    home = store.folder(key)
    folder_name, file_name = target.file(few_bits(home), rounded_activations(home)).split("/")
    name = folder_name + ("-bake" if bake else "")
    path = home / "artefacts" / name / file_name
    if store.sound(key, name):
        return path
    with store.lock(f"{key}.{name}"):
        if not store.sound(key, name):
            store.discard(key, name)
            say(f"{key}  {target}: export{', with preprocessing' if bake else ''}")
            model = restore(fresh, store.folder(key))
            record = store.record(key)
            facts = metadata(record, bake)
            whole = preprocessed(model, record, bake)
            with store.artefact(key, name) as folder:
                shape = tuple(record["task"]["shape"])
                example = example_of(record)
                target.export(whole, folder / path.name, shape, facts, images, example)
                if proven:
                    say(f"{key}  {target}: the file is run and compared with the network")
                    some = example if images is None or bake else concatenated(images(2))
                    prove(target, folder / path.name, whole, shape, some, pixels=bake)
                # which hold the facts themselves, packed or not
                if not path.suffix.startswith(".onnx"):
                    (folder / f"{path.name}.json").write_text(
                        json.dumps(facts, indent=1), encoding="utf-8"
                    )
    return path


def example_of(record: dict[str, Any]) -> Tree | None:
    """Return a sample for a network that takes other than one tensor of floats; None for one that does."""
    inputs = record["task"]["inputs"]
    return example_in(inputs, record["task"]["form"]) if inputs else None


def inputs_in(record: dict[str, Any], batch: int, *, pixels: bool = False) -> list[Input]:
    """Return what a network is shown while it is timed, `batch` samples at once."""
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
    """Measure the network `key` on every target and write what was found into its record.

    Latency is taken in turns with that of the uncompressed network `source` in the same runtime.
    What was measured before under the same settings is kept, if it was measured well. Return what
    went wrong: one target that fails does not keep others.
    """
    settings = {"threads": threads, "batch": batch, "bake": bake}
    known = store.record(key)["targets"] if targets else {}
    missing = [target for target in targets if not _same(known.get(str(target)), settings)]
    if not missing:
        return []
    model = restore(task.fresh, store.folder(key))
    failed = []
    simulated = Answers(model, task.data, task.data.test)
    album = Album(task, store, say)
    for target in missing:
        say(f"{key}  {target}: export, {len(task.data.test)} images, latency")
        try:
            path = exported(
                store, key, target, bake, task.fresh, task.data.calibration, proven=False
            )
            other = exported(store, source, target.plain(), bake, task.fresh)
            found = measured(
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
            if isinstance(error, ParityError) and all(
                f["artefact"] != str(path) for f in store.record(key)["targets"].values()
            ):
                # so that the next attempt makes it anew
                shutil.rmtree(path.parent, ignore_errors=True)
            continue
        others = medians(store.record(key), str(target), found["machine"])
        found["notes"] = measurement_notes(found, others)
        store.update(key, {"targets": {str(target): found}})
        album.save_file(key, str(target))
        for note in found["notes"]:
            say(f"{key}  note: {target}: {note}")
    album.save_network(source)
    return failed


def faster_way(float_ms: float, others: Mapping[str, float]) -> str:
    """Return in words what is faster than a file that the uncompressed network's beats.

    >>> faster_way(44.0, {"onnxruntime": 31.0}), faster_way(44.0, {})
    ('faster: onnxruntime, 31 ms', 'faster: the uncompressed file')
    """
    best = min(others, key=lambda name: others[name], default="")
    if best and others[best] < float_ms:
        return f"faster: {best}, {others[best]:.3g} ms"
    return "faster: the uncompressed file"


def medians(record: dict[str, Any], target: str, machine: str) -> dict[str, float]:
    """Return the median latency in ms of a network in the targets that it was measured in, but one,
    on one machine.
    """
    return {
        name: found["latency_ms"]["median"]
        for name, found in record["targets"].items()
        if name != target and not disturbed(found) and measured_on(record, found) == machine
    }


def measurement_notes(
    found: dict[str, Any], others: Mapping[str, float] | None = None
) -> list[str]:
    """Return what a user would rather hear than find in the numbers of one target; `others` are the
    latencies of the same network elsewhere, one of which may be the faster way.
    """
    own = found["latency_ms"]
    other = found["float_latency_ms"]
    alike = found["agreement"]
    notes = []
    if alike is not None and alike < 0.995:
        notes.append(f"it and PyTorch agree on {alike:.2%} of the test images")
    if disturbed(found):
        notes.append(
            f"not measured well, the machine was busy: {own['low']:.3g} to "
            f"{own['high']:.3g} ms, the uncompressed "
            f"network {other['low']:.3g} to {other['high']:.3g}; the same command measures again"
        )
    if (share := found.get("macs_in_integers")) is not None and share < 0.5:
        notes.append(f"only {share:.0%} of the multiply-adds run in integers")
    if not disturbed(found) and own["low"] > other["high"]:
        floats = (
            f"; not in integers: {', '.join(found['not_fused'][:5])}" if found["not_fused"] else ""
        )
        notes.append(
            f"slower than the uncompressed network, {own['median']:.3g} ms to "
            f"{other['median']:.3g}; layers with "
            "few channels or depthwise ones may cost more to round than their products "
            f"save{floats}; {faster_way(other['median'], others or {})}"
        )
    return notes


def measured(
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
    """Return what a record says of the file of a network; `other` is that of the uncompressed one.

    What it answers to a few samples is put into `album`.
    """
    tally = task.tally()
    alike = task.agreement()
    rounded = model if isinstance(model, QuantizedNetwork) else None
    quantized = rounded is not None or target.rounds()
    gap = Gap(NOISE if quantized else OTHERS)
    form = called(model, task.data.example())
    with loaded(str(target), path, inputs, threads=threads) as process:
        found = file_answers(process.run, task, task.data.test, bake, form)
        for (outputs, targets), (wanted, _) in zip(found, simulated, strict=True):
            tally.add(outputs, targets)
            alike.add(outputs, wanted)
            gap.add(outputs, wanted)
        album.look(str(target), lambda few: file_answers(process.run, task, few, bake, form))
        gates = [
            gap.check(
                target,
                quantized=quantized,
                eight=rounded is not None and in_eight_bits(rounded),
                from_float=rounded and partial(from_float, rounded, task, process.run, bake, form),
            )
        ]
    own, float_own = latencies(
        [(str(target), path), (str(target.plain()), other)],
        inputs,
        threads=threads,
        profiled=PROFILED,
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
) -> tuple[Gap, Gap]:
    """Return how far a file's outputs, and those of its simulation, are from the network's without
    rounding, on a few test samples.
    """
    few = spread(task.data.test, FEW)
    answered, _ = together(file_answers(run, task, few, bake, form))
    simulated, _ = network_outputs(model, task.data, few)
    with rounding_only(model, []):
        floats, _ = network_outputs(model, task.data, few)
    return gaps_from(floats, answered, simulated)


def in_integers(
    model: QuantizedNetwork | None, target: Target, path: Path, example: Tree
) -> dict[str, Any]:
    """Return which layers of a file run in integers, which do not, and the former's share of all
    multiply-adds; None where nothing is quantized or the runtime does not say.
    """
    fused = None if model is None else target.fused(path)
    if model is None or fused is None:
        return {"fused": None, "macs_in_integers": None, "not_fused": []}
    return {
        "fused": str(fused),
        "macs_in_integers": share_in_integers(model, example, fused, path),
        "not_fused": list(fused.rest),
    }


def share_in_integers(model: nn.Module, example: Any, fused: Fused, path: Path) -> float:
    """Return the share of all multiply-adds that run in integers in a file: of layers, and of products
    of two activations, as in attention.
    """
    named = layers_in(path)
    # the last may have the name of the output
    rest = [name.partition(" (")[0] for name in fused.rest]
    floats = Counter(named(name, "") for name in rest)
    products = products_in(path)
    float_products = Counter(name.rpartition("/")[0] for name in rest if "MatMul" in name)
    counts = layer_macs(model, example)
    done = 0.0
    for path_of, layer in model.named_modules():
        name = "" if path_of == "network" else path_of.removeprefix("network.")
        if isinstance(layer, QuantizedLayer):
            if layer.rounding is not None and not floats[name]:
                done += counts.get(path_of, 0)
        elif read := products.get(name):
            own = counts.get(path_of, 0) - sum(
                counts.get(f"{path_of}.{child}".lstrip("."), 0)
                for child, _ in layer.named_children()
            )
            done += own * min(sum(read), len(read) - float_products[name]) / len(read)
    return round(done / max(counts[""], 1), 4)


def _same(found: dict[str, Any] | None, settings: dict[str, Any]) -> bool:
    """Return whether a target was measured under these settings, and well; its file is there still."""
    return (
        found is not None
        and all(found.get(k) == v for k, v in settings.items())
        and not disturbed(found)
        and Path(found["artefact"]).is_file()
    )
