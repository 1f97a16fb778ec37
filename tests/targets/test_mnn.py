"""A network exported for MNN gives PyTorch's outputs, in float and in MNN's integers, or an error
says why not.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.exporting import isolated
from lissom.exporting.onnx import pooling as _pooled
from lissom.exporting.onnx import relu_as_max as _relu_as_max
from lissom.exporting.onnx.export import export_onnx
from lissom.language.parse_methods import method_of
from lissom.running.measure import export_if_missing
from lissom.targets import mnn as module
from lissom.targets.mnn import Mnn, write_calibration_images

SHAPE = (3, 9, 7)
needs_mnn = pytest.mark.skipif(Mnn().missing() is not None, reason=Mnn().missing() or "")


class Net(nn.Module):
    """A residual network that ends in a mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.block(x) + x).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def images(count: int) -> Tensor:
    """Return images as a network sees them; each channel has a range of its own."""
    pixels = (
        torch.randint(
            0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(count)
        ).double()
        / 255
    )
    mean, std = torch.tensor(FACTS["mean"]), torch.tensor(FACTS["std"])
    return ((pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).float()


FACTS: dict[str, Any] = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5], "baked": "false"}


def made(text: str) -> Mnn:
    found = method_of("targets", text)
    assert isinstance(found, Mnn)
    return found


@pytest.fixture(scope="module")
def answers(
    net: nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[np.ndarray, Path]]:
    """Return what a target answers for five images, and its file, exported once."""
    kept: dict[str, tuple[np.ndarray, Path]] = {}

    def found(text: str) -> tuple[np.ndarray, Path]:
        if text not in kept:
            path = tmp_path_factory.mktemp("mnn") / "m.mnn"
            target = made(text)
            target.export(net, path, SHAPE, FACTS, lambda count: [images(count)])
            kept[text] = target.load(path, 1)(images(5).numpy()), path
        return kept[text]

    return found


