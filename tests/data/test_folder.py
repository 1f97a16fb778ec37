"""Folders of images with missing splits, or without some of the network's classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lissom import Data, LissomError
from lissom.data.classes import by_name, classes_named, imagenet
from lissom.data.source import check_spec
from lissom.data.split import Files


def pictures(
    root: Path, counts: dict[str, int], names: tuple[str, ...] = ("cat", "dog")
) -> set[bytes]:
    """Write `counts` images of noise for each class into each part; return their pixels."""
    draw = np.random.default_rng(0)
    written = set()
    for part, count in counts.items():
        for name in names:
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.png")
                written.add(pixels.transpose(2, 0, 1).tobytes())
    return written


def pixels(split: object) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.pixels}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("counts", "sizes", "said"),
    [
        ({"test": 10}, (0, 4, 16), "there is only the part 'test'"),
        ({"valid": 10}, (0, 4, 16), "there is only the part 'valid'"),
        ({"val": 10}, (0, 4, 16), "there is only the part 'valid'"),
        ({"train": 50}, (72, 8, 20), "there is no part 'test'"),
        ({"": 50}, (72, 8, 20), "there is no part 'test'"),
        ({"train": 10, "val": 5}, (18, 2, 10), "'valid' is the test set"),
        ({"valid": 5, "test": 10}, (0, 10, 20), None),
        ({"train": 10, "test": 5}, (18, 2, 10), None),
    ],
)
def test_a_part_that_is_missing_is_made_of_another_and_said(
    tmp_path: Path, counts: dict[str, int], sizes: tuple[int, int, int], said: str | None
) -> None:
    written = pictures(tmp_path, counts)
    data = Data.of(f"folder:{tmp_path}")
    assert (len(data.train), len(data.valid), len(data.test)) == sizes
    parts = [pixels(data.train), pixels(data.valid), pixels(data.test)]
    assert set.union(*parts) == written and sum(map(len, parts)) == len(written)
    assert any(said in note for note in data.notes) if said else not data.notes
    assert sorted(set(data.test.labels.tolist())) == [0, 1]
    assert data.example(2).shape == (2, 3, 6, 8) and len(torch.cat(data.calibration(3))) == 3
    again = Data.of(f"folder:{tmp_path}")
    assert again.fingerprint == data.fingerprint and pixels(again.test) == parts[2]


def test_calibration_never_sees_what_is_judged(tmp_path: Path) -> None:
    pictures(tmp_path, {"test": 10})
    data = Data.of(f"folder:{tmp_path}", preprocess="scale(255)")
    shown = {x.byte().numpy().tobytes() for x in torch.cat(data.calibration(1000)).round()}
    assert len(shown) == 4 and not shown & pixels(data.test)


def test_folders_may_be_some_of_the_classes(tmp_path: Path) -> None:
    pictures(tmp_path, {"test": 5}, ("zebra", "ant"))
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\nzebra, the striped horse\n")
    data = Data.of(f"folder:{tmp_path}", classes=str(names))
    assert data.classes == ("ant", "bee", "zebra, the striped horse")
    assert sorted(set(data.test.labels.tolist())) == [0, 2]
    assert data.test.labels.tolist() == sorted(data.test.labels.tolist())


def test_folders_of_numbers_are_classes_of_these_numbers(tmp_path: Path) -> None:
    pictures(tmp_path, {"test": 5}, ("7", "11"))
    data = Data.of(f"folder:{tmp_path}", classes="20")
    assert len(data.classes) == 20 and sorted(set(data.test.labels.tolist())) == [7, 11]


def test_synsets_are_classes_of_imagenet(tmp_path: Path) -> None:
    pictures(tmp_path, {"test": 5}, ("n01440764", "n15075141"))
    data = Data.of(f"folder:{tmp_path}")
    assert data.classes == imagenet() and set(data.test.labels.tolist()) == {0, 999}
    assert list(imagenet()) == sorted(set(imagenet())) and len(imagenet()) == 1000


def test_one_class_is_enough_where_all_are_named(tmp_path: Path) -> None:
    pictures(tmp_path, {"test": 5}, ("3",))
    assert set(Data.of(f"folder:{tmp_path}", classes="10").test.labels.tolist()) == {3}
    with pytest.raises(LissomError, match="holds 1 class folders; at least 2"):
        Data.of(f"folder:{tmp_path}")


def test_classes_are_part_of_what_data_are(tmp_path: Path) -> None:
    pictures(tmp_path, {"test": 5}, ("1", "2"))
    plain = Data.of(f"folder:{tmp_path}").fingerprint
    assert len({plain, *(Data.of(f"folder:{tmp_path}", classes=c).fingerprint for c in "35")}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no/such/file", "expected imagenet, a number, or a file"),
        ("0", "expected at least 1 class, got 0"),
        ("none.txt", "expected different classes, one a line, got none"),
        ("twice.txt", "expected different classes, one a line, got b twice"),
        ("bytes.txt", "cannot be read as text"),
    ],
)
def test_classes_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("none.txt").write_text("\n")
    Path("twice.txt").write_text("a\nb\nb\n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(LissomError, match=said):
        classes_named(text)


def test_one_class_is_for_boxes_only(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("cell\n")
    for text in ("1", str(tmp_path / "one.txt")):
        with pytest.raises(LissomError, match="expected at least 2 classes, got 1; boxes of one"):
            check_spec(f"folder:{tmp_path}", classes=text)
        check_spec(f"coco:{tmp_path}", classes=text)


def test_a_folder_that_is_none_of_the_classes_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, {"test": 5}, ("ant", "beee"))
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\n")
    with pytest.raises(
        LissomError, match="'beee' is none of the 2 classes ant, bee; did you mean 'bee'"
    ):
        Data.of(f"folder:{tmp_path}", classes=str(names))
    with pytest.raises(LissomError, match="--classes: it is for folder:PATH, masks:PATH, csv:FILE"):
        Data.of("digits", classes="10")


def test_a_first_word_that_several_classes_share_names_none() -> None:
    assert by_name(["black cat", "black dog"]) == {"black cat": 0, "black dog": 1}


def test_the_order_of_the_classes_is_part_of_what_data_are(tmp_path: Path) -> None:
    pictures(tmp_path, {"test": 5}, ("cat", "dog"))
    for name, text in (("one", "cat\ndog\n"), ("two", "dog\ncat\n")):
        (tmp_path / name).write_text(text)
    one, two = (Data.of(f"folder:{tmp_path}", classes=str(tmp_path / n)) for n in ("one", "two"))
    assert one.fingerprint != two.fingerprint
    assert one.classes[int(one.test.labels[0])] == "cat"
    assert two.classes[int(two.test.labels[0])] == "dog"
    assert one.fingerprint == Data.of(f"folder:{tmp_path}").fingerprint, "as the names are sorted"


# how images are seen


def test_pictures_are_seen_as_stated(tmp_path: Path) -> None:
    pictures(tmp_path, {"train": 10, "test": 5})
    data = Data.of(
        f"folder:{tmp_path}", preprocess='resize(5) | center_crop(4) | normalize("half")'
    )
    assert data.shape == (3, 4, 4) and data.mean == (0.5, 0.5, 0.5) and data.stated
    image = Image.open(tmp_path / "test" / "cat" / "0.png").resize(
        (6, 5), Image.Resampling.BILINEAR
    )
    wanted = np.asarray(image)[0:4, 1:5].transpose(2, 0, 1)
    assert np.array_equal(data.test.pixels[0].numpy(), wanted)  # type: ignore[attr-defined]
    assert data.preprocessing()["preprocess"] == str(data.preprocess)


def test_what_is_not_stated_is_measured_and_written_out(tmp_path: Path) -> None:
    pictures(tmp_path, {"train": 10, "test": 5})
    data = Data.of(f"folder:{tmp_path}")
    assert not data.stated and str(data.preprocess).startswith(
        "resize(6, width=8) | normalize(mean=("
    )
    stated = Data.of(f"folder:{tmp_path}", preprocess="data")
    assert stated.stated and (stated.mean, stated.std) == (data.mean, data.std)
    assert data.reread is not None and data.reread("scale(255)").std == (1 / 255,) * 3


def test_preprocessing_is_part_of_what_data_are(tmp_path: Path) -> None:
    pictures(tmp_path, {"train": 10, "test": 5})
    texts = (None, "data", "scale(255)", 'normalize("half")', "resize(3, 3)", "gray")
    found = {Data.of(f"folder:{tmp_path}", preprocess=text).fingerprint for text in texts}
    assert len(found) == len(texts)


def test_pictures_that_come_out_in_two_sizes_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, {"train": 10, "test": 5})
    Image.new("RGB", (20, 20)).save(tmp_path / "test" / "dog" / "z.png")
    with pytest.raises(LissomError, match=r"different sizes, .*z.png 4x4 and others 4x5; end with"):
        Data.of(f"folder:{tmp_path}", preprocess="resize(4)", skip_bad=True)
    with pytest.raises(LissomError, match="--size and a preprocess that changes images"):
        Data.of(f"folder:{tmp_path}", preprocess="resize(4, 4)", size=(4, 4))
    data = Data.of(f"folder:{tmp_path}", preprocess="scale(255)", size=(3, 5))
    assert data.size == (3, 5) and str(data.preprocess) == "resize(3, width=5) | scale(255.0)"


def test_gray_pictures_have_one_channel(tmp_path: Path) -> None:
    pictures(tmp_path, {"train": 10, "test": 5})
    data = Data.of(f"folder:{tmp_path}", preprocess="gray | normalize(mean=0.5)")
    assert data.shape == (1, 6, 8) and data.mean == (0.5,)


def test_data_in_memory_are_seen_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "resize(12) | pad(2) | scale(255)"
    data = Data.of("digits", preprocess=text)
    assert data.shape == (1, 16, 16) and not data.train.pixels[:, :, :2].any()  # type: ignore[attr-defined]
    monkeypatch.setattr("lissom.data.split.MAX_BYTES_IN_MEMORY", 1000)
    lazy = Data.of("digits", preprocess=text)
    assert not hasattr(lazy.train, "pixels") and lazy.fingerprint == data.fingerprint
    order = torch.tensor([5, 3, 100])
    for split, other in ((data.train, lazy.train), (data.valid, lazy.valid)):
        one = list(split.batches(2, torch.device("cpu"), order[:2]))
        two = list(other.batches(2, torch.device("cpu"), order[:2]))
        assert torch.equal(one[0][0], two[0][0]) and torch.equal(one[0][1], two[0][1])


def test_large_folders_are_seen_as_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, {"train": 10, "test": 5})
    text = "resize(4) | center_crop(4)"
    whole = Data.of(f"folder:{tmp_path}", preprocess=text)
    monkeypatch.setattr("lissom.data.reading.MAX_BYTES_IN_MEMORY", 100)
    lazy = Data.of(f"folder:{tmp_path}", preprocess=text)
    assert isinstance(lazy.test, Files) and lazy.fingerprint == whole.fingerprint
    lazy.test.workers = 0
    (found,) = lazy.test.batches(100, torch.device("cpu"))
    assert torch.equal(found[0], whole.test.pixels)  # type: ignore[attr-defined]


def test_a_data_set_of_ones_own_has_a_preprocessing_too() -> None:
    part = Data.of("digits").test
    data = Data("x", part, part, part, ("a", "b"), 1, (32, 32), (0.25,), (0.5,), False, "x")
    assert data.stated
    assert str(data.preprocess) == "resize(32, width=32) | normalize(mean=(0.25,), std=(0.5,))"


@pytest.mark.parametrize("name", ["train", "test", "valid", "val"])
def test_a_class_may_be_called_like_a_part(tmp_path: Path, name: str) -> None:
    pictures(tmp_path, {"": 10}, ("bus", "car", name))
    data = Data.of(f"folder:{tmp_path}")
    assert data.classes == tuple(sorted(("bus", "car", name)))
    assert len(data.train) + len(data.valid) + len(data.test) == 30


def test_parts_without_class_folders_are_no_classes(tmp_path: Path) -> None:
    pictures(tmp_path, {"": 10}, ("train", "test"))
    with pytest.raises(LissomError, match="train holds 0 class folders; at least 2 are needed"):
        Data.of(f"folder:{tmp_path}")
    pictures(tmp_path / "other", {"train": 5})
    pictures(tmp_path / "other", {"": 5}, ("test",))
    with pytest.raises(LissomError, match="test holds 0 class folders; at least 2 are needed"):
        Data.of(f"folder:{tmp_path / 'other'}")
