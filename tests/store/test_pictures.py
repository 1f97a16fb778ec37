"""Captions and images are read as they were written, and with care from other people's entries."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lissom import LissomError
from lissom.store.pictures import Answer, Answers, pictures_name, read_answers, write_answers


def jpeg(width: int = 8, height: int = 6) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), (9, 99, 9)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    write_answers(
        place,
        Answers(
            {
                "truth": [Answer("cat", None, jpeg()), Answer("dog")],
                "network": [Answer("<b>cat</b> 91 %", False), Answer("cat", True)],
            },
            {"cat": "#009e73"},
        ),
    )
    return place


def change(folder: Path, **changes: Any) -> None:
    path = folder / "captions.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}))


def test_answers_are_read_as_they_were_written(folder: Path) -> None:
    found = read_answers(folder)
    assert found is not None and found.colours == {"cat": "#009e73"}
    assert list(found.rows) == ["truth", "network"]
    assert found.rows["truth"] == [Answer("cat", None, jpeg(), (8, 6)), Answer("dog")]
    assert found.rows["network"] == [Answer("<b>cat</b> 91 %", False), Answer("cat", True)]


def test_an_entry_without_pictures_has_none(tmp_path: Path) -> None:
    assert read_answers(tmp_path / "pictures") is None


def test_names_of_folders_are_safe_and_those_of_two_targets_differ() -> None:
    texts = [
        "openvino",
        'openvino(precision="bf16")',
        "openvino(precision='bf16')",
        "../x",
        "a" * 99,
    ]
    names = [pictures_name(text) for text in texts]
    assert names[0] == "pictures-openvino" and len(set(names)) == len(texts)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
    assert all(len(name) < 64 for name in names)


def large(folder: Path) -> None:
    (folder / "truth-1.jpg").write_bytes(jpeg() + bytes(200_000))


def no_jpeg(folder: Path) -> None:
    (folder / "truth-1.jpg").write_bytes(b"GIF89a" + bytes(99))


def cut_jpeg(folder: Path) -> None:
    (folder / "truth-1.jpg").write_bytes(jpeg()[:40])


def wide_jpeg(folder: Path) -> None:
    (folder / "truth-1.jpg").write_bytes(jpeg(20_000, 1))


def linked_jpeg(folder: Path) -> None:
    (folder / "truth-1.jpg").rename(folder.parent / "elsewhere.jpg")
    os.symlink(folder.parent / "elsewhere.jpg", folder / "truth-1.jpg")


def linked_folder(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    os.symlink(folder.parent / "elsewhere", folder)


def pipe(folder: Path) -> None:
    (folder / "truth-1.jpg").unlink()
    os.mkfifo(folder / "truth-1.jpg")


def no_json(folder: Path) -> None:
    (folder / "captions.json").write_text('{"rows": {"truth": [')


def no_captions(folder: Path) -> None:
    (folder / "captions.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (large, "truth-1.jpg: expected at most 200000 bytes"),
        (no_jpeg, "truth-1.jpg: expected a JPEG, got b'GIF8'"),
        (cut_jpeg, "truth-1.jpg: expected a JPEG"),
        (wide_jpeg, "truth-1.jpg: expected at most 1000 pixels a side, got (20000, 1)"),
        (linked_jpeg, "truth-1.jpg: expected a regular file"),
        (linked_folder, "expected a folder, got 'a link'"),
        (pipe, "truth-1.jpg: expected a regular file"),
        (no_json, "captions.json: expected JSON"),
        (no_captions, "captions.json"),
        (lambda f: change(f, rows=[]), "captions.json.rows: expected an object"),
        (lambda f: change(f, rows={"truth": [{"caption": "a"}] * 7}), "at most 6 samples, got 7"),
        (lambda f: change(f, rows={"truth": [{"caption": 3}]}), "expected a text"),
        (lambda f: change(f, rows={"truth": [{"caption": "a" * 201}]}), "at most 200 characters"),
        (lambda f: change(f, rows={"truth": [{"caption": "", "wrong": "yes"}]}), "true or false"),
        (lambda f: change(f, colours={"cat": "url(x)"}), "cat: expected a colour as #rrggbb"),
        (lambda f: change(f, colours={"cat": "#009e73; x"}), "cat: expected a colour as #rrggbb"),
    ],
)
def test_what_is_not_as_written_is_one_line(
    folder: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(folder)
    with pytest.raises(LissomError) as error:
        read_answers(folder)
    assert said in str(error.value) and str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_but_those_of_the_rows_is_read(folder: Path) -> None:
    change(folder, rows={"../../secret": [{"caption": "a"}], "truth": [{"caption": "b"}]})
    found = read_answers(folder)
    assert found is not None and list(found.rows) == ["truth"]
