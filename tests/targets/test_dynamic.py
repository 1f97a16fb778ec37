"""Linear layers with dynamically quantized inputs: the formula, the files, the kernels that run."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

import lissom
import lissom.surgery.fold
from lissom import LissomError, Recipe, apply
from lissom.grids.dynamic import Dynamic
from lissom.language.context import SurgeryContext
from lissom.language.menu import menu
from lissom.models import factory
from lissom.running.plan import one_target

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*ranges at run time are for linear layers:lissom.LissomWarning"
)

RECIPES = ["quantize(8, 'dynamic')", "quantize(4, 'dynamic')"]
# 8 bits on processors that RECIPES give 7, too
EIGHT = "quantize(8, 'dynamic', reduce_range=False)"
SHAPE = (3, 16, 16)


class Words(nn.Module):
    """A convolution, then linear layers over three axes and over two, with and without bias, and
    batch-norm behind one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 64, 4, 4), nn.BatchNorm2d(64)
        self.one, self.two = nn.Linear(64, 256, bias=False), nn.Linear(256, 64)
        self.last, self.after, self.head = nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.cut(x)).flatten(2).transpose(1, 2)
        y = y + self.two(torch.relu(self.one(y)))
        return self.head(torch.relu(self.after(self.last(y[:, 0]))))


def images(count: int = 6) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def fresh() -> nn.Module:
    torch.manual_seed(0)
    net = Words()
    with torch.no_grad():
        net.after.weight.copy_(torch.linspace(-1, 1.5, 32))
        for _ in range(3):
            net.train()(images(32))
    return net.eval()


@cache
def network(recipe: str) -> Any:
    return apply(recipe, fresh(), images(1))


def outputs(net: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return net.eval()(x).numpy()


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


def target(name: str) -> Any:
    found: Any = one_target(name)
    if found.missing():
        pytest.skip(found.missing())
    return found


def formula(x: np.ndarray) -> np.ndarray:
    """Round as ONNX's DynamicQuantizeLinear and DequantizeLinear do, in float32."""
    low, high = np.minimum(x.min(), np.float32(0)), np.maximum(x.max(), np.float32(0))
    scale = np.float32(high - low) / np.float32(255) or np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return ((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)


# the grid


@settings(max_examples=80, deadline=None, derandomize=True)
@given(shift=st.floats(-5, 5), spread=st.floats(1e-3, 50), seed=st.integers(0, 99))
def test_inputs_are_rounded_over_their_own_range(shift: float, spread: float, seed: int) -> None:
    x = (torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(seed)) + shift) * spread
    found = Dynamic().inputs(x, 8, {}).numpy()
    np.testing.assert_array_equal(found, formula(x.numpy()))
    step = (max(float(x.max()), 0) - min(float(x.min()), 0)) / 255
    assert np.abs(found - x.numpy()).max() <= 1.01 * step and len(np.unique(found)) <= 256


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 3),
        torch.full((2, 3), -4.0),
        torch.full((2, 3), 7.0),
        1e-30 * torch.ones(2, 3),
    ],
)
def test_inputs_of_one_value_stay_what_they_are(x: Tensor) -> None:
    torch.testing.assert_close(Dynamic().inputs(x, 8, {}), x, rtol=1e-5, atol=0)


def test_the_gradient_is_as_if_nothing_were_rounded() -> None:
    x, g = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    found = Dynamic().inputs(x, 8, {})
    (found * g).sum().backward()
    assert torch.equal(x.grad, g) and np.array_equal(
        found.detach().numpy(), formula(x.detach().numpy())
    )


# the network


def test_the_simulation_is_the_formula_layer_by_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)).eval()
    value = torch.randn(64, 12)
    found = outputs(apply(EIGHT, net, value[:1]), value)
    wanted = value.numpy()
    for layer in (net[0], net[2]):
        weight = layer.weight.detach().numpy()
        scale = np.abs(weight).max(1, keepdims=True) / np.float32(127)
        wanted = formula(wanted) @ (np.rint(weight / scale) * scale).T + layer.bias.detach().numpy()
        wanted = np.maximum(wanted, 0) if layer is net[0] else wanted
    assert off(found, wanted) < 1e-3  # a value on the edge between two steps falls either way
    assert off(found, outputs(net, value)) > 3e-3


