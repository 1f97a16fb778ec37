"""A table lists images and their targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lissom
from lissom import Data, LissomError, Store, Task


def table(root: Path, header: str, rows: list[str], count: int = 20) -> str:
    """Write images whose brightness is 10 times their number, and a table; return how it is named."""
    (root / "in").mkdir(exist_ok=True)
    for k in range(count):
        Image.fromarray(np.full((6, 8, 3), 10 * k, dtype=np.uint8)).save(root / "in" / f"{k}.png")
    (root / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return f"csv:{root / 't.csv'}"


def brightness(split: object) -> list[int]:
    return [int(x) // 10 for x in split.pixels[:, 0, 0, 0]]  # type: ignore[attr-defined]


def test_a_column_of_words_holds_classes(tmp_path: Path) -> None:
    rows = [
        f"{'hen' if k % 2 else 'cat'},in/{k}.png,{'train' if k < 14 else 'test'}" for k in range(20)
    ]
    data = Data.of(table(tmp_path, "what,path,split", rows))
    assert data.classes == ("cat", "hen") and data.shape == (3, 6, 8) and not data.notes
    assert (len(data.train), len(data.valid), len(data.test)) == (13, 1, 6)
    assert brightness(data.test) == list(range(14, 20))
    assert data.test.labels.tolist() == [k % 2 for k in range(14, 20)]
    names = tmp_path / "names.txt"
    names.write_text("dog\nhen\ncat\n")
    other = Data.of(f"csv:{tmp_path / 't.csv'}", classes=str(names))
    assert other.test.labels.tolist() == [2 - k % 2 for k in range(14, 20)]
    assert other.fingerprint != data.fingerprint


def test_whole_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    rows = [f"in/{k}.png,{(2, 10)[k % 2]}" for k in range(20)]
    data = Data.of(table(tmp_path, "image,what", rows))
    assert data.classes == ("2", "10") and "a fifth of the rows" in data.notes[0]
    assert len(data.test) == 4 and data.test.labels.tolist() == [
        k % 2 for k in brightness(data.test)
    ]
    assert len(Data.of(f"csv:{tmp_path / 't.csv'}", classes="11").classes) == 11


def test_several_columns_of_0_and_1_are_labels(tmp_path: Path) -> None:
    rows = [f"in/{k}.png,{k % 2},{int(k > 9)}" for k in range(20)]
    data = Data.of(table(tmp_path, "file,odd,bright", rows))
    assert data.classes == ("odd", "bright")
    wanted = [[k % 2, int(k > 9)] for k in brightness(data.test)]
    assert torch.equal(data.test.labels, torch.tensor(wanted).float())
    assert Task.of("resnet8", data).kind.name() == "multilabel"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("header", "row"), [("path,x", "in/{0}.png,{0}.5"), ("path,x,y", "in/{0}.png,{0},-{0}")]
)
def test_other_columns_hold_numbers(tmp_path: Path, header: str, row: str) -> None:
    data = Data.of(table(tmp_path, header, [row.format(k) for k in range(20)]))
    assert data.classes == () and data.test.labels.is_floating_point()
    assert [int(x) for x in data.test.labels.reshape(4, -1)[:, 0]] == brightness(data.test)


def test_numbers_go_the_whole_way(tmp_path: Path) -> None:
    from torch import nn

    name = table(tmp_path, "path,x", [f"in/{k}.png,{k / 10}" for k in range(20)])
    data = Data.of(name)

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 48, 1)
        )

    recipe = 'train(60, batch=8, lr=0.02, augment="none") | quantize(8, samples=16)'
    (record,) = lissom.run(recipe, Task(network, data, "net"), Store(tmp_path / "store"))
    assert record["scores"]["test"]["r2"] > 0.9 and record["scores"]["test"]["mae"] < 0.2


def test_files_that_cannot_be_read_are_left_out_where_that_is_said(tmp_path: Path) -> None:
    name = table(tmp_path, "path,x", [f"in/{k}.png,{k % 2}" for k in range(20)])
    (tmp_path / "in" / "3.png").write_text("no image")
    with pytest.raises(LissomError, match=r"3\.png: cannot be read as an image"):
        Data.of(name)
    data = Data.of(name, skip_bad=True)
    assert len(data.train) + len(data.valid) + len(data.test) == 19
    assert "train: 1 unreadable file left out" in data.notes


def test_large_tables_are_read_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = table(tmp_path, "path,x", [f"in/{k}.png,{k % 2}" for k in range(20)])
    whole = Data.of(name)
    monkeypatch.setattr("lissom.data.reading.MAX_BYTES_IN_MEMORY", 100)
    lazy = Data.of(name)
    lazy.test.workers = 0  # type: ignore[attr-defined]
    (found,) = lazy.test.batches(9, torch.device("cpu"))
    assert torch.equal(found[0], whole.test.pixels)  # type: ignore[attr-defined]
    assert torch.equal(found[1], whole.test.labels) and lazy.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("path", "in/{0}.png", "expected a header of two or more different names, got path"),
        ("path,path", "in/{0}.png,1", "expected a header of two or more different names"),
        ("path,split", "in/{0}.png,test", "expected a column of targets beside 'path'"),
        ("path,x,y", "in/{0}.png,1", "line 2: expected a value for each of path, x, y"),
        ("path,x", "in/{0}.png,", "line 2: expected a value for each of path, x"),
        (
            "path,x,y",
            "in/{0}.png,1,a",
            "expected numbers in x, y .*one column of words holds classes",
        ),
        (
            "path,x,split",
            "in/{0}.png,1,tset",
            "line 2: expected a split of train, valid, test, got",
        ),
        (
            "path,x,split",
            "in/{0}.png,1,train",
            "expected rows of the split test, got {'train': 20}",
        ),
        ("path,x,split", "in/{0}.png,1,test", "expected rows of the split train or valid"),
        ("path,x", "out/{0}.png,1", "not one image can be read; the first: .*out/0.png: cannot"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    tmp_path: Path, header: str, row: str, said: str
) -> None:
    with pytest.raises(LissomError, match=said):
        Data.of(table(tmp_path, header, [row.format(k) for k in range(20)]))


def test_a_table_must_be_there_and_long_enough(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=r"there is no file 'gone\.csv'"):
        Data.of("csv:gone.csv")
    with pytest.raises(LissomError, match="holds 3 rows; at least 10 are needed"):
        Data.of(table(tmp_path, "path,x", [f"in/{k}.png,{k % 2}" for k in range(3)]))
    (tmp_path / "t.csv").write_bytes(b"path,x\n\xff\xfe,1\n")
    with pytest.raises(LissomError, match="cannot be read as CSV"):
        Data.of(f"csv:{tmp_path / 't.csv'}")


def test_stated_classes_are_the_columns_in_the_order_of_the_outputs(tmp_path: Path) -> None:
    rows = [f"in/{k}.png,{k % 2},{int(k > 9)}" for k in range(20)]
    name = table(tmp_path, "file,odd,bright", rows)
    names = tmp_path / "names.txt"
    names.write_text("bright\nodd\n")
    plain = Data.of(name)
    data = Data.of(name, classes=str(names))
    assert data.classes == ("bright", "odd") and data.fingerprint != plain.fingerprint
    assert torch.equal(data.test.labels, plain.test.labels.flip(1))  # type: ignore[union-attr]
    with pytest.raises(LissomError, match=r"--classes: .*t\.csv has a column .*odd, bright; got"):
        Data.of(name, classes="5")


def test_numbers_have_no_classes(tmp_path: Path) -> None:
    name = table(tmp_path, "path,x,y", [f"in/{k}.png,{k}.5,-{k}" for k in range(20)])
    with pytest.raises(LissomError, match=r"--classes: .*t\.csv holds numbers in x, y"):
        Data.of(name, classes="2")
