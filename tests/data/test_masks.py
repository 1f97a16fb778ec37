"""Images with label images: read, preprocessed and augmented alike, learned and measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lissom
from lissom import Data, LissomError, Store, Task
from lissom.kinds.segment import Segment
from lissom.language.training import TrainSettings
from lissom.learning.augmentation import augmented


def scenes(root: Path, counts: dict[str, int], size: tuple[int, int] = (16, 24)) -> None:
    """Write images of two shades, and labels that say which pixel has which; a row is unlabelled."""
    draw = np.random.default_rng(0)
    for part, count in counts.items():
        for name in ("images", "labels"):
            (root / part / name).mkdir(parents=True)
        for k in range(count):
            labels = np.zeros(size, dtype=np.uint8)
            top, left = draw.integers(0, 8, 2)
            labels[top : top + 7, left : left + 9] = 1
            noise = draw.integers(0, 40, (*size, 3))
            pixels = (60 + 120 * labels[..., None] + noise).astype(np.uint8)
            labels[-1] = 11
            Image.fromarray(pixels).save(root / part / "images" / f"{k}.png")
            Image.fromarray(labels).save(root / part / "labels" / f"{k}.png")


def test_images_and_labels_are_read_in_pairs(tmp_path: Path) -> None:
    scenes(tmp_path, {"train": 6, "val": 2, "test": 3})
    data = Data.of(f"masks:{tmp_path}", classes="2")
    assert (len(data.train), len(data.valid), len(data.test)) == (6, 2, 3)
    assert data.shape == (3, 16, 24) and data.classes == ("0", "1")
    labels = data.test.labels
    assert labels.shape == (3, 16, 24) and labels.dtype == torch.uint8
    bright = data.test.pixels.float().mean(1) > 130  # type: ignore[attr-defined]
    assert torch.equal(bright[:, :-1], labels[:, :-1] == 1) and (labels[:, -1] == 11).all()


def test_class_names_that_the_user_states_are_part_of_what_data_are(tmp_path: Path) -> None:
    scenes(tmp_path / "scenes", {"train": 6, "val": 2, "test": 3})
    for file, names in (("a.txt", "land\nsea\n"), ("b.txt", "sea\nland\n")):
        (tmp_path / file).write_text(names)
    stated = (None, str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    read = [Data.of(f"masks:{tmp_path / 'scenes'}", classes=classes) for classes in stated]
    assert len({data.fingerprint for data in read}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "resize(32, 48)",
        "resize(8) | center_crop(8)",
        "center_crop(20, 30)",
        "letterbox(32)",
        "pad(3) | bgr",
    ],
)
def test_labels_lie_where_their_pixels_do(tmp_path: Path, text: str) -> None:
    scenes(tmp_path, {"train": 2, "test": 6})
    data = Data.of(f"masks:{tmp_path}", preprocess=text, classes="2")
    labels = data.test.labels
    bright = data.test.pixels.float().mean(1) > 130  # type: ignore[attr-defined]
    counted = labels < 2
    alike = (bright == (labels == 1))[counted].float().mean()
    assert alike > 0.93, "but for pixels between two shades"
    assert set(labels.unique().tolist()) <= {0, 1, 11, 255}
    added = text.startswith(("center_crop", "letterbox", "pad"))
    assert bool((labels == 255).any()) == added


def test_labels_move_along_with_their_images() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 12, (40, 16, 24), generator=draw).byte()
    pixels = labels[:, None].repeat(1, 3, 1, 1) + 1  # so that 0 is what came in from outside
    part = Data.of("digits").test
    data = Data("x", part, part, part, ("a",), 3, (16, 24), (0.0,) * 3, (1 / 255,) * 3, True, "x")
    images, moved = augmented(
        pixels, labels, data, TrainSettings(1, augment="crop+flip"), draw, Segment()
    )
    seen = images[:, 0].round().byte()
    assert torch.equal(seen == 0, moved == 255) and moved.dtype == torch.uint8
    assert torch.equal(seen[seen > 0] - 1, moved[moved < 255]) and not torch.equal(moved, labels)


def test_large_sets_are_read_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes(tmp_path, {"train": 2, "test": 3})
    whole = Data.of(f"masks:{tmp_path}")
    monkeypatch.setattr("lissom.data.reading.MAX_BYTES_IN_MEMORY", 100)
    lazy = Data.of(f"masks:{tmp_path}")
    lazy.test.workers = 0  # type: ignore[attr-defined]
    (found,) = lazy.test.batches(9, torch.device("cpu"))
    assert torch.equal(found[0], whole.test.pixels)  # type: ignore[attr-defined]
    assert torch.equal(found[1], whole.test.labels) and lazy.fingerprint == whole.fingerprint


def without_labels(root: Path) -> None:
    (root / "test" / "labels" / "1.png").unlink()


def other_size(root: Path) -> None:
    Image.new("L", (5, 5)).save(root / "test" / "labels" / "1.png")


def in_colour(root: Path) -> None:
    Image.new("RGB", (24, 16)).save(root / "test" / "labels" / "1.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_labels, r"1 image of .*images have no label image of that name in .*labels: 1"),
        (other_size, "expected the size of its image, 24x16, got 5x5"),
        (in_colour, "expected a label image of one channel"),
        (lambda root: shutil.rmtree(root / "test" / "labels"), "there is no folder .*labels"),
        (
            lambda root: shutil.rmtree(root / "test"),
            "holds only the part 'train', with 2 images; at least 10 are needed",
        ),
        (
            lambda root: [shutil.rmtree(root / part) for part in ("train", "test")],
            "has no folder 'train', 'valid' or 'test' of images; expected test/images",
        ),
    ],
)
def test_what_is_wrong_with_pairs_is_said(
    tmp_path: Path, change: Callable[[Path], Any], said: str
) -> None:
    scenes(tmp_path, {"train": 2, "test": 3})
    change(tmp_path)
    with pytest.raises(LissomError, match=said):
        Data.of(f"masks:{tmp_path}")


def segmenter() -> nn.Module:
    """Return a small network that halves, doubles again with a transposed convolution, and answers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 2, 2),
        nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    )


