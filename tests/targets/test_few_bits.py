"""Low-bit networks in the runtimes: the values of the simulation, all layers in integers, few bytes
on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import images, residual, seasoned
from onnx import numpy_helper
from torch import nn

from lissom import apply
from lissom.exporting.openvino_ir import extract_ir
from lissom.models import factory
from lissom.running.plan import one_target
from lissom.surgery.quantization.network import QuantizedNetwork

BITS = [
    "quantize(4, 4)",
    "quantize(2, 2)",
    "quantize(4)",
    "quantize(8, 4)",
    "quantize('ternary', 8)",
    "quantize('ternary', 32)",
    "quantize('binary', 8)",
    "quantize('binary', 'binary')",
    "quantize(8, 'ternary')",
    "quantize(4, 4, grid='dorefa')",
    "quantize(4, 4, inputs_grid='pact')",
    "quantize(3, grid='pow2')",
    "quantize(8, fold=False)",
    "quantize(5, 6)",
]
# of OpenVINO, which prefers bf16 where the processor has it
FLOATS = {"INFERENCE_PRECISION_HINT": "f32"}
FLOAT = {"quantize('ternary', 32)", "quantize('binary', 'binary')"}  # ONNX Runtime's, in part


@cache
def network(recipe: str) -> Any:
    """Return a quantized network whose batch-norm and learned steps have moved from where they began."""
    torch.manual_seed(0)
    # signs follow batch-norm
    net = factory("nin-quarter")(num_classes=4) if "'binary')" in recipe else residual()
    net.train()(images())
    found = apply(recipe, net.eval(), images(1), images())
    optimizer = torch.optim.SGD(found.parameters(), lr=0.01)
    found.train()(images()).square().mean().backward()
    optimizer.step()
    return found.eval()


@cache
def answers(recipe: str) -> np.ndarray:
    with torch.no_grad():
        return network(recipe)(images()).numpy()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return the file of a network for a runtime, exported once."""

    @cache
    def exported(recipe: str, runtime: str) -> Path:
        target: Any = one_target(runtime)
        path = tmp_path_factory.mktemp("file") / "model"
        target.export(network(recipe), path, (3, 16, 16), {"baked": "false"})
        return path

    return exported


@pytest.mark.parametrize("recipe", BITS)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_the_file_answers_as_the_simulation_does(
    recipe: str, runtime: str, file: Callable[[str, str], Path]
) -> None:
    target: Any = one_target(runtime)
    path = file(recipe, runtime)
    wanted = answers(recipe)
    found = target.load(path, 1)(images().numpy())
    rms = float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))
    # a batch-norm of its own is rounded in another order
    separate = runtime == "openvino" and "fold=False" in recipe
    assert rms < (0.06 if separate else 0.015)
    one = target.load(path, 1)(images(1).numpy())
    np.testing.assert_allclose(one, found[:1], atol=0.03 * np.abs(wanted).max())
    fused = target.fused(path)
    if (
        fused is not None
        and not (recipe in FLOAT and runtime == "onnxruntime")
        and ", 32)" not in recipe
    ):
        assert fused.rest == () and fused.total >= len(network(recipe).layers()) >= 5


