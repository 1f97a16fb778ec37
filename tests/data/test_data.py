"""Data: splits without overlap, folders of images read completely or not at all, pixels as numbers,
augmentation.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lissom import Data, LissomError, Task
from lissom.data import reading as reading_module
from lissom.data import split as split_module
from lissom.data.augment import cutout, draw_mirrors, draw_shifts, mirror_images, shift_images
from lissom.data.picture import picture_in, read_pixels
from lissom.data.source import check_spec, resize_pixels
from lissom.data.split import Files, Images, evenly_spaced
from lissom.data.statistics import mean_and_std
from lissom.data.validation import set_apart
from lissom.language.preprocess import Preprocess
from lissom.running.context import TaskContext

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Data:
    return Data.of("digits", size=(8, 8))


def rows(split: Any) -> set[bytes]:
    """Return the images of a split as bytes, to tell them apart."""
    return {image.numpy().tobytes() for image in split.pixels}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# digits


def test_digits_have_the_shapes_and_counts_they_are_known_by(digits: Data) -> None:
    assert (len(digits.train), len(digits.valid), len(digits.test)) == (1293, 144, 360)
    assert digits.shape == (1, 8, 8) and digits.classes == tuple("0123456789") and not digits.flip
    for split in (digits.train, digits.valid, digits.test):
        assert isinstance(split, Images)
        assert split.pixels.dtype == torch.uint8 and split.pixels.shape == (len(split), 1, 8, 8)
        assert split.labels.dtype == torch.int64 and set(split.labels.tolist()) == set(range(10))


def test_splits_do_not_overlap(digits: Data) -> None:
    train, valid, test = rows(digits.train), rows(digits.valid), rows(digits.test)
    assert not train & valid and not train & test and not valid & test
    assert len(train) + len(valid) + len(test) == 1797


def test_data_are_the_same_every_time(digits: Data) -> None:
    again = Data.of("digits", size=(8, 8))
    for part in ("train", "valid", "test"):
        assert torch.equal(getattr(again, part).pixels, getattr(digits, part).pixels)
        assert torch.equal(getattr(again, part).labels, getattr(digits, part).labels)
    assert again.fingerprint == digits.fingerprint and (again.mean, again.std) == (
        digits.mean,
        digits.std,
    )


def test_size_and_channels_are_those_asked_for_and_change_the_fingerprint(digits: Data) -> None:
    color = Data.of("digits", size=(10, 12), channels=3)
    assert (
        color.shape == (3, 10, 12)
        and color.example(2).shape == (2, 3, 10, 12)
        and len(color.mean) == 3
    )
    assert torch.equal(color.train.pixels[:, 0], color.train.pixels[:, 2])  # type: ignore[attr-defined]
    assert color.fingerprint != digits.fingerprint


@pytest.mark.parametrize(
    ("size", "channels"), [((0, 8), 1), ((8, -1), 1), ((8, 8), 2), ((8, 8), 0)]
)
def test_a_size_or_a_count_of_channels_that_no_image_has_is_refused(
    size: tuple[int, int], channels: int
) -> None:
    with pytest.raises(LissomError):
        Data.of("digits", size=size, channels=channels)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digit", "there is no data set 'digit'; did you mean 'digits'"),
        ("folder:", "is not a folder"),
        ("folder:/no/where", "'/no/where' is not a folder"),
        ("", "there is no data set ''"),
    ],
)
def test_data_that_do_not_exist_are_refused(name: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        check_spec(name)


def test_a_tenth_is_parted_off_for_validation() -> None:
    whole = Images(torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1), torch.arange(200))
    train, valid = set_apart(whole)
    assert len(train) == 180 and len(valid) == 20
    assert sorted([*train.labels.tolist(), *valid.labels.tolist()]) == list(range(200))
    assert train.labels.tolist() == sorted(train.labels.tolist()) and valid.labels.tolist() != list(
        range(20)
    )
    assert isinstance(valid, Images) and valid.pixels.flatten().tolist() == valid.labels.tolist()
    assert len(set_apart(whole, max_count=5)[1]) == 5


# pixels to numbers


def test_normalised_is_what_a_plain_loop_says(digits: Data) -> None:
    pixels = digits.test.pixels[:5]  # type: ignore[attr-defined]
    wanted = np.empty(pixels.shape)
    for index in np.ndindex(*pixels.shape):
        wanted[index] = (int(pixels[index]) / 255 - digits.mean[index[1]]) / digits.std[index[1]]
    assert digits.normalised(pixels).dtype == torch.float32
    np.testing.assert_allclose(digits.normalised(pixels).numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_normalised_takes_each_channel_by_its_own_mean_and_std() -> None:
    part = Images(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    data = Data(
        "x", part, part, part, ("a", "b"), 3, (2, 2), (0.1, 0.2, 0.3), (0.5, 0.25, 1.0), False, "x"
    )
    out = data.normalised(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    np.testing.assert_allclose(out[0, :, 0, 0].numpy(), [0.9 / 0.5, 0.8 / 0.25, 0.7], rtol=1e-6)


def test_mean_and_std_are_those_of_the_training_pixels() -> None:
    pixels = torch.randint(0, 256, (700, 3, 4, 5), dtype=torch.uint8, generator=seeded())
    mean, std = mean_and_std(Images(pixels, torch.zeros(700, dtype=torch.int64)))
    values = pixels.numpy() / 255
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), atol=2e-5)
    np.testing.assert_allclose(std, values.std((0, 2, 3)), atol=2e-5)


def test_images_that_are_all_one_color_have_a_std_that_can_be_divided_by() -> None:
    assert mean_and_std(Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3)))[1] == (
        0.001,
    )


def test_batches_hold_every_image_once_in_the_order_given() -> None:
    split = Images(torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1), torch.arange(7))
    order = torch.tensor([4, 2, 6])
    for wanted, given in ((list(range(7)), None), ([4, 2, 6], order)):
        found = list(split.batches(3, CPU, given))
        assert [n for _, labels in found for n in labels.tolist()] == wanted
        assert [n for pixels, _ in found for n in pixels.flatten().tolist()] == wanted
        assert all(len(labels) <= 3 for _, labels in found)


def test_calibration_images_are_training_images_drawn_by_seed(digits: Data) -> None:
    one = torch.cat(digits.calibration(150, seed=1))
    assert len(one) == 150 and torch.equal(one, torch.cat(digits.calibration(150, seed=1)))
    assert not torch.equal(one, torch.cat(digits.calibration(150, seed=2)))
    train = digits.normalised(digits.train.pixels)  # type: ignore[attr-defined]
    known = {image.numpy().tobytes() for image in train}
    assert all(image.numpy().tobytes() in known for image in one)
    assert [len(b) for b in digits.calibration(150)] == [128, 22] and sum(
        map(len, digits.calibration(10**6))
    ) == 1293


def test_resizing_leaves_images_of_that_size_and_keeps_a_flat_one_flat() -> None:
    pixels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=seeded())
    assert resize_pixels(pixels, (8, 8)) is pixels
    assert torch.equal(
        resize_pixels(torch.full((1, 1, 8, 8), 77, dtype=torch.uint8), (5, 13)),
        torch.full((1, 1, 5, 13), 77, dtype=torch.uint8),
    )


# folders


def folder(
    root: Path, counts: dict[str, int], size: tuple[int, int] = (6, 8), ending: str = "png"
) -> dict[str, np.ndarray]:
    """Write images of random pixels, two classes in each split; return the pixels by place."""
    draw, made = np.random.default_rng(0), {}
    for part, count in counts.items():
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{k}.{ending}")
                made[f"{part}/{name}/{k}"] = pixels
    return made


def test_a_folder_is_read_as_it_lies(tmp_path: Path) -> None:
    made = folder(tmp_path, {"train": 5, "valid": 2, "test": 3})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    data = Data.of(f"folder:{tmp_path}")
    assert (
        data.classes == ("cat", "dog")
        and data.shape == (3, 6, 8)
        and data.flip
        and data.notes == []
    )
    assert (len(data.train), len(data.valid), len(data.test)) == (10, 4, 6)
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for part in ("train", "valid", "test"):
        wanted = np.stack(
            [pixels for place, pixels in made.items() if place.startswith(part)]
        ).transpose(0, 3, 1, 2)
        assert np.array_equal(getattr(data, part).pixels.numpy(), wanted)


def test_validation_is_parted_from_train_where_a_folder_has_none(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 10, "test": 1})
    data = Data.of(f"folder:{tmp_path}")
    assert (len(data.train), len(data.valid), len(data.test)) == (18, 2, 2)
    assert not rows(data.train) & rows(data.valid)


def test_jpeg_images_of_many_sizes_become_one_size(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 2, "test": 1}, ending="jpg")
    Image.new("RGB", (30, 20), (200, 10, 60)).save(tmp_path / "test" / "dog" / "0.jpg", quality=100)
    data = Data.of(f"folder:{tmp_path}")
    assert data.shape == (3, 6, 8)
    flat = data.test.pixels[1].float().mean((1, 2))  # type: ignore[attr-defined]
    assert (flat - torch.tensor([200.0, 10.0, 60.0])).abs().max() < 4
    assert Data.of(f"folder:{tmp_path}", size=(4, 16)).test.pixels.shape == (2, 3, 4, 16)  # type: ignore[attr-defined]


def test_gray_is_the_luminance_of_each_pixel(tmp_path: Path) -> None:
    made = folder(tmp_path, {"train": 2, "test": 1})
    data = Data.of(f"folder:{tmp_path}", channels=1)
    assert data.shape == (1, 6, 8) and len(data.mean) == 1
    wanted = made["test/cat/0"] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(data.test.pixels[0, 0].numpy() - wanted).max() <= 1  # type: ignore[attr-defined]


def test_an_image_is_decoded_to_channels_height_width(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_pixels(tmp_path / "a.png", 3, None), pixels.transpose(2, 0, 1))
    assert read_pixels(tmp_path / "a.png", 3, Preprocess.of("resize(7, 4)")).shape == (
        3,
        7,
        4,
    ) and read_pixels(tmp_path / "a.png", 1, None).shape == (1, 5, 9)


def test_an_image_of_sixteen_bits_keeps_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 48).reshape(6, 8).astype(np.uint16)).save(
        tmp_path / "a.png"
    )
    for channels in (1, 3):
        pixels = read_pixels(tmp_path / "a.png", channels, None)
        assert np.abs(pixels - np.linspace(0, 255, 48).reshape(1, 6, 8)).max() <= 1


def test_an_image_of_a_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    palette = Image.new("P", (8, 6), 1)
    palette.putpalette([0, 0, 0, 200, 10, 60])
    palette.save(tmp_path / "a.png", transparency=b"\x10\xff")
    assert read_pixels(tmp_path / "a.png", 3, None)[:, 0, 0].tolist() == [200, 10, 60]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:70])


def empty_class(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda root: [shutil.rmtree(root / part) for part in ("train", "test")],
            "holds no folder of images; expected train/<class>",
        ),
        (empty_class, "the class folder .*train/dog holds no image"),
        (
            lambda root: shutil.rmtree(root / "test" / "dog"),
            "test holds 1 class folders; at least 2",
        ),
        (
            lambda root: (root / "test" / "dog").rename(root / "test" / "cow"),
            r"missing \['dog'\], not "
            r"in train \['cow'\]",
        ),
        (
            lambda root: cut_short(root / "train" / "dog" / "1.png"),
            r"train/dog/1\.png: cannot be read "
            r"as an image .*--skip-bad",
        ),
        (
            lambda root: (root / "test" / "cat" / "0.png").write_text("no image"),
            r"test/cat/0\.png: "
            r"cannot be read as an image",
        ),
        (
            lambda root: (root / "test" / "cat" / "0.png").write_bytes(b""),
            r"test/cat/0\.png: cannot be read",
        ),
    ],
    ids=[
        "no folder",
        "empty class",
        "one class",
        "other class",
        "cut short",
        "text",
        "nothing",
    ],
)
def test_what_is_wrong_with_a_folder_is_said(
    tmp_path: Path, change: Callable[[Path], Any], said: str
) -> None:
    folder(tmp_path, {"train": 3, "test": 3})
    change(tmp_path)
    with pytest.raises(LissomError, match=said):
        Data.of(f"folder:{tmp_path}")


@pytest.mark.parametrize("memory", [2 << 30, 100])
def test_bad_files_are_left_out_and_counted_when_asked(
    tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "MAX_BYTES_IN_MEMORY", memory)
    monkeypatch.setattr(Files, "workers", 0)
    folder(tmp_path, {"train": 5, "test": 3})
    clean = Data.of(f"folder:{tmp_path}")
    for place in ("train/dog/1.png", "train/cat/4.png", "test/cat/0.png"):
        cut_short(tmp_path / place)
    data = Data.of(f"folder:{tmp_path}", skip_bad=True)
    assert data.notes == ["train: 2 unreadable files left out", "test: 1 unreadable file left out"]
    assert len(data.train) + len(data.valid) == 8 and data.test.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.fingerprint != clean.fingerprint


def test_a_class_of_bad_files_alone_is_an_error_even_when_they_are_left_out(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 2, "test": 1})
    cut_short(tmp_path / "test" / "cat" / "0.png")
    with pytest.raises(LissomError, match="not one image of test/cat can be read"):
        Data.of(f"folder:{tmp_path}", skip_bad=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_files_read_batch_by_batch_give_the_pixels_that_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    folder(tmp_path, {"train": 6, "test": 3})
    whole = Data.of(f"folder:{tmp_path}", size=(5, 7))
    monkeypatch.setattr(reading_module, "MAX_BYTES_IN_MEMORY", 100)
    monkeypatch.setattr(Files, "workers", 0)
    lazy = Data.of(f"folder:{tmp_path}", size=(5, 7))
    assert isinstance(lazy.test, Files) and isinstance(whole.test, Images)
    assert (lazy.fingerprint, lazy.mean, lazy.std) == (whole.fingerprint, whole.mean, whole.std)
    for part, order in (("train", None), ("valid", None), ("test", torch.tensor([5, 0, 3]))):
        split = getattr(lazy, part)
        split.workers = workers
        pairs = list(
            zip(
                split.batches(4, CPU, order),
                getattr(whole, part).batches(4, CPU, order),
                strict=True,
            )
        )
        assert pairs
        for (pixels, labels), (wanted, names) in pairs:
            assert torch.equal(pixels, wanted) and torch.equal(labels, names)


def test_a_bad_file_met_by_a_worker_process_is_named_in_one_line(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 2})
    paths = sorted((tmp_path / "train" / "cat").iterdir())
    cut_short(paths[1])
    view = Preprocess.of("resize(6, 8)")
    for workers in (0, 1):
        split = Files(paths, torch.zeros(2, dtype=torch.int64), 3, (6, 8), view, workers)
        with pytest.raises(LissomError, match=r"cat/1\.png: cannot be read as an image") as caught:
            list(split.batches(2, CPU))
        assert "Traceback" not in str(caught.value) and len(str(caught.value).splitlines()) == 1


# augmentation


@pytest.fixture
def images() -> torch.Tensor:
    # no pixel is 0
    return torch.randint(1, 256, (64, 3, 6, 8), dtype=torch.uint8, generator=seeded(5))


def crop(pixels: torch.Tensor, pad: int, draw: torch.Generator) -> torch.Tensor:
    return shift_images(pixels, *draw_shifts(len(pixels), pad, draw))


def flip(pixels: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return mirror_images(pixels, draw_mirrors(len(pixels), draw))


def test_crop_shifts_each_image_by_at_most_the_padding_and_fills_with_zero(
    images: torch.Tensor,
) -> None:
    out, pad, seen = crop(images, 2, seeded(1)), 2, set()
    assert out.shape == images.shape and out.dtype == images.dtype
    for before, after in zip(images.numpy(), out.numpy(), strict=True):
        fits = []
        for dy in range(-pad, pad + 1):
            for dx in range(-pad, pad + 1):
                wanted = np.zeros_like(before)
                for y in range(6):
                    for x in range(8):
                        if 0 <= y + dy < 6 and 0 <= x + dx < 8:
                            wanted[:, y, x] = before[:, y + dy, x + dx]
                fits += [(dy, dx)] if np.array_equal(after, wanted) else []
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) > 15 and {s[0] for s in seen} == {s[1] for s in seen} == {
        -2,
        -1,
        0,
        1,
        2,
    }


def test_flip_gives_the_image_or_its_mirror_about_as_often(images: torch.Tensor) -> None:
    out, count = flip(images, seeded(1)), 0
    for before, after in zip(images.numpy(), out.numpy(), strict=True):
        mirror = np.stack(
            [[[row[7 - x] for x in range(8)] for row in channel] for channel in before]
        )
        same = np.array_equal(after, before)
        assert same != np.array_equal(after, mirror)
        count += not same
    assert 16 < count < 48


@pytest.mark.parametrize("side", [1, 3, 4, 20])
def test_cutout_hides_one_square_that_may_lie_partly_outside(
    images: torch.Tensor, side: int
) -> None:
    out, clipped = cutout(images.float(), side, seeded(1)), 0
    for before, after in zip(images.float().numpy(), out.numpy(), strict=True):
        hidden = (after == 0).all(0)
        assert np.array_equal(after, np.where(hidden, 0, before))
        fits = False
        for y in range(6):
            for x in range(8):
                wanted = np.zeros((6, 8), bool)
                for row in range(max(0, y - side // 2), min(6, y - side // 2 + side)):
                    for column in range(max(0, x - side // 2), min(8, x - side // 2 + side)):
                        wanted[row, column] = True
                fits |= np.array_equal(hidden, wanted)
        assert fits
        clipped += hidden.sum() < side * side
    assert clipped == (0 if side == 1 else 64 if side == 20 else clipped) and (
        side in (1, 20) or 0 < clipped < 64
    )


@pytest.mark.parametrize(
    "vary",
    [lambda p, g: crop(p, 2, g), flip, lambda p, g: cutout(p, 3, g)],
    ids=["crop", "flip", "cutout"],
)
def test_augmentation_is_drawn_from_the_generator_and_leaves_its_input(
    images: torch.Tensor, vary: Any
) -> None:
    before = images.clone()
    one = vary(images, seeded(1))
    assert torch.equal(one, vary(images, seeded(1))) and not torch.equal(
        one, vary(images, seeded(2))
    )
    assert torch.equal(images, before)


def test_no_padding_and_no_side_change_nothing(images: torch.Tensor) -> None:
    assert torch.equal(crop(images, 0, seeded()), images) and torch.equal(
        cutout(images, 0, seeded()), images
    )


@pytest.mark.parametrize("most", [0, 1, 10, 37, 100, 1000])
def test_a_part_of_a_split_is_of_all_classes_though_they_lie_in_order(most: int) -> None:
    labels = torch.arange(10).repeat_interleave(10)
    part = evenly_spaced(Images(torch.zeros(100, 1, 2, 2, dtype=torch.uint8), labels), most)
    assert len(part) == min(most, 100) and bool((part.labels.diff() >= 0).all())
    counts = part.labels.bincount(minlength=10)
    assert int(counts.max() - counts.min()) <= 1
    assert most < 100 or torch.equal(part.labels, labels)


def test_a_step_measures_accuracy_on_images_of_every_class() -> None:
    labels = torch.arange(10).repeat_interleave(200)
    split = Images(labels.byte().view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), labels)
    data = Data(
        "in order", split, split, split, tuple("abcdefghij"), 1, (2, 2), (0.0,), (1.0,), False, ""
    )

    def zeros(_: Tensor, labels: Tensor) -> float:
        return float((labels == 0).float().mean())

    task = Task(nn.Flatten, data, "net", metrics={"zeros": zeros})
    ctx = TaskContext(torch.zeros(1, 1, 2, 2), lambda _: [], task=task)
    assert ctx.accuracy(nn.Flatten()) == pytest.approx(0.1)


def test_no_image_starts_a_program_or_takes_more_memory_than_its_file_can_need(
    tmp_path: Path,
) -> None:
    folder(tmp_path, {"train": 2, "test": 1})
    first = tmp_path / "train" / "cat" / "0.png"
    first.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(
        LissomError, match=r"cat/0\.png: cannot be read as an image \(cannot identify"
    ):
        Data.of(f"folder:{tmp_path}")
    body = b"IHDR" + struct.pack(">2I5B", 13_000, 13_000, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + body + struct.pack(">I", zlib.crc32(body))
    first.write_bytes(head + b"\0\0\0\0IDAT\x35\xaf\x06\x1e")
    with pytest.raises(
        LissomError, match=r"cat/0\.png: .*it declares 13000 x 13000 pixels in 45 bytes"
    ):
        Data.of(f"folder:{tmp_path}")
    found = Data.of(f"folder:{tmp_path}", skip_bad=True)
    assert found.size == (6, 8), "a header alone does not say how large all images are made"


def test_without_a_size_no_image_makes_all_others_huge(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 2, "test": 1})
    Image.new("RGB", (1_500, 1_000)).save(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(
        LissomError,
        match=r"cat/0\.png has 1500 x 1000 pixels, and all images "
        r"would be resized .*--size",
    ):
        Data.of(f"folder:{tmp_path}")
    assert Data.of(f"folder:{tmp_path}", size=(4, 4)).size == (4, 4)


def test_names_need_not_be_utf_8_but_those_of_classes(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 2, "test": 1})
    odd = tmp_path / "train" / "cat" / os.fsdecode(b"\xff.png")
    try:
        (tmp_path / "train" / "cat" / "0.png").rename(odd)
    except OSError:
        pytest.skip("this file system has no such names")
    assert len(Data.of(f"folder:{tmp_path}").classes) == 2
    for part in ("train", "test"):
        (tmp_path / part / "cat").rename(tmp_path / part / os.fsdecode(b"\xff"))
    with pytest.raises(
        LissomError,
        match=r"\\udcff has a name with control characters, or one "
        r"that is not UTF-8",
    ):
        Data.of(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("file", "at", "byte"), [("train-images-idx3-ubyte", 3, 1), ("train-labels-idx1-ubyte", 12, 99)]
)
def test_damaged_files_of_a_known_data_set_are_one_line(
    tmp_path: Path, file: str, at: int, byte: int
) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, 20, 28, 28) + bytes(20 * 28 * 28)
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 20) + bytes(20))
    assert Data.of("fashion-mnist", root=tmp_path).shape == (1, 28, 28)
    broken = bytearray((raw / file).read_bytes())
    broken[at] = byte
    (raw / file).write_bytes(broken)
    with pytest.raises(LissomError, match="damaged"):
        Data.of("fashion-mnist", root=tmp_path)


def test_images_of_other_sizes_are_said_to_be_resized_unless_a_size_is_given(
    tmp_path: Path,
) -> None:
    folder(tmp_path, {"train": 2, "test": 1})
    assert not Data.of(f"folder:{tmp_path}").notes
    Image.new("RGB", (9, 7)).save(tmp_path / "train" / "dog" / "9.png")
    assert [note for note in Data.of(f"folder:{tmp_path}").notes if "--size" in note]
    assert not Data.of(f"folder:{tmp_path}", size=(4, 4)).notes


def photo(width: int, height: int) -> Image.Image:
    """Return a smooth image, as JPEG is made for."""
    draw = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(draw).resize((width, height), Image.Resampling.BICUBIC)


def test_files_are_decoded_smaller_only_if_the_text_says_so(tmp_path: Path) -> None:
    large = photo(512, 384)
    for ending in ("jpg", "png"):
        large.save(tmp_path / f"a.{ending}", quality=95)
    full = Preprocess.of("resize(48)")
    draft = Preprocess.of("resize(48, draft=True)")
    assert str(draft) != str(full) and full.least((512, 384)) is None
    jpeg = tmp_path / "a.jpg"
    assert picture_in(jpeg, 3, full).size == (512, 384)
    assert picture_in(jpeg, 3, draft).size == (128, 96)  # a quarter, twice as large as wanted
    assert picture_in(tmp_path / "a.png", 3, draft).size == (512, 384)
    apart = read_pixels(jpeg, 3, draft).astype(int) - read_pixels(jpeg, 3, full)
    assert 0 < np.abs(apart).mean() < 2
    # where there is less than twice the size, all of it is decoded
    near = Preprocess.of("resize(200, draft=True)")
    assert np.array_equal(
        read_pixels(jpeg, 3, near), read_pixels(jpeg, 3, Preprocess.of("resize(200)"))
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "LA", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_is_what_pillow_converts_it_to(mode: str, channels: int, tmp_path: Path) -> None:
    ending = {"CMYK": "jpg", "RGB": "jpg", "L": "jpg"}.get(mode, "png")
    path = tmp_path / f"a.{ending}"
    photo(64, 48).convert(mode).save(path)
    with Image.open(path) as image:
        wanted = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    found = picture_in(path, channels)
    assert np.array_equal(np.asarray(found), wanted)
    path.unlink()  # nothing is read later
    assert found.resize((8, 8)).size == (8, 8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_normalising_leaves_pixels_as_they_are(dtype: torch.dtype) -> None:
    data = Data.of("digits", preprocess="normalize(mean=0.4, std=0.3)")
    pixels = torch.randint(0, 256, (3, 1, 8, 8)).to(dtype)
    before = pixels.clone()
    mean = torch.tensor(data.mean).view(1, -1, 1, 1)
    std = torch.tensor(data.std).view(1, -1, 1, 1)
    assert torch.equal(data.normalised(pixels), (pixels.float() - 255 * mean) / (255 * std))
    assert torch.equal(pixels, before)


def test_a_single_batch_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[int]()
    loader = split_module.DataLoader

    def noted(*args: Any, num_workers: int, **more: Any) -> Any:
        started.append(num_workers)
        return loader(*args, num_workers=0, **more)

    monkeypatch.setattr(split_module, "DataLoader", noted)
    for k in range(5):
        photo(32, 32).save(tmp_path / f"{k}.png")
    paths = sorted(tmp_path.glob("*.png"))
    view = Preprocess.of("resize(8)")
    split = Files(paths, torch.zeros(5, dtype=torch.int64), 3, (8, 8), view)
    for size in (5, 4):
        assert sum(len(pixels) for pixels, _ in split.batches(size, CPU)) == 5
    assert started == [0, 2] and split.workers >= 2


@pytest.mark.parametrize("mode", ["F", "I"])
def test_an_image_of_thirty_two_bits_is_refused(mode: str, tmp_path: Path) -> None:
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    Image.fromarray(values if mode == "F" else (values * 1e6).astype(np.int32)).save(
        tmp_path / "a.tif"
    )
    for channels in (1, 3):
        with pytest.raises(LissomError, match=rf"a\.tif: .*mode {mode}\).*scale .* 8 bits"):
            read_pixels(tmp_path / "a.tif", channels, None)
    pictures = [(Image.fromarray(values), k % 2) for k in range(20)]
    with pytest.raises(LissomError, match=r"data own: .*mode F\).*scale .* 8 bits"):
        Data.of_dataset(pictures)


@pytest.mark.parametrize("ending", ["pgm", "png", "tif"])
def test_sixteen_bits_of_gray_become_eight(ending: str, tmp_path: Path) -> None:
    values = np.array([[0, 255, 256], [32768, 40000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    assert np.array_equal(read_pixels(tmp_path / f"a.{ending}", 1, None)[0], values >> 8)


@pytest.mark.parametrize(("name", "size"), [("cifar10", (16, 16)), ("digits", (5, 12))])
def test_pixels_of_a_known_data_set_are_what_its_preprocessing_says(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known:
        classes = ("a", "b")
        targets = (0, 1)
        data = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)

        def __init__(self, *_: Any, **__: Any) -> None: ...

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Known)
    data = Data.of(name, size=size)
    again = Data.of(name, preprocess=str(data.preprocess))
    assert torch.equal(again.test.pixels, data.test.pixels)  # type: ignore[attr-defined]
    assert "antialias=False" in str(data.preprocess)
    for larger in (None, (64, 40)):
        assert "antialias" not in str(Data.of(name, size=larger).preprocess)
