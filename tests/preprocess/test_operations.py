"""Each image operation gives the result of torchvision, Pillow or NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lissom import LissomError
from lissom.data.picture import pixels_of
from lissom.language.preprocess import Preprocess

MODES = {
    "nearest": T.InterpolationMode.NEAREST,
    "bilinear": T.InterpolationMode.BILINEAR,
    "bicubic": T.InterpolationMode.BICUBIC,
    "lanczos": T.InterpolationMode.LANCZOS,
}


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Any:
    """Return an image of noise."""
    draw = np.random.default_rng(seed)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8))


def shown(text: str, image: Any) -> np.ndarray:
    return np.asarray(Preprocess.of(text).shown(image))


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    side=st.integers(1, 80),
    crop=st.integers(1, 80),
    name=st.sampled_from(sorted(MODES)),
    mode=st.sampled_from(["RGB", "L"]),
)
@settings(max_examples=150, deadline=None)
def test_resize_and_center_crop_are_those_of_torchvision(
    width: int, height: int, side: int, crop: int, name: str, mode: str
) -> None:
    image = picture(width, height, mode)
    if min(int(side * max(width, height) / min(width, height)), side) < 1:
        return
    wanted = T.Compose([T.Resize(side, MODES[name]), T.CenterCrop(crop)])(image)
    found = shown(f'resize({side}, "{name}") | center_crop({crop})', image)
    assert np.array_equal(found, np.asarray(wanted))


@given(width=st.integers(1, 50), height=st.integers(1, 50), crop=st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_what_a_crop_adds_has_the_fill_and_nothing_else_has(
    width: int, height: int, crop: int
) -> None:
    image = picture(width, height)
    inside = np.asarray(T.CenterCrop(crop)(Image.new("L", (width, height), 255)))[..., None] == 255
    wanted = np.where(inside, np.asarray(T.CenterCrop(crop)(image)), 7)
    assert np.array_equal(shown(f"center_crop({crop}, fill=7)", image), wanted)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_width_sets_both_sides(mode: str) -> None:
    image = picture(31, 47, mode)
    wanted = T.Resize((20, 50))(image)
    assert np.array_equal(shown("resize(20, 50)", image), np.asarray(wanted))
    wanted = T.CenterCrop((20, 10))(image)
    assert np.array_equal(shown("center_crop(20, 10)", image), np.asarray(wanted))


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_without_antialias_pixels_between_are_skipped(name: str, mode: str) -> None:
    image = picture(64, 64, mode)
    found = shown(f'resize(16, 16, "{name}", antialias=False)', image)
    planes = torch.from_numpy(pixels_of(image))[None].float()
    wanted = torch.nn.functional.interpolate(planes, (16, 16), mode=name)
    wanted_pixels = wanted.round().clamp(0, 255)[0].permute(1, 2, 0).numpy().squeeze()
    assert np.array_equal(found, wanted_pixels)
    assert not np.array_equal(found, shown(f'resize(16, 16, "{name}")', image))


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(97, 64), (64, 131), (30, 41)])
def test_fast_is_nearly_pillow(name: str, mode: str, size: tuple[int, int]) -> None:
    image = picture(*size, mode)
    found = shown(f'resize(40, "{name}", fast=True)', image).astype(int)
    apart = np.abs(found - shown(f'resize(40, "{name}")', image))
    assert apart.max() <= (1 if name == "bilinear" else 2) and apart.mean() < 0.3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'resize(9, "lanczos", fast=True)',
            "expected bilinear or bicubic with antialias, got lanczos",
        ),
        ("resize(9, antialias=False, fast=True)", "got bilinear without it"),
        ("pad(2) | resize(9, draft=True)", r"says how files are decoded; expected it first"),
    ],
)
def test_settings_of_resize_that_do_not_go_together_are_refused(text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        Preprocess.of(text)


@given(width=st.integers(1, 90), height=st.integers(1, 90))
@settings(max_examples=50, deadline=None)
def test_a_letterbox_holds_the_whole_picture_in_the_middle(width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), (200, 100, 50))
    found = shown("letterbox(48, 64, fill=7)", image)
    assert found.shape == (48, 64, 3)
    inside = (found == (200, 100, 50)).all(2)
    ratio = min(48 / height, 64 / width)
    rows = np.flatnonzero(inside.any(1))
    columns = np.flatnonzero(inside.any(0))
    assert len(rows) == max(1, round(ratio * height))
    assert len(columns) == max(1, round(ratio * width))
    assert inside.sum() == len(rows) * len(columns)
    assert (found[~inside] == 7).all()
    assert abs(rows[0] - (47 - rows[-1])) <= 1 and abs(columns[0] - (63 - columns[-1])) <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pad_adds_a_border(mode: str) -> None:
    image = picture(9, 6, mode)
    found = shown("pad(2, fill=9)", image)
    edges = [(2, 2), (2, 2), (0, 0)][: found.ndim]
    assert np.array_equal(found, np.pad(np.asarray(image), edges, constant_values=9))


def test_gray_is_luma_and_bgr_turns_the_channels_round() -> None:
    image = picture(9, 6)
    assert np.array_equal(shown("gray", image), np.asarray(image.convert("L")))
    assert np.array_equal(shown("bgr", image), np.asarray(image)[..., ::-1])
    assert Preprocess.of("bgr").order == "BGR" and Preprocess.of("bgr | bgr").order == "RGB"
    with pytest.raises(LissomError, match="bgr needs images of three channels"):
        shown("gray | bgr", image)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("", lambda p: p / 255),
        ("scale(255)", lambda p: p * 1.0),
        ("scale(255) | normalize(mean=127, std=128)", lambda p: (p - 127) / 128),
        ('normalize("half")', lambda p: p / 127.5 - 1),
        ("normalize(mean=0.5)", lambda p: p / 255 - 0.5),
        ("normalize(std=(0.1, 0.2, 0.4))", lambda p: p / 255 / np.array([0.1, 0.2, 0.4])),
        (
            'normalize("imagenet") | scale(2) | normalize(mean=1, std=3)',
            lambda p: (
                (
                    (
                        (p / 255 - np.array([0.485, 0.456, 0.406]))
                        / np.array([0.229, 0.224, 0.225])
                        * 2
                    )
                    - 1
                )
                / 3
            ),
        ),
    ],
)
def test_numbers_are_one_line(text: str, plain: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3)).astype(np.float64)
    mean, std = Preprocess.of(f"gray | {text}" if text else "gray").line(3)
    np.testing.assert_allclose((pixels / 255 - mean) / std, plain(pixels), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("before", ["", "scale(255) | ", 'normalize("half") | '])
def test_the_numbers_of_the_data_are_measured_at_their_place(before: str) -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (500, 3)) / 255
    mean = tuple(pixels.mean(0).tolist())
    std = tuple(pixels.std(0).tolist())
    preprocess = Preprocess.of(f'{before}normalize("data")')
    assert preprocess.from_data
    with pytest.raises(LissomError, match="not measured yet"):
        preprocess.line(3)
    measured = preprocess.measured(mean, std)
    assert not measured.from_data and Preprocess.of(str(measured)) == measured
    found_mean, found_std = measured.line(3)
    seen = (pixels - found_mean) / found_std
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(seen.std(0), 1, rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty; an example: resize"),
        ("resise(256)", "no preprocessing operation 'resise'; did you mean 'resize'"),
        ("resize()", "'size' is missing"),
        ("resize(0)", "expected a value >= 1, got 0"),
        ('resize(256, "cubic")', "did you mean 'bicubic'"),
        ('normalize("imagnet")', "did you mean 'imagenet'"),
        ("normalize(std=0)", "expected a value > 0, got 0"),
        ("normalize(std=(1, 0, 1))", r"expected a value > 0, got \(1, 0, 1\)"),
        ("normalize(mean=())", "expected a number, a text in quotes"),
        ('normalize("half") | resize(3)', r"resize\(3\) changes the image; it must stand before"),
        ("resize({3, 4})", "expected one operation, got 2"),
        ("resize(3) |", "nothing follows"),
        (
            'resize(3, "lanczos", antialias=False)',
            "expected nearest, bilinear or bicubic, got lanczos",
        ),
        ("resize(72), center_crop(64)", r"expected \| between operations, .* got a comma"),
        ("normalize(0.5, 0.25)", r"by name, as in normalize\(mean=0.5, std=0.25\), got 0.5"),
        ("normalize(mean=[0.5, 0.4, 0.3])", r"several numbers stand in parentheses, as in \(0.5"),
        ("resize(100000)", "expected a value <= 8192"),
        ('normalize("imagenet", std=2)', "numbers of its own were given, too"),
    ],
)
def test_a_text_that_is_no_preprocessing_is_refused(text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        Preprocess.of(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "normalize(mean=127.5, std=128)",
            "pixels from 0 to 255: scale(255) | normalize(mean=127.5,",
        ),
        ('scale(255) | normalize("imagenet")', "its numbers are for pixels from 0 to 1, and what"),
        (
            'normalize("half") | normalize("half")',
            "its numbers are for pixels from 0 to 1, and what",
        ),
    ],
)
def test_numbers_for_other_pixels_are_refused(text: str, said: str) -> None:
    with pytest.raises(LissomError) as caught:
        Preprocess.of(text).line(3)
    assert said in str(caught.value)


def test_numbers_must_be_one_or_one_for_each_channel() -> None:
    preprocess = Preprocess.of("normalize(mean=(0.1, 0.2), std=1)")
    with pytest.raises(LissomError, match=r"normalize.*: expected one number or 3, one for each"):
        preprocess.line(3)
    assert preprocess.line(2)[0] == (0.1, 0.2)
