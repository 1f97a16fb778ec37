"""Write a finished network as a standalone file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import LissomError, silent
from ..exporting.openvino_ir import extract_ir
from ..exporting.snippet import FIRST_WORDS, snippet
from ..language.target import Target
from ..running.entries import build_from_entry
from ..running.measure import export_if_missing
from ..running.plan import one_target
from ..store.snapshot import restore
from ..store.store import Store
from ..system.scratch import temporary, written
from .accuracy import facts_in
from .export_with_extras import export_with_extras, nms_kind, preprocess_inside


@dataclass(frozen=True)
class ExportOptions:
    """What a file should contain besides the network: its normalisation (`bake`), all of its
    preprocessing (`pictures`), non-maximum suppression (`nms`) with the settings of `kind`, by
    default the network's own kind of task.
    """

    bake: bool = False
    nms: bool = False
    kind: str | None = None
    pictures: bool = False


def export_key(
    key: str,
    store: Store,
    to: str,
    output: Path | None,
    options: ExportOptions,
    model: str | None = None,
    say: Callable[[str], None] = silent,
    with_code: bool = False,
) -> Path:
    """Write a finished network as a file for one target; return its path, by default model.*.

    `with_code` also writes a script beside it that runs the file on an image, or on a tensor of
    floats. The store keeps OpenVINO's two files as one zip, which is unpacked unless `output` has
    another ending than .xml.
    """
    target = one_target(to)
    record = store.record(key)
    kind = nms_kind(record, target, options.kind) if options.nms else None
    preprocess = preprocess_inside(record, target) if options.pictures else None
    bake = options.bake or options.pictures

    def fresh() -> nn.Module:
        return build_from_entry(key, store, model)

    plain = export_if_missing(store, key, target, bake, fresh, say=say)
    suffix = f".{target.pictures}" if preprocess is not None else plain.suffix
    unpack = suffix == ".ir"
    output = output or Path("model.xml" if unpack else f"model{suffix}")
    if with_code and record["task"]["inputs"]:
        say(f"{key}  note: --snippet: there is no script for inputs that are no tensor of floats")
        with_code = False
    code = script_of(target, output, plain, options) if with_code else ""
    with written(output, "export") as new, temporary() as folder:
        source = plain
        if kind is not None or preprocess is not None:
            say(f"{key}  {target}: export, with what stands around the network")
            source = Path(folder) / f"model{suffix}"
            network = restore(fresh, store.folder(key))
            export_with_extras(network, record, target, kind, preprocess, source, plain, bake=bake)
        if unpack and output.suffix == ".xml":
            extract_ir(source, new)
        else:
            shutil.copyfile(source, new)
        beside = source.with_name(source.name + ".json")
        if beside.is_file():
            shutil.copyfile(beside, new.with_name(new.name + ".json"))
    if code:
        output.with_suffix(".py").write_text(code, encoding="utf-8")
    return output


def script_of(target: Target, output: Path, file: Path, options: ExportOptions) -> str:
    """Return the script that runs a file. Raises LissomError if its path holds some other file, and
    if the runtime alone cannot read a file of that name.
    """
    script = output.with_suffix(".py")
    if script == output:
        raise LissomError(
            f"--snippet: {script} is the file itself; choose another file name with -o"
        )
    ending = f".{target.pictures}" if options.pictures else file.suffix
    ending = ".xml" if ending == ".ir" else ending
    if target.name() == "openvino" and output.suffix != ending:
        raise LissomError(
            f"--snippet: OpenVINO cannot read {output.name}, since the name says the format; choose "
            f"-o {output.with_suffix(ending).name}"
        )
    if script.exists() and not script.read_text(encoding="utf-8", errors="replace").startswith(
        FIRST_WORDS
    ):
        raise LissomError(
            f"--snippet: {script} exists and was not written by --snippet; choose another file "
            "name with -o"
        )
    name = output.name if file.suffix != ".onnxz" else file.name
    return snippet(
        target.name(), name, facts_in(file), picks=options.nms, pictures=options.pictures
    )
