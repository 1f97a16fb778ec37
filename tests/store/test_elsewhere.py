"""Entries are copied to object storage and back: they arrive unchanged, with the signature of their
writer.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from signed import KEY, OTHER, RESNET, another_user, home, network, own, put

from lissom import LissomError, Store
from lissom.cli.main import main
from lissom.models import factory
from lissom.store.elsewhere import pull, push

__all__ = ["home", "own"]  # fixtures


@pytest.fixture
def url() -> Iterator[str]:
    """A folder in memory, as in a bucket."""
    name = f"memory://{uuid.uuid4().hex}/store"
    yield name
    fsspec.filesystem("memory").rm(name.removesuffix("/store"), recursive=True)


@pytest.fixture
def two(own: Store) -> Store:
    put(own, OTHER, RESNET, factory("resnet8")(num_classes=3, in_channels=1))
    with own.artefact(KEY, "onnx") as folder:
        (folder / "model.onnx").write_bytes(b"file")
    return own


def read(store: Store) -> dict[str, bytes]:
    """Return all files of all entries by name."""
    return {
        path.relative_to(store.root).as_posix(): path.read_bytes()
        for key in store
        for path in store.folder(key).rglob("*")
        if path.is_file()
    }


def ignored(_: str) -> None:
    """Say nothing."""


def test_what_comes_back_is_what_was_there(two: Store, url: str, tmp_path: Path) -> None:
    assert push(two, url, ignored) == [KEY, OTHER]
    other = Store(tmp_path / "other")
    assert sorted(pull(other, url, ignored)) == [KEY, OTHER]
    assert read(other) == read(two)
    assert other.is_trusted(OTHER) and other.is_trusted_artefact(KEY, "onnx")
    assert pull(other, url, ignored) == []


def test_only_what_is_new_is_copied(two: Store, url: str) -> None:
    push(two, url, ignored)
    assert push(two, url, ignored) == []
    two.update(KEY, {"finished": True})
    assert push(two, url, ignored) == [KEY]


def test_an_entry_of_somebody_else_stays_theirs(
    two: Store, url: str, home: Path, tmp_path: Path
) -> None:
    push(two, url, ignored)
    another_user(home)
    said: list[str] = []
    other = Store(tmp_path / "other")
    pull(other, url, said.append)
    assert not other.is_trusted(KEY) and not other.is_trusted(OTHER)
    assert sum("is not signed by you" in line for line in said) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "record.json", "structure.json"])
def test_what_was_changed_on_the_way_is_left_out(
    name: str, two: Store, url: str, tmp_path: Path
) -> None:
    push(two, url, ignored)
    files = fsspec.filesystem("memory")
    path = f"{url.removeprefix('memory:/')}/{KEY}/{name}"
    files.pipe_file(path, files.cat_file(path).replace(b"4", b"5"))
    said: list[str] = []
    assert pull(Store(tmp_path / "other"), url, said.append) == [OTHER]
    assert said == [f"{KEY}: left out; {name} is not what was written"]


@pytest.mark.parametrize(
    "name", ["../../outside", "a/../../outside", "artefacts/../../../outside", "folder/of/more"]
)
def test_no_name_leads_out_of_an_entry(name: str, two: Store, url: str, tmp_path: Path) -> None:
    push(two, url, ignored)
    fsspec.filesystem("memory").store[f"{url.removeprefix('memory:/')}/{KEY}/{name}"] = (
        fsspec.filesystem("memory").store[f"{url.removeprefix('memory:/')}/{KEY}/record.json"]
    )
    pull(Store(tmp_path / "deep" / "other"), url, ignored)
    assert not [path for path in tmp_path.rglob("*") if path.name in ("outside", "more")]


def test_an_entry_that_is_still_being_copied_is_not_taken(
    two: Store, url: str, tmp_path: Path
) -> None:
    push(two, url, ignored)
    fsspec.filesystem("memory").rm(f"{url}/{KEY}/manifest.json")
    assert pull(Store(tmp_path / "other"), url, ignored) == [OTHER]


def test_the_command_copies_both_ways(
    two: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = (tmp_path / "bucket").as_uri()
    for words in (
        ["--push", place, "--store", str(two.root)],
        ["--pull", place, "--store", "other"],
    ):
        with pytest.raises(SystemExit, match="0"):
            main(["store", *words])
    out = capsys.readouterr().out
    assert f"copied 2 entries to {place}" in out and f"copied 2 entries from {place}" in out
    assert read(Store(tmp_path / "other")) == read(two)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("bucket/folder", "expected a place such as s3://bucket/folder"),
        ("nosuch://bucket", "nosuch://bucket cannot be used"),
        ("s3://bucket/folder", "[Ii]nstall s3fs|cannot be used"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(place: str, said: str, two: Store) -> None:
    with pytest.raises(LissomError, match=said) as error:
        push(two, place, ignored)
    assert "\n" not in str(error.value)


def test_networks_are_the_same(two: Store, url: str, tmp_path: Path) -> None:
    """A network loads from where it was copied to."""
    from lissom.running.entries import load_key

    push(two, url, ignored)
    pull(Store(tmp_path / "other"), url, ignored)
    loaded = load_key(KEY, Store(tmp_path / "other"))
    for name, value in network().state_dict().items():
        assert loaded.state_dict()[name].equal(value)


def test_an_entry_that_is_a_link_is_left_out_and_told(two: Store, url: str, tmp_path: Path) -> None:
    two.folder(OTHER).rename(tmp_path / "elsewhere")
    (two.root / OTHER).symlink_to(tmp_path / "elsewhere")
    said: list[str] = []
    assert push(two, url, said.append) == [KEY]
    assert len(said) == 1 and "a folder that is no link" in said[0]
