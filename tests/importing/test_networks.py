"""Networks in ONNX files: layers come back, the answers stay, and everything after works."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import lissom
from lissom import Data, LissomError, Store, Task
from lissom.models import factory
from lissom.running.execute import load_key
from lissom.tasks.task import build_from, check_model_spec

INPUTS = {"input_names": ["input"], "output_names": ["scores"]}


def settled(network: nn.Module) -> nn.Module:
    """Return a network whose batch-norms are as if it had learned."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
    return network.eval()


def written(network: nn.Module, images: Any, path: Path, **settings: Any) -> Path:
    """Export a network as most people do, with a dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (images,),
            str(path),
            dynamo=False,
            **{**INPUTS, "dynamic_axes": {"input": {0: "batch"}}, **settings},
        )
    return path


@cache
def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return settled(torchvision.models.resnet18(num_classes=7))


def test_a_resnet_comes_back_with_its_layers(tmp_path: Path) -> None:
    images = torch.randn(5, 3, 64, 64)
    path = written(resnet18(), images[:2], tmp_path / "net.onnx")
    network = lissom.from_onnx(path)
    with torch.no_grad():
        torch.testing.assert_close(network(images), resnet18()(images), atol=1e-4, rtol=1e-4)
    kinds = (nn.Conv2d, nn.Linear)
    names = [name for name, layer in network.named_modules() if isinstance(layer, kinds)]
    wanted = [name for name, layer in resnet18().named_modules() if isinstance(layer, kinds)]
    assert sorted(names) == sorted(wanted)
    assert network.output_names == ("scores",) and not network.training


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return written(settled(factory("resnet8")(10, 1)), torch.randn(2, 1, 8, 8), tmp_path / "d.onnx")


def test_a_run_names_the_file_and_its_key_changes_with_it(digits: Path, tmp_path: Path) -> None:
    data = Data.of("digits", preprocess="data")
    task = Task.of(f"onnx:{digits}", data)
    assert task.trained and task.weights == str(digits)
    store = Store(tmp_path / "store")
    (record,) = lissom.run("prune(0.2, multiple=1) | quantize(8)", task, store)
    assert record["task"]["model"] == f"onnx:{digits}"
    again = load_key(record["key"], store)  # which is data: nothing has to be trusted
    assert record["params"] == sum(p.numel() for p in again.parameters())
    before = task.root(0)
    assert Task.of(f"onnx:{digits}", data).root(0) == before
    written(settled(factory("resnet14")(10, 1)), torch.randn(2, 1, 8, 8), digits)
    assert Task.of(f"onnx:{digits}", data).root(0) != before


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (
        lambda path: Task.of(f"onnx:{path}", Data.of("digits"), weights="x.pt"),
        r"--weights: onnx:.*holds its weights; leave --weights out",
    ),
    "no file": (lambda _: check_model_spec("onnx:no.onnx"), r"there is no file no\.onnx"),
    "no word": (lambda path: check_model_spec(str(path)), r"path/to/file|expected onnx:"),
    "entry": (
        lambda _: build_from({"model": "onnx:no.onnx"}, "an entry"),
        r"there is no file no\.onnx",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_fit_is_one_line(name: str, digits: Path) -> None:
    call, said = REFUSALS[name]
    with pytest.raises(LissomError, match=said):
        call(digits)