def test_convolutions_stay_float_with_the_reason_and_no_image_is_needed() -> None:
    step = Recipe(EIGHT).steps[0]
    ctx = SurgeryContext(images(1), lambda count: [], where=str(step))
    small: Any = step(fresh(), ctx)
    assert ctx.facts["left_float"] == {"cut": "ranges at run time are for linear layers"}
    assert ctx.facts["quantized"] == 4 and ctx.facts["ranges"] == {} and not small.shared
    rows = {
        row["name"]: (row["weights"]["bits"], row["inputs"]["grid"]) for row in ctx.facts["layers"]
    }
    assert rows == {"cut": (32, None)} | dict.fromkeys(
        ("one", "two", "last", "head"), (8, "dynamic")
    )
    cut, plain = small.network.cut, fresh()
    lissom.surgery.fold.fold_batchnorms(plain, images(1))  # type: ignore[attr-defined]
    torch.testing.assert_close(cut.in_inference()[0], plain.cut.weight.detach())
    assert 1e-3 < off(outputs(small, images()), outputs(fresh(), images())) < 0.05
    np.testing.assert_array_equal(outputs(small, images()), outputs(network(EIGHT), images()))


def test_the_range_is_that_of_the_whole_call() -> None:
    net = network(RECIPES[0])
    alone = outputs(net, images(1))
    beside = outputs(net, torch.cat([images(1), 30 * images(2)[1:]]))[:1]
    assert off(beside, alone) > 0.01


@pytest.mark.parametrize(
    "recipe", ["quantize(8, grid='dynamic')", "quantize(8, inputs_grid='dynamic')"]
)
def test_the_grid_by_its_name_is_the_same(recipe: str) -> None:
    np.testing.assert_array_equal(
        outputs(network(recipe), images()), outputs(network(RECIPES[0]), images())
    )


def test_layers_are_chosen_as_ever() -> None:
    kept = [
        m
        for m in network("quantize(8, 'dynamic', keep='one', last=32)").layers()
        if m.rounding is not None
    ]
    assert [m.out_features for m in kept] == [64, 32]
    assert all(m.own_input_rounding is not None for m in kept)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("quantize(32, 'dynamic')", "integers fit"),
        ("quantize(8, 'dynamic', range='mse')", "leave range out"),
        ("quantize(4, 4, grid='dynamic')", "has no 4 bits for inputs"),
        ("quantize(4, inputs_grid='dynamic', range='ema')", "leave range out"),
    ],
)
def test_settings_that_mean_nothing_are_refused(recipe: str, says: str) -> None:
    with pytest.raises(LissomError, match=says):
        Recipe(recipe)


def test_a_network_of_convolutions_alone_and_images_that_are_missing() -> None:
    with pytest.raises(LissomError, match="or no linear layer"):
        apply(
            RECIPES[0], nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), images(1)
        )
    for recipe in (
        "quantize(4, 'dynamic', rounding='learned', steps=1)",
        "quantize(4, 'dynamic', correct=True)",
    ):
        with pytest.raises(LissomError, match="no calibration images"):
            apply(recipe, fresh(), images(1), images(0))
        apply(recipe, fresh(), images(1), images())


def test_it_learns_is_saved_and_comes_back(tmp_path: Path) -> None:
    small = copy.deepcopy(network(RECIPES[0]))
    optimizer, losses = torch.optim.SGD(small.parameters(), lr=0.1, momentum=0.9), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(small.train()(images(32)), torch.arange(32) % 10)
        loss.backward()
        assert all(
            m.weight.grad is not None and bool(m.weight.grad.abs().sum() > 0)
            for m in small.layers()
        )
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    lissom.save(small, tmp_path)
    again = lissom.load(tmp_path, Words())
    np.testing.assert_array_equal(outputs(again, images()), outputs(small, images()))
    one_target("onnxruntime").export(again, tmp_path / "m.onnx", SHAPE, {})  # type: ignore[attr-defined]
    assert (
        off(
            target("onnxruntime").load(tmp_path / "m.onnx", 1)(images().numpy()),
            outputs(small, images()),
        )
        < 1e-4
    )


def test_other_ranges_can_follow_and_go_before() -> None:
    static = outputs(apply("quantize(8)", fresh(), images(1), images()), images())
    after = apply(f"{RECIPES[0]} | quantize(8)", fresh(), images(1), images())
    np.testing.assert_array_equal(outputs(after, images()), static)
    np.testing.assert_array_equal(
        outputs(apply(f"quantize(8) | {RECIPES[0]}", fresh(), images(1), images()), images()),
        outputs(network(RECIPES[0]), images()),
    )