@pytest.mark.parametrize("recipe", ["quantize(8, 32)", "quantize('ternary', 32)", "quantize(4, 8)"])
def test_weights_that_meet_floats_are_widened_once(recipe: str, tmp_path: Path) -> None:
    """ONNX Runtime would run DequantizeLinear at every call: three times as slow as float."""
    target: Any = one_target("onnxruntime")
    target.export(
        apply(recipe, residual(), images(1), images()),
        tmp_path / "m.onnx",
        (3, 16, 16),
        {"baked": "false"},
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds.count("Cast") == (0 if recipe == "quantize(4, 8)" else 5)
    assert ("DequantizeLinear" in kinds) == (recipe == "quantize(4, 8)")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(tmp_path / "m.onnx", options, providers=["CPUExecutionProvider"])
    assert "Cast" not in [
        node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node
    ]


@pytest.mark.parametrize("name", ["nin_bac-quarter", "nin_gc_bac-quarter"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_signs_may_be_taken_of_pooled_sums(runtime: str, name: str, tmp_path: Path) -> None:
    target: Any = one_target(runtime)
    small: Any = apply("quantize('binary', 'binary')", seasoned(name), images(1), images())
    assert small.skipped == {f"relu{k}" for k in range(2, 9)}
    target.export(small, tmp_path / "m", (3, 16, 16), {"baked": "false"})
    with torch.no_grad():
        np.testing.assert_allclose(
            target.load(tmp_path / "m", 1)(images().numpy()), small(images()).numpy(), atol=1e-5
        )


@pytest.mark.parametrize(
    "recipe", ["quantize(4, 4)", "quantize(2, 2)", "quantize('binary', 'binary')"]
)
@pytest.mark.parametrize("runtime", ["mnn", "ncnn"])
def test_runtimes_without_few_bits_round_in_float(
    runtime: str, recipe: str, tmp_path: Path
) -> None:
    target: Any = one_target(runtime)
    if target.missing() is not None:
        pytest.skip(target.missing())
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(1152, 4),
    ).eval()
    small = apply(recipe, plain, images(1), images(16))
    target.export(small, tmp_path / "m", (3, 16, 16), {})
    with torch.no_grad():
        wanted = small(images(5)).numpy()
    found = target.load(tmp_path / "m", 1)(images(5).numpy())
    assert np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()) < 0.05


@pytest.mark.parametrize(
    "recipe", [r for r in BITS if not r.startswith(("quantize(8", "quantize(5"))]
)
def test_the_integers_in_the_file_are_as_few_as_the_bits_say(
    recipe: str, file: Callable[[str, str], Path]
) -> None:
    net: QuantizedNetwork = network(recipe)
    stored = [
        numpy_helper.to_array(t)
        for t in onnx.load(file(recipe, "onnxruntime")).graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1
    ]
    few = 0
    for layer in net.layers():
        assert layer.rounding is not None
        codes = layer.integers()[0].numpy()
        most = 3 if layer.rounding.grid.name() == "ternary" else 2**layer.rounding.bits
        assert all(len(np.unique(row)) <= most for row in codes)
        assert any(s.shape == codes.shape and (s == codes).all() for s in stored)
        few += layer.rounding.bits <= 4
    assert few == len(net.layers()) - 2, "all but the first and the last"


def test_openvino_files_hold_half_a_byte_and_a_bit(file: Callable[[str, str], Path]) -> None:
    bits = {}
    for recipe in ("quantize(8)", "quantize(4, 4)", "quantize('binary', 'binary')"):
        weights = sum(layer.weight.numel() for layer in network(recipe).layers())
        bits[recipe] = 8 * file(recipe, "openvino").stat().st_size / weights
    assert (
        bits["quantize(8)"] > 8 > bits["quantize(4, 4)"] + 2
        and bits["quantize('binary', 'binary')"] < 4
    )


def test_a_saved_network_of_few_bits_says_so(tmp_path: Path) -> None:
    import lissom
    from lissom.store.snapshot import has_packable_weights

    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)
    )
    for recipe, few in (("quantize(4)", True), ("quantize(8)", False), ("quantize(5)", False)):
        lissom.save(apply(recipe, net, images(1), images()), tmp_path / recipe)
        assert has_packable_weights(tmp_path / recipe) is few


def test_openvino_opens_single_bits_by_itself(tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino")
    recipe = "quantize('binary', 'binary')"
    target: Any = one_target("openvino")
    target.export(network(recipe), tmp_path / "m.xml", (3, 16, 16), {"baked": "false"})
    model = ov.Core().read_model(tmp_path / "m.xml")
    assert any(op.get_type_name() == "BinaryConvolution" for op in model.get_ops())
    for count in (1, 8):
        model.reshape([count, 3, 16, 16])
        file = str(tmp_path / "m.xml") if count == 1 else model
        found = ov.Core().compile_model(file, "CPU", FLOATS)([images(8)[:count].numpy()])[0]
        np.testing.assert_allclose(
            found, answers(recipe)[:count], atol=0.03 * np.abs(answers(recipe)).max()
        )
    np.testing.assert_allclose(
        target.load(tmp_path / "m.xml", 1)(images(8).numpy()), found, atol=1e-5
    )


def test_openvino_opens_two_files_by_itself(
    file: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """A few-bit network exported to .xml needs no lissom to run."""
    ov = pytest.importorskip("openvino")
    target: Any = one_target("openvino")
    target.export(network("quantize(4, 4)"), tmp_path / "m.xml", (3, 16, 16), {"baked": "false"})
    extract_ir(file("quantize(4, 4)", "openvino"), tmp_path / "n.xml")
    for name in ("m.xml", "n.xml"):
        found = ov.Core().compile_model(str(tmp_path / name), "CPU", FLOATS)([images(8).numpy()])[0]
        np.testing.assert_allclose(
            found,
            answers("quantize(4, 4)")[:8],
            atol=0.05 * np.abs(answers("quantize(4, 4)")).max(),
        )
        again = target.load(tmp_path / name, 1)(images(8).numpy())
        np.testing.assert_allclose(again, answers("quantize(4, 4)")[:8], atol=1e-3)
