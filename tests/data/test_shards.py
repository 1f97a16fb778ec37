"""Tar files of images with classes: indexed, split, read in place, and every mistake reported in
one line.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lissom import Data, LissomError
from lissom.data.source import check_spec
from lissom.data.tars import expanded, members_of

Files = dict[str, bytes]


def picture(value: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """Return a file of one shade."""
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, "png")
    return file.getvalue()


def samples(values: range, folder: str = "") -> Files:
    """Return images of 10 times their number, each with its class: whether that is odd."""
    files = Files()
    for k in values:
        files[f"{folder}{k:04}.png"] = picture(10 * k)
        files[f"{folder}{k:04}.cls"] = f"{k % 2}\n".encode()
    return files


def write(tar: Path, files: Files) -> None:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def three(root: Path) -> str:
    """Write two shards to learn from, and one for choices and tests each."""
    write(root / "train-000.tar", samples(range(6)))
    write(root / "train-001.tar", samples(range(6, 12)))
    write(root / "val-000.tar", samples(range(12, 16)))
    write(root / "test-000.tar", samples(range(16, 22)))
    return f"shards:{root}"


def check_pixels(split: Any, values: range) -> None:
    """Compare images and classes with those that were written."""
    shades = [int(x) // 10 for x in split.pixels[:, 0, 0, 0]]
    assert sorted(shades) == list(values)
    assert split.labels.tolist() == [k % 2 for k in shades]


def test_class_names_that_the_user_states_are_part_of_what_data_are(tmp_path: Path) -> None:
    spec = three(tmp_path / "tars")
    for file, names in (("a.txt", "even\nodd\n"), ("b.txt", "odd\nuneven\n")):
        (tmp_path / file).write_text(names)
    stated = (None, str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    assert len({Data.of(spec, classes=classes).fingerprint for classes in stated}) == 3


def test_a_folder_holds_tars_for_each_part(tmp_path: Path) -> None:
    data = Data.of(three(tmp_path))
    assert data.classes == ("0", "1") and data.shape == (3, 6, 8) and not data.notes
    check_pixels(data.train, range(12))
    check_pixels(data.valid, range(12, 16))
    check_pixels(data.test, range(16, 22))
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".tar"], "nothing is unpacked"


def test_a_pattern_names_tars(tmp_path: Path) -> None:
    three(tmp_path)
    data = Data.of(f"shards:{tmp_path}/train-{{000..001}}.tar")
    assert (len(data.train), len(data.valid), len(data.test)) == (8, 1, 3)
    assert "a fifth of the images" in data.notes[0]
    both = Data.of(f"shards:{tmp_path}/{{train,test}}-000.tar")
    check_pixels(both.test, range(16, 22))
    assert len(both.train) + len(both.valid) == 6
    other = tmp_path / "other"
    for k in range(3):
        write(other / f"part{k:02}.tar", samples(range(4 * k, 4 * k + 4)))
    assert len(Data.of(f"shards:{other}/part{{00..02}}.tar").test) == 3


def test_large_sets_are_read_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = three(tmp_path)
    whole = Data.of(name)
    monkeypatch.setattr("lissom.data.reading.MAX_BYTES_IN_MEMORY", 100)
    lazy = Data.of(name)
    lazy.test.workers = 1  # type: ignore[attr-defined]
    found = list(lazy.test.batches(4, torch.device("cpu"), torch.tensor([5, 0, 3, 2, 1])))
    pixels = torch.cat([each for each, _ in found])
    order = [5, 0, 3, 2, 1]
    assert torch.equal(pixels, whole.test.pixels[order])  # type: ignore[attr-defined]
    labels = torch.cat([each for _, each in found])
    assert torch.equal(labels, whole.test.labels[order]) and lazy.fingerprint == whole.fingerprint


def test_samples_are_named_up_to_the_first_dot(tmp_path: Path) -> None:
    files = Files()
    for k in range(12):
        # the same number in two folders is two samples; other files of a sample are not read
        files[f"a{k % 2}/../{k // 2}.JPEG"] = picture(10 * k)
        files[f"a{k % 2}/../{k // 2}.json"] = b'{"label": %d, "text": "x"}' % (k % 2)
        files[f"a{k % 2}/../{k // 2}.seg.png"] = b"no image"
        files[f"/etc/._{k}.png"] = b"no image"
    write(tmp_path / "a.tar", files)
    data = Data.of(f"shards:{tmp_path}/a.tar")
    assert len(data.train) + len(data.valid) + len(data.test) == 12
    assert data.test.labels.tolist() == [
        int(x) // 10 % 2
        for x in data.test.pixels[:, 0, 0, 0]  # type: ignore[attr-defined]
    ]


def test_classes_may_be_stated(tmp_path: Path) -> None:
    name = three(tmp_path)
    (tmp_path / "names.txt").write_text("even\nodd\nnone\n")
    data = Data.of(name, classes=str(tmp_path / "names.txt"))
    assert data.classes == ("even", "odd", "none")
    check_pixels(data.test, range(16, 22))
    write(tmp_path / "test-000.tar", {"0.png": picture(0), "0.cls": b"3"})
    with pytest.raises(LissomError, match=r"0\.png: expected a class from 0 to 2, got 3"):
        Data.of(name, classes=str(tmp_path / "names.txt"))


def test_what_a_tar_holds_is_part_of_what_data_are(tmp_path: Path) -> None:
    name = three(tmp_path)
    before = Data.of(name).fingerprint
    assert Data.of(name).fingerprint == before
    changed = {**samples(range(12, 16)), "0012.cls": b"1\n"}
    write(tmp_path / "val-000.tar", changed)
    assert Data.of(name).fingerprint != before


def test_members_lie_where_the_index_says(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    long = "x" * 300 + ".png"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("a.png", b"12345"), (long, b"67"), ("ü.cls", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        sparse = tarfile.GNUTYPE_SPARSE  # whose content does not lie in one piece
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, sparse):
            info = tarfile.TarInfo("other.png")
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
    members = list(members_of(tar))
    assert [member.name for member in members] == ["a.png", long, "ü.cls"]
    contents = []
    for member in members:
        with member.open("rb") as file:
            contents.append(file.read())
    assert contents == [b"12345", b"67", b""]


def test_pictures_that_cannot_be_read_are_left_out_where_that_is_said(tmp_path: Path) -> None:
    name = three(tmp_path)
    files = samples(range(16, 22))
    files["0016.png"] = b"no image"
    files["0017.png"] = files["0017.png"][:40]
    write(tmp_path / "test-000.tar", files)
    with pytest.raises(LissomError, match=r"test-000\.tar: 0016\.png: cannot be read as an image"):
        Data.of(name)
    data = Data.of(name, skip_bad=True)
    assert data.notes == ["test: 2 unreadable files left out"]
    check_pixels(data.test, range(18, 22))


def rewritten(**files: bytes) -> Callable[[Path], Any]:
    """Write the tests' tar with other files; a_b is the name a.b."""
    named = {name.replace("_", "."): content for name, content in files.items()}
    return lambda root: write(root / "test-000.tar", {**samples(range(4)), **named})


