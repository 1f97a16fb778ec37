"""Packed tensors are restored exactly, take as few bits as theory says, and damage is detected."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lissom.surgery.packing import pack, unpack

FEW = settings(max_examples=200, deadline=None, derandomize=True)
HEAD = 17  # a list of at most 16 values and their number


def back(values: np.ndarray, dtype: str = "int8") -> np.ndarray:
    kind, data = pack(values)
    return unpack(kind, data, values.size, dtype).reshape(values.shape)


def drawn(values: Any, count: int, zeros: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(0)
    found = draw.choice(np.array(values, np.int8), count)
    found[draw.random(count) < zeros] = 0
    return found


@FEW
@given(
    arrays(
        np.int8,
        array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6),
        elements=st.integers(-128, 127),
    )
)
def test_any_integers_come_back(values: np.ndarray) -> None:
    assert (back(values) == values).all() and back(values).dtype == np.int8
    assert len(pack(values)[1]) <= values.size + 3


@FEW
@given(
    levels=st.lists(st.integers(-128, 127), min_size=1, max_size=20, unique=True),
    count=st.integers(0, 70),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_few_values_come_back_whatever_their_number_and_the_zeros(
    levels: list[int], count: int, zeros: float, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    values = draw.choice(np.array(levels, np.int8), count)
    values[draw.random(count) < zeros] = 0
    assert (back(values) == values).all()


@FEW
@given(
    values=arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32, allow_nan=True)),
    seed=st.integers(0, 99),
)
def test_any_floats_come_back_bit_by_bit(values: np.ndarray, seed: int) -> None:
    values[np.random.default_rng(seed).random(len(values)) < seed / 99] = [0.0, -0.0][seed % 2]
    assert back(values, "<f4").tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "values", [[], [0], [7], [0] * 1000, [-128] * 1000, list(range(-128, 128)), [-128, 127] * 9]
)
def test_the_ends_come_back(values: list[int]) -> None:
    found = np.array(values, np.int8)
    assert (back(found) == found).all()
    if len(set(values)) == 1:
        assert len(pack(found)[1]) == 2, "one value takes its name and no digits"


@pytest.mark.parametrize("count", [1, 4, 5, 8, 1001, 36_864])
@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([-1, 1], 1),
        ([3, 90], 1),
        ([-1, 0, 1], 1.6),
        ([-7, 0, 100], 1.6),
        ([-2, -1, 0, 1], 2),
        (range(-3, 4), 3),
        ([0, 1, 2, 4, 8, 16, 32, 64], 3),
        (range(-7, 8), 4),
        (range(-16, 16), 5),
        (range(-31, 32), 6),
        (range(-64, 64), 7),
        (range(-128, 128), 8),
    ],
)
def test_sizes_are_those_of_theory(values: Any, bits: float, count: int) -> None:
    found = drawn(values, count)
    assert (back(found) == found).all()
    kind, data = pack(found)
    assert len(data) <= ceil(count * bits / 8) + HEAD
    if count > 1000:
        assert kind == "dense" and len(data) > count * bits / 8


@pytest.mark.parametrize(
    ("values", "bits"), [([-1, 1], 1), ([-2, -1, 1], 1.6), (range(-127, 128), 8)]
)
def test_zeros_take_one_bit_where_they_are_many(values: Any, bits: float) -> None:
    count = 20_000
    found = drawn([v for v in values if v], count, 0.8)
    kind, data = pack(found)
    assert (back(found) == found).all() and kind == "sparse"
    wanted = count / 8 + np.count_nonzero(found) * bits / 8
    assert wanted <= len(data) <= wanted + HEAD
    floats = found * np.random.default_rng(1).random(count, dtype=np.float32)
    kind, data = pack(floats)
    assert kind == "sparse" and len(data) == count / 8 + 4 * np.count_nonzero(found)
    assert pack(floats + 1000)[0] == "dense" and len(pack(floats + 1000)[1]) == 4 * count


@FEW
@given(
    values=st.sampled_from(
        [
            drawn([-1, 0, 1], 40),
            drawn(range(-5, 6), 33),
            drawn(range(-90, 90), 50, 0.9),
            drawn([-1, 1], 9),
        ]
    ),
    place=st.integers(0, 99),
    byte=st.integers(0, 255),
    cut=st.integers(0, 20),
    count=st.integers(0, 60),
)
def test_damage_is_a_value_error_or_other_values_of_the_same_number(
    values: np.ndarray, place: int, byte: int, cut: int, count: int
) -> None:
    kind, data = pack(values)
    harmed = bytearray(data)
    harmed[place % len(harmed)] = byte
    for some, many in (
        (bytes(harmed), len(values)),
        (data[: len(data) - cut], count),
        (data, count),
        (data + b"0", count),
    ):
        try:
            found = unpack(kind, some, many, "int8")
        except ValueError:
            continue
        assert found.shape == (many,) and found.dtype == np.int8


@pytest.mark.parametrize(
    ("kind", "data", "count", "dtype"),
    [
        ("dense", b"", 3, "int8"),
        ("dense", b"\x02\x01", 3, "int8"),
        ("dense", b"\x00\x05\x01", 3, "int8"),
        ("dense", b"\x03\xff\x00\x01\xff", 5, "int8"),
        ("dense", b"\x05abcde\xff", 2, "int8"),
        ("dense", b"1234", 2, "<f4"),
        ("sparse", b"", 1, "int8"),
        ("sparse", b"\xff" + b"1234" * 7, 8, "<f4"),
        ("other", b"", 0, "int8"),
    ],
)
def test_bytes_that_cannot_be_are_refused(kind: str, data: bytes, count: int, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(kind, data, count, dtype)


@pytest.mark.parametrize("rows", [2, 7, 64])
@pytest.mark.parametrize("dtype", ["<f4", "<u2"])
def test_rows_with_values_of_their_own_have_books_of_their_own(rows: int, dtype: str) -> None:
    draw = np.random.default_rng(rows)
    books = draw.standard_normal((rows, 16)).astype("<f4").view("<u4").astype(dtype)
    codes = draw.integers(0, 16, (rows, 4000))
    values = np.take_along_axis(books, codes, 1)
    kind, data = pack(values, rows)
    found = unpack(kind, data, values.size, dtype)
    assert (found.reshape(values.shape) == values).all()
    if rows * 16 > 256:
        assert kind == f"books {rows}"
        assert len(data) <= values.size / 2 + rows * (1 + 16 * np.dtype(dtype).itemsize)


@pytest.mark.parametrize(
    "kind", ["books 0", "books 3", "books -1", "books x", "books 99999", "books"]
)
def test_books_of_other_rows_are_refused(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 3, (2, 100)).astype("<u2")
    data = pack(values, 2)[1]
    with pytest.raises(ValueError, match=r"books|rows|packed as|digits|left behind|cut off"):
        unpack(kind, data, 200, "<u2")
