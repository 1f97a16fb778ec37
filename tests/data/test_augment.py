"""Mosaics of four images, and colour jitter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

import lissom
from lissom import Data, LissomError, Store, Task
from lissom.data.augment import LUMA, Mosaic, jitter_colours
from lissom.kinds.detect import Detect
from lissom.kinds.segment import Segment
from lissom.language.training import TrainSettings
from lissom.learning.augmentation import augmented

SIZE = (24, 32)


def with_boxes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of one value all over, with a rectangle of another value, and its box."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.zeros(count, 3, *SIZE, dtype=torch.uint8)
    boxes = torch.full((count, 2, 5), -1.0)
    for k in range(count):
        pixels[k] = 100 + k
        x, y = (int(torch.randint(0, most - 8, (), generator=draw)) for most in (SIZE[1], SIZE[0]))
        w, h = (int(v) for v in torch.randint(3, 8, (2,), generator=draw))
        pixels[k, :, y : y + h, x : x + w] = k + 1
        boxes[k, 1] = torch.tensor([x, y, x + w, y + h, k])
    return pixels, boxes


@settings(max_examples=30, deadline=None)
@example(count=6, share=0.5, seed=521)
@example(count=4, share=1.0, seed=1)
@given(count=st.integers(1, 6), share=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 999))
def test_boxes_are_where_their_objects_are(count: int, share: float, seed: int) -> None:
    pixels, targets = with_boxes(count, seed)
    data = Data.of_dataset(
        train=(pixels, targets), test=(pixels, targets), preprocess="scale(255)", classes=9
    )
    settings = TrainSettings(1, augment="none", mosaic=share)
    draw = torch.Generator().manual_seed(seed)
    images, moved = augmented(pixels, targets, data, settings, draw, Detect())
    assert isinstance(images, Tensor) and isinstance(moved, Tensor)
    if not share:
        assert torch.allclose(images, pixels.float()) and torch.equal(moved, targets)
    for image, boxes in zip(images[:, 0].round(), moved, strict=True):
        left = torch.where(image < 100, image, 0)
        for x1, y1, x2, y2, label in boxes[boxes[:, 4] >= 0].int().tolist():
            part = left[y1:y2, x1:x2]
            assert part.numel() and bool((part == label + 1).all())
            part.zero_()
        # what is left are slivers, each less than a quarter of the object; quarters of a mosaic may
        # show the same one
        for label in left[left > 0].unique().tolist():
            whole = int((pixels[int(label) - 1, 0] == label).sum())
            slivers, count = ndimage.label((left == label).numpy())
            assert all((slivers == k + 1).sum() < 0.25 * whole for k in range(count))


def test_labels_of_pixels_are_put_together_as_the_pixels_are() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 9, (8, *SIZE), generator=draw, dtype=torch.uint8)
    pixels = labels[:, None].expand(-1, 3, -1, -1).contiguous()
    data = Data.of_dataset(
        train=(pixels, labels), test=(pixels, labels), preprocess="scale(255)", classes=9
    )
    settings = TrainSettings(1, augment="none", mosaic=0.5)
    images, moved = augmented(pixels, labels, data, settings, draw, Segment())
    assert isinstance(images, Tensor) and isinstance(moved, Tensor)
    assert torch.equal(images[:, 0].round().to(torch.uint8), moved)
    same = [torch.equal(one, two) for one, two in zip(moved, labels, strict=True)]
    assert 1 < sum(same) < 7


def test_a_mosaic_shows_four_corners() -> None:
    pixels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, *SIZE)
    mosaic = Mosaic.random(4, SIZE, 1.0, torch.Generator().manual_seed(3))
    for image, (y, x), sources in zip(
        mosaic.images(pixels), mosaic.place.t().tolist(), mosaic.sources.t().tolist(), strict=True
    ):
        assert SIZE[0] // 4 <= y < SIZE[0] and SIZE[1] // 4 <= x < SIZE[1]
        quarters = image[0, :y, :x], image[0, :y, x:], image[0, y:, :x], image[0, y:, x:]
        assert [q.unique().tolist() for q in quarters] == [[float(k)] for k in sources]


def test_colours_change_as_said() -> None:
    pixels = torch.randint(60, 180, (5, 3, 6, 7), dtype=torch.uint8)
    found = jitter_colours(pixels, 0.3, torch.Generator().manual_seed(4))
    factors = 1 + 0.3 * (2 * torch.rand(3, 5, generator=torch.Generator().manual_seed(4)) - 1)
    for image, pixel, (bright, contrast, colourful) in zip(
        found.numpy(), pixels.numpy().astype(float), factors.t().tolist(), strict=True
    ):
        wanted = pixel * bright
        wanted = wanted.mean() + (wanted - wanted.mean()) * contrast
        gray = np.tensordot(LUMA.numpy(), wanted, 1)
        wanted = np.clip(gray + (wanted - gray) * colourful, 0, 255)
        assert np.abs(image - wanted).max() <= 0.51
    assert found.dtype == torch.uint8
    assert torch.equal(jitter_colours(pixels, 0.0, torch.Generator()), pixels)
    assert jitter_colours(pixels[:, :1], 0.3, torch.Generator()).shape == (5, 1, 6, 7)


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        (
            "train(1) | train(1, mosaic=0.5)",
            "digits",
            "those of classify have no place in an image",
        ),
        ("train(1, colour=0.4)", "numbers", "colour: expected pixels in 0..255, got numbers"),
        ("train(1, augment='crop')", "rows", r"augment='crop': expected images \(n c h w\), got"),
    ],
)
def test_what_cannot_be_varied_is_refused_before_the_first_epoch(
    recipe: str, given: str, said: str, tmp_path: str
) -> None:
    numbers = torch.randn(8, 1, 8, 8), torch.arange(8) % 2
    rows = torch.randn(8, 1, 64), torch.arange(8) % 2
    data = {
        "digits": lambda: Data.of("digits"),
        "numbers": lambda: Data.of_dataset(train=numbers, test=numbers),
        "rows": lambda: Data.of_dataset(train=rows, test=rows),
    }[given]()
    store = Store(tmp_path)
    task = Task.of("resnet8", data)
    if given == "rows":
        task = Task(lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), data)
    with pytest.raises(LissomError, match=said):
        lissom.run(recipe, task, store)
    assert not list(store)
