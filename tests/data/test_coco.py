"""Images with boxes in COCO's JSON: read, moved, split, and every mistake reported in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lissom import Data, LissomError

SHADES = {"cat": 120, "dog": 240}


def scenes(folder: Path, count: int, size: tuple[int, int] = (32, 24)) -> dict[str, Any]:
    """Write images of one bright rectangle, a cat or a dog by its shade, and return what is in them.

    Every fourth one is empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    images = list[dict[str, Any]]()
    annotations = list[dict[str, Any]]()
    wide, high = size
    for k in range(count):
        picture = Image.new("RGB", size)
        images.append({"id": 10 + k, "file_name": f"{k}.png", "width": wide, "height": high})
        if k % 4 != 3:
            x, y = draw.integers(0, (wide - 10, high - 10)).tolist()
            w, h = draw.integers(6, 11, 2).tolist()
            picture.paste((SHADES["dog" if k % 2 else "cat"],) * 3, (x, y, x + w, y + h))
            of = 7 if k % 2 else 3
            annotations.append(
                {"id": k, "image_id": 10 + k, "category_id": of, "bbox": [x, y, w, h]}
            )
        picture.save(folder / f"{k}.png")
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def written(file: Path, tree: Any) -> str:
    """Write a JSON file, and return the name of the data."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return f"coco:{file}"


def three(root: Path, train: str = "train", valid: str = "val", test: str = "test") -> str:
    """Write a folder of three parts."""
    for part, count in ((train, 9), (valid, 5), (test, 6)):
        written(root / f"{part}.json", scenes(root / part, count))
    return f"coco:{root}"


def check_boxes(split: Any, classes: tuple[str, ...]) -> int:
    """Compare every box with the bright pixels of its image; return how many there are."""
    count = 0
    for pixels, rows in zip(split.pixels, split.labels, strict=True):
        boxes = rows[rows[:, 4] >= 0]
        count += len(boxes)
        bright = pixels[0] > 60
        assert bool(bright.any()) == bool(len(boxes))
        for x1, y1, x2, y2, of in boxes.tolist():
            columns = bright.any(0).nonzero()
            lines = bright.any(1).nonzero()
            seen = [columns.min(), lines.min(), columns.max() + 1, lines.max() + 1]
            np.testing.assert_allclose(seen, [x1, y1, x2, y2], atol=1.5)
            shade = pixels[0, int((y1 + y2) / 2), int((x1 + x2) / 2)]
            assert abs(int(shade) - SHADES[classes[int(of)]]) < 10
    return count


@pytest.mark.parametrize("names", [("train", "val", "test"), ("train", "valid", "test")])
def test_a_folder_holds_a_file_for_each_part(tmp_path: Path, names: tuple[str, str, str]) -> None:
    data = Data.of(three(tmp_path, *names))
    assert (len(data.train), len(data.valid), len(data.test)) == (9, 5, 6)
    assert data.classes == ("cat", "dog") and data.shape == (3, 24, 32) and not data.notes
    assert data.test.labels.shape == (6, 1, 5) and data.test.labels.dtype == torch.float32
    assert check_boxes(data.train, data.classes) == 7 and check_boxes(data.test, data.classes) == 5


@pytest.mark.parametrize(
    "text",
    [
        "resize(48, 40)",
        "resize(20)",
        "letterbox(40, fill=0) | gray",
        "pad(4) | center_crop(30, 44) | bgr",
    ],
)
def test_boxes_move_with_their_pictures(tmp_path: Path, text: str) -> None:
    data = Data.of(three(tmp_path), preprocess=text)
    assert check_boxes(data.train, data.classes) == 7


def test_what_is_cut_off_is_said(tmp_path: Path) -> None:
    data = Data.of(three(tmp_path), preprocess="center_crop(10)")
    (note,) = data.notes
    assert "cut off by the preprocessing" in note and note.startswith("boxes are left out: ")
    assert (data.test.labels[..., :4] <= 10).all() and (data.test.labels[..., :4] >= 0).all()


@pytest.mark.parametrize(
    ("json_file", "folder"),
    [
        ("all.json", "."),
        ("all.json", "all"),
        ("all.json", "images"),
        ("all.json", "images/all"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/all.json", "images"),
        ("val.json", "valid"),
    ],
)
def test_one_file_is_parted_wherever_its_pictures_are(
    tmp_path: Path, json_file: str, folder: str
) -> None:
    data = Data.of(written(tmp_path / json_file, scenes(tmp_path / folder, 20)))
    assert (len(data.train), len(data.valid), len(data.test)) == (14, 2, 4)
    assert "a fifth of the images" in data.notes[0]
    assert check_boxes(data.train, data.classes) > 8
    again = Data.of(f"coco:{tmp_path / json_file}")
    assert torch.equal(again.test.labels, data.test.labels)
    assert again.fingerprint == data.fingerprint


def test_other_layouts_are_read(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        tree = scenes(tmp_path / "coco" / part, 10)
        written(tmp_path / "coco" / "annotations" / f"instances_{part}.json", tree)
    data = Data.of(f"coco:{tmp_path / 'coco'}")
    assert (len(data.train), len(data.valid), len(data.test)) == (9, 1, 10)
    assert "'valid' is the test set" in data.notes[0]
    for part in ("train", "test"):
        tree = scenes(tmp_path / "exported" / part, 10)
        written(tmp_path / "exported" / part / "_annotations.coco.json", tree)
    assert len(Data.of(f"coco:{tmp_path / 'exported'}").test) == 10


def test_boxes_that_are_none_are_left_out_and_counted(tmp_path: Path) -> None:
    tree = scenes(tmp_path / "a", 12)
    first = tree["annotations"][0]
    tree["annotations"] += [
        {**first, "iscrowd": 1, "bbox": []},
        *[{**first, "bbox": [2, 2, *size]} for size in ((0, 3), (-4, -4))],
        *[{**first, "bbox": [*at, 5, 5]} for at in ((32, 0), (0, 24), (-5, 3), (3, -9))],
    ]
    data = Data.of(written(tmp_path / "a.json", tree))
    assert data.notes[1] == (
        "boxes are left out: 1 around crowds (iscrowd), 2 of no size, 4 outside their image"
    )
    splits = (data.train, data.valid, data.test)
    assert sum(check_boxes(split, data.classes) for split in splits) == 9


def test_boxes_that_lie_partly_outside_are_clipped(tmp_path: Path) -> None:
    tree = scenes(tmp_path / "a", 12)
    for entry in tree["annotations"]:
        entry["bbox"] = [-5, -5.5, 100, 10]
    labels = Data.of(written(tmp_path / "a.json", tree)).test.labels
    assert labels[labels[..., 4] >= 0][:, :4].unique(dim=0).tolist() == [[0, 0, 32, 4.5]]


def test_classes_that_are_stated_are_found_by_name_or_by_id(tmp_path: Path) -> None:
    name = three(tmp_path)
    (tmp_path / "names.txt").write_text("bird\ndog\ncat\n")
    data = Data.of(name, classes=str(tmp_path / "names.txt"))
    assert data.classes == ("bird", "dog", "cat")
    check_boxes(data.test, data.classes)
    numbered = Data.of(name, classes="8")
    assert set(numbered.test.labels[..., 4].flatten().tolist()) == {-1, 3, 7}
    with pytest.raises(
        LissomError, match=r"'(cat|dog)', the class of a box, is none of the 5 classes"
    ):
        Data.of(name, classes="5")


def test_large_sets_are_read_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = three(tmp_path)
    whole = Data.of(name)
    monkeypatch.setattr("lissom.data.reading.MAX_BYTES_IN_MEMORY", 100)
    lazy = Data.of(name)
    lazy.test.workers = 0  # type: ignore[attr-defined]
    (found,) = lazy.test.batches(9, torch.device("cpu"))
    assert torch.equal(found[0], whole.test.pixels)  # type: ignore[attr-defined]
    assert torch.equal(found[1], whole.test.labels) and lazy.fingerprint == whole.fingerprint


def test_pictures_that_cannot_be_read_are_left_out_where_that_is_said(tmp_path: Path) -> None:
    name = three(tmp_path)
    (tmp_path / "test" / "2.png").write_text("no image")
    (tmp_path / "train" / "0.png").unlink()
    with pytest.raises(LissomError, match=r"images\[0\]: there is no image '0\.png' in"):
        Data.of(name)
    data = Data.of(name, skip_bad=True)
    assert data.notes == ["train: 1 unreadable file left out", "test: 1 unreadable file left out"]
    check_boxes(data.train, data.classes)
    check_boxes(data.test, data.classes)


def first_box(key: str, value: Any) -> Callable[[Any], Any]:
    return lambda tree: tree["annotations"][0].update({key: value})


def first_image(key: str, value: Any) -> Callable[[Any], Any]:
    return lambda tree: tree["images"][0].update({key: value})


MISTAKES: list[tuple[Callable[[Any], Any], str]] = [
    (
        lambda tree: tree.pop("images"),
        "expected COCO's JSON, .*got one with annotations, categories",
    ),
    (lambda tree: tree.update(images={}), "expected COCO's JSON"),
    (lambda tree: tree["images"].insert(0, 3), r"images\[0\]: expected an object, got 3"),
    (
        first_box("bbox", [1, 2, 3]),
        r"annotations\[0\]: bbox: expected \[x, y, width, height\], got \[1",
    ),
    (first_box("bbox", None), "bbox: expected .*got None"),
    (first_box("bbox", [1, 2, 3, "4"]), "bbox: expected numbers between .*got '4'"),
    (first_box("bbox", [1, 2, 3, float("nan")]), "bbox: expected numbers between .*got nan"),
    (first_box("bbox", [1, 2, 3, 10**400]), "bbox: expected numbers between .*got 1000"),
    (first_box("bbox", [float("-inf"), 2, 3, 4]), "bbox: expected numbers between .*got -inf"),
    (first_box("bbox", [True, 2, 3, 4]), "bbox: expected numbers between .*got True"),
    (first_box("category_id", 4), "expected a category_id of 7, 3, got 4"),
    (first_box("category_id", [3]), r"expected a category_id of 7, 3, got \[3\]"),
    (first_box("image_id", 99), "expected an image_id of one of the images, got 99"),
    (first_box("image_id", {}), "expected an image_id"),
    (first_image("id", 11), r"images\[1\]: the id 11 stands for 0\.png already"),
    (first_image("id", 1.5), r"expected an id, a whole number or a text, got 1\.5"),
    (first_image("file_name", "gone.png"), r"there is no image 'gone\.png' in .*--skip-bad"),
    (first_image("file_name", "x" * 5000), "there is no image 'xxx"),
    (first_image("file_name", "a\0b"), "there is no image"),
    (first_image("file_name", "\ud800"), "there is no image"),
    (first_image("file_name", 5), "expected a file_name, got 5"),
    (first_image("file_name", "../all/0.png"), r"absolute paths and \.\. are refused"),
    (first_image("file_name", "a\\..\\0.png"), r"absolute paths and \.\. are refused"),
    (first_image("file_name", "/etc/passwd"), "absolute paths"),
    (first_image("file_name", "c:\\0.png"), "absolute paths"),
    (first_image("file_name", "1.png"), r"expected each image once, got .*1\.png twice"),
    (
        first_image("width", 64),
        "expected the size that is stated beside its boxes, 64x24, got 32x24",
    ),
    (
        first_image("width", "wide"),
        r"expected whole numbers for width and height, got \['wide', 24\]",
    ),
    (first_image("height", float("inf")), r"expected whole numbers .*got \[32, inf\]"),
    (
        lambda tree: tree["categories"][0].pop("name"),
        r"categories\[0\]: expected an id, a whole number",
    ),
    (lambda tree: tree["categories"].append({"id": 3, "name": "cow"}), "the id 3 stands for 'cat'"),
    (
        lambda tree: tree["categories"].append({"id": 4, "name": "cat"}),
        "two classes are called 'cat'",
    ),
    (lambda tree: tree["categories"].append({"id": 4, "name": "\x1b[3m"}), "that can be printed"),
    (lambda tree: tree["annotations"].clear(), "expected boxes in the test set, got none in its 3"),
    (lambda tree: [tree[key].clear() for key in ("annotations", "images")], "at least 10 images"),
]


@pytest.mark.parametrize(("change", "said"), MISTAKES, ids=range(len(MISTAKES)))
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, change: Callable[[Any], Any], said: str
) -> None:
    tree = scenes(tmp_path / "all", 12)
    change(tree)
    with pytest.raises(LissomError, match=said) as raised:
        Data.of(written(tmp_path / "all.json", tree))
    assert len(str(raised.value)) <= 1000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("9" * 5000, "cannot be read as JSON"),
        ("[]", "expected COCO's JSON, .*got list"),
        ("{}", "expected COCO's JSON, .*got one with nothing"),
    ],
)
def test_json_of_another_kind_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        Data.of(written(tmp_path / "all.json", text))


def test_what_files_hold_is_part_of_what_data_are(tmp_path: Path) -> None:
    name = three(tmp_path)
    before = Data.of(name).fingerprint
    file = tmp_path / "train.json"
    tree = json.loads(file.read_text())
    tree["annotations"][0]["bbox"][0] += 0.5
    written(file, tree)
    after = Data.of(name).fingerprint
    assert after != before
    with (tmp_path / "train" / "0.png").open("ab") as picture:
        picture.write(b" ")
    assert Data.of(name).fingerprint not in (before, after)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="neither a folder nor a JSON file"):
        Data.of(f"coco:{tmp_path / 'gone'}")
    with pytest.raises(LissomError, match="holds no JSON file called train, valid or test"):
        Data.of(f"coco:{tmp_path}")
    name = three(tmp_path)
    other = json.loads((tmp_path / "test.json").read_text())
    other["categories"][0]["name"] = "wolf"
    written(tmp_path / "test.json", other)
    with pytest.raises(
        LissomError, match="do not agree on the category 7, which is 'dog' and 'wolf'"
    ):
        Data.of(name)
    written(tmp_path / "annotations" / "instances_train2017.json", other)
    with pytest.raises(LissomError, match="expected one file for train, got "):
        Data.of(name)
