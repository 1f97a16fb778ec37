"""Networks in ONNX files: layers are restored, outputs are the same, and all later steps work."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import residual
from torch import Tensor, nn

import lissom
from lissom import Data, LissomError, Store, Task
from lissom.importing.file import preprocess_said
from lissom.importing.quantized import NOTE
from lissom.models import factory
from lissom.running.baked import shown_preprocess
from lissom.running.entries import build_from, load_key
from lissom.surgery.quantization.layers import QuantizedLayer
from lissom.tasks import imported
from lissom.tasks.networks import check_model_spec

INPUTS = {"input_names": ["input"], "output_names": ["scores"]}


def settled(network: nn.Module) -> nn.Module:
    """Return a network whose batch-norms are as if it had learned."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.1)  # what is alike, exporters write once
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


def test_ordinary_steps_do_to_a_file_what_they_do_to_its_network(tmp_path: Path) -> None:
    images = torch.randn(8, 3, 64, 64)
    network = resnet18()
    keep = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    path = written(network, images[:2], tmp_path / "net.onnx", **keep)
    compare_steps(network, lissom.from_onnx(path), images)


class Block(nn.Module):
    """A block of a vision transformer, written by hand as timm does."""

    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.num_heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, places, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, places, 3, self.num_heads, 8)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """A vision transformer of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, 24))
        self.places = nn.Parameter(torch.randn(1, 17, 24))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


@cache
def vit() -> nn.Module:
    torch.manual_seed(0)
    network = Vit()
    with torch.no_grad():
        for parameter in network.parameters():  # or norms that are alike become one
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network.eval()


def test_steps_do_to_a_transformer_what_they_do_to_its_network(tmp_path: Path) -> None:
    images = torch.randn(8, 3, 32, 32)
    network = lissom.from_onnx(written(vit(), images[:2], tmp_path / "net.onnx", opset_version=17))
    assert dict(network.named_parameters()).keys() == dict(vit().named_parameters()).keys()
    compare_steps(vit(), network, images)


def compare_steps(network: nn.Module, again: nn.Module, images: Tensor) -> None:
    """Raise unless both networks lose the same channels and have the same layers in integers."""
    shapes, layers = [], []
    for model in (network, again):
        small = lissom.apply("prune(0.5)", model, images[:2], images, notes=True)[0]
        shapes.append({name: tuple(p.shape) for name, p in small.named_parameters()})
        whole = lissom.apply("quantize(8)", model, images[:2], images, notes=True)[0]
        layers.append(sum(isinstance(layer, QuantizedLayer) for layer in whole.modules()))
    assert shapes[0] == shapes[1]
    assert layers[0] == layers[1] > 0


@pytest.mark.parametrize("network", [resnet18, vit])
def test_a_file_for_float_samples_takes_any_number(network: Any, tmp_path: Path) -> None:
    size = 64 if network is resnet18 else 32
    images = torch.randn(5, 3, size, size)
    path = written(network(), images[:1], tmp_path / "net.onnx", dynamic_axes={}, opset_version=17)
    with torch.no_grad():
        again = lissom.from_onnx(path)(images)
        torch.testing.assert_close(again, network()(images), atol=1e-4, rtol=1e-3)


def test_a_file_goes_out_as_it_came_in(tmp_path: Path) -> None:
    images = torch.randn(8, 3, 16, 16)
    network = residual()
    first = lissom.export(network, "onnxruntime", tmp_path / "first.onnx", shape=(3, 16, 16))
    again = lissom.from_onnx(first)
    with torch.no_grad():
        torch.testing.assert_close(again(images), network(images), atol=1e-5, rtol=1e-5)
    path = written(network, images[:2], tmp_path / "named.onnx")
    second = lissom.export(
        lissom.from_onnx(path), "onnxruntime", tmp_path / "second.onnx", shape=(3, 16, 16)
    )
    graph = onnx.load(str(second)).graph
    assert [value.name for value in graph.input] == ["input"]
    assert [value.name for value in graph.output] == ["scores"]


def test_a_quantized_file_is_read_in_float(tmp_path: Path) -> None:
    images = torch.randn(32, 3, 16, 16)
    network = residual()
    whole = lissom.apply("quantize(8)", network, images[:2], images, notes=True)[0]
    path = lissom.export(whole, "onnxruntime", tmp_path / "net.onnx", shape=(3, 16, 16))
    again = lissom.from_onnx(path)
    assert "the file is quantized: the network has dequantized weights" in again.notes[0]
    with torch.no_grad():
        size = network(images).abs().max()
        assert (again(images) - network(images)).abs().max() < 0.1 * size
    lissom.apply("prune(0.3) | quantize(8)", again, images[:2], images, notes=True)


def test_a_run_compares_a_file_with_its_network_on_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = settled(factory("resnet8")(10, 1))
    digits = written(network, torch.randn(2, 1, 32, 32), tmp_path / "d.onnx")
    data = Data.of("digits", preprocess="data")
    said: list[str] = []
    record = lissom.run(
        "prune(0.2, multiple=1)",
        Task.of(f"onnx:{digits}", data),
        Store(tmp_path / "store"),
        say=said.append,
    )[0]
    (note,) = [note for note in record["task"]["notes"] if "samples of the data" in note]
    assert re.search(
        r"on 8 samples of the data, .* differ from those of .*d.onnx by \S+e-0[5-9]", note
    )
    assert f"note: {note}" in said
    # what noise does not show
    task = Task.of(f"onnx:{digits}", data)
    network = task.build()
    with torch.no_grad():
        network.get_parameter([*dict(network.named_parameters())][-1])[0] += 0.1
    monkeypatch.setattr(imported, "SAID", {})
    monkeypatch.setattr(task, "build", lambda: network)
    with pytest.raises(LissomError, match=r"on 8 samples of the data, its outputs differ"):
        task.notes()


def test_a_file_for_float_samples_is_compared_one_by_one(tmp_path: Path) -> None:
    images = torch.randn(1, 1, 32, 32)
    path = written(
        settled(factory("resnet8")(10, 1)), images, tmp_path / "one.onnx", dynamic_axes={}
    )
    task = Task.of(f"onnx:{path}", Data.of("digits", preprocess="data"))
    assert re.search(r"on 8 samples of the data", task.notes()[-1])


@pytest.mark.parametrize("batch", [3, 8, 16])
def test_a_file_of_one_batch_size_is_compared_on_all_samples(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = settled(factory("resnet8")(10, 1))
    images = torch.randn(batch, 1, 32, 32)
    path = written(network, images, tmp_path / "batch.onnx", dynamic_axes={})
    task = Task.of(f"onnx:{path}", Data.of("digits", preprocess="data"))
    assert re.search(r"on 8 samples of the data, .* by \S+e-0[5-9] ", task.notes()[-1])
    last = task.data.example(8)[-1]
    right = task.build()

    class WrongOnTheLast(nn.Module):
        """The network, with a wrong answer to the last sample only."""

        def __init__(self) -> None:
            super().__init__()
            self.network = right
            self.input_names = right.input_names
            self.notes = ()
            self.fixed: dict[str, Any] = {}

        def forward(self, x: Tensor) -> Tensor:
            same = (x == last).flatten(1).all(1)
            return self.network(x) + same[:, None] * 0.1

    monkeypatch.setattr(imported, "SAID", {})
    monkeypatch.setattr(task, "build", WrongOnTheLast)
    with pytest.raises(LissomError, match=r"on 8 samples of the data, its outputs differ"):
        task.notes()


def test_a_file_of_another_size_than_the_data_is_not_compared(tmp_path: Path) -> None:
    images = torch.randn(2, 1, 16, 16)
    path = written(settled(factory("resnet8")(10, 1)), images, tmp_path / "large.onnx")
    task = Task.of(f"onnx:{path}", Data.of("digits", preprocess="data"))
    assert "was not compared on the data: ONNX Runtime cannot run it" in task.notes()[-1]


def test_notes_of_a_quantized_file_are_those_of_a_run(tmp_path: Path) -> None:
    images = torch.randn(64, 1, 32, 32)
    network = settled(factory("resnet8")(10, 1))
    whole = lissom.apply("quantize(8)", network, images[:2], images, notes=True)[0]
    path = lissom.export(whole, "onnxruntime", tmp_path / "net.onnx", shape=(1, 32, 32))
    notes = Task.of(f"onnx:{path}", Data.of("digits", preprocess="data")).notes()
    assert NOTE in notes and "on 8 samples of the data" in notes[-1]


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ({"baked": "true", "preprocess": ""}, "scale(255)"),
        ({"baked": "true"}, "scale(255)"),
        ({"baked": "true", "preprocess": "resize(32)"}, "resize(32) | scale(255)"),
        ({"baked": "true", "preprocess": "as given"}, None),
        ({"baked": "false", "preprocess": ""}, None),
        ({"baked": "false", "preprocess": "as given"}, None),
        ({"baked": "false", "preprocess": "gray"}, "gray"),
        ({}, None),
    ],
)
def test_a_file_with_its_normalisation_inside_takes_pixels(
    facts: dict[str, str], wanted: str | None, digits: Path
) -> None:
    model = onnx.load(str(digits))
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, str(digits))
    assert preprocess_said(digits) == wanted


def test_a_file_that_only_normalises_has_no_preprocessing_left() -> None:
    task = {"shape": [1, 8, 8], "preprocessing": {"preprocess": 'normalize("half")'}}
    assert shown_preprocess({"task": task}, True) == ""
