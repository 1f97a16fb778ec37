"""Pack one tensor into few bytes: few distinct values, or mostly zeros.

This file knows nothing of networks or files. Integers (int8) become digits, indices into the sorted
list of distinct values: no bytes for one value, one bit for two, five digits in a byte for three
(3^5 = 243), else as few bits as the digits need. Other types keep their bytes, or become a book of
values and digits if there are few distinct values. Either may be sparse: one bit for each element,
1 if it is not zero, then only these elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
DIGITS_PER_PIECE = 5 * 8 << 15  # digits that are read at once, which fill whole bytes
MAX_BOOK_VALUES = 256
MAX_ROW_BOOKS = 10_000  # fewer rows than this may have their own books
FIRST_CHECKED = 4096  # elements that are checked first for too many values
TRIT_VALUES = 3 ** np.arange(5)  # place values of the digits in a byte


def pack(values: Array, rows: int = 1) -> tuple[str, bytes]:
    """Return how `values` (any shape) are packed, and the bytes, in the smallest form.

    The forms are "dense" or "sparse", "book" or "sparse book", or "books 8": one book for each of
    so many equal `rows`. Zero is an element with no bit set, so a float -0.0 is kept.

    >>> pack(np.array([-1, 1, 1, -1, 1, 1, 1, 1], np.int8))
    ('dense', b'\\x02\\xff\\x01o')
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    full = flat.view(np.uint8).reshape(len(flat), flat.itemsize).any(1)
    bitmap = np.packbits(full).tobytes()
    if flat.dtype == np.int8:
        ways = {"dense": _coded(flat), "sparse": bitmap + _coded(flat[full])}
    else:
        ways = {"dense": flat.tobytes(), "sparse": bitmap + flat[full].tobytes()}
        if (book := _in_a_book(flat)) is not None:
            ways["book"] = book
            ways["sparse book"] = bitmap + (_in_a_book(flat[full]) or b"\0")
        elif rows > 1 and (books := _in_books(flat, rows)) is not None:
            ways[f"books {rows}"] = books
    kind = min(ways, key=lambda way: len(ways[way]))
    return kind, ways[kind]


