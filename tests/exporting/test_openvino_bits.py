"""One-bit layers in OpenVINO give exactly the outputs of a convolution of signs, and take one bit
per weight.
"""

from __future__ import annotations

import gc
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

ov = pytest.importorskip("openvino")

from lissom.exporting.openvino_bits import use_binary_convolutions  # noqa: E402
from lissom.exporting.openvino_ir import convert_to_ir  # noqa: E402
from lissom.targets.openvino import Openvino  # noqa: E402

MOST = np.float32(np.finfo(np.float32).max)


@dataclass
class Graph:
    """An ONNX graph under construction: every method adds nodes and returns the name of what they compute."""

    channels: int
    size: int
    seed: int = 0
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def keep(self, value: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, **settings: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [name], name=f"node_{name}", **settings)
        )
        return name

    def binary(self, x: str, low: int = -1) -> str:
        one = np.uint8(1)
        compared = self.add("GreaterOrEqual", x, self.keep(np.float32(0)))
        chosen = self.add(
            "Where", compared, self.keep(one if low == 0 else one + one), self.keep(np.uint8(0))
        )
        return self.add(
            "DequantizeLinear", chosen, self.keep(np.float32(1)), self.keep(np.uint8(-low))
        )

    def normalised(self, x: str, norm: nn.BatchNorm2d) -> str:
        numbers = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        return self.add(
            "BatchNormalization",
            x,
            *(self.keep(n.detach().numpy()) for n in numbers),
            epsilon=norm.eps,
        )

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        pad: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: str = "",
    ) -> str:
        """Add a layer of binary weights. Its scales are powers of two and so sums are exact in any order."""
        weight = self.random.choice(
            np.array([-1, 1], np.int8), (outputs, inputs // groups, kernel, kernel)
        )
        scale = 2.0 ** self.random.integers(-3, 3, outputs)
        names = [
            self.keep(weight),
            self.keep(scale.astype(np.float32)),
            self.keep(np.zeros(outputs, np.int8)),
        ]
        names = [x, self.add("DequantizeLinear", *names, axis=0)]
        number = self.random.integers(-40, 40, outputs)
        if bias == "float":
            number = number + 2.0**-6  # 12 bits: more than float16 has
            names.append(self.keep(number.astype(np.float32) / 4))
        elif bias == "int32":
            step, zero = (
                self.keep(np.full(outputs, 0.25, np.float32)),
                self.keep(np.zeros(outputs, np.int32)),
            )
            names.append(
                self.add("DequantizeLinear", self.keep(number.astype(np.int32)), step, zero, axis=0)
            )
        self.last = torch.from_numpy((weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32))
        self.last_bias = torch.from_numpy(number / 4).float() if bias else None
        return self.add(
            "Conv",
            *names,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            dilations=[dilation] * 2,
            group=groups,
        )

    def proto(self, output: str, shape: list[Any] | None = None) -> onnx.ModelProto:
        """Return the model that computes `output` of images (n c h w)."""
        shape = shape or ["batch", self.channels, self.size, self.size]
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, list("nopq")[: len(shape)])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def read(proto: onnx.ModelProto) -> Any:
    return ov.Core().read_model(proto.SerializeToString())


def answer(model: Any, images: np.ndarray) -> np.ndarray:
    """Run a model in OpenVINO on images of one shape."""
    model = model.clone()
    model.reshape(images.shape)
    compiled = ov.Core().compile_model(
        model, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    )
    return compiled([images])[0].copy()


def kinds(model: Any) -> list[str]:
    return [op.get_type_name() for op in model.get_ops()]


def names(model: Any) -> set[str]:
    return {op.get_friendly_name() for op in model.get_ops()}


def signs(x: np.ndarray | Tensor, low: int = -1) -> Tensor:
    return torch.where(torch.as_tensor(x) >= 0, 1.0, float(low))