def wanted(net: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return net(images(5)).numpy()


def rms(found: np.ndarray, right: np.ndarray) -> float:
    return math.sqrt(np.square(found - right).mean() / np.square(right).mean())


@needs_mnn
def test_a_float_file_answers_like_pytorch_for_any_batch(net: nn.Module, answers: Any) -> None:
    found, path = answers("mnn")
    assert found.dtype == np.float32 and rms(found, wanted(net)) < 1e-5
    single = made("mnn").load(path, 1)
    np.testing.assert_allclose(
        np.concatenate([single(images(5)[k : k + 1].numpy()) for k in range(5)]), found, atol=1e-4
    )


@needs_mnn
def test_eight_bit_weights_make_the_file_small_and_little_noise(
    net: nn.Module, answers: Any
) -> None:
    found, path = answers("mnn(8)")
    assert 1e-6 < rms(found, wanted(net)) < 0.02
    assert path.stat().st_size < 0.5 * answers("mnn")[1].stat().st_size
    assert made("mnn(8)").rounds() and not made("mnn").rounds()
    assert made("mnn(8)").plain() == made("mnn")


@needs_mnn
@pytest.mark.parametrize("method", ["kl", "admm", "ema"])
def test_the_integers_of_the_quantizer_answer_like_the_network(
    method: str, net: nn.Module, answers: Any
) -> None:
    found, path = answers(f'mnn(8, activations="{method}", samples=4)')
    assert found.shape == (5, 10) and 1e-3 < rms(found, wanted(net)) < 0.1
    assert path.stat().st_size < 0.5 * answers("mnn")[1].stat().st_size


@needs_mnn
@pytest.mark.parametrize("method", ["kl", "admm"])
def test_layers_that_are_kept_are_float_in_the_file(
    method: str, net: nn.Module, answers: Any, tmp_path: Path
) -> None:
    def rounded(text: str) -> dict[str, bool]:
        path = answers(text)[1]
        words = isolated.child_command(
            "mnnconvert", "-f", "MNN", "--modelFile", path, "--JsonFile", tmp_path / "m.json"
        )
        isolated.run_isolated(words, tmp_path, tmp_path / "m.json", "the converter", "")
        ops = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["oplists"]
        return {
            op["name"].split("/")[0].replace("outputs__matmul_converted", "head"): "symmetricQuan"
            in op["main"]
            or "quanParameter" in op["main"]
            for op in ops
            if op["type"].startswith("Conv") and "main" in op and "common" in op["main"]
        }

    whole, some = (
        rounded(f'mnn(8, activations="{method}", samples=4{more})')
        for more in ("", ', keep="bl*,head"')
    )
    assert whole["block"] and whole["head"] and some == {**whole, "block": False, "head": False}
    right = wanted(net)
    assert (
        rms(answers(f'mnn(8, activations="{method}", samples=4, keep="bl*,head")')[0], right) < 0.1
    )
    with pytest.raises(LissomError, match="keep: no layer is called 'blok'; did you mean 'block'"):
        made(f'mnn(8, activations="{method}", samples=4, keep="blok")').export(
            net, tmp_path / "m.mnn", SHAPE, FACTS, lambda count: [images(count)]
        )


@needs_mnn
def test_nothing_is_printed_by_loading(answers: Any) -> None:
    code = f"from lissom.targets.mnn import Mnn; Mnn().load({str(answers('mnn')[1])!r}, 1); print('loaded')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "loaded\n"


@needs_mnn
def test_export_leaves_a_file_and_what_the_quantizer_was_told(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    made('mnn(8, activations="kl", samples=4)').export(
        net, tmp_path / "out" / "m.mnn", SHAPE, FACTS, lambda count: [images(count)]
    )
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"m.mnn", "m.quantizer.json"}
    told = json.loads((tmp_path / "out" / "m.quantizer.json").read_text(encoding="utf-8"))
    assert (
        told["feature_quantize_method"] == "KL"
        and told["used_image_num"] == 4
        and told["path"] == "images/"
    )
    assert "skip_quant_op_names" not in told
    assert list((tmp_path / "scratch").iterdir()) == []


@needs_mnn
def test_a_quantizer_that_dies_is_one_line_that_names_another(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = isolated.child_command

    def dies(*words: Any) -> list[Any]:
        return (
            [sys.executable, "-c", "import os; os.abort()"]
            if words[0] == "mnnquant"
            else real(*words)
        )

    monkeypatch.setattr(isolated, "child_command", dies)
    with pytest.raises(LissomError, match="MNN's quantizer") as caught:
        made('mnn(8, activations="kl", samples=4)').export(
            net, tmp_path / "m.mnn", SHAPE, FACTS, lambda count: [images(count)]
        )
    said = str(caught.value)
    assert "\n" not in said and 'activations="kl"' in said and 'activations="admm" may work' in said
    assert "SIGABRT" in said and not (tmp_path / "m.mnn").exists()


@needs_mnn
def test_a_file_that_answers_unlike_the_network_is_refused(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROUNDING_ERROR", 1e-9)
    with pytest.raises(LissomError, match="answers unlike the network"):
        made('mnn(8, activations="kl", samples=4)').export(
            net, tmp_path / "m.mnn", SHAPE, FACTS, lambda count: [images(count)]
        )
    assert not (tmp_path / "m.mnn").exists()


@needs_mnn
def test_a_quantized_network_is_handed_over_with_its_weights_on_their_grid(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(280, 4)).eval()
    small = lissom.apply("quantize(8, reduce_range=False)", plain, images(1), images(16))
    export_onnx(small, tmp_path / "m.onnx", SHAPE, {}, in_integers=False)
    proto = onnx.load(str(tmp_path / "m.onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in proto.graph.node}
    (weight,) = (
        numpy_helper.to_array(t) for t in proto.graph.initializer if t.dims == [8, 3, 3, 3]
    )
    steps = weight / (np.abs(weight).max((1, 2, 3), keepdims=True) / 127)
    assert (
        np.abs(steps - steps.round()).max() < 1e-3
        and np.abs(weight - plain[0].weight.detach().numpy()).max() > 1e-5
    )
    Mnn().export(small, tmp_path / "m.mnn", SHAPE, {})
    with torch.no_grad():
        right = small(images(5)).numpy()
    assert rms(Mnn().load(tmp_path / "m.mnn", 1)(images(5).numpy()), right) < 0.05


def test_the_quantizer_is_told_the_preprocessing_in_the_order_of_the_channels(
    tmp_path: Path,
) -> None:
    for number, facts in enumerate([FACTS, {}]):
        order = write_calibration_images(tmp_path / str(number), images(3), SHAPE, facts)
        pixels = np.stack(
            [np.asarray(Image.open(p)) for p in sorted((tmp_path / str(number)).iterdir())]
        ).astype(float)
        seen = (pixels - order["mean"]) * order["normal"]
        assert (
            np.abs(seen.transpose(0, 3, 1, 2) - images(3).numpy()).max()
            <= max(order["normal"]) / 1.9
        )
        assert order["format"] == "RGB" and (order["width"], order["height"]) == (7, 9)
        assert (
            order["batch_size"] == order["used_image_num"] == 3
            and order["path"] == f"{tmp_path / str(number)}/"
        )
        json.dumps(order)
    order = write_calibration_images(tmp_path / "known", images(3), SHAPE, FACTS)
    np.testing.assert_allclose(order["mean"], [127.5, 102.0, 76.5])
    np.testing.assert_allclose(order["normal"], [1 / 51, 1 / 63.75, 1 / 127.5])


def test_a_network_with_its_preprocessing_inside_gets_pixels(tmp_path: Path) -> None:
    pixels = torch.arange(63.0).view(1, 1, 9, 7) * 4
    order = write_calibration_images(
        tmp_path / "gray", pixels, (1, 9, 7), {**FACTS, "baked": "true"}
    )
    assert order["format"] == "GRAY" and order["mean"] == [0.0] and order["normal"] == [1.0]
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "gray" / "000000.png")), pixels[0, 0].numpy()
    )


def test_settings_that_cannot_work_are_said_at_once(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="bits=8 fits"):
        made('mnn(4, activations="kl")')
    with pytest.raises(LissomError, match="bits=8 fits"):
        made('mnn(activations="kl")')
    with pytest.raises(LissomError, match="every layer is float"):
        made('mnn(8, keep="stem")')
    with pytest.raises(LissomError, match="leaves nothing out under ema"):
        made('mnn(8, activations="ema", keep="stem")')
    with pytest.raises(LissomError, match="training images"):
        made('mnn(8, activations="kl")').export(net, tmp_path / "m.mnn", SHAPE, {})
    with pytest.raises(LissomError, match="1 or 3 channels"):
        write_calibration_images(tmp_path / "two", torch.zeros(1, 2, 4, 4), (2, 4, 4), {})
    with pytest.raises(LissomError, match="1 or 3 channels"):
        write_calibration_images(tmp_path / "other", images(1), (3, 32, 32), {})


def test_files_of_other_settings_are_kept_apart() -> None:
    names = [
        made(text).file(False, False)
        for text in (
            "mnn",
            "mnn(8)",
            "mnn(4)",
            'mnn(8, activations="kl")',
            'mnn(8, activations="kl", samples=50)',
            'mnn(8, activations="ema")',
        )
    ]
    names += [
        made(f'mnn(8, activations="kl", keep="{some}")').file(False, False)
        for some in ("a.b", "a*b")
    ]
    assert len(set(names)) == 8 and names[:2] == ["mnn/model.mnn", "mnn-8/model.mnn"]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-/.") for name in names)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "was killed by SIGABRT"),
        ("print('about to'); raise SystemExit(3)", "ended with status 3.*about to"),
        ("print('fine')", "left no file.*fine"),
    ],
)
def test_a_process_that_fails_is_one_error(code: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=f"^the converter {said}.*; try another$"):
        isolated.run_isolated(
            [sys.executable, "-c", code],
            tmp_path,
            tmp_path / "made",
            "the converter",
            "try another",
        )


