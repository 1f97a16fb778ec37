"""An exported network gives PyTorch's outputs on its target, in integers if it was quantized."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from networks import residual
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.language.menu import menu
from lissom.language.parse_methods import method_of
from lissom.language.target import Target
from lissom.models import factory
from lissom.running.plan import targets_of

TARGETS = list(menu("targets"))


def facts_of(path: Path) -> dict[str, str]:
    """Read the metadata of an ONNX file."""
    return {p.key: p.value for p in onnx.load(str(path)).metadata_props}


def target(name: str) -> Target:
    found = method_of("targets", name)
    assert isinstance(found, Target)
    if found.missing():
        pytest.skip(found.missing() or "")
    return found


def images(count: int = 5, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def settled(net: nn.Module, size: int = 32) -> nn.Module:
    """Let batch-norms see some images, so that activations have the sizes of a trained network."""
    net.train()
    with torch.no_grad():
        for _ in range(10):
            net(images(16, size))
    return net.eval()


def known(name: str) -> nn.Module:
    import torchvision.models

    return getattr(torchvision.models, name)(num_classes=10)


BUILD: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: factory("resnet8")(num_classes=10),
    "vgg11": lambda: factory("vgg11")(num_classes=10),
    "resnet18": lambda: known("resnet18"),
    "mobilenet_v2": lambda: known("mobilenet_v2"),
}
ADDS = {"resnet8": 3, "vgg11": 0, "resnet18": 8, "mobilenet_v2": 10}
_networks: dict[tuple[str, str], nn.Module] = {}
_files: dict[tuple[str, str, str], Path] = {}


def network(name: str, kind: str) -> nn.Module:
    """Return a network, float or quantized, built once."""
    if (name, kind) not in _networks:
        torch.manual_seed(0)
        net = settled(BUILD[name]())
        _networks[name, "float"] = net
        _networks[name, "quantized"] = lissom.apply("quantize(8)", net, images(1), images(32))
    return _networks[name, kind]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, Target], Path]:
    """Return the exported file of a network for a target; targets of one ending share it."""

    def exported(name: str, kind: str, where: Target) -> Path:
        key = (name, kind, where.ending)
        if key not in _files:
            path = tmp_path_factory.mktemp(f"{name}-{kind}") / f"model.{where.ending}"
            facts = {"recipe": "quantize(8)", "mean": [0.5, 0.25], "baked": "false"}
            where.export(network(name, kind), path, (3, 32, 32), facts)
            _files[key] = path
        return _files[key]

    return exported


def outputs(net: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return net.eval()(x).numpy()


def rms(found: np.ndarray, wanted: np.ndarray) -> float:
    return math.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean())


@pytest.mark.parametrize("name", TARGETS)
def test_a_float_file_answers_like_pytorch_for_any_batch(name: str, file: Any) -> None:
    where = target(name)
    run = where.load(file("resnet8", "float", where), 1)
    for count in (1, 5):
        wanted = outputs(network("resnet8", "float"), images(count))
        found = run(images(count).numpy())
        assert found.shape == (count, 10) and found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=where.precise * np.abs(wanted).max())


@pytest.mark.parametrize("name", TARGETS)
def test_a_quantized_file_answers_like_its_simulation_for_any_batch(name: str, file: Any) -> None:
    where = target(name)
    run = where.load(file("resnet8", "quantized", where), 1)
    for count in (1, 5):
        wanted = outputs(network("resnet8", "quantized"), images(count))
        found = run(images(count).numpy())
        assert found.shape == (count, 10) and rms(found, wanted) < 0.05
        assert rms(wanted, outputs(network("resnet8", "float"), images(count))) < 0.2


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_file_answered_stays_when_it_is_asked_again(name: str, file: Any) -> None:
    where = target(name)
    run = where.load(file("resnet8", "float", where), 1)
    first = run(images(1).numpy())
    before = first.copy()
    run(3 * images(1).numpy())
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("kind", ["float", "quantized"])
def test_an_onnx_file_says_what_it_is(kind: str, file: Any) -> None:
    path = file("resnet8", kind, target("onnxruntime"))
    assert facts_of(path) == {"recipe": "quantize(8)", "mean": "[0.5, 0.25]", "baked": "false"}
    proto = onnx.load(str(path))
    assert proto.producer_name == "lissom"
    assert [v.name for v in proto.graph.input] == ["images"] and [
        v.name for v in proto.graph.output
    ] == ["outputs"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert not any(node.metadata_props for node in proto.graph.node)
    text = path.read_bytes()
    assert str(Path(lissom.__file__).parent).encode() not in text and b".py" not in text


def test_a_quantized_onnx_file_holds_integers(file: Any) -> None:
    proto = onnx.load(str(file("resnet8", "quantized", target("onnxruntime"))))
    tensors = {t.name: t for t in proto.graph.initializer}
    kinds = {t.data_type for t in tensors.values()}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.UINT8} <= kinds
    small = network("resnet8", "quantized")
    weights = sum(
        int(np.prod(t.dims))
        for t in tensors.values()
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    )
    assert weights == sum(layer.weight.numel() for layer in small.layers())
    assert not any(
        t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 64 for t in tensors.values()
    )
    assert {n.op_type for n in proto.graph.node} & {
        "QuantizeLinear",
        "DequantizeLinear",
        "Conv",
        "Gemm",
        "Add",
    } != set()


def test_the_integers_in_the_file_are_those_of_the_formula(file: Any) -> None:
    from onnx import numpy_helper

    proto = onnx.load(str(file("resnet8", "quantized", target("onnxruntime"))))
    stored = [
        numpy_helper.to_array(t)
        for t in proto.graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    for layer in network("resnet8", "quantized").layers():
        weight = layer.weight.detach().double()
        top = 2 ** (layer.rounding.bits - 1) - 1
        scale = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.ndim - 1)) / top
        wanted = (weight / scale).round().clamp(-top, top).numpy()
        assert any(
            s.shape == wanted.shape
            and np.abs(s - wanted).max() <= 1
            and (s == wanted).mean() > 0.999
            for s in stored
        )


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_layer_and_add_runs_in_integers(name: str, runtime: str, file: Any) -> None:
    where = target(runtime)
    path = file(name, "quantized", where)
    found = where.fused(path)
    layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in network(name, "float").modules())
    apart = ADDS[name] if runtime == "onnxruntime" else 0  # OpenVINO adds within the convolution
    print(
        f"fused {name} {runtime}: {found} of {layers} layers and {ADDS[name]} adds, float: "
        f"{found and found.rest}"
    )
    assert found is not None and found.rest == () and found.done == found.total == layers + apart
    assert str(found) == f"{layers + apart}/{layers + apart}"


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_known_networks_answer_like_their_simulation(name: str, runtime: str, file: Any) -> None:
    where = target(runtime)
    found = where.load(file(name, "quantized", where), 1)(images(4).numpy())
    assert rms(found, outputs(network(name, "quantized"), images(4))) < 0.1


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_float_file_counts_nothing_as_fused(runtime: str, file: Any) -> None:
    where = target(runtime)
    found = where.fused(file("resnet8", "float", where))
    assert found is not None and found.done == 0 and found.total >= 10


class Spotter(nn.Module):
    """A convolution over a series, a recurrent layer and a linear one."""

    def __init__(self, recurrent: type[nn.RNNBase]) -> None:
        super().__init__()
        self.stem = nn.Conv1d(6, 8, 3, padding=1)
        self.states = recurrent(8, 12, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        states, _ = self.states(torch.relu(self.stem(series)).transpose(1, 2))
        return self.head(states[:, -1])


@pytest.mark.parametrize("recurrent", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_recurrent_layer_counts_as_one_that_is_not_in_integers(
    recurrent: type[nn.RNNBase], runtime: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    series = torch.randn(64, 6, 20)
    net = Spotter(recurrent).eval()
    small, _ = lissom.apply("quantize(8)", net, series[:1], series, notes=True)
    where = target(runtime)
    where.export(small, tmp_path / "m.onnx", (6, 20), {})
    fused = where.fused(tmp_path / "m.onnx")
    assert fused is not None and fused.total == 3
    reasons = [name.partition(" (")[2] for name in fused.rest]
    assert "recurrent layers stay float)" in reasons
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [value.name for value in graph.input] == ["inputs"]


@pytest.mark.parametrize("name", TARGETS)
def test_export_leaves_the_network_as_it_was(name: str, tmp_path: Path) -> None:
    where = target(name)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    small = lissom.apply("quantize(8)", net, images(1, 8), images(4, 8)).train()
    before = copy.deepcopy(small.state_dict())
    where.export(small, tmp_path / f"m.{where.ending}", (3, 8, 8), {})
    assert small.training and list(before) == list(small.state_dict())
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in before.items())
    assert type(small.network[0]).__name__ == "QuantizedConv2d"


@pytest.mark.parametrize("name", TARGETS)
def test_a_pruned_and_quantized_network_exports(name: str, tmp_path: Path) -> None:
    where = target(name)
    small = lissom.apply("prune(0.5) | quantize(8)", residual(), images(1), images(8))
    where.export(small, tmp_path / f"m.{where.ending}", (3, 32, 32), {})
    assert (
        rms(
            where.load(tmp_path / f"m.{where.ending}", 1)(images(3).numpy()),
            outputs(small, images(3)),
        )
        < 0.05
    )


@pytest.mark.parametrize("name", TARGETS)
def test_a_dead_filter_is_right_in_the_file_after_training(name: str, tmp_path: Path) -> None:
    where = target(name)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 2),
    ).eval()
    with torch.no_grad():
        net[2].weight[3], net[2].bias[3] = 0, 0.7
    small = lissom.apply("quantize(8)", net, images(1, 8), images(8, 8)).train()
    with torch.no_grad():
        small(images(8, 8))
    small.eval()
    where.export(small, tmp_path / f"m.{where.ending}", (3, 8, 8), {})
    assert (
        rms(
            where.load(tmp_path / f"m.{where.ending}", 1)(images(3, 8).numpy()),
            outputs(small, images(3, 8)),
        )
        < 0.05
    )


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) if float(x.sum()) > 0 else x.flatten(1).cumsum(1)[:, : int(x.max())]


@pytest.mark.parametrize("name", TARGETS)
def test_a_network_that_cannot_be_exported_is_one_line(name: str, tmp_path: Path) -> None:
    where = target(name)
    with pytest.raises(LissomError, match="cannot convert") as caught:
        where.export(Untraceable(), tmp_path / f"m.{where.ending}", (3, 8, 8), {})
    assert "\n" not in str(caught.value)


class CountedInNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).reshape(len(x), -1)


def test_a_network_that_makes_a_number_of_its_batch_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=r"batches of 2 only, .* as len\(x\) does; x.shape\[0\]"):
        lissom.export(CountedInNumbers(), "onnxruntime", tmp_path / "m.onnx", (3, 8, 8))


def test_an_input_in_place_of_a_shape_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=r"shape: expected .*, got a Tensor; .* example="):
        lissom.export(nn.ReLU(), "onnxruntime", tmp_path / "m.onnx", images())  # type: ignore[arg-type]


def test_the_public_functions_export_and_time(tmp_path: Path) -> None:
    path = lissom.export(
        network("resnet8", "float"), "onnxruntime", tmp_path / "m.onnx", (3, 32, 32)
    )
    assert path == tmp_path / "m.onnx" and facts_of(path) == {"baked": "false"}
    (row,) = lissom.latency([path], "onnxruntime", (1, 3, 32, 32))
    time = row["latency_ms"]
    assert isinstance(time, dict) and 0 < time["low"] <= time["median"] <= time["high"]
    assert (
        row["target"] == "onnxruntime"
        and row["artefact"] == str(path)
        and row["size_bytes"] == path.stat().st_size
    )
    assert row["load_ms"] > 0 and row["peak_mib"] > row["resident_mib"] > 0 and row["threads"] == 1


def test_a_target_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="onnxruntime"):
        lissom.export(nn.Identity(), "onnxruntim", tmp_path / "m", (3, 8, 8))


@pytest.mark.parametrize("text", ["", "onnxruntime,torch"])
def test_one_target_at_a_time_is_exported(text: str, tmp_path: Path) -> None:
    with pytest.raises(LissomError):
        lissom.export(nn.ReLU(), text, tmp_path / "m", (3, 8, 8))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LissomError, match="cannot be written"):
        lissom.export(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 2)),
            "onnxruntime",
            tmp_path / "file" / "m.onnx",
            (3, 2, 2),
        )


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "m.onnx"
    lissom.export(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), "onnxruntime", path, (3, 2, 2))
    assert [each.name for each in path.parent.iterdir()] == ["m.onnx"]


def test_timing_a_file_that_is_missing_or_broken_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="no file"):
        lissom.latency([tmp_path / "m.onnx"], "onnxruntime", (1, 3, 8, 8))
    (tmp_path / "m.onnx").write_bytes(b"not a network")
    with pytest.raises(LissomError, match="it cannot be read as ONNX"):
        lissom.latency([tmp_path / "m.onnx"], "onnxruntime", (1, 3, 8, 8))
    (tmp_path / "m.pt2").write_bytes(b"not a network")
    with pytest.raises(LissomError, match="last words"):
        lissom.latency([tmp_path / "m.pt2"], "torch", (1, 3, 8, 8))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), ()])
def test_a_file_is_timed_on_what_it_takes(shape: tuple[int, ...], tmp_path: Path) -> None:
    lissom.export(nn.Conv2d(3, 2, 3), "onnxruntime", tmp_path / "m.onnx", (3, 8, 8))
    with pytest.raises(
        LissomError, match=r"takes inputs of shape \(any, 3, 8, 8\), the batch first; got \("
    ):
        lissom.latency(tmp_path / "m.onnx", "onnxruntime", shape)


def test_targets_are_read_from_text() -> None:
    assert [str(t) for t in targets_of("onnxruntime, torch,onnxruntime")] == [
        "onnxruntime",
        "torch",
    ]
