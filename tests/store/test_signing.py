"""Reading a store imports nothing that somebody else chose; entries that this user's lissom wrote
are read as before.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from signed import KEY, NETS, OTHER, RESNET, another_user, home, network, own, put
from torch import nn

import lissom
from lissom import LissomError, Store
from lissom.cli.main import main
from lissom.commands.store import sign_store, verify_store
from lissom.models import factory
from lissom.running.entries import load_key
from lissom.store.elsewhere import local_files
from lissom.store.manifest import first_changed_file, manifest, seal
from lissom.store.signing import key_path, user_key

__all__ = ["home", "own"]  # fixtures


def changed(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads((folder / name).read_text())
    change(found)
    (folder / name).write_text(json.dumps(found))


def refused(store: Store, said: str, key: str = KEY) -> None:
    with pytest.raises(LissomError, match=said) as found:
        load_key(key, store)
    assert "\n" not in str(found.value) and not Path("RAN").exists()


def test_what_this_user_wrote_is_loaded_without_a_word(own: Store) -> None:
    net = load_key(KEY, own)
    assert torch.equal(net(torch.ones(1, 1, 2, 2)), network()(torch.ones(1, 1, 2, 2)))


def test_the_key_is_one_file_for_its_user_alone(own: Store, home: Path) -> None:
    assert (
        [path for path in home.rglob("*") if path.is_file()]
        == [key_path()]
        == [home / "lissom" / "signing.key"]
    )
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600 and len(user_key() or b"") == 32


def test_processes_that_make_the_key_at_once_agree(tmp_path: Path, home: Path) -> None:
    code = (
        "import lissom.store.signing as s, time, sys\n"
        "time.sleep(float(sys.argv[1]) - time.time())\nprint(s.user_key().hex())"
    )
    at = str(__import__("time").time() + 2)
    runs = [
        subprocess.Popen([sys.executable, "-c", code, at], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    found = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert (
        len(found) == 1
        and found == {(user_key() or b"").hex()}
        and len(list((home / "lissom").iterdir())) == 1
    )


@pytest.mark.parametrize(
    "build",
    [
        {"model": "os:system", "command": "touch RAN"},
        {"model": "nets.py:make"},
        {"task": "nets.py:make"},
        {"model": "nets:make"},
        {"model": "subprocess:call", "args": ["touch", "RAN"]},
    ],
)
@pytest.mark.parametrize("hide", [False, True])
def test_a_stranger_names_no_code(
    own: Store, home: Path, build: dict[str, Any], hide: bool
) -> None:
    folder = own.folder(KEY)
    changed(folder, "structure.json", lambda s: s.update(build=build))
    if hide:
        (folder / "manifest.json").unlink()
    said = (
        r"would import .*--model .*lissom store --trust --store"
        if hide
        else "structure.json is not what was written"
    )
    refused(own, said)
    another_user(home)
    refused(own, said)


def test_a_store_of_somebody_else_asks_and_is_read_when_its_code_is_named_again(
    own: Store, home: Path
) -> None:
    another_user(home)
    refused(own, "would import nets.py:make, and nothing shows that your lissom wrote it")
    assert load_key(KEY, own, "nets.py:make")[1].out_features == 3 and Path("RAN").exists()
    net = lissom.load(KEY, network(), store=own.root)
    assert isinstance(net, nn.Module)


def test_trust_signs_what_is_there_and_says_what_it_names(
    own: Store, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(own, OTHER, RESNET, factory("resnet8")(num_classes=3, in_channels=1))
    another_user(home)
    with pytest.raises(SystemExit) as ended:
        main(["store", "--trust", "--store", str(own.root)])
    assert (
        ended.value.code == 0
        and capsys.readouterr().out == "signed 2 entries, which name nets.py:make (1)\n"
    )
    assert not Path("RAN").exists() and load_key(KEY, own) is not None


def test_trust_signs_nothing_that_is_damaged(own: Store, home: Path) -> None:
    another_user(home)
    changed(own.folder(KEY), "structure.json", lambda s: s.update(build={"model": "os:system"}))
    said: list[str] = []
    assert (
        sign_store(own, said.append) == {"signed": 0, "code": {}}
        and "structure.json is not what was written" in said[0]
    )
    refused(own, "structure.json is not what was written")


def test_names_of_menus_are_data_whoever_wrote_them(own: Store, home: Path) -> None:
    put(own, OTHER, RESNET, factory("resnet8")(num_classes=3, in_channels=1))
    another_user(home)
    (own.folder(OTHER) / "manifest.json").unlink()
    assert load_key(OTHER, own) is not None
    for build in (
        {"model": "torchvision:models.resnet18"},
        {"model": "torchvision:os.system"},
        {"model": "timm:hf-hub:a/b"},
        {"model": "timm:layers.create_conv2d"},
        {"model": "resnet8", "weights": "x"},
        {"model": "resnet8", "num_classes": 1e9},
        {"model": "resnet8", "num_classes": 10**9},
        {"model": 3},
        {"model": ""},
        {},
        None,
        {"model": "resnet8", "num_classes": "3"},
        {"model": "a.b.c"},
    ):
        changed(own.folder(OTHER), "structure.json", lambda s, build=build: s.update(build=build))  # type: ignore[misc]
        with pytest.raises(LissomError) as found:
            load_key(OTHER, own)
        assert "\n" not in str(found.value)


def test_what_this_user_signed_does_not_run_the_code_of_another_folder(
    own: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "nets.py").write_text(NETS)  # beside a store that this user once gave away
    shutil.copytree(own.root, tmp_path / "sent" / "store")
    monkeypatch.chdir(tmp_path / "sent")
    refused(Store("store"), "would import")


def test_entries_in_the_place_of_others_are_not_trusted(own: Store) -> None:
    put(own, OTHER, {"model": "nets.py:make", "num_classes": 3}, network())
    shutil.copy(own.folder(OTHER) / "manifest.json", own.folder(KEY) / "manifest.json")
    refused(own, "would import")
    shutil.rmtree(own.folder(KEY))
    shutil.copytree(own.folder(OTHER), own.root / KEY)
    with pytest.raises(LissomError, match="key: expected"):
        own.record(KEY)


@pytest.mark.parametrize("change", [{"recipe": "train(1)"}, {"before": OTHER}, {"params": 11}])
def test_what_a_record_says_is_signed_and_measurements_are_not(
    own: Store, change: dict[str, Any]
) -> None:
    own.update(
        KEY, {"targets": {}, "finished": True, "inspection": {"groups": []}, "notes": ["measured"]}
    )
    assert own.is_trusted(KEY) and verify_store(own)["wrong"] == []
    changed(own.folder(KEY), "record.json", lambda r: r.update(change))
    assert not own.is_trusted(KEY) and len(verify_store(own)["wrong"]) == 1
    refused(own, "would import")


def test_a_user_whose_key_cannot_be_written_can_work_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    store = Store(tmp_path / "store")
    put(store, KEY, {"model": "nets.py:make", "num_classes": 3}, network())
    refused(store, "would import")
    with pytest.raises(LissomError, match="nothing can be signed"):
        sign_store(store, print)


def test_a_damaged_key_is_said_to_be_one_before_anything_runs(own: Store, tmp_path: Path) -> None:
    key_path().write_text("short")
    with pytest.raises(
        LissomError, match=r"signing\.key: expected 64 hexadecimal digits.*delete it"
    ):
        own.check()


# damage


@pytest.mark.parametrize("name", ["model.safetensors", "structure.json"])
def test_a_flipped_bit_is_one_line_that_says_what_to_remove(
    own: Store, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own.folder(KEY) / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        LissomError,
        match=rf"{name}.* is not what was written .*lissom store --remove {KEY} --store",
    ):
        lissom.load(KEY, network(), store=own.root)
    with pytest.raises(SystemExit) as ended:
        main(["store", "--verify", "--store", str(own.root)])
    said = capsys.readouterr()
    assert (
        ended.value.code == 2
        and said.err.count("\n") == 2
        and f"lissom store --remove {KEY}" in said.err
    )
    with pytest.raises(SystemExit) as ended:
        main(["store", "--remove", KEY, "--store", str(own.root)])
    assert ended.value.code == 0 and KEY not in own


def test_a_file_of_another_entry_is_not_taken(own: Store) -> None:
    torch.manual_seed(5)
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    put(own, OTHER, {"model": "nets.py:make", "num_classes": 3}, other)
    shutil.copy(own.folder(OTHER) / "model.safetensors", own.folder(KEY) / "model.safetensors")
    with pytest.raises(LissomError, match="is not what was written"):
        load_key(KEY, own)


def test_a_sound_store_is_verified_with_its_artefacts(
    own: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with own.artefact(KEY, "onnx") as folder:
        (folder / "model.onnx").write_bytes(b"12345")
    assert verify_store(own) == {"entries": 1, "artefacts": 1, "wrong": [], "notes": []}
    (own.folder(KEY) / "artefacts" / "onnx" / "model.onnx").write_bytes(b"1234")
    found = verify_store(own)["wrong"]
    assert (
        len(found) == 1
        and "onnx: model.onnx is not what was written" in found[0]
        and "made anew" in found[0]
    )


# paths


@pytest.mark.parametrize(
    "key",
    ["..", ".", "", "a/b", "../store", "/etc", "a\\b", "C:", "a\0b", "A", "a" * 65, ".locks", "ä"],
)
def test_a_key_leads_nowhere_else(own: Store, key: str) -> None:
    assert key not in own
    for use in (own.folder, own.record, own.log, own.remove):
        with pytest.raises(LissomError, match="is no entry"):
            use(key)


def test_links_lead_nowhere_else(own: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(own.folder(KEY) / "record.json", tmp_path / "elsewhere" / "record.json")
    os.symlink(tmp_path / "elsewhere", own.root / OTHER)
    os.symlink(tmp_path / "elsewhere", own.folder(KEY) / "artefacts")
    for key in (OTHER, KEY):
        with (
            pytest.raises(LissomError, match="a folder that is no link"),
            own.artefact(key, "onnx"),
        ):
            pass
    os.unlink(own.root / KEY / "artefacts")
    for name, use in (
        ("record.json", own.record),
        ("model.safetensors", lambda key: load_key(key, own, "nets.py:make")),
        ("structure.json", lambda key: load_key(key, own, "nets.py:make")),
    ):
        path = own.folder(KEY) / name
        path.rename(tmp_path / name)
        os.symlink(tmp_path / name, path)
        with pytest.raises(LissomError):
            use(KEY)
        path.unlink()
        (tmp_path / name).rename(path)


def test_a_pipe_in_the_place_of_a_record_does_not_hang(own: Store) -> None:
    (own.folder(KEY) / "record.json").unlink()
    os.mkfifo(own.folder(KEY) / "record.json")
    with pytest.raises(LissomError, match="expected a regular file"):
        own.record(KEY)


def test_one_entry_that_is_a_link_hides_no_other(
    own: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(own.folder(KEY), tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", own.root / OTHER)
    found = verify_store(own)
    assert found["wrong"] == [] and any("a folder that is no link" in n for n in found["notes"])
    said: list[str] = []
    assert sign_store(own, said.append)["signed"] == 1
    assert len(said) == 1 and "a folder that is no link" in said[0]
    with pytest.raises(SystemExit) as ended:
        main(["store", "--verify", "--store", str(own.root)])
    assert ended.value.code == 0 and OTHER in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["/dev/zero", "../../config", "..", "", ".hidden", "a/../../b", "a\\b", "deep/file"]
)
def test_a_manifest_names_plain_files_alone(own: Store, name: str) -> None:
    folder = own.folder(KEY)
    changed(folder, "manifest.json", lambda m: m["files"].update({name: "0" * 64}))
    assert manifest(folder, KEY) is None
    assert "no checksums that can be read" in verify_store(own)["notes"][0]


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64])
def test_a_manifest_has_whole_checksums(own: Store, digest: str) -> None:
    changed(own.folder(KEY), "manifest.json", lambda m: m["files"].update(other=digest))
    assert manifest(own.folder(KEY), KEY) is None


@pytest.mark.parametrize("part", [{}, {"fields": ["key"]}, {"fields": 3, "sha256": ""}, None])
def test_a_manifest_without_the_sum_of_its_record_is_none(own: Store, part: object) -> None:
    changed(own.folder(KEY), "manifest.json", lambda m: m.update(record=part))
    assert manifest(own.folder(KEY), KEY) is None and verify_store(own)["wrong"] == []


def test_pipes_and_links_are_not_opened(own: Store, tmp_path: Path) -> None:
    folder = own.folder(KEY)
    os.mkfifo(folder / "pipe")
    (tmp_path / "secret").write_text("secret")
    os.symlink(tmp_path / "secret", folder / "link")
    seal(folder, KEY)
    assert not {"pipe", "link"} & {*json.loads((folder / "manifest.json").read_text())["files"]}
    assert not {"pipe", "link"} & {*local_files(folder)}
    for name in ("pipe", "link"):
        changed(folder, "manifest.json", lambda m, name=name: m["files"].update({name: "0" * 64}))  # type: ignore[misc]
        sealed = manifest(folder, KEY)
        assert sealed is not None and first_changed_file(folder, sealed) == name
        seal(folder, KEY)
