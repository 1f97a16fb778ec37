"""Images with boxes in Pascal VOC's XML: read, split, and every mistake reported in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lissom import Data, LissomError


def thing(name: str, corners: tuple[Any, ...], more: str = "") -> str:
    """Return an object as VOC writes it."""
    sides = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{sides}</bndbox></object>"


def scenes(root: Path, count: int = 20) -> str:
    """Write images of one bright rectangle, and return the name of the data."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    draw = np.random.default_rng(0)
    for k in range(count):
        x, y = draw.integers(0, (20, 12)).tolist()
        picture = Image.new("RGB", (32, 24))
        picture.paste((200, 200, 200), (x, y, x + 9, y + 8))
        picture.save(root / "JPEGImages" / f"{k:06}.jpg", quality=95)
        object_ = thing("dog" if k % 2 else "cat", (x + 1, y + 1, x + 9, y + 8))
        part = thing("head", (1, 1, 2, 2)).replace("object>", "part>")
        object_ = object_.replace("</object>", f"{part}</object>")
        (root / "Annotations" / f"{k:06}.xml").write_text(
            "<annotation><filename>../../else.jpg</filename>"
            f"<size><width>32</width><height>24</height><depth>3</depth></size>{object_}</annotation>"
        )
    return f"voc:{root}"


def listed(root: Path, **parts: range) -> None:
    """Write which images are in which part."""
    for part, places in parts.items():
        names = "".join(f"{k:06}\n" for k in places)
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text(names)


def sizes(data: Data) -> tuple[int, int, int]:
    return len(data.train), len(data.valid), len(data.test)


def test_pictures_are_read_with_their_boxes(tmp_path: Path) -> None:
    name = scenes(tmp_path)
    listed(tmp_path, train=range(10), val=range(10, 14), trainval=range(14), test=range(14, 20))
    data = Data.of(name)
    assert sizes(data) == (10, 4, 6) and data.classes == ("cat", "dog") and not data.notes
    assert data.test.labels.shape == (6, 1, 5)
    for k, (pixels, row) in enumerate(
        zip(data.test.pixels, data.test.labels[:, 0], strict=True)  # type: ignore[attr-defined]
    ):
        bright = pixels[0] > 100
        columns = bright.any(0).nonzero()
        lines = bright.any(1).nonzero()
        wanted = [columns.min(), lines.min(), columns.max() + 1, lines.max() + 1, k % 2]
        assert row.tolist() == [int(value) for value in wanted]


@pytest.mark.parametrize(
    ("parts", "wanted", "note"),
    [
        ({}, (14, 2, 4), "a fifth of the images"),
        ({"trainval": range(12), "test": range(12, 20)}, (11, 1, 8), ""),
        ({"train": range(12), "val": range(12, 20)}, (11, 1, 8), "'valid' is the test set"),
        ({"train": range(20), "trainval": range(20)}, (14, 2, 4), "a fifth of the images"),
        ({"test": range(20)}, (0, 4, 16), "there is only the part 'test'"),
    ],
)
def test_parts_that_are_missing_are_set_apart(
    tmp_path: Path, parts: dict[str, range], wanted: tuple[int, int, int], note: str
) -> None:
    name = scenes(tmp_path)
    listed(tmp_path, **parts)
    data = Data.of(name)
    assert sizes(data) == wanted and (note in data.notes[0] if note else not data.notes)


def test_difficult_objects_are_left_out_and_classes_may_be_stated(tmp_path: Path) -> None:
    name = scenes(tmp_path)
    file = tmp_path / "Annotations" / "000003.xml"
    hard = thing("cow", (1, 1, 5, 5), "<difficult>1</difficult>")
    easy = thing("bird", (1.5, 1, 5, 5), "<difficult>0</difficult>")
    file.write_text(file.read_text().replace("</annotation>", f"{hard}{easy}</annotation>"))
    data = Data.of(name)
    assert data.classes == ("bird", "cat", "dog")
    assert data.notes[1] == "boxes are left out: 1 difficult"
    (tmp_path / "names.txt").write_text("person\ndog\ncat\nbird\n")
    stated = Data.of(name, classes=str(tmp_path / "names.txt"))
    assert stated.classes[3] == "bird" and stated.fingerprint != data.fingerprint
    rows = stated.train.labels.reshape(-1, 5)
    assert [0.5, 0, 5, 5, 3] in rows.tolist() or [0.5, 0, 5, 5, 3] in stated.test.labels.reshape(
        -1, 5
    ).tolist()
    (tmp_path / "names.txt").write_text("dogs\ncat\n")
    with pytest.raises(LissomError, match=r"'(dog|bird)', the class of a box, is none of the 2"):
        Data.of(name, classes=str(tmp_path / "names.txt"))