def looping(root: Path) -> None:
    """Write a tar whose header says a negative size, which leads back to itself."""
    file = root / "test-000.tar"
    write(file, samples(range(4)))
    content = bytearray(file.read_bytes())
    content[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024 in base 256
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "test-000.tar").rename(root / "test-000.tar.gz"), "is compressed, so"),
        (lambda root: (root / "a.tgz").write_bytes(b""), "is compressed, so that nothing in it"),
        (lambda root: (root / "test-000.tar").write_bytes(b""), "uncompressed tar .*empty"),
        (lambda root: (root / "test-000.tar").write_bytes(b"x" * 2000), "as an uncompressed tar"),
        (lambda root: os.truncate(root / "test-000.tar", 9 * 512 + 3), "uncompressed tar .*unexpected"),
        (looping, "uncompressed tar .*header"),
        (lambda root: write(root / "other.tar", {}), "expected a name that begins with train, valid"),
        (lambda root: write(root / "test-000.tar", {}), "the tars of test hold no image"),
        (rewritten(x_png=b""), r"x\.png: expected its class beside it, a \.cls"),
        (rewritten(x_cls=b"1"), r"x\.cls: there is no image of that name beside it"),
        (rewritten(x_png=b"", x_jpg=b""), r"expected one image for each sample, got x\.png and x\.jpg"),
        (rewritten(x_png=b"", x_cls=b"cat"), r"x\.cls: expected the number of a class .*got 'cat'"),
        (rewritten(x_png=b"", x_cls=b"-1"), "expected the number of a class .*got '-1'"),
        (rewritten(x_png=b"", x_cls=b"\xff\0"), "expected the number of a class"),
        (rewritten(x_png=b"", x_cls=b"9" * 5000), "expected the number of a class"),
        (rewritten(x_png=b"", x_cls=b"123456789"), "expected a largest class from 1 to 99999, got 123"),
        (rewritten(x_png=b"", x_json=b"{"), r"x\.json cannot be read as JSON"),
        (rewritten(x_png=b"", x_json=b"[" * 9999), r"x\.json cannot be read as JSON"),
        (rewritten(x_png=b"", x_json=b"[1]"), r'number of a class from 0 on as {"label": 3}, got None'),
        (rewritten(x_png=b"", x_json=b'{"label": true}'), '{"label": 3}, got True'),
        (rewritten(x_png=b"", x_json=b'{"label": 1.5}'), r'{"label": 3}, got 1\.5'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tars_is_said(
    tmp_path: Path, change: Callable[[Path], Any], said: str
) -> None:
    name = three(tmp_path)
    change(tmp_path)
    with pytest.raises(LissomError, match=said):
        Data.of(name)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("", "there is no file"),
        ("gone.tar", r"there is no file 'gone\.tar'"),
        ("a-{0..2}.tar", r"there is no file 'a-0\.tar'"),
        ("a-{2..0}.tar", "expected 1 to 100000 numbers, got -1"),
        ("a-{0..999999999}.tar", "expected 1 to 100000 numbers, got 1000000000"),
        ("a-{0..999}-{0..999}.tar", "expected at most 100000 files"),
        ("a-{0..2.tar", r"expected {000\.\.009} for numbers or {train,test} for words, got"),
        ("a-{x}.tar", r"expected .* got '{x}'"),
        ("a-{1,{2,3}}.tar", "expected .* got"),
    ],
)
def test_a_pattern_that_names_no_tars_is_refused_before_any_is_read(
    pattern: str, said: str
) -> None:
    with pytest.raises(LissomError, match=said):
        check_spec(f"shards:{pattern}")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="holds no tar; expected train-000"):
        check_spec(f"shards:{tmp_path}")


def test_numbers_of_a_pattern_are_as_long_as_the_first() -> None:
    assert expanded("{9..11}") == ["9", "10", "11"] and expanded("{09..10}") == ["09", "10"]


def test_pixels_are_those_of_the_same_files_in_a_folder(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    files = Files()
    for part in ("train", "test"):
        for k in range(10):
            inside = tmp_path / "folder" / part / str(k % 2)
            inside.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(inside / f"{k}.png")
            files[f"{k}.png"] = (inside / f"{k}.png").read_bytes()
            files[f"{k}.cls"] = str(k % 2).encode()
        write(tmp_path / "tars" / f"{part}.tar", files)
    one = Data.of(f"folder:{tmp_path / 'folder'}", preprocess="resize(5, 7)")
    two = Data.of(f"shards:{tmp_path / 'tars'}", preprocess="resize(5, 7)")
    assert torch.equal(one.test.pixels, two.test.pixels)  # type: ignore[attr-defined]
    assert torch.equal(one.train.labels, two.train.labels) and one.mean == two.mean