def test_a_process_that_leaves_its_file_is_fine(tmp_path: Path) -> None:
    isolated.run_isolated(
        [sys.executable, "-c", "open('made', 'w')"],
        tmp_path,
        tmp_path / "made",
        "the converter",
        "",
    )
    assert (tmp_path / "made").is_file()


@pytest.mark.parametrize("kind", ["Relu", "Clip", "open"])
def test_an_activation_behind_a_sum_becomes_max_and_min_with_the_same_values(kind: str) -> None:
    ends = {"Relu": [], "Clip": ["low", "high"], "open": ["", "high"]}[kind]
    nodes = [
        helper.make_node("Add", ["x", "x"], ["sum"]),
        helper.make_node("Relu", ["x"], ["z"]),
        helper.make_node("Relu" if kind == "Relu" else "Clip", ["sum", *ends], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 5]) for name in "xyz"]
    graph = helper.make_graph(
        nodes,
        "g",
        values[:1],
        values[1:],
        [
            numpy_helper.from_array(np.float32(end), name)
            for name, end in (("low", -0.5), ("high", 1.5))
            if name in ends
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    right = ReferenceEvaluator(proto).run(None, {"x": x})
    _relu_as_max.write_relu_as_max(proto)
    onnx.checker.check_model(proto, full_check=True)
    assert [n.op_type for n in proto.graph.node][:2] == ["Add", "Relu"], "what reads no sum stays"
    assert [n.op_type for n in proto.graph.node][2:] == {
        "Relu": ["Max"],
        "Clip": ["Max", "Min"],
        "open": ["Min"],
    }[kind]
    for found, value in zip(ReferenceEvaluator(proto).run(None, {"x": x}), right, strict=True):
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "keep", "flat"])
def test_a_mean_over_the_image_becomes_pooling_with_the_same_values(kind: str) -> None:
    axes = numpy_helper.from_array(np.array([-1, 2]), "axes")
    node = (
        helper.make_node(kind, ["x"], ["y"])
        if kind == "GlobalAveragePool"
        else helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=int(kind == "keep"))
    )
    sizes = ["n", 2] if kind == "flat" else ["n", 2, 1, 1]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 5, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
        [] if kind == "GlobalAveragePool" else [axes],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = np.random.default_rng(0).standard_normal((4, 2, 5, 3)).astype(np.float32)
    _pooled.pool_by_window(proto)
    assert [n.op_type for n in proto.graph.node] == ["AveragePool", "Flatten"][
        : 1 + (kind == "flat")
    ]
    onnx.checker.check_model(proto, full_check=True)
    (found,) = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(found, x.mean((2, 3), keepdims=kind != "flat"), atol=1e-6)


