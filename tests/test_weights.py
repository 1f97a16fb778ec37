"""Checkpoints are read as trainers write them, and nothing in them is run."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lissom import LissomError
from lissom.task import load_weights


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 5))


def before(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in plain().state_dict().items()}


class Backbone(nn.Module):
    """A network whose own names begin as wrappers' do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = plain()


@pytest.mark.parametrize("held", [
    before("_orig_mod."), before("module."), before("module._orig_mod."), {"model": before(""), "epoch": 1},
    {"model_state_dict": before("")}, {"state_dict": before("model.")},
    {"state_dict": before("model.") | {"loss.weight": torch.ones(5)}},
    {**before("module."), "n_averaged": torch.tensor(3)}, {"state_dict": before(""), "args": argparse.Namespace(lr=1)},
    {"ema": before("module."), "args": argparse.Namespace(path="x")},
    {"model": before("module."), "optimizer": {"state": {}}}, {"checkpoint": 3, "model": {"state_dict": before("")}}],
    ids=["compiled", "parallel", "both", "timm", "model_state_dict", "lightning", "lightning with a loss", "averaged",
         "options", "ema", "parallel in timm", "nested"])
def test_checkpoints_are_read_as_trainers_write_them(held: Any, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "c.pt")
    torch.manual_seed(2)
    net = nn.Sequential(*(copy.deepcopy(m) for m in plain()))
    nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    load_weights(net, str(tmp_path / "c.pt"))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain().state_dict().values(), strict=True))


def test_names_that_begin_as_wrappers_do_stay_where_the_network_has_them(tmp_path: Path) -> None:
    torch.save({"state_dict": before("model.")}, tmp_path / "c.pt")
    net = Backbone()
    nn.init.zeros_(net.model[0].weight)  # type: ignore[arg-type]
    load_weights(net, str(tmp_path / "c.pt"))
    assert torch.equal(net.model[0].weight, plain()[0].weight)  # type: ignore[arg-type]


def test_of_weights_and_their_average_those_with_the_usual_name_are_loaded(tmp_path: Path) -> None:
    average = {key: value + 1 for key, value in before("").items()}
    torch.save({"model_ema": average, "model": before("")}, tmp_path / "c.pt")
    net = plain()
    load_weights(net, str(tmp_path / "c.pt"))
    assert torch.equal(net[0].weight, plain()[0].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [b"\x80\x02", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
                                  b"ustar" * 60])
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