def images(channels: int, size: int, count: int = 2, seed: int = 0) -> np.ndarray:
    """Return images of which a third of the numbers are 0, exactly on the threshold."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, channels, size, size)).astype(np.float32)
    return np.where(random.random(x.shape) < 1 / 3, np.float32(0), x)


def check_layer(
    inputs: int,
    outputs: int,
    kernel: int,
    size: int,
    stride: int,
    pad: int,
    dilation: int,
    low: int,
    seed: int = 0,
) -> None:
    """Compare one layer with PyTorch's convolution of signs."""
    graph = Graph(inputs, size, seed)
    y = graph.conv(
        graph.binary("images", low), inputs, outputs, kernel, stride, pad, dilation, bias="float"
    )
    model, done, left = use_binary_convolutions(read(graph.proto(y)))
    assert (len(done), left) == (1, {})
    assert "Convolution" not in kinds(model) and "Select" not in kinds(model)
    x = images(inputs, size, seed=seed)
    expected = F.conv2d(signs(x, low), graph.last, graph.last_bias, stride, pad, dilation).numpy()
    np.testing.assert_array_equal(answer(model, x), expected)


@pytest.mark.parametrize("low", [-1, 0])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "dilation"),
    [
        (1, 1, 0, 1),
        (1, 2, 0, 1),
        (3, 1, 1, 1),
        (3, 2, 1, 1),
        (3, 1, 2, 2),
        (3, 1, 0, 3),
        (5, 1, 2, 1),
        (5, 2, 1, 1),
        (7, 2, 2, 1),
        (4, 3, 0, 1),
    ],
)
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(64, 64), (8, 10), (40, 3), (12, 17), (3, 8), (1, 1)]
)
def test_a_layer_answers_like_a_convolution_of_signs(
    inputs, outputs, kernel, stride, pad, dilation, low
):
    check_layer(inputs, outputs, kernel, 9, stride, pad, dilation, low)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "dilation", "size"),
    [
        (7, 1, 3, 1, 9),
        (7, 2, 3, 1, 9),
        (3, 1, 3, 1, 5),
        (5, 3, 2, 1, 12),
        (9, 2, 2, 1, 9),
        (2, 1, 2, 4, 3),
        (5, 1, 2, 1, 1),
    ],
)
def test_padding_that_the_kernels_do_not_take_is_made_another_way(
    kernel, stride, pad, dilation, size
):
    check_layer(24, 5, kernel, size, stride, pad, dilation, -1)


@pytest.mark.parametrize("pads", [[0, 0, 3, 3], [3, 3, 0, 0], [0, 1, 2, 0], [0, 0, 0, 8]])
def test_padding_may_differ_between_the_sides(pads):
    graph = Graph(16, 8)
    y = graph.conv(graph.binary("images"), 16, 8, 5)
    del graph.nodes[-1].attribute[:]
    graph.nodes[-1].attribute.append(helper.make_attribute("pads", pads))
    model, done, _ = use_binary_convolutions(read(graph.proto(y)))
    top, left, bottom, right = pads
    assert done
    x = images(16, 8)
    expected = F.conv2d(F.pad(signs(x), (left, right, top, bottom)), graph.last).numpy()
    np.testing.assert_array_equal(answer(model, x), expected)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(1, 7),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_any_layer_answers_like_a_convolution_of_signs(
    inputs, outputs, kernel, size, stride, pad, dilation, seed
):
    check_layer(
        inputs,
        outputs,
        kernel,
        max(size, dilation * (kernel - 1) + 1 - 2 * pad),
        stride,
        pad,
        dilation,
        -1,
        seed,
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(1, 5),
    st.integers(4, 12),
    st.integers(1, 4),
    st.integers(0, 1),
    st.integers(0, 99),
)
def test_any_layer_of_zeros_and_ones_answers_too(inputs, outputs, kernel, size, stride, pad, seed):
    check_layer(inputs, outputs, kernel, max(size, kernel), stride, pad, 1, 0, seed)


NEAR = [*range(-30, 31), *(sign * 2**k for sign in (-1, 1) for k in range(5, 16))]


def around(points: np.ndarray) -> np.ndarray:
    """Return images (n c 1 1) of each channel's point, float32 numbers near it on both sides, and
    extremes.
    """
    found = [points + n * np.spacing(np.abs(points)) for n in NEAR]
    found += [
        np.full_like(points, v) for v in (-MOST, -1, -(2.0**-126), -0.0, 0, 2.0**-126, 1, MOST)
    ]
    x = np.stack(found).astype(np.float32)[:, :, None, None]
    # some processors flush smaller ones to 0
    return np.where(np.abs(x) < 2.0**-126, np.float32(0), x)