def test_a_segmenter_goes_the_whole_way(tmp_path: Path) -> None:
    scenes(tmp_path / "scenes", {"train": 40, "valid": 8, "test": 10})
    data = Data.of(f"masks:{tmp_path / 'scenes'}", classes="2")
    from lissom.kinds.segment import Segment

    task = Task(segmenter, data, "segmenter", kind=Segment(ignore=11))
    store = Store(tmp_path / "store")
    recipe = (
        'train(12, batch=4, lr=0.1) | prune(0.7, multiple=1) | distill("kd", 4, batch=4, lr=0.05) | '
        "quantize(8, samples=16)"
    )
    (record,) = lissom.run(recipe, task, store, targets="onnxruntime")
    measured = record["targets"]["onnxruntime"]
    assert list(record["scores"]["test"]) == ["mIoU", "pixels"]
    assert record["float"]["scores"]["test"]["mIoU"] > 0.8
    assert measured["mIoU"] > 0.75 and measured["agreement"] > 0.97
    assert task.root(0) != Task(segmenter, data, "segmenter", kind=Segment()).root(0)


@pytest.mark.parametrize(
    ("counts", "sizes", "said"),
    [
        ({"test": 20}, (0, 4, 16), "there is only the part 'test'"),
        ({"val": 20}, (0, 4, 16), "there is only the part 'valid'"),
        ({"train": 50}, (36, 4, 10), "there is no part 'test'"),
        ({"train": 20, "val": 5}, (18, 2, 5), "'valid' is the test set"),
        ({"valid": 5, "test": 10}, (0, 5, 10), None),
    ],
)
def test_a_part_that_is_missing_is_made_of_another_and_said(
    tmp_path: Path, counts: dict[str, int], sizes: tuple[int, int, int], said: str | None
) -> None:
    scenes(tmp_path, counts)
    data = Data.of(f"masks:{tmp_path}", classes="2")
    assert (len(data.train), len(data.valid), len(data.test)) == sizes
    assert any(said in note for note in data.notes) if said else not data.notes
    for split in (data.valid, data.test):
        bright = split.pixels.float().mean(1) > 130  # type: ignore[attr-defined]
        assert torch.equal(bright[:, :-1], split.labels[:, :-1] == 1)
    assert Data.of(f"masks:{tmp_path}", classes="2").fingerprint == data.fingerprint


def test_files_that_cannot_be_read_are_left_out_where_that_is_said(tmp_path: Path) -> None:
    scenes(tmp_path, {"train": 6, "test": 5})
    whole = Data.of(f"masks:{tmp_path}", classes="2")
    (tmp_path / "test" / "images" / "1.png").write_text("no image")
    (tmp_path / "test" / "labels" / "3.png").write_text("no image")
    cut = tmp_path / "train" / "images" / "2.png"
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(LissomError, match=r"2\.png: cannot be read as an image .*--skip-bad"):
        Data.of(f"masks:{tmp_path}", classes="2")
    data = Data.of(f"masks:{tmp_path}", classes="2", skip_bad=True)
    assert (len(data.train) + len(data.valid), len(data.test)) == (5, 3)
    assert data.notes == ["train: 1 unreadable file left out", "test: 2 unreadable files left out"]
    kept = torch.tensor([0, 2, 4])
    assert torch.equal(data.test.labels, whole.test.labels[kept])  # type: ignore[index]
    assert torch.equal(data.test.pixels, whole.test.pixels[kept])  # type: ignore[attr-defined]
    assert Data.of(f"masks:{tmp_path}", classes="2", skip_bad=True).fingerprint == data.fingerprint
