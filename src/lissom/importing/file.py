"""Read an ONNX file: its graph, its metadata, and the files next to it that hold its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..errors import LissomError
from .packed import is_packed, read

EXTERNAL = 1  # data_location of a tensor that is stored in another file


def model_in(path: Path) -> Any:
    """Return the ONNX model in a file, packed or not. Weights in files next to it are not read.

    Raises LissomError if the file is not an ONNX model.
    """
    import onnx

    try:
        if is_packed(path):
            return onnx.load_model_from_string(read(path))
        return onnx.load(str(path), load_external_data=False)
    except LissomError:
        raise
    except Exception as error:  # protobuf raises errors of its own for a broken file
        raise LissomError(f"{path}: it cannot be read as ONNX ({type(error).__name__})") from None


def content_mark(path: str) -> str:
    """Return a hash of a file's content, including the files that hold its weights."""
    file = Path(path)
    mark = hashlib.sha256(file.read_bytes())
    for weights in weight_files(file):
        with weights.open("rb") as opened:
            mark.update(hashlib.file_digest(opened, "sha256").digest())
    return mark.hexdigest()[:16]


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold weights of an ONNX file (external data), in order of their names."""
    names = {location(tensor) for tensor in model_in(path).graph.initializer} - {""}
    return list(dict.fromkeys(file_beside(name, path.parent) for name in sorted(names)))


def preprocess_said(path: Path) -> str | None:
    """Return the preprocessing that lissom recorded in a file, None if it has none."""
    said = {entry.key: entry.value for entry in model_in(path).metadata_props}
    text = said.get("preprocess", "")
    if text == "as given":
        return None
    if said.get("baked") == "true":  # the file takes pixels from 0 to 255
        return f"{text} | scale(255)" if text else "scale(255)"
    return text or None


def location(tensor: Any) -> str:
    """Return the name of the external file that holds a tensor, "" if it is in the ONNX file."""
    if tensor.data_location != EXTERNAL:
        return ""
    return next((str(e.value) for e in tensor.external_data if e.key == "location"), "")


def file_beside(name: str, folder: Path) -> Path:
    """Return the path of a file in the folder of the ONNX file. Raises LissomError if it would lie
    elsewhere or does not exist.
    """
    root = folder.resolve()
    try:
        # links are resolved first, so that none leads out of the folder
        file = (root / name).resolve()
        exists = file.is_file()
    except (OSError, ValueError):  # such as of a name with a zero byte
        raise LissomError(f"its weights lie in {name!r:.80}, which is no name of a file") from None
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or root not in file.parents:
        raise LissomError(
            f"its weights lie in {name!r:.80}; expected a file in the folder of the ONNX file"
        )
    if not exists:
        raise LissomError(f"its weights lie in {name!r:.80}, and there is no such file beside it")
    return file