def identity(graph: Graph, x: str, channels: int, low: int) -> str:
    """Add a layer whose outputs tell every input bit apart: weights -1 but for one."""
    weight = np.where(np.eye(channels), 1, -1).astype(np.int8)[:, :, None, None]
    scale, zero = graph.keep(np.ones(channels, np.float32)), graph.keep(np.zeros(channels, np.int8))
    graph.last = torch.from_numpy(weight).float()
    return graph.add(
        "Conv",
        graph.binary(x, low),
        graph.add("DequantizeLinear", graph.keep(weight), scale, zero, axis=0),
    )


@pytest.mark.parametrize("low", [-1, 0])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_norm_becomes_the_threshold_with_every_sign_of_gamma(seed, low):
    channels = 96
    graph, torch_random = Graph(channels, 1, seed), torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        tensor.data.normal_(generator=torch_random)
    norm.running_var.uniform_(0.01, 3, generator=torch_random)
    norm.weight.data[:8], norm.bias.data[:4] = 0, 0  # with bias 0, every answer is sign(0) = 1
    norm.bias.data[8:20], norm.running_mean[8:20] = 0, 0  # the threshold is exactly 0
    norm.bias.data[20:24], norm.weight.data[20:24] = 5, torch.tensor([1e-38, -1e-38, 1e-42, 0])
    turn = np.where(np.arange(channels) % 2, -2, 2).astype(np.float32).reshape(1, -1, 1, 1)
    y = identity(
        graph, graph.add("Mul", graph.normalised("images", norm), graph.keep(turn)), channels, low
    )
    model, done, _ = use_binary_convolutions(read(graph.proto(y)))
    assert done and not {"BatchNormInference", "GreaterEqual"} & set(kinds(model))

    with torch.no_grad():
        alpha = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        # rounded as PyTorch's kernels do
        points = (norm.running_mean.double() * alpha - norm.bias).float() / alpha
        x = around(points.nan_to_num(0, 0, 0).numpy())
        bits = norm(torch.from_numpy(x)) * torch.from_numpy(turn) >= 0
    varying = bits[: len(NEAR)].float().mean(0).ravel()
    assert ((varying[24:] > 0) & (varying[24:] < 1)).all(), (
        "every threshold is crossed among the inputs"
    )
    expected = F.conv2d(torch.where(bits, 1.0, float(low)), graph.last).numpy()
    np.testing.assert_array_equal(answer(model, x), expected)


