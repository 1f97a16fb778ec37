"""Checkpoints are read in the formats that trainers write, and no code in them is run."""

from __future__ import annotations

import argparse
import copy
import io
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lissom import LissomError
from lissom.tasks.weights import load_weights


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def before(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in plain().state_dict().items()}


class Backbone(nn.Module):
    """A network whose own names begin as wrappers' do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = plain()


@pytest.mark.parametrize(
    "held",
    [
        before("_orig_mod."),
        before("module."),
        before("module._orig_mod."),
        {"model": before(""), "epoch": 1},
        {"model_state_dict": before("")},
        {"state_dict": before("model.")},
        {"state_dict": before("model.") | {"loss.weight": torch.ones(5)}},
        {**before("module."), "n_averaged": torch.tensor(3)},
        {"state_dict": before(""), "args": argparse.Namespace(lr=1)},
        {"ema": before("module."), "args": argparse.Namespace(path="x")},
        {"model": before("module."), "optimizer": {"state": {}}},
        {"checkpoint": 3, "model": {"state_dict": before("")}},
    ],
    ids=[
        "compiled",
        "parallel",
        "both",
        "timm",
        "model_state_dict",
        "lightning",
        "lightning with a loss",
        "averaged",
        "options",
        "ema",
        "parallel in timm",
        "nested",
    ],
)
def test_checkpoints_are_read_as_trainers_write_them(held: Any, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "c.pt")
    torch.manual_seed(2)
    net = nn.Sequential(*(copy.deepcopy(m) for m in plain()))
    nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    load_weights(net, str(tmp_path / "c.pt"))
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), plain().state_dict().values(), strict=True)
    )


def test_names_that_begin_as_wrappers_do_stay_where_the_network_has_them(tmp_path: Path) -> None:
    torch.save({"state_dict": before("model.")}, tmp_path / "c.pt")
    net = Backbone()
    nn.init.zeros_(net.model[0].weight)  # type: ignore[arg-type]
    load_weights(net, str(tmp_path / "c.pt"))
    assert torch.equal(net.model[0].weight, plain()[0].weight)  # type: ignore[arg-type]


def test_weights_under_other_names_are_taken_in_their_order_only_if_that_is_asked(
    tmp_path: Path,
) -> None:
    renamed = {f"_{key.replace('.', '.other.', 1)}": value for key, value in before("").items()}
    torch.save(renamed, tmp_path / "c.pt")
    net = nn.Sequential(*(copy.deepcopy(m) for m in plain()))
    nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    with pytest.raises(LissomError, match=r"all \d+ shapes agree.*--weights order:.*c\.pt"):
        load_weights(net, str(tmp_path / "c.pt"))
    load_weights(net, f"order:{tmp_path / 'c.pt'}")
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), plain().state_dict().values(), strict=True)
    )


def test_weights_of_other_shapes_or_kinds_are_not_taken_in_their_order(tmp_path: Path) -> None:
    kinds = {key.replace("running_mean", "running_var_"): v for key, v in before("").items()}
    fewer = dict(list(before("").items())[:-1])
    for state in (kinds, fewer):
        torch.save({f"_{key}": value for key, value in state.items()}, tmp_path / "c.pt")
        with pytest.raises(LissomError, match="the names are those of another network"):
            load_weights(copy.deepcopy(plain()), str(tmp_path / "c.pt"))
        with pytest.raises(LissomError, match="in its order, got others"):
            load_weights(copy.deepcopy(plain()), f"order:{tmp_path / 'c.pt'}")


def test_of_weights_and_their_average_those_with_the_usual_name_are_loaded(tmp_path: Path) -> None:
    average = {key: value + 1 for key, value in before("").items()}
    torch.save({"model_ema": average, "model": before("")}, tmp_path / "c.pt")
    net = plain()
    load_weights(net, str(tmp_path / "c.pt"))
    assert torch.equal(net[0].weight, plain()[0].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "held",
    [b"\x80\x02", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", b"ustar" * 60],
)
def test_old_and_broken_files_are_one_line(held: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(held)
    with pytest.raises(LissomError, match=r"^weights: .*c.pt ") as caught:
        load_weights(plain(), str(tmp_path / "c.pt"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_legacy_files_that_are_whole_are_read_and_cut_ones_are_refused(tmp_path: Path) -> None:
    torch.save(before(""), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    load_weights(plain(), str(tmp_path / "c.pt"))
    whole = (tmp_path / "c.pt").read_bytes()
    for size in range(10, len(whole) - 1, 97):
        (tmp_path / "c.pt").write_bytes(whole[:size])
        with pytest.raises(LissomError, match=r"^weights: .*c.pt "):
            load_weights(plain(), str(tmp_path / "c.pt"))


def text(letters: str) -> bytes:
    return b"X" + struct.pack("<I", len(letters)) + letters.encode()


def twice(times: int) -> bytes:
    """Return opcodes that leave a tuple of two tuples of two tuples, each of them the same."""
    return b")q\0" + b"".join(
        b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(times)
    )


@pytest.mark.parametrize(
    "opcodes",
    [
        text("a" * 40_000) + b")R",
        b"c" + b"a" * 40_000 + b"\nx\n)R",
        text("a" * 40_000) + b")\x81",
        twice(26) + b")R",
        b"}" + twice(26) + b"K\1s",
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + twice(26) + text("cpu") + b"K\1tQ",
        b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
        b"cbuiltins\nset\n]" + twice(26) + b"a\x85R",
        b"c_codecs\nencode\n" + text("\u1234" * 30_000) + text("punycode") + b"\x86R",
        b"ccollections\nOrderedDict\n)R]" + twice(26) + b"N\x86ab",
    ],
    ids=[
        "a word called",
        "a long name",
        "a word made",
        "tuples called",
        "a key",
        "a name of a tensor",
        "room",
        "a set",
        "a codec",
        "attributes",
    ],
)
@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_what_would_take_time_or_memory_without_end_is_refused_at_once(
    opcodes: bytes, old: bool, tmp_path: Path
) -> None:
    """Tuples would take 2 ** 26 steps to print or hash; PyTorch's search in its own error the
    square of a word.
    """
    pickled = b"\x80\2" + opcodes + b"."
    whole = io.BytesIO(
        b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})) + pickled
    )
    if not old:
        with zipfile.ZipFile(whole := io.BytesIO(), "w") as archive:
            for name, part in (
                ("data.pkl", pickled),
                ("byteorder", b"little"),
                ("version", b"3\n"),
            ):
                archive.writestr(f"archive/{name}", part)
    (tmp_path / "c.pt").write_bytes(whole.getvalue())
    begin = time.process_time()
    with pytest.raises(LissomError, match=r"^weights: .*c.pt cannot be read \(.*\)$") as caught:
        load_weights(plain(), str(tmp_path / "c.pt"))
    assert time.process_time() - begin < 1 and len(str(caught.value)) < 400


def test_a_file_whose_parts_are_larger_than_itself_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(
        LissomError, match=r"stored as they are, got 10,000,.* bytes in a file of [0-9,]+\)"
    ):
        load_weights(plain(), str(tmp_path / "c.pt"))


def test_what_a_trainer_keeps_beside_the_weights_is_read(tmp_path: Path) -> None:
    """Sets, bytes, options, a tuple used a thousand times: nothing of this is what is refused."""
    betas = (0.9, 0.999)
    held = {
        "model": before(""),
        "groups": [{"betas": betas, "lr": 0.1} for _ in range(1_000)],
        "seen": {1, "two"},
        "raw": bytearray(b"abc"),
        "bytes": b"abc\xff",
        (1, 2): 3,
        "size": torch.Size([1, 2]),
        "type": torch.float16,
    }
    for old in (False, True):
        torch.save(held, tmp_path / "c.pt", _use_new_zipfile_serialization=not old)
        load_weights(plain(), str(tmp_path / "c.pt"))