def unpack(kind: str, data: bytes, count: int, dtype: str) -> Array:
    """Return the elements (count) that `pack` packed.

    Raises ValueError if the bytes cannot be those of so many elements.
    """
    if kind.startswith("books ") and kind[6:].isascii() and kind[6:].isdecimal():
        return _from_books(data, count, dtype, int(kind[6:10]))
    if kind not in ("dense", "sparse", "book", "sparse book"):
        raise ValueError(f"nothing is packed as {kind!r}")
    read = _from_a_book if kind.endswith("book") else _elements
    if not kind.startswith("sparse"):
        return read(data, count, dtype)
    bitmap = np.frombuffer(data[: -(-count // 8)], np.uint8)
    if len(bitmap) * 8 < count:
        raise ValueError(f"{len(data)} bytes do not say where {count} elements are zero")
    full = np.unpackbits(bitmap, count=count).astype(bool)
    values = np.zeros(count, dtype)
    values[full] = read(data[len(bitmap) :], int(full.sum()), dtype)
    return values


def _in_a_book(values: Array) -> bytes | None:
    """Return elements (count) as a book of distinct values and digits; None if too many values.

    Values are distinguished by their bits. The first byte is the number of values less one.
    """
    bits = values.view(f"u{values.itemsize}") if values.itemsize in (1, 2, 4, 8) else None
    if bits is None or not len(bits) or len(np.unique(bits[:FIRST_CHECKED])) > MAX_BOOK_VALUES:
        return None
    book, digits = np.unique(bits, return_inverse=True)
    if len(book) > MAX_BOOK_VALUES:
        return None
    return bytes([len(book) - 1]) + book.tobytes() + _written(digits.astype(np.uint8), len(book))


def _in_books(values: Array, rows: int) -> bytes | None:
    """Return elements (count) in so many rows, each with its own book.

    None if the rows are not equal or too many, or if one has too many values.
    """
    if len(values) % rows or rows >= MAX_ROW_BOOKS:
        return None
    parts = []
    for row in values.reshape(rows, -1):
        if (book := _in_a_book(row)) is None:
            return None
        parts.append(book)
    return b"".join(parts)


def _from_books(data: bytes, count: int, dtype: str, rows: int) -> Array:
    """Undo `_in_books`."""
    if not rows or count % rows:
        raise ValueError(f"{count} elements are not {rows} equal rows")
    parts = []
    for _ in range(rows):
        size = data[0] + 1 if data else 1
        end = 1 + size * np.dtype(dtype).itemsize + _length(count // rows, size)
        parts.append(_from_a_book(data[:end], count // rows, dtype))
        data = data[end:]
    if data:
        raise ValueError(f"{len(data)} bytes are left behind the last book")
    return np.concatenate(parts)


def _from_a_book(data: bytes, count: int, dtype: str) -> Array:
    """Undo `_in_a_book`."""
    if not count and data == b"\0":
        return np.zeros(0, dtype)
    size = data[0] + 1 if data else 0
    end = 1 + size * np.dtype(dtype).itemsize
    if not size or len(data) < end:
        raise ValueError("the book of values is cut off")
    book = np.frombuffer(data[1:end], dtype)
    digits = _read(data[end:], count, size)
    if len(digits) and digits.max() >= size:
        raise ValueError("a digit stands for no value")
    return book[digits]


def _elements(data: bytes, count: int, dtype: str) -> Array:
    if np.dtype(dtype) == np.int8:
        return _decoded(data, count)
    if len(data) != count * np.dtype(dtype).itemsize:
        raise ValueError(f"{len(data)} bytes do not hold {count} elements")
    return np.frombuffer(data, dtype)


def _coded(values: Array) -> bytes:
    """Return integers (count) as a list of values, then digits.

    The list is the shorter of two: the number of values and each of them; or 0, the least and the
    greatest, with all integers between them as values.
    """
    there = np.flatnonzero(np.bincount(values.astype(np.int16) + 128, minlength=256)) - 128
    if not len(there):
        there = np.zeros(1, int)
    span = np.arange(there[0], there[-1] + 1)
    if len(there) < 2 or 1 + len(there) + _length(len(values), len(there)) < 3 + _length(
        len(values), len(span)
    ):
        head = bytes([len(there)]) + there.astype(np.int8).tobytes()
        levels = there
    else:
        head = b"\0" + span[[0, -1]].astype(np.int8).tobytes()
        levels = span
    place = np.zeros(256, np.uint8)
    place[levels + 128] = np.arange(len(levels))
    return head + _written(place[values.astype(np.int16) + 128], len(levels))


def _decoded(data: bytes, count: int) -> Array:
    many = data[0] if data else 0
    listed = np.frombuffer(data[1 : 1 + (many or 2)], np.int8)
    if len(listed) != (many or 2):
        raise ValueError("the list of values is cut off")
    levels = listed if many else np.arange(int(listed[0]), int(listed[1]) + 1).astype(np.int8)
    digits = _read(data[1 + len(listed) :], count, len(levels))
    if len(digits) and digits.max() >= len(levels):
        raise ValueError("a digit stands for no value")
    return levels[digits]


def _length(count: int, base: int) -> int:
    """Return the number of bytes of so many digits."""
    return -(-count // 5) if base == 3 else -(-count * (base - 1).bit_length() // 8)


def _written(digits: Array, base: int) -> bytes:
    """Return digits (count) below `base` as bytes."""
    if base == 3:
        padded = np.append(digits, np.zeros(-len(digits) % 5, np.uint8))
        return (padded.reshape(-1, 5) @ TRIT_VALUES).astype(np.uint8).tobytes()
    bits = np.arange((base - 1).bit_length(), dtype=np.uint8)
    return np.packbits(digits[:, None] >> bits & 1).tobytes()


def _read(data: bytes, count: int, base: int) -> Array:
    """Undo `_written`."""
    if base < 1 or len(data) != _length(count, base):
        raise ValueError(f"{len(data)} bytes do not hold {count} digits below {base}")
    packed = np.frombuffer(data, np.uint8)
    digits = np.empty(count, np.uint8)
    if base == 3 and len(packed) and packed.max() >= 243:
        raise ValueError("a byte does not hold five digits below 3")
    width = (base - 1).bit_length()
    # in pieces, because unpacking takes many bytes for each digit
    for begin in range(0, count, DIGITS_PER_PIECE):
        some = digits[begin : begin + DIGITS_PER_PIECE]
        if base == 3:
            bytes_ = packed[begin // 5 : (begin + DIGITS_PER_PIECE) // 5]
            some[:] = (bytes_[:, None] // TRIT_VALUES % 3).reshape(-1)[: len(some)]
        else:
            bytes_ = packed[begin * width // 8 : (begin + DIGITS_PER_PIECE) * width // 8]
            bits = np.unpackbits(bytes_, count=len(some) * width).reshape(len(some), width)
            some[:] = (bits << np.arange(width, dtype=np.uint8)).sum(1, dtype=np.uint8)
    return digits