@pytest.mark.parametrize("order", ["Mul Add", "Add Mul", "Sub Mul Add", "Mul Sub", ""])
def test_constants_per_channel_become_the_threshold(order):
    channels = 48
    graph, y = Graph(channels, 1), "images"
    steps = []
    for kind in order.split():
        number = graph.random.standard_normal((1, channels, 1, 1)).astype(np.float32)
        y = graph.add(
            kind, *((graph.keep(number), y) if kind == "Add" else (y, graph.keep(number)))
        )
        steps.append((getattr(torch, kind.lower()), torch.from_numpy(number)))

    def stepped(x: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(x)
        for step, number in steps:
            y = step(y, number)
        return y.numpy()

    model, done, _ = use_binary_convolutions(read(graph.proto(identity(graph, y, channels, -1))))
    assert done and set(kinds(model)) <= {
        "Parameter",
        "Constant",
        "FakeQuantize",
        "BinaryConvolution",
        "Multiply",
        "Result",
    }
    assert kinds(model).count("Multiply") == 1, "the scale's"
    values = stepped(
        np.stack([np.zeros(channels), np.ones(channels)]).astype(np.float32)[:, :, None, None]
    )[:, :, 0, 0]
    # a straight line crosses 0 there
    x = around((values[0] / (values[0] - values[1])).astype(np.float32))
    bits = signs(stepped(x))
    assert (bits[: len(NEAR)].std(0) > 0).all() or not order, (
        "every threshold is crossed among the inputs"
    )
    np.testing.assert_array_equal(answer(model, x), F.conv2d(bits, graph.last).numpy())


def test_a_step_that_others_read_is_no_threshold():
    graph = Graph(8, 4)
    scaled = graph.add("Mul", "images", graph.keep(np.float32(-2)))
    y = graph.add("Add", scaled, identity(graph, scaled, 8, -1))
    model, done, _ = use_binary_convolutions(read(graph.proto(y)))
    assert done
    bits = next(op for op in model.get_ops() if op.get_type_name() == "FakeQuantize")
    assert bits.input_value(0).get_node().get_type_name() == "Multiply", (
        "computed once, for both readers"
    )
    x = images(8, 4)
    expected = -2 * x + F.conv2d(signs(-2 * x), graph.last).numpy()
    np.testing.assert_array_equal(answer(model, x), expected)


def test_a_step_that_two_comparisons_read_is_the_threshold_of_both():
    graph = Graph(8, 4)
    scaled = graph.add("Mul", "images", graph.keep(np.float32(-2)))
    y = graph.add("Add", identity(graph, scaled, 8, -1), identity(graph, scaled, 8, -1))
    model, done, _ = use_binary_convolutions(read(graph.proto(y)))
    bits = [
        op.input_value(0).get_node().get_type_name()
        for op in model.get_ops()
        if op.get_type_name() == "FakeQuantize"
    ]
    assert len(done) == 2 and bits == ["Parameter"] * 2
    x = images(8, 4)
    np.testing.assert_array_equal(answer(model, x), 2 * F.conv2d(signs(-2 * x), graph.last).numpy())


def test_a_constant_that_differs_along_the_width_is_no_threshold():
    graph = Graph(8, 8)
    shifted = graph.add("Add", "images", graph.keep(np.linspace(-1, 1, 8, dtype=np.float32)))
    model, done, _ = use_binary_convolutions(read(graph.proto(identity(graph, shifted, 8, -1))))
    assert done
    x = images(8, 8)
    expected = F.conv2d(signs(x + np.linspace(-1, 1, 8, dtype=np.float32)), graph.last).numpy()
    np.testing.assert_array_equal(answer(model, x), expected)


def network(width: int = 16, seed: int = 0) -> Graph:
    """Return a small residual network: float stem, binary blocks with and without change of size, pooling."""
    graph = Graph(3, 12, seed)
    stem = graph.random.integers(-8, 9, (width, 3, 3, 3)).astype(np.float32) / 8
    y = graph.add("Conv", "images", graph.keep(stem), kernel_shape=[3, 3], pads=[1] * 4)
    for inputs, outputs, stride in (
        (width, width, 1),
        (width, 2 * width, 2),
        (2 * width, 2 * width, 1),
    ):
        norm = nn.BatchNorm2d(inputs).eval()
        norm.weight.data = torch.from_numpy(
            graph.random.choice([-0.5, 0.5, 1], inputs).astype(np.float32)
        )
        norm.bias.data = torch.from_numpy(graph.random.integers(-3, 4, inputs).astype(np.float32))
        bits = graph.binary(graph.normalised(y, norm))
        first = graph.conv(bits, inputs, outputs, 3, stride, 1, bias="int32")
        short = y if stride == 1 else graph.conv(bits, inputs, outputs, 1, stride)
        y = graph.add("Add", first, short)
        y = graph.add(
            "Add", y, graph.conv(graph.binary(y), outputs, outputs, 3, 1, 1, bias="float")
        )
    graph.output = graph.add("GlobalAveragePool", y)
    return graph


@pytest.mark.parametrize("width", [16, 20, 15])
def test_a_network_answers_as_it_does_in_onnx_runtime(width):
    import onnxruntime

    graph = network(width)
    proto = graph.proto(graph.output)
    model, done, left = use_binary_convolutions(read(proto))
    assert (len(done), left) == (7, {})
    x = np.round(images(3, 12, 8) * 4) / 4  # sums of these are exact in float32
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"images": x})[0]
    np.testing.assert_array_equal(answer(model, x), expected)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    between=st.lists(st.sampled_from(["Relu", "HardSwish", "Abs", "Mul", "Add"]), max_size=2),
    swapped=st.booleans(),
    short=st.sampled_from(["Conv", "Relu", "images", "signs", "itself"]),
    low=st.sampled_from([-1, 0]),
    last=st.booleans(),
    twice=st.booleans(),
)
@example(between=["Add", "Relu"], swapped=False, short="Conv", low=-1, last=False, twice=True)
def test_a_sum_of_which_signs_alone_are_read_keeps_both_its_sides(
    between, swapped, short, low, last, twice
):
    """OpenVINO would make the other side binary as well, where it computes the sum within the convolution."""
    import onnxruntime

    graph = Graph(16, 8)
    stem = graph.random.integers(-8, 9, (16, 16, 1, 1)).astype(np.float32) / 8
    y = graph.add("Conv", "images", graph.keep(stem), kernel_shape=[1, 1])
    one = graph.conv(graph.binary(y, low), 16, 16, 3, pad=1, bias="float")
    if short == "Conv":
        other = y
    elif short == "Relu":
        other = graph.add("Relu", y)
    elif short == "signs":
        other = graph.conv(graph.binary(y), 16, 16, 1)
    else:
        other = "images" if short == "images" else one
    y = graph.add("Add", *((other, one) if swapped else (one, other)))
    for step in between:
        number = graph.keep(
            graph.random.choice(np.array([-0.5, 0.25, 2], np.float32), (1, 16, 1, 1))
        )
        y = graph.add(step, y, number) if step in ("Mul", "Add") else graph.add(step, y)
    bits = graph.binary(graph.add("Add", y, graph.keep(np.float32(-0.375))), low)
    y = graph.conv(bits, 16, 8, 3, pad=1)
    if twice:
        y = graph.add("Add", y, graph.conv(bits, 16, 8, 1))
    proto = graph.proto(y if last else graph.add("GlobalAveragePool", y))
    model, done, left = use_binary_convolutions(read(proto))
    assert left == {} and len(done) == 2 + (short == "signs") + twice
    x = np.round(images(16, 8, 4) * 4) / 4
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"images": x})[0]
    np.testing.assert_allclose(answer(model, x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("between", ["nothing", "a layer", "another reader"])
def test_only_sums_whose_signs_alone_are_read_are_kept_apart(between):
    graph = Graph(16, 8)
    y = graph.add(
        "Add", "images", graph.conv(graph.binary("images"), 16, 16, 3, pad=1, bias="float")
    )
    short = y
    if between == "a layer":
        y = graph.add(
            "Conv", y, graph.keep(np.ones((16, 16, 1, 1), np.float32)), kernel_shape=[1, 1]
        )
    y = graph.conv(graph.binary(y), 16, 16, 3, pad=1)
    model, *_ = use_binary_convolutions(
        read(graph.proto(graph.add("Add", y, short) if between == "another reader" else y))
    )
    assert ("Maximum" in kinds(model)) == (between == "nothing")


def test_a_saved_file_holds_one_bit_per_weight_and_answers_after_all_else_is_gone(tmp_path: Path):
    graph = network(32)
    model, *_ = use_binary_convolutions(read(graph.proto(graph.output)))
    assert "Reshape" not in kinds(model), "each bias is one constant"
    x = np.round(images(3, 12, 3) * 4) / 4
    expected = answer(model, x)
    predicted = {}
    for op in model.get_ops():
        if op.get_type_name() == "Constant":
            bits = op.get_element_type().bitwidth * int(np.prod(op.get_output_shape(0)))
            predicted[op.get_friendly_name()] = -(-bits // 8)
    bare = sum(
        -(-p.size // 8)
        for p in map(numpy_helper.to_array, graph.constants)
        if p.ndim == 4 and p.dtype == np.int8
    )
    path = tmp_path / "network.zip"
    onnx.save(graph.proto(graph.output), tmp_path / "network.onnx")
    convert_to_ir(tmp_path / "network.onnx", path)
    with zipfile.ZipFile(path) as archive:
        sizes = {i.filename: i.file_size for i in archive.infolist()}
    assert bare < sizes["model.bin"] <= sum(predicted.values()) < bare + 12000
    assert bare < path.stat().st_size < sum(sizes.values())

    del model, graph
    gc.collect()
    run = Openvino().load(path, 1)
    gc.collect()
    # over memory that was freed too early
    rubbish = [np.full(10000, 255, np.uint8) for _ in range(50)]
    for count in (3, 1, 3, 2):
        np.testing.assert_array_equal(run(x[:count]), expected[:count])
    assert len(rubbish) == 50
    both = [run(x[:1]), run(x[1:2])]  # the second answer does not overwrite the first
    np.testing.assert_array_equal(np.concatenate(both), expected[:2])


def test_the_plugin_computes_in_single_bits():
    graph = network()
    model, done, _ = use_binary_convolutions(read(graph.proto(graph.output)))
    model.reshape([1, 3, 12, 12])
    ran = [
        op.get_rt_info()
        for op in ov.Core().compile_model(model, "CPU").get_runtime_model().get_ops()
    ]
    found = [
        f["runtimePrecision"].astype(str)
        for f in ran
        if f["layerType"].astype(str) == "BinaryConvolution"
    ]
    assert found == ["u1"] * len(done)


def test_the_model_given_is_left_as_it_was():
    graph = network()
    model = read(graph.proto(graph.output))
    before = kinds(model)
    use_binary_convolutions(model)
    assert kinds(model) == before


@pytest.mark.parametrize("bias", ["", "float"])
def test_names_of_layers_and_of_outputs_stay(bias):
    graph = Graph(8, 4)
    y = graph.conv(graph.binary("images"), 8, 8, 3, bias=bias)
    model, done, _ = use_binary_convolutions(read(graph.proto(y)))
    assert done == (f"node_{y}" if bias else y,), (
        "the front end names a layer without bias by its output"
    )
    assert model.outputs[0].get_names() == {y}
    assert f"node_{y}/WithoutBiases" in names(model) if bias else y in names(model)


def left_by(graph: Graph, y: str) -> tuple[dict[str, str], int]:
    """Return why layers were left, and how many were replaced, having compared answers with the
    model given.
    """
    source = read(graph.proto(y))
    model, done, left = use_binary_convolutions(source)
    x = np.round(images(graph.channels, graph.size) * 4) / 4
    np.testing.assert_array_equal(answer(model, x), answer(source, x))
    return left, len(done)


def other(graph: Graph, high: int, zero: int, scale: float) -> str:
    """Add inputs that take two values, not those of a binary layer."""
    chosen = graph.add(
        "Where",
        graph.add("GreaterOrEqual", "images", graph.keep(np.float32(0))),
        graph.keep(np.uint8(high)),
        graph.keep(np.uint8(0)),
    )
    return graph.add(
        "DequantizeLinear", chosen, graph.keep(np.float32(scale)), graph.keep(np.uint8(zero))
    )


def floats(graph: Graph, x: str, kernel: int) -> str:
    weight = np.arange(8 * 8 * kernel**2, dtype=np.float32).reshape(8, 8, kernel, kernel)
    return graph.add("Conv", x, graph.keep(weight))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            lambda g: g.conv(g.binary("images"), 8, 8, 3, groups=4),
            "it has groups, and BinaryConvolution has none",
        ),
        (lambda g: g.conv("images", 8, 8, 3, bias="float"), "its inputs are not binary"),
        (lambda g: g.conv(other(g, 3, 2, 1), 8, 8, 3), "its inputs are not binary"),
        (lambda g: g.conv(other(g, 2, 1, 0.5), 8, 8, 3), "its inputs are not binary"),
        (lambda g: g.conv(other(g, 1, 1, 1), 8, 8, 3), "its inputs are not binary"),
        (lambda g: floats(g, g.binary("images"), 1), "its weights are not binary"),
        (
            lambda g: g.conv(g.binary("images", 0), 8, 8, 7, pad=3),
            "OpenVINO's kernels do not take its padding, "
            "and a place in {0, 1} cannot be padded before",
        ),
    ],
)
def test_what_cannot_be_one_bit_is_left_and_the_reason_said(layer, reason):
    graph = Graph(8, 9)
    left, done = left_by(graph, layer(graph))
    assert done == 0 and list(left.values()) == [reason]


@pytest.mark.parametrize(
    ("dims", "reason"), [([8], "two-dimensional"), (["h", "w"], "no fixed size")]
)
def test_one_dimension_and_free_sizes_are_left(dims, reason):
    graph = Graph(8, 6)
    weight = np.ones((8, 8, *[1] * len(dims)), np.float32)
    y = graph.add("Conv", graph.binary("images"), graph.keep(weight))
    _, done, left = use_binary_convolutions(read(graph.proto(y, ["n", 8, *dims])))
    assert done == () and reason in left[y]


def test_a_float_layer_is_not_spoken_of():
    graph = Graph(8, 6)
    y = floats(graph, "images", 3)
    assert left_by(graph, y) == ({}, 0)
    assert left_by(graph, graph.conv(graph.binary(y), 8, 8, 3)) == ({}, 1)
