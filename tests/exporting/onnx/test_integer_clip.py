"""A ReLU6 before a grid with a larger range keeps the layer before it in integers, with the same
values.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import lissom
from lissom.exporting.onnx.integer_clip import clip_integers
from lissom.targets.onnxruntime import Onnxruntime
from lissom.targets.openvino import Openvino

X = 2 * torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))
ACTS = {"relu6": nn.ReLU6(), "relu": nn.ReLU(), "hardtanh": nn.Hardtanh(-0.5, 0.7)}


def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
    x = net.act(net.stem(x))
    x = net.act(net.one(x)) + x
    x = net.act(net.two(x)) + x
    return net.head(x.mean((2, 3)))


@pytest.mark.parametrize("recipe", ["quantize(8)", "quantize(4, 4)", "quantize(8, 6)"])
@pytest.mark.parametrize("name", ACTS)
def test_every_layer_runs_in_integers(name: str, recipe: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net(
        forward,
        stem=nn.Conv2d(3, 16, 3, padding=1),
        one=nn.Conv2d(16, 16, 3, padding=1),
        two=nn.Conv2d(16, 16, 3, padding=1),
        act=ACTS[name],
        head=nn.Linear(16, 5),
    ).eval()
    with torch.no_grad():
        for layer in (model.stem, model.one, model.two):
            layer.weight.mul_(6)  # so that activations reach 6
    model = lissom.apply(recipe, model, X[:1], X)
    with torch.no_grad():
        wanted = model(X).numpy()
    for target in (Onnxruntime(), Openvino()):
        path = tmp_path / f"{target}.{target.ending}"
        lissom.export(model, str(target), path, (3, 12, 12), X)
        found = target.fused(path)
        assert found is not None and not found.rest, str(target)
        gap = target.load(path, 1)(X.numpy()) - wanted
        assert np.sqrt(np.square(gap).mean() / np.square(wanted).mean()) < 0.02, str(target)


def graph(kind: str, ends: list[float | None], scale: float, zero: int) -> onnx.ModelProto:
    """Return `images` plus 0, clipped, rounded: integers."""
    tensors = {
        "none": np.float32(0),
        "scale": np.float32(scale),
        "zero": np.uint8(zero),
        **{f"end{i}": np.float32(end) for i, end in enumerate(ends) if end is not None},
    }
    names = ["sum", *(f"end{i}" if end is not None else "" for i, end in enumerate(ends))]
    nodes = [
        helper.make_node("Add", ["images", "none"], ["sum"]),
        helper.make_node(kind, names, ["clip"], "clip"),
        helper.make_node("QuantizeLinear", ["clip", "scale", "zero"], ["codes"]),
        helper.make_node("Reshape", ["codes", "shape"], ["out"]),
    ]
    tensors["shape"] = np.int64([-1])
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("out", TensorProto.UINT8, ["n"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def codes_of(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Run a graph as it stands, without optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"images": images})[0])


END = st.one_of(st.none(), st.floats(-20, 20, width=32))


@given(st.floats(2**-10, 3, width=32), st.integers(0, 255), END, END, st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_the_integers_are_the_same(
    scale: float, zero: int, low: float | None, high: float | None, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    ends = sorted([low, high]) if low is not None and high is not None else [low, high]
    edges = [end for end in ends if end is not None] + [(k + 0.5) * scale for k in range(-9, 9)]
    images = np.float32(
        [
            *draw.normal(0, 10, 200),
            *edges,
            *(np.nextafter(np.float32(e), np.float32(99)) for e in edges),
        ]
    )
    for kind in ("Clip", "Relu"):
        proto = graph(kind, ends if kind == "Clip" else [], scale, zero)
        wanted = codes_of(proto, images)
        clip_integers(proto)
        onnx.checker.check_model(proto, full_check=True)
        np.testing.assert_array_equal(codes_of(proto, images), wanted)


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_only_a_grid_that_reaches_beyond_is_clipped() -> None:
    within, beyond = graph("Clip", [0.0, 6.0], 6 / 255, 0), graph("Clip", [0.0, 6.0], 7 / 255, 0)
    for proto in (within, beyond):
        clip_integers(proto)
    assert kinds(within) == ["Add", "Clip", "QuantizeLinear", "Reshape"]
    assert kinds(beyond) == ["Add", "QuantizeLinear", "Clip", "Reshape"]
    ends = {t.name: numpy_helper.to_array(t) for t in beyond.graph.initializer}
    assert [int(ends[name]) for name in beyond.graph.node[2].input[1:]] == [0, round(6 * 255 / 7)]


def test_a_clip_that_others_read_stays() -> None:
    proto = graph("Clip", [0.0, 6.0], 7 / 255, 0)
    proto.graph.node.append(helper.make_node("Neg", ["clip"], ["negative"]))
    proto.graph.output.append(helper.make_tensor_value_info("negative", TensorProto.FLOAT, ["n"]))
    before = proto.SerializeToString()
    clip_integers(proto)
    assert proto.SerializeToString() == before