def test_a_baked_file_is_calibrated_on_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lissom.Data.of("digits", size=(8, 8))
    task = lissom.Task.of("resnet8", data)
    store = lissom.Store(tmp_path)
    (record,) = lissom.run("fold", task, store)
    seen = list[Tensor]()

    def export(self: Mnn, model: nn.Module, path: Path, *rest: Any) -> None:
        seen.extend(rest[2](20))
        path.write_bytes(b"")

    monkeypatch.setattr(Mnn, "export", export)
    target = made('mnn(8, activations="kl")')
    export_if_missing(
        store, record["key"], target, True, task.fresh, data.calibration, proven=False
    )
    shown = torch.cat(data.calibration(20)).view(20, -1)
    pixels = torch.cat(seen).view(20, -1)
    assert pixels.min() > -1e-3 and 200 < pixels.max() < 255.01
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)
    mean, std = data.mean[0], data.std[0]
    torch.testing.assert_close((pixels / 255 - mean) / std, shown, atol=1e-4, rtol=1e-4)


@needs_mnn
@pytest.mark.parametrize("method", ["kl", "ema"])
def test_a_baked_file_in_integers_answers_like_the_network(method: str, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (120, 3, 16, 16), generator=draw).byte()
    data = lissom.Data.of_dataset(
        (pixels[:40], torch.arange(40) % 3), train=(pixels[40:], torch.arange(80) % 3)
    )
    target = f'mnn(8, activations="{method}", samples=20)'
    task = lissom.Task.of("resnet8", data)
    (record,) = lissom.run("fold", task, lissom.Store(tmp_path), targets=target, bake=True)
    assert record["targets"][target]["agreement"] > 0.8
