"""The tensors of an ONNX file, each checked before memory is taken for it.

A tensor says its type, its sizes and where its bytes are. All three are compared first. 16-bit
floats are widened to 32 bits, in which lissom computes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .file import EXTERNAL, file_beside

MOST_AXES = 12
# type of a tensor in a file: NumPy's type of its bytes, the field that may hold its numbers instead
TYPES = {
    1: ("<f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    4: ("<u2", "int32_data"),
    5: ("<i2", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("<f2", "int32_data"),
    11: ("<f8", "double_data"),
    16: ("<u2", "int32_data"),
}
HALF = 10
BFLOAT = 16


def array_of(tensor: Any, folder: Path) -> np.ndarray[Any, Any]:
    """Return a tensor of a file as an array of its own; 16-bit floats as float32.

    Raises ValueError where its sizes do not fit its bytes, where its type is not known, and where
    its bytes would lie outside `folder`.
    """
    if tensor.data_type not in TYPES:
        raise ValueError(f"'{tensor.name:.80}' has numbers of type {tensor.data_type}")
    kind, field = TYPES[tensor.data_type]
    dims = list(tensor.dims)
    if len(dims) > MOST_AXES or any(size < 0 for size in dims):
        raise ValueError(f"'{tensor.name:.80}' has sizes {dims[:MOST_AXES]}")
    count = math.prod(dims)
    width = np.dtype(kind).itemsize
    if tensor.data_location == EXTERNAL:
        data = bytes_beside(tensor, folder, count * width)
    elif tensor.HasField("raw_data"):
        data = tensor.raw_data
    else:
        numbers = getattr(tensor, field)
        check_length(tensor.name, len(numbers), count, "numbers")
        if tensor.data_type in (HALF, BFLOAT):  # whose bits stand there as integers
            return widened(np.array(numbers, "<u2"), tensor.data_type).reshape(dims)
        return np.array(numbers).astype(kind).reshape(dims)
    check_length(tensor.name, len(data), count * width, "bytes")
    return widened(np.frombuffer(data, kind), tensor.data_type).reshape(dims)


def widened(values: np.ndarray[Any, Any], kind: int) -> np.ndarray[Any, Any]:
    """Return a copy of numbers as read, 16-bit floats as float32."""
    if kind == BFLOAT:
        return (values.astype("<u4") << 16).view("<f4")
    return values.view("<f2").astype("<f4") if kind == HALF else values.copy()


def check_length(name: str, held: int, wanted: int, what: str) -> None:
    """Raise ValueError where a tensor holds more or less than its sizes say."""
    if held != wanted:
        raise ValueError(f"'{name:.80}' says {wanted} {what} and holds {held}")


def bytes_beside(tensor: Any, folder: Path, wanted: int) -> bytes:
    """Return the bytes of a tensor that lie in a file beside the ONNX file."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    file = file_beside(name, folder)
    offset = whole_number(entries.get("offset", "0"))
    length = whole_number(entries.get("length", str(wanted)))
    check_length(tensor.name, length, wanted, "bytes")
    if offset + length > file.stat().st_size:
        raise ValueError(f"'{tensor.name:.80}' lies behind the end of {name!r:.80}")
    with file.open("rb") as opened:
        opened.seek(offset)
        return opened.read(length)


def whole_number(text: str) -> int:
    """Return the number that a text says; raise ValueError where it says none."""
    if not (text.isdecimal() and len(text) < 19):
        raise ValueError(f"{text!r:.40} is no place in a file")
    return int(text)
