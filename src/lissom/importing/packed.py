"""Read a packed ONNX file (.onnxz), in which the weights are compressed.

It is a zip file of three parts: `graph`, the ONNX file without the bytes of the weights; `weights`,
the weights packed by `surgery/packing.py`, one after another; `index.json`, for each of them [type,
elements, how it is packed, bytes packed, place in the file].

Reading restores the original file bit by bit, and does not need the ONNX library. The index says how
large the file becomes; `check` compares that with the packed size before memory is allocated.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from ..errors import LissomError

ENDING = ".onnxz"
FORMAT = 1
# type in the index: NumPy's type, bytes per element
TYPES = {"int8": ("int8", 1), "float32": ("<f4", 4), "uint16": ("<u2", 2)}
MAX_FILE_BYTES = 2**31  # bytes of a file in ONNX's own format
MOST_INDEX = 4 << 20
MOST_TENSORS = 20_000
# a file of n bytes becomes at most SLACK + WHOLE * n, its parts SLACK + PARTS * n
SLACK = 64 << 20
PARTS = 50
WHOLE = 200


def is_packed(path: Path) -> bool:
    """Return whether a file is packed, by its ending or by its first bytes, those of a zip file."""
    if path.suffix == ENDING:
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read(path: str | Path) -> bytes:
    """Return the bytes of the ONNX file that was packed. Raises LissomError if it is damaged."""
    try:
        return _restored(Path(path))
    except Exception as error:  # a damaged zip file raises errors of many kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise LissomError(
            f"onnxruntime: {path} is no packed ONNX file, or a damaged one ({said[0]})"
        ) from None


def _restored(path: Path) -> bytes:
    from ..surgery.packing import unpack

    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        parts = [archive.getinfo(name) for name in ("index.json", "graph", "weights")]
        if parts[0].file_size > MOST_INDEX or sum(part.file_size for part in parts) > most(
            size, PARTS
        ):
            raise ValueError("its parts are too large for a file of its size")
        index, graph, weights = (archive.read(part) for part in parts)
    contents = json.loads(index)
    if contents["format"] != FORMAT:
        raise ValueError(f"its format is {contents['format']!r}, not {FORMAT}")
    check(contents["tensors"], len(graph), len(weights), most(size, WHOLE))
    whole = io.BytesIO()
    taken = 0
    begin = 0
    for kind, count, how, length, place in contents["tensors"]:
        between = place - whole.tell()
        whole.write(graph[taken : taken + between])
        whole.write(unpack(how, weights[begin : begin + length], count, TYPES[kind][0]).data)
        taken = taken + between
        begin = begin + length
    whole.write(graph[taken:])
    return whole.getvalue()


def most(size: int, times: int) -> int:
    """Return the most bytes that a file of `size` bytes may unpack to. Weights that are nearly all
    zero grow very much.
    """
    return min(MAX_FILE_BYTES, SLACK + times * size)


def check(tensors: list[list[Any]], graph: int, weights: int, limit: int) -> None:
    """Raise ValueError if the rows of an index contradict each other, the lengths of graph and
    weights, or the limit. Called before any tensor is unpacked.
    """
    taken = begin = end = 0
    if len(tensors) > MOST_TENSORS:
        raise ValueError(f"it names {len(tensors)} tensors, at most {MOST_TENSORS} are read")
    for kind, count, how, length, place in tensors:
        if (
            not all(type(number) is int and number >= 0 for number in (count, length, place))
            or kind not in TYPES
        ):
            raise ValueError("its index holds what is no number, or no type")
        least = 0
        if str(how).startswith("sparse"):
            least = -(-count // 8)
        elif how == "dense" and kind != "int8":
            least = count * TYPES[kind][1]
        between = place - end
        begin = begin + length
        end = place + count * TYPES[kind][1]
        taken += between
        if between < 0 or taken > graph or length < least or end > limit:
            raise ValueError(
                "its index does not fit its graph, or says more than a file of its size holds"
            )
    if begin != weights or end + graph - taken > limit:
        raise ValueError("its index does not fit its weights, or its graph is too large")
