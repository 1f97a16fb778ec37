"""Boxes stay around their objects under every augmentation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lissom import LissomError
from lissom.data import boxes
from lissom.data.boxes import areas, pad_boxes, transform_boxes
from lissom.language.preprocess import Preprocess

SIDES = st.integers(24, 120)
SAMPLED = st.one_of(  # of which an edge is half a pixel off, and a second one would enlarge that
    st.builds(
        "resize({}, '{}')".format, SIDES, st.sampled_from(["nearest", "bilinear", "bicubic"])
    ),
    st.builds("resize({}, {}, antialias={})".format, SIDES, SIDES, st.booleans()),
    st.builds("letterbox({}, {}, fill=0)".format, SIDES, SIDES),
)
EXACT = st.one_of(
    st.builds("center_crop({}, {})".format, SIDES, SIDES),
    st.builds("pad({})".format, st.integers(1, 20)),
    st.sampled_from(["gray", "bgr"]),
)
OPERATIONS = st.builds(
    lambda before, sampled, after: [*before, sampled, *after],
    st.lists(EXACT, max_size=2),
    st.one_of(SAMPLED, EXACT),
    st.lists(EXACT, max_size=2),
)


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Return the size of an image, and a box in it that is large enough to be seen afterwards."""
    wide, high = draw(SIDES), draw(SIDES)
    x1, y1 = draw(st.integers(0, wide - 12)), draw(st.integers(0, high - 12))
    x2, y2 = draw(st.integers(x1 + 12, wide)), draw(st.integers(y1 + 12, high))
    return (wide, high), (x1, y1, x2, y2)


def box(*corners: float, of: int = 0) -> torch.Tensor:
    return torch.tensor([[*corners, of]], dtype=torch.float32)


@given(rectangle=rectangles(), operations=OPERATIONS)
@settings(max_examples=300, deadline=None)
def test_a_box_lies_where_its_rectangle_does(
    rectangle: tuple[tuple[int, int], tuple[int, int, int, int]], operations: list[str]
) -> None:
    size, corners = rectangle
    if "gray" in operations:
        operations = [text for text in operations if text != "bgr"]
    picture = Image.new("RGB", size)
    picture.paste((255, 255, 255), corners)
    preprocess = Preprocess.of(" | ".join(operations))
    shown = preprocess.shown(picture)
    placements = preprocess.placements(size)
    assert placements[-1].size == shown.size
    bright = np.asarray(shown.convert("L")) > 127
    found = transform_boxes(box(*corners), placements)
    if not len(found):  # cut off
        scaled = math.prod(scale for each in placements for scale in each.scale)
        edge = 2 * sum(shown.size)  # pixels of an edge may be of either shade
        assert bright.sum() <= 0.25 * scaled * float(areas(box(*corners))) + edge
        return
    x1, y1, x2, y2 = found[0, :4].tolist()
    assert 0 <= x1 <= x2 <= shown.width and 0 <= y1 <= y2 <= shown.height
    if min(x2 - x1, y2 - y1) < 3:  # too thin for its shade to be told
        return
    columns = np.flatnonzero(bright.any(0))
    rows = np.flatnonzero(bright.any(1))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(seen, [x1, y1, x2, y2], atol=1.5)


def test_boxes_are_clipped_and_those_cut_off_are_dropped() -> None:
    crop = Preprocess.of("center_crop(10)").placements((20, 20))  # from 5 to 15
    assert transform_boxes(box(0, 0, 20, 10, of=2), crop).tolist() == [[0, 0, 10, 5, 2]]
    assert transform_boxes(box(0, 5, 6, 15), crop).tolist() == []  # a sixth
    assert transform_boxes(box(1, 5, 7, 15), crop).tolist() == [[0, 0, 2, 10, 0]]  # a third
    assert transform_boxes(box(0, 0, 5, 5), crop).shape == (0, 5)
    assert transform_boxes(torch.zeros(0, 5), crop).shape == (0, 5)


def test_one_operation_follows_another() -> None:
    both = Preprocess.of("resize(40, 20) | pad(5) | resize(100, 15)").placements((10, 10))
    assert transform_boxes(box(1, 1, 2, 2, of=3), both).tolist() == [[3.5, 18, 4.5, 26, 3]]
    # a side of less than a pixel becomes one
    thin = Preprocess.of("letterbox(10)").placements((100, 4))
    assert transform_boxes(box(50, 0, 100, 4), thin).tolist() == [[5, 4, 10, 5, 0]]
    # what is cut off does not come back in the border
    cut = Preprocess.of("center_crop(10) | pad(5)").placements((20, 20))
    assert transform_boxes(box(0, 5, 11, 15), cut).tolist() == [[5, 5, 11, 15, 0]]


def test_samples_with_fewer_boxes_have_rows_without_one() -> None:
    two = torch.cat([box(1, 2, 3, 4, of=5), box(2, 2, 6, 6, of=0)])
    rows = pad_boxes([box(0, 0, 1, 1), two, torch.zeros(0, 5)])
    assert rows.shape == (3, 2, 5) and rows.dtype == torch.float32
    assert rows[:, :, 4].tolist() == [[0, -1], [5, 0], [-1, -1]]
    assert torch.equal(rows[1], two) and not rows[2, :, :4].any()
    assert pad_boxes([torch.zeros(0, 5)] * 3).shape == (3, 1, 5)


def test_one_crowded_picture_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "MAX_BYTES_IN_MEMORY", 100)
    assert pad_boxes([torch.zeros(1, 5)] * 5).shape == (5, 1, 5)
    with pytest.raises(LissomError, match="one image has 2 boxes; with as many rows for each of 5"):
        pad_boxes([torch.zeros(2, 5), *[torch.zeros(1, 5)] * 4])