def test_a_size_of_0_is_one_that_nobody_wrote(tmp_path: Path) -> None:
    name = scenes(tmp_path)
    file = tmp_path / "Annotations" / "000003.xml"
    file.write_text(file.read_text().replace(">32<", ">0<").replace(">24<", ">0<"))
    assert sizes(Data.of(name)) == (14, 2, 4)


def changed(old: str, new: str) -> Callable[[Path], Any]:
    def change(root: Path) -> None:
        file = root / "Annotations" / "000000.xml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return change


def in_list(line: str) -> Callable[[Path], Any]:
    return lambda root: (root / "ImageSets" / "Main" / "test.txt").write_text(f"000001\n{line}\n")


LAUGHS = '<!DOCTYPE a [<!ENTITY b "bbb"><!ENTITY c "&b;&b;">]><annotation>'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: shutil.rmtree(root / "Annotations"), "has no folder Annotations; expected"),
        (lambda root: shutil.rmtree(root / "JPEGImages"), "has no folder JPEGImages; expected"),
        (changed("<annotation>", LAUGHS), r"000000\.xml: expected XML without a DOCTYPE"),
        (changed("</object>", ""), "cannot be read as XML"),
        (changed("<annotation>", "<x>" * 50_000), "cannot be read as XML"),
        (changed("<annotation>", '<?xml version="1.0" encoding="cp037"?><annotations>'), "as XML"),
        (lambda root: changed("</annotation>", "</a>")(root) or changed("<annotation>", "<a>")(root),
         "expected <annotation>, got <a>"),
        (changed("<name>cat</name>", ""), "object 1: expected the name of a class"),
        (changed("<xmin>", "<xmin>a"), "object 1: bndbox: expected numbers .* got a"),
        (changed("<xmin>", "<xmin>1e99"), "object 1: bndbox: expected numbers between .*got inf"),
        (changed("xmax", "x"), "cannot be read as XML"),
        (changed("<width>32", "<width>64"), "stated beside its boxes, 64x24, got 32x24"),
        (changed("<width>32", "<width>-32"), "expected whole numbers for width and height, got '-32'"),
        (in_list("000099"), r"there is no image 000099\.\* in .*JPEGImages, of which test is"),
        (in_list("../000002"), r"expected names of images without folder and ending, got '\.\./"),
        (in_list("000001"), r"expected each image once, got .*000001\.jpg twice"),
        (in_list("000002"), "expected at least 10 images in test, got 2"),
        (lambda root: (root / "Annotations" / "000004.xml").write_bytes(b"\xff\xfea"), "as UTF-8 text"),
        (lambda root: (root / "JPEGImages" / "000004.jpg").write_text("x"), "000004.jpg: cannot be read"),
        (lambda root: (root / "Annotations" / "000004.xml").unlink() or in_list("000004")(root),
         r"there is no file .*000004\.xml"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, change: Callable[[Path], Any], said: str) -> None:
    name = scenes(tmp_path)
    change(tmp_path)
    with pytest.raises(LissomError, match=said):
        Data.of(name)


def test_what_files_hold_is_part_of_what_data_are(tmp_path: Path) -> None:
    name = scenes(tmp_path)
    before = Data.of(name).fingerprint
    changed("<xmin>", "<xmin>0")(tmp_path)
    assert Data.of(name).fingerprint != before


def test_the_same_picture_is_not_in_two_parts(tmp_path: Path) -> None:
    name = scenes(tmp_path)
    listed(tmp_path, train=range(10), test=range(9, 20))
    with pytest.raises(LissomError, match=r"000009\.jpg twice; what is learned from must not be"):
        Data.of(name)
