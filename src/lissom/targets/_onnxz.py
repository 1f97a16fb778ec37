"""An ONNX file in few bytes: what holds weights is cut out of it and packed; reading puts the very bytes back.

A zip file of three parts: `graph`, the file without those tensors; `weights`, what `surgery/packing.py` made of them,
one behind the other; `index.json`, for each of them [type, elements, how it is packed, bytes packed, place in the file].
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from ..errors import LissomError

ENDING = ".onnxz"
FORMAT = 1
TYPES = {"int8": ("int8", 1), "float32": ("<f4", 4)}  # by name in the index: NumPy's name, bytes of an element
WORTH = 16  # bytes that a tensor must spare, since its line in the index takes some
MOST = 2**31  # bytes of a file in ONNX's own format


def write(source: Path, path: Path) -> None:
    """Write the ONNX file `source` packed to `path`; the same file becomes the same bytes, always."""
    import onnx
    from numpy import frombuffer

    from ..surgery.packing import pack

    data = source.read_bytes()
    kinds = {onnx.TensorProto.INT8: "int8", onnx.TensorProto.FLOAT: "float32"}
    graph, weights, rows, at = list[bytes](), list[bytes](), list[list[Any]](), 0
    for tensor in onnx.load_model_from_string(data).graph.initializer:
        raw, kind = tensor.raw_data, kinds.get(tensor.data_type)
        if kind is None or len(raw) <= WORTH:
            continue
        values = frombuffer(raw, TYPES[kind][0])
        how, packed = pack(values)
        if len(packed) + WORTH < len(raw):
            place = data.index(raw, at)  # equal bytes before it would do as well
            graph.append(data[at:place])
            weights.append(packed)
            rows.append([kind, len(values), how, len(packed), place])
            at = place + len(raw)
    index = json.dumps({"format": FORMAT, "tensors": rows}, separators=(",", ":")).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in (("index.json", index), ("graph", b"".join([*graph, data[at:]])), ("weights", b"".join(weights))):
            info = zipfile.ZipInfo(name)  # of 1980, so that no clock is in the file
            info.create_system = 3
            archive.writestr(info, part, zipfile.ZIP_DEFLATED, 9)


def is_packed(path: Path) -> bool:
    """Return whether a file says that it is packed, by its ending or its first bytes, as no ONNX file does."""
    if path.suffix == ENDING:
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read(path: Path) -> bytes:
    """Return the bytes of the ONNX file that was packed; raise LissomError where they cannot be had."""
    try:
        return _restored(path)
    except Exception as error:  # a damaged zip file makes its reader raise errors of many kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise LissomError(f"onnxruntime: {path} is no packed ONNX file, or a damaged one ({said[0]})") from None


def _restored(path: Path) -> bytes:
    from ..surgery.packing import unpack

    with zipfile.ZipFile(path) as archive:
        if sum(archive.getinfo(name).file_size for name in ("index.json", "graph", "weights")) > MOST:
            raise ValueError("its parts are too large")
        index, graph, weights = (archive.read(name) for name in ("index.json", "graph", "weights"))
    found = json.loads(index)
    if found["format"] != FORMAT:
        raise ValueError(f"its format is {found['format']!r}, not {FORMAT}")
    parts, taken, begin, size = list[bytes](), 0, 0, 0
    for kind, count, how, length, place in found["tensors"]:
        if not all(type(number) is int and number >= 0 for number in (count, length, place)):
            raise ValueError("its index holds what is no number")
        between = graph[taken:taken + place - size] if place >= size else b""
        dtype, each = TYPES[kind]
        if place != size + len(between) or place + count * each > MOST:
            raise ValueError("its index does not fit its graph")
        parts += [between, unpack(how, weights[begin:begin + length], count, dtype).tobytes()]
        taken, begin, size = taken + len(between), begin + length, place + count * each
    if begin != len(weights):
        raise ValueError("its index does not fit its weights")
    return b"".join([*parts, graph[taken:]])
