"""Weight transforms: a new one is a new file, and the transforms of a weight are applied in order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import conv, head
from torch import Tensor, nn

import lissom
from lissom import LissomError, apply
from lissom.surgery import weights
from lissom.surgery.layers import bake_transforms, compress
from lissom.surgery.sizes import sizes
from lissom.surgery.states import check_states
from lissom.surgery.transform import transform_named, transforms

HALVED = '''
"""Weights of half their size."""

from lissom.surgery.transform import WeightTransform


class Halved(WeightTransform):
    place = 3
    options = {"times": range(1, 9)}

    def __init__(self, times):
        super().__init__()
        self.times = times

    def settings(self):
        return {"times": self.times}

    def hold(self, weight, learning):
        pass

    def transformed(self, weight):
        return weight * 0.5**self.times

    def stored(self, before):
        return before._replace(bits=7)
'''


@pytest.fixture
def halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A transform in a file that is dropped into the folder."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "halved.py").write_text(HALVED, encoding="utf-8")
    monkeypatch.setattr(weights, "__path__", [*weights.__path__, str(folder)])
    yield transform_named("halved")
    sys.modules.pop("lissom.surgery.weights.halved", None)
    transform_named.cache_clear()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 8), nn.ReLU(), head(8)).eval()


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(images())


def test_a_file_in_the_folder_is_listed_saved_loaded_counted_and_exported(
    halved: Any, tmp_path: Path
) -> None:
    assert transforms() == ["cast", "cluster", "halved", "mask"]
    model = net()
    wanted = net()
    wanted[0].weight.data *= 0.25
    compress(model[0]).add_transform(halved(2))
    assert torch.equal(outputs(model), outputs(wanted))
    lissom.save(model, tmp_path / "saved")
    again = lissom.load(tmp_path / "saved", net())
    assert again[0].transforms["halved"].times == 2
    assert torch.equal(outputs(again), outputs(wanted))
    fewer = model[0].weight.numel() * (32 - 7) / 8
    assert sizes(wanted)["theory_bytes"] - sizes(model)["theory_bytes"] == int(fewer)
    lissom.export(model, "onnxruntime", tmp_path / "net.onnx", (3, 8, 8))  # compares the outputs
    bake_transforms(model)
    assert type(model[0]) is nn.Conv2d and torch.equal(model[0].weight, wanted[0].weight)


def test_a_step_may_say_that_it_cannot_follow_it(halved: Any) -> None:
    class Step:
        cannot_follow = {"halved": "the weights are halved already"}  # noqa: RUF012

    model = net()
    check_states(Step, model, "step")  # type: ignore[arg-type]
    compress(model[0]).add_transform(halved(1))
    with pytest.raises(LissomError, match="step: the weights are halved already"):
        check_states(Step, model, "step")  # type: ignore[arg-type]


def test_settings_that_it_does_not_have_are_refused_when_read(halved: Any, tmp_path: Path) -> None:
    model = net()
    compress(model[0]).add_transform(halved(2))
    lissom.save(model, tmp_path)
    path = tmp_path / "structure.json"
    whole = path.read_text(encoding="utf-8")
    for wrong in ({"halved": {"times": 9}}, {"halved": {}}, {"halved": 1}, {"thirds": {}}):
        said = json.loads(whole)
        said["layers"]["0"]["transforms"] = wrong
        path.write_text(json.dumps(said), encoding="utf-8")
        with pytest.raises(LissomError, match="cannot be read"):
            lissom.load(tmp_path, net())


@pytest.mark.parametrize("name", ["other", "../transform", "__init__", "os", ""])
def test_only_files_of_the_folder_are_transforms(name: str) -> None:
    with pytest.raises(LissomError, match="weight transform"):
        transform_named(name)


@pytest.mark.parametrize(
    "recipe",
    [
        "mask(0.5) | cluster(4)",
        "mask(0.5) | cast('bf16')",
        "mask(0.5) | cluster(4) | cast('fp16')",
        "mask(0.5) | cluster(4) | cast('fp16') | quantize(8)",
    ],
)
def test_transforms_act_in_their_order_however_often_the_layer_changes(recipe: str) -> None:
    small: Any = apply(recipe, net(), images()[:1], images())
    order = [word for word in ("mask", "cluster", "cast") if word in recipe]
    for layer in small.modules():
        if hasattr(layer, "transforms"):
            assert list(layer.transforms) == order


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("MaskedConv2d", {}),
        ("CastConv2d", {"cast": {"kind": "bf16", "masked": True}}),
        ("CastConv2d", {"cast": {"kind": "fp16", "masked": False}}),
    ],
)
def test_networks_saved_before_there_were_transforms_are_read(
    kind: str, facts: dict[str, Any], tmp_path: Path
) -> None:
    lissom.save(net(), tmp_path)
    path = tmp_path / "structure.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["format"] = 1
    said["layers"]["0"].update({"class": kind, **facts})
    path.write_text(json.dumps(said), encoding="utf-8")
    layer = lissom.load(tmp_path, net())[0]
    cast = facts.get("cast", {})
    wanted = ["mask"] * (not cast or cast["masked"]) + ["cast"] * bool(cast)
    assert list(layer.transforms) == wanted
    if cast:
        assert layer.transforms["cast"].kind == cast["kind"]
