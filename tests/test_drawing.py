"""Labels and boxes are drawn in the right place, in colours that can be distinguished."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lissom.drawing import COLOURS, class_colour, draw_boxes, draw_labels

GRAY = (100, 100, 100)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def colour(number: int) -> tuple[int, ...]:
    return tuple(bytes.fromhex(class_colour(number)[1:]))


def boxes(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows)


def test_no_two_colours_are_alike_for_anybody() -> None:
    # what red-green blindness leaves of a colour: blue, and red and green in one (Vienot 1999)
    def seen(text: str) -> np.ndarray:
        red, green, blue = bytes.fromhex(text[1:])
        return np.array([0.112 * red + 0.888 * green, blue, 0.3 * red + 0.6 * green + 0.1 * blue])

    first = COLOURS[:8]
    assert min(np.abs(seen(a) - seen(b)).max() for a, b in combinations(first, 2)) > 25
    assert len(set(COLOURS)) == len(COLOURS)


def test_labels_shine_through_and_what_has_no_class_stays() -> None:
    labels = torch.tensor([[0, 1], [255, 2]], dtype=torch.uint8)
    out = draw_labels(Image.new("RGB", (6, 6), GRAY), labels, labels != 255)
    at = pixels(out)[1::3, 1::3]
    for (y, x), number in {(0, 0): 0, (0, 1): 1, (1, 1): 2}.items():
        wanted = (np.array(GRAY) + colour(number)) / 2
        assert np.abs(at[y, x] - wanted).max() <= 1
    assert tuple(at[1, 0]) == GRAY
    assert (pixels(out)[:3, :3] == at[0, 0]).all()  # each label is a square of its own


def test_labels_are_drawn_onto_a_gray_picture() -> None:
    labels = torch.zeros(4, 4, dtype=torch.int64)
    assert draw_labels(Image.new("L", (8, 8), 9), labels, labels == 0).mode == "RGB"


def test_a_box_lies_where_its_corners_are_times_the_zoom() -> None:
    plain = Image.new("RGB", (240, 200), GRAY)
    out = pixels(draw_boxes(plain, boxes((10, 20, 50, 40, 4)), ("a",) * 5, zoom=4))
    # the right half of its edge: a name lies upon the left one
    assert tuple(out[80, 180]) == tuple(out[160, 120]) == tuple(out[120, 200]) == colour(4)
    assert tuple(out[120, 120]) == GRAY and tuple(out[190, 120]) == GRAY  # inside, and below
    assert (pixels(plain) == GRAY).all()  # which was not changed


def test_rows_that_are_none_and_corners_that_are_no_numbers_are_left_out() -> None:
    plain = Image.new("RGB", (100, 100), GRAY)
    rows = boxes(
        (1, 1, 50, 50, -1),
        (float("nan"), 1, 50, 50, 0),
        (0, 0, float("inf"), 9, 0),
        (9, 9, 1, 1, 0),
    )
    assert (pixels(draw_boxes(plain, rows, (), 1)) == GRAY).all()
    assert (pixels(draw_boxes(plain, torch.zeros(0, 5), (), 1)) == GRAY).all()


@pytest.mark.parametrize("row", [(-1e9, -1e9, 1e9, 1e9, 0), (90, 90, 500, 500, 3), (3, 3, 3, 3, 9)])
def test_what_lies_outside_is_cut_off(row: tuple[float, ...]) -> None:
    out = draw_boxes(Image.new("L", (100, 100)), boxes(row), ("a very long name " * 5,), 1)
    assert out.size == (100, 100) and pixels(out).any()


def test_a_small_box_is_seen_upon_a_large_one() -> None:
    rows = boxes((0, 40, 20, 60, 1), (0, 0, 99, 99, 0))
    out = pixels(draw_boxes(Image.new("RGB", (100, 100), GRAY), rows, (), 1))
    assert tuple(out[50, 0]) == colour(1) and tuple(out[50, 99]) == colour(0)


def test_names_are_drawn_inside_the_picture() -> None:
    plain = Image.new("RGB", (200, 200), GRAY)
    row = boxes((150, 100, 199, 150, 0))
    named = pixels(draw_boxes(plain, row, ("bicycle",), 1))
    other = pixels(draw_boxes(plain, row, ("b",), 1))
    assert (named != other).any()
    ink = (named != GRAY).any(axis=2)
    assert ink[:100].any() and not ink[:80].any()  # above the box
    assert not ink[:, 0].any() and not ink[:, :100].any()


def test_many_boxes_have_no_names_which_would_hide_them() -> None:
    plain = Image.new("RGB", (200, 200), GRAY)
    rows = boxes(*[(20 * i, 100, 20 * i + 15, 150, 0) for i in range(9)])
    above = [
        (pixels(draw_boxes(plain, rows[:count], ("bird",), 1))[:98] != GRAY).any()
        for count in (8, 9)
    ]
    assert above == [True, False]
