"""Write a finished network as a file that stands alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..bench.inputs import Input
from ..bench.process import loaded
from ..detection.boxes import shared_boxes
from ..errors import LissomError
from ..exporting.openvino_ir import unpacked
from ..exporting.picked import Picked
from ..exporting.snippet import FIRST, snippet
from ..kinds.detect import Detect
from ..language.target import Target
from ..running.execute import build_from_entry
from ..running.measure import exported, inputs_in, metadata, preprocessed, silent
from ..running.parity import ParityError
from ..running.plan import one_target
from ..store.snapshot import restore
from ..store.store import Store
from ..system.scratch import temporary, written
from ..tasks.kinds import is_own_kind, kind_named
from ..trees import Tree, called, put_in
from .accuracy import facts_in

ALIKE = (
    0.98  # share of detections that a file which picks them has in common with one that does not
)
LEAST_IOU = 0.9


@dataclass(frozen=True)
class Wanted:
    """How a file is to be: `bake`, with its normalisation inside; `nms`, with what picks detections
    inside, as the `kind` of task does that is stated, or else the one that the network has.
    """

    bake: bool = False
    nms: bool = False
    kind: str | None = None


def export_key(
    key: str,
    store: Store,
    to: str,
    output: Path | None,
    wanted: Wanted,
    model: str | None = None,
    say: Callable[[str], None] = silent,
    with_code: bool = False,
) -> Path:
    """Write a finished network as a file for one target, named as the target names it unless `output` says.

    `with_code` writes a script beside it that runs it on a picture.

    What the store keeps as a zip of OpenVINO's two files becomes these two, unless `output` ends
    otherwise than in .xml.
    """
    target = one_target(to)
    kind = picking_kind(store, key, target, wanted) if wanted.nms else None

    def fresh() -> nn.Module:
        return build_from_entry(key, store, model)

    found = exported(store, key, target, wanted.bake, fresh, say=say)
    two = found.suffix == ".ir"
    output = output or Path("model.xml" if two else found.name)
    code = script_of(target, output, found, picks=wanted.nms) if with_code else ""
    with written(output, "export") as new, temporary() as folder:
        made = found
        if kind is not None:
            say(f"{key}  {target}: export, with what picks detections")
            made = Path(folder) / found.name
            network = restore(fresh, store.folder(key))
            record = store.record(key)
            export_picking(network, record, target, kind, made, found, bake=wanted.bake)
        if two and output.suffix == ".xml":
            unpacked(made, new)
        else:
            shutil.copyfile(made, new)
        beside = found.with_name(found.name + ".json")
        if beside.is_file():
            shutil.copyfile(beside, new.with_name(new.name + ".json"))
    if code:
        output.with_suffix(".py").write_text(code, encoding="utf-8")
    return output


def picking_kind(store: Store, key: str, target: Target, wanted: Wanted) -> Detect:
    """Return the kind of task that says how detections are picked; raise where a file cannot do it."""
    task = store.record(key)["task"]
    text = wanted.kind or str(task["kind"])
    if wanted.kind is None and is_own_kind(text):
        raise LissomError(
            f"--nms: the network was made for the kind of task {text}; --kind says where it is"
        )
    kind = kind_named(text)[0]
    if not isinstance(kind, Detect) or type(kind).decode is not Detect.decode:
        raise LissomError(
            f"--nms: expected a network of kind detect, or of one that says where its boxes are "
            f"(`places`), got {kind}"
        )
    if not target.suppresses:
        raise LissomError(
            f"--nms: {target} has nothing that picks boxes; onnxruntime and openvino have"
        )
    if task["inputs"]:
        raise LissomError("--nms: expected a network with one input, got several")
    return kind


def export_picking(
    model: nn.Module,
    record: dict[str, Any],
    target: Target,
    kind: Detect,
    path: Path,
    plain: Path,
    *,
    bake: bool,
) -> None:
    """Write the file that picks detections to `path`; raise ParityError unless it finds what is
    picked of the answers of the `plain` one.
    """
    shape = tuple(record["task"]["shape"])
    with torch.no_grad():
        form = called(model, torch.zeros(1, *shape))
    whole = preprocessed(model, record, bake)
    facts = {**metadata(record, bake), "nms": "true", "kind": str(kind)}
    target.export(Picked(whole, kind, kind.classes(form)), path, shape, facts)
    shown = [entry.in_batches_of(2) for entry in inputs_in(record, 1, pixels=bake)]
    wanted = kind.decode(run(target, plain, shown, form))
    found = kind.decode(run(target, path, shown, [torch.zeros(0)] * 3))
    both = sum(shared_boxes(one, two, LEAST_IOU) for one, two in zip(found, wanted, strict=True))
    count = max(sum(len(boxes) for boxes, _, _ in picked) for picked in (found, wanted))
    if both < ALIKE * count:
        raise ParityError(
            f"--nms: {target}: the file finds other boxes than are picked of the answers of the file "
            f"without it: {both} of {count} are the same; nothing was written"
        )


def run(target: Target, path: Path, shown: list[Input], form: Tree) -> Tree:
    """Return what a file answers to noise."""
    import numpy as np

    noise = [entry.noise(np.random.default_rng(0)) for entry in shown]
    with loaded(str(target), path, shown) as process:
        return put_in(form, [torch.from_numpy(array) for array in process.run(noise)])


def script_of(target: Target, output: Path, made: Path, *, picks: bool) -> str:
    """Return the script to stand beside a file; raise where another file of that name is there."""
    script = output.with_suffix(".py")
    if script.exists() and not script.read_text(encoding="utf-8", errors="replace").startswith(
        FIRST
    ):
        raise LissomError(
            f"--snippet: {script} is there and is no such script; name the file otherwise with -o"
        )
    name = output.name if made.suffix != ".onnxz" else made.name
    return snippet(target.name(), name, facts_in(made), picks=picks)