# files


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return the file of a network for a runtime, exported once."""

    @cache
    def exported(recipe: str, runtime: str) -> Path:
        where = target(runtime)
        path = tmp_path_factory.mktemp("file") / f"m.{where.ending}"
        where.export(network(recipe), path, SHAPE, {"baked": "false"})
        return path

    return exported


@pytest.mark.parametrize("recipe", [*RECIPES, "mask(0.5) | quantize(8, 'dynamic')"])
@pytest.mark.parametrize("runtime", list(menu("targets")))
def test_the_file_answers_as_the_simulation_does(
    recipe: str, runtime: str, file: Callable[[str, str], Path]
) -> None:
    where, net = target(runtime), network(recipe)
    run, worst = where.load(file(recipe, runtime), 1), 0.0
    for x in (images(), images(1), 20 * images(3) + 5, torch.zeros(2, *SHAPE)):
        found, wanted = run(x.numpy()), outputs(net, x)
        assert found.shape == wanted.shape
        worst = max(worst, off(found, wanted))
    print(f"{runtime} {recipe}: {worst:.2g}")
    assert worst < (0.05 if runtime in ("mnn", "ncnn") else 1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_onnx_runtime_makes_one_integer_product_of_each_linear_layer(
    recipe: str, file: Callable[[str, str], Path], tmp_path: Path
) -> None:
    import onnxruntime as ort

    where, path = target("onnxruntime"), file(recipe, "onnxruntime")
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = (
        str(tmp_path / "optimised.onnx"),
        4,
    )
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = Counter(n.op_type for n in onnx.load(str(tmp_path / "optimised.onnx")).graph.node)
    assert kinds["DynamicQuantizeMatMul"] == 4
    assert not kinds.keys() & {
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeLinear",
        "MatMul",
        "Gemm",
        "Mul",
    }
    found = where.fused(path)
    assert found.done == 4 and found.total == 6 and len(found.rest) == 2, (
        "the convolution and the addition are float"
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_in_the_file_are_one_byte_each_and_the_float_ones_are_gone(
    recipe: str, tmp_path: Path
) -> None:
    net = network(recipe)
    lissom.export(net, "onnxruntime", tmp_path / "m.onnx", SHAPE)
    lissom.export(fresh(), "onnxruntime", tmp_path / "float.onnx", SHAPE)
    tensors = onnx.load(str(tmp_path / "m.onnx")).graph.initializer
    stored = [numpy_helper.to_array(t) for t in tensors if t.data_type == TensorProto.INT8]
    layers = [m for m in net.layers() if m.rounding is not None]
    assert len(stored) == len(layers) == 4
    for layer in layers:
        codes = layer.integers()[0].numpy().T
        assert any(s.shape == codes.shape and (s == codes).all() for s in stored)
    assert not any(t.data_type == TensorProto.FLOAT and len(t.dims) == 2 for t in tensors)
    share = (tmp_path / "m.onnx").stat().st_size / (tmp_path / "float.onnx").stat().st_size
    print(f"{recipe}: {(tmp_path / 'm.onnx').stat().st_size} bytes, {share:.3f} of float")
    assert share < 0.4


def test_openvino_packs_weights_of_four_bits(file: Callable[[str, str], Path]) -> None:
    sizes = [file(recipe, "openvino").stat().st_size for recipe in RECIPES]
    assert sizes[1] < sizes[0] - 0.3 * 2 * 64 * 256


def test_it_is_what_the_tool_of_onnx_runtime_makes_of_the_float_file(tmp_path: Path) -> None:
    """Its own quantizer, weights per channel: the same integers, the same answers."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = fresh()
    lissom.surgery.fold.fold_batchnorms(plain, images(1))  # type: ignore[attr-defined]
    lissom.export(plain, "onnxruntime", tmp_path / "float.onnx", SHAPE)
    quantize_dynamic(
        tmp_path / "float.onnx",
        tmp_path / "other.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )
    lissom.export(network(EIGHT), "onnxruntime", tmp_path / "m.onnx", SHAPE)
    mine, other = (
        [
            numpy_helper.to_array(t)
            for t in onnx.load(str(tmp_path / name)).graph.initializer
            if t.data_type == TensorProto.INT8 and len(t.dims) == 2
        ]
        for name in ("m.onnx", "other.onnx")
    )
    assert len(mine) == len(other) == 4
    for weight in mine:
        near = [w for w in other if w.shape == weight.shape]
        # a tie in a weight may fall to either side, since the scale is computed in another order
        assert any(
            (w == weight).mean() > 0.99 and np.abs(w.astype(int) - weight).max() <= 1 for w in near
        )
    run = target("onnxruntime").load
    for x in (images(), images(1), 9 * images(4)):
        found, wanted = (
            run(tmp_path / "m.onnx", 1)(x.numpy()),
            run(tmp_path / "other.onnx", 1)(x.numpy()),
        )
        print(
            f"off by {off(found, wanted):.2g}, of float "
            f"{off(run(tmp_path / 'float.onnx', 1)(x.numpy()), wanted):.2g}"
        )
        assert off(found, wanted) < 1e-3


def test_a_network_of_convolutions_and_one_linear_layer_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = factory("resnet8")(num_classes=4)
    net(images(32))
    small = apply(RECIPES[0], net.eval(), images(1))
    assert isinstance(small, nn.Module)
    for runtime in ("onnxruntime", "openvino"):
        lissom.export(small, runtime, tmp_path / "m.onnx", SHAPE)
        assert (
            off(
                target(runtime).load(tmp_path / "m.onnx", 1)(images().numpy()),
                outputs(small, images()),
            )
            < 1e-3
        )
