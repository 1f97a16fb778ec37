"""Export and time what is named on the command line: keys of the store, or files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..errors import LissomError
from ..execute import build_from_entry
from ..measure import exported
from ..plan import one_target, targets_of
from ..store import Store
from ..targets._onnxz import ENDING, is_packed, read
from ..targets._packed import unpacked
from .latency import latencies


def export_key(key: str, store: Store, to: str, output: Path | None, bake: bool) -> Path:
    """Write a finished network as a file for one target, named as the target names it unless `output` says.

    What the store keeps as a zip of OpenVINO's two files becomes these two, unless `output` ends otherwise than in .xml.
    """
    found = exported(store, key, one_target(to), bake, lambda: build_from_entry(key, store))
    two = found.suffix == ".ir"
    output = output or Path("model.xml" if two else found.name)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        unpacked(found, output) if two and output.suffix == ".xml" else shutil.copyfile(found, output)
        beside = found.with_name(found.name + ".json")
        if beside.is_file():
            shutil.copyfile(beside, output.with_name(output.name + ".json"))
    except OSError as error:
        raise LissomError(f"export: {output} cannot be written ({error})") from None
    return output


def bench_things(things: list[str], store: Store, to: str, shape: tuple[int, ...] | None, batch: int,
                 threads: int) -> list[dict[str, Any]]:
    """Time keys and files in every target, in turns; one row for each pair.

    `shape` (c h w) is needed for files whose input does not say it; ONNX files do.
    """
    rows = []
    for target in targets_of(to):
        pairs = []
        for thing in things:
            path = Path(thing)
            if path.is_file():
                wanted = shape or shape_of(path)
            else:
                key = store.find(thing)
                path = exported(store, key, target, False, lambda key=key: build_from_entry(key, store))  # type: ignore[misc]
                wanted = tuple(store.record(key)["task"]["shape"])
            fits = (f".{target.ending}", *target.others)
            if path.suffix not in fits:
                raise LissomError(f"bench: {target} runs {' and '.join(fits)} files; {path} was given")
            pairs.append((thing, path, wanted))
        if len({wanted for *_, wanted in pairs}) > 1:
            raise LissomError("bench: the networks take inputs of different shapes; time them one by one")
        timings = latencies([(str(target), path) for _, path, _ in pairs], (batch, *pairs[0][2]), threads=threads)
        for (thing, path, _), timing in zip(pairs, timings, strict=True):
            rows.append({"name": thing, "target": str(target), "artefact": str(path), "batch": batch, "threads": threads,
                         "size_bytes": path.stat().st_size, "latency_ms": timing.latency_ms(),
                         "load_ms": timing.load_ms, "peak_mib": timing.peak_mib, "resident_mib": timing.resident_mib})
    return rows


def shape_of(path: Path) -> tuple[int, ...]:
    """Return the shape (c h w) of one input of an ONNX file, packed or not."""
    if path.suffix not in (".onnx", ENDING):
        raise LissomError(f"bench: {path} does not say what it takes; --size and --channels do")
    import onnx

    whole = read(path) if is_packed(path) else None
    try:
        proto = onnx.load(str(path), load_external_data=False) if whole is None else onnx.load_model_from_string(whole)
        dims = proto.graph.input[0].type.tensor_type.shape.dim
    except Exception as error:  # protobuf raises errors of its own for a broken file
        raise LissomError(f"bench: {path} cannot be read as ONNX ({type(error).__name__})") from None
    sizes = tuple(d.dim_value for d in dims[1:])
    if not sizes or not all(sizes):
        raise LissomError(f"bench: {path} takes inputs of any size; --size and --channels choose one")
    return sizes
