"""Read the tensors of an ONNX file. Each is checked before memory is allocated for it.

Its type, its sizes and the number of its bytes must fit each other. 16-bit floats are widened to 32
bits, in which lissom computes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .file import EXTERNAL, file_beside

MOST_AXES = 12
# ONNX's type: NumPy's type of the raw bytes, and the field that may hold the numbers instead
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
    """Return a tensor of a file as a new array; 16-bit floats as float32.

    Raises ValueError if its sizes do not fit its bytes or its type is not known, LissomError if its
    bytes would lie outside `folder`.
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
        if tensor.data_type in (HALF, BFLOAT):  # stored as the integers of their bits
            return widened(np.array(numbers, "<u2"), tensor.data_type).reshape(dims)
        return np.array(numbers).astype(kind).reshape(dims)
    check_length(tensor.name, len(data), count * width, "bytes")
    return widened(np.frombuffer(data, kind), tensor.data_type).reshape(dims)


def widened(values: np.ndarray[Any, Any], kind: int) -> np.ndarray[Any, Any]:
    """Return a copy of numbers, 16-bit floats (given as their bits) as float32."""
    if kind == BFLOAT:
        return (values.astype("<u4") << 16).view("<f4")
    return values.view("<f2").astype("<f4") if kind == HALF else values.copy()


def check_length(name: str, held: int, wanted: int, what: str) -> None:
    """Raise ValueError if a tensor holds more or less than its sizes say."""
    if held != wanted:
        raise ValueError(f"'{name:.80}' says {wanted} {what} and holds {held}")


def bytes_beside(tensor: Any, folder: Path, wanted: int) -> bytes:
    """Return the bytes of a tensor that is stored in a file next to the ONNX file.

    Raises ValueError if they do not fit its sizes or the file, LissomError if there is no such file.
    """
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
    """Return a text as a non-negative integer. Raises ValueError if it is none."""
    if not (text.isdecimal() and len(text) < 19):
        raise ValueError(f"{text!r:.40} is no place in a file")
    return int(text)
