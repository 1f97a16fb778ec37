"""Files of ONNX Runtime's quantizer are read in float, and equal the file up to rounding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnxruntime import quantization
from torch import Tensor, nn

import lissom
from lissom import LissomError, from_onnx
from lissom.importing import onnx_network, quantized, rounded_operators
from lissom.importing.quantized import NOTE

from .graphs import PICTURES, ROWS, floats, model_of, node
from .test_networks import written as exported


class Mixed(nn.Module):
    """Every operator that the quantizer has a form on integers for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        y = F.leaky_relu(self.second(F.pad(x, (1, 0, 0, 1))), 0.1)[:, :, :-1, 1:] + x
        gated = torch.sigmoid(y) * y
        y = torch.cat([F.max_pool2d(y, 2), F.avg_pool2d(gated, 2)], 1)
        return torch.softmax(self.head(F.adaptive_avg_pool2d(y, 1).flatten(1)), -1)


class Words(nn.Module):
    """A table, an LSTM and a product without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.rnn = nn.LSTM(8, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.table(x))[0].mean(1))


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """A few batches of noise."""

    def __init__(self) -> None:
        self.batches: Iterator[Any] = iter(
            [{"input": floats(4, 3, 16, 16, seed=seed)} for seed in range(8)]
        )

    def get_next(self) -> Any:
        return next(self.batches, None)


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    network = Mixed().eval()
    path = tmp_path / "mixed.onnx"
    return network, exported(network, torch.randn(2, 3, 16, 16), path, opset_version=13)


def static(path: Path, **settings: Any) -> Path:
    out = path.with_name("static.onnx")
    logging.disable(logging.WARNING)
    try:
        quantization.quantize_static(str(path), str(out), Reader(), **settings)
    finally:
        logging.disable(logging.NOTSET)
    return out


def dynamic(path: Path, **settings: Any) -> Path:
    out = path.with_name("dynamic.onnx")
    logging.disable(logging.WARNING)
    try:
        quantization.quantize_dynamic(str(path), str(out), **settings)
    finally:
        logging.disable(logging.NOTSET)
    return out


FORMATS = {
    "operators": {"quant_format": quantization.QuantFormat.QOperator},
    "operators, by filter": {
        "quant_format": quantization.QuantFormat.QOperator,
        "per_channel": True,
    },
    "operators, signed": {
        "quant_format": quantization.QuantFormat.QOperator,
        "activation_type": quantization.QuantType.QInt8,
    },
    "pairs": {"quant_format": quantization.QuantFormat.QDQ},
    "pairs, by filter": {"quant_format": quantization.QuantFormat.QDQ, "per_channel": True},
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_quantized_from_data_becomes_its_float_network(
    name: str, mixed: tuple[nn.Module, Path]
) -> None:
    network, path = mixed
    again = from_onnx(static(path, **FORMATS[name]))  # or the second gate refuses it
    compare(network, again, torch.randn(16, 3, 16, 16))
    assert NOTE in again.notes and any("on noise" in note for note in again.notes)


def test_a_file_quantized_as_it_runs_becomes_its_float_network(
    mixed: tuple[nn.Module, Path],
) -> None:
    network, path = mixed
    again = from_onnx(dynamic(path))
    compare(network, again, torch.randn(16, 3, 16, 16))
    assert NOTE in again.notes
    assert again.get_submodule("head").bias is not None
    lissom.apply("prune(0.3, multiple=1)", again, torch.randn(2, 3, 16, 16), notes=True)


def compare(network: nn.Module, again: nn.Module, images: Tensor) -> None:
    """Raise unless both have the same layers, whose weights differ by half a step of 8 bits at most."""
    layers = dict(network.named_modules())
    weights = dict(again.named_parameters())
    assert weights.keys() == dict(network.named_parameters()).keys()
    for name, weight in weights.items():
        wanted = layers[name.rpartition(".")[0]].get_parameter(name.rpartition(".")[2])
        assert weight.shape == wanted.shape
        assert (weight - wanted).abs().max() <= 0.51 * 2 * wanted.abs().max() / 254
    with torch.no_grad():
        wanted = network(images)
        assert (again(images) - wanted).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.parametrize("by_channel", [False, True])
def test_tables_and_an_lstm_quantized_as_they_run(by_channel: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Words().eval()
    ids = torch.randint(0, 20, (5, 7))
    path = exported(network, ids[:2], tmp_path / "words.onnx", opset_version=13)
    path = dynamic(path, per_channel=by_channel)
    operators = {n.op_type for n in onnx.load(str(path)).graph.node}
    assert {"DynamicQuantizeLSTM", "MatMulInteger", "Gather"} <= operators
    again = from_onnx(path)
    kinds = {name: type(layer) for name, layer in again.named_modules()}
    assert kinds["table"] is nn.Embedding and kinds["rnn"] is nn.LSTM and kinds["head"] is nn.Linear
    with torch.no_grad():
        wanted = network(ids)
        assert (again(ids) - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_integers_go_in_and_out(tmp_path: Path) -> None:
    bytes_in = model_of(
        [
            node("DequantizeLinear", ["x", "s", "z"], ["f"]),
            node("Conv", ["f", "w"], ["c"], name="conv"),
            node("QuantizeLinear", ["c", "s", "z"], ["y"]),
        ],
        PICTURES,
        ["y"],
        s=np.float32(0.05),
        z=np.uint8(128),
        w=floats(5, 4, 3, 3),
    )
    bytes_in.graph.value_info.add(name="y").type.tensor_type.elem_type = onnx.TensorProto.UINT8
    bytes_in.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    path = tmp_path / "net.onnx"
    path.write_bytes(bytes_in.SerializeToString())
    network = from_onnx(path)
    x = torch.randint(0, 255, (2, 4, 9, 7), dtype=torch.uint8)
    wanted = F.conv2d((x.float() - 128) * 0.05, torch.from_numpy(floats(5, 4, 3, 3)))
    torch.testing.assert_close(network(x), wanted)


def test_weights_that_are_rounded_in_the_file_are_so_in_the_network(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["conv.weight", "s", "z"], ["q"], axis=0),
        node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
        node("Conv", ["x", "w"], ["y"]),
    ]
    tensors = {
        "conv__weight": floats(2, 4, 3, 3),
        "s": np.array([0.5, 0.25], np.float32),
        "z": np.array([0, 3], np.int8),
    }
    model = model_of(nodes, PICTURES, ["y"], **tensors)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    weight = from_onnx(tmp_path / "net.onnx").get_parameter("conv.weight").detach()
    steps = torch.tensor([0.5, 0.25]).view(2, 1, 1, 1)
    wanted = (torch.from_numpy(floats(2, 4, 3, 3)) / steps).round() * steps
    torch.testing.assert_close(weight, wanted)


SIGNED_ZERO = {"s": np.float32(0.05), "i": np.array(0), "low": np.array(-128)}
ROUNDINGS: dict[str, tuple[list[Any], dict[str, int], bool]] = {
    # nodes that make the zero point z, attributes of the rounding, whether negative numbers are lost
    "no zero point": ([], {}, True),
    "no zero point of int8": ([], {"output_dtype": 3}, False),
    "no zero point of int16": ([], {"output_dtype": 5}, False),
    "no zero point of uint8": ([], {"output_dtype": 2}, True),
    "no zero point of uint16": ([], {"output_dtype": 4}, True),
    "a cast to int8": ([node("Cast", ["i"], ["z"], to=3)], {}, False),
    "a cast to uint8": ([node("Cast", ["i"], ["z"], to=2)], {}, True),
    "a cast to the lowest int8": ([node("Cast", ["low"], ["z"], to=3)], {}, True),
    "a cast of a cast": (
        [node("Cast", ["low"], ["c"], to=1), node("Cast", ["c"], ["z"], to=3)],
        {},
        True,
    ),
    "a number of a node": (
        [node("Constant", [], ["c"], value_int=-128), node("Cast", ["c"], ["z"], to=3)],
        {},
        True,
    ),
    "a reshaped number": (
        [
            node("Constant", [], ["none"], value_ints=[0]),
            node("Cast", ["none"], ["c"], to=3),
            node("Squeeze", ["c"], ["z"]),
        ],
        {},
        False,
    ),
    "a computed number": (
        [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Sub", ["m", "m"], ["n"]),
            node("Cast", ["n"], ["z"], to=3),
        ],
        {},
        False,
    ),
}


@pytest.mark.parametrize("name", ROUNDINGS)
def test_rounding_becomes_a_relu_only_if_it_loses_negative_numbers(
    name: str, tmp_path: Path
) -> None:
    makes, settings, loses = ROUNDINGS[name]
    reads = ["x", "s", *(["z"] if makes else [])]
    zero = ["z"] if makes else []
    nodes = [
        *makes,
        node("QuantizeLinear", reads, ["q"], **settings),
        node("DequantizeLinear", ["q", "s", *zero], ["d"]),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    model = model_of(nodes, ROWS, ["y"], 21, **SIGNED_ZERO, w=floats(8, 3))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    x = floats(2, 5, 8)
    (wanted,) = ort.InferenceSession(str(path)).run(None, {"x": x})
    given = from_onnx(path)(torch.from_numpy(x)).detach().numpy()
    assert np.abs(given - wanted).max() < 0.05 * np.abs(wanted).max()
    negative = torch.from_numpy(-np.abs(x))
    assert bool((from_onnx(path)(negative) == 0).all()) == loses


def unscaled() -> Any:
    """Return a product of integers that no scale comes behind."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z"], ["m"], name="product"),
        node("Cast", ["m"], ["y"], to=1),
    ]
    return model_of(nodes, ROWS, ["y"], w=np.ones((8, 3), np.int8))


def compared() -> Any:
    """Return integers that are compared with others."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("Max", ["q", "z"], ["m"], name="larger"),
        node("DequantizeLinear", ["m", "s", "z"], ["y"]),
    ]
    return model_of(nodes, ROWS, ["y"], s=np.float32(0.05), z=np.uint8(3))


def unknown() -> Any:
    """Return an operator on integers that has no form on floats here."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearReduceMax", ["q", "s", "z"], ["y"], name="largest", domain="com.microsoft"),
    ]
    return model_of(nodes, ROWS, ["y"], s=np.float32(0.05), z=np.uint8(3))


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "no scale": (unscaled, r"MatMulInteger \(node 'product'\): it computes with the integers"),
    "compared": (compared, r"Max \(node 'larger'\): it computes with the integers"),
    "unknown": (unknown, r"QLinearReduceMax \(node 'largest'\)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_else_computes_with_integers_is_named(name: str, tmp_path: Path) -> None:
    make, said = REFUSALS[name]
    path = tmp_path / "net.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(LissomError, match=said) as raised:
        from_onnx(path)
    assert "\n" not in str(raised.value)


def test_an_operator_that_is_read_wrongly_is_found(
    mixed: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(pairs: Any, each: Any) -> None:
        rounded_operators.single(pairs, each, "Relu")

    monkeypatch.setattr(onnx_network, "CHECKED", {})  # the file has passed in another test
    monkeypatch.setitem(quantized.ROUNDED, "QLinearSigmoid", wrong)
    path = static(mixed[1], **FORMATS["operators"])
    with pytest.raises(
        LissomError, match=r"converted to 32 bits.*, more than rounding to integers explains"
    ):
        from_onnx(path)


def test_a_bias_under_the_name_of_a_layer_that_has_none_is_read(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "conv.weight"], ["c"]),
        node("Reshape", ["conv.bias", "sizes"], ["b"]),
        node("Add", ["c", "b"], ["s"]),
        node("MatMul", ["s", "fc.weight"], ["m"]),
        node("Mul", ["m", "fc.bias"], ["y"]),
    ]
    tensors = {
        "conv__weight": floats(5, 4, 3, 3),
        "conv__bias": floats(5),
        "fc__weight": floats(5, 3),
        "fc__bias": floats(3),
        "sizes": np.array([1, 5, 1, 1]),
    }
    path = tmp_path / "net.onnx"
    path.write_bytes(model_of(nodes, PICTURES, ["y"], **tensors).SerializeToString())
    assert "fc_bias" in dict(from_onnx(path).named_parameters())


BYTES = np.random.default_rng(0).integers(0, 255, (8, 5)).astype(np.uint8)
SIGNED = np.random.default_rng(1).integers(-127, 127, (8, 5)).astype(np.int8)
NUMBERS = {
    "s": np.float32(0.03),
    "z": np.uint8(120),
    "t": np.float32(0.05),
    "u": np.uint8(128),
    "row": np.linspace(0.01, 0.02, 5, dtype=np.float32),
    "zeros": np.arange(5, dtype=np.int8),
    "bias": floats(5),
}
ENTERS = node("QuantizeLinear", ["x", "s", "z"], ["q"])
LEAVES = node("DequantizeLinear", ["r", "t", "u"], ["y"])
OTHER = {"domain": "com.microsoft"}
SINGLE: dict[str, list[Any]] = {
    "a product": [
        ENTERS,
        node("QLinearMatMul", ["q", "s", "z", "b", "s", "z", "t", "u"], ["r"]),
        LEAVES,
    ],
    "a product by columns": [
        ENTERS,
        node("QLinearMatMul", ["q", "s", "z", "w", "row", "zeros", "t", "u"], ["r"]),
        LEAVES,
    ],
    "a product that returns floats": [
        ENTERS,
        node("Reshape", ["q", "flat"], ["f"]),
        node("QGemm", ["f", "s", "z", "w", "row", "none", "c"], ["y"], **OTHER),
    ],
    "a choice": [
        ENTERS,
        node("Greater", ["x", "s"], ["larger"]),
        node("QLinearWhere", ["larger", "q", "s", "z", "u", "t", "u", "t", "u"], ["r"], **OTHER),
        LEAVES,
    ],
    "padding": [
        ENTERS,
        node("Pad", ["q", "places", "z"], ["p"]),
        node("QLinearSigmoid", ["p", "s", "z", "t", "u"], ["r"], **OTHER),
        LEAVES,
    ],
    "rounded as it runs": [
        node("DynamicQuantizeMatMul", ["x", "w", "row", "zeros", "bias"], ["y"], **OTHER)
    ],
    "rounded as it runs, without a bias": [
        node("DynamicQuantizeMatMul", ["x", "b", "s", "z"], ["y"], **OTHER)
    ],
    "a product with its scales": [
        node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"]),
        node("MatMulIntegerToFloat", ["q", "b", "xs", "s", "xz", "z", "bias"], ["y"], **OTHER),
    ],
    "two inputs that are rounded as they run": [
        node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"]),
        node("DynamicQuantizeLinear", ["turned"], ["p", "ps", "pz"]),
        node("Mul", ["ps", "xs"], ["scales"]),
        node("MatMulInteger", ["q", "p", "xz", "pz"], ["m"]),
        node("Cast", ["m"], ["f"], to=1),
        node("Mul", ["scales", "f"], ["y"]),
    ],
}


@pytest.mark.parametrize("name", SINGLE)
def test_each_operator_on_integers_is_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    tensors = NUMBERS | {
        "b": BYTES,
        "w": SIGNED,
        "flat": np.array([-1, 8]),
        "none": np.zeros(5, np.int8),
        "c": np.arange(-200, 300, 100, dtype=np.int32),
        "places": np.array([0, 1, 0, 0, 0, 2]),
    }
    model = model_of(SINGLE[name], ROWS, ["y"], **tensors)
    model.opset_import.add(domain="com.microsoft", version=1)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert NOTE in from_onnx(path).notes


RANGES = {0: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}
TYPES_WRITTEN: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "types that are defaults": (
        {"output_dtype": 0, "precision": 0, "block_size": 0, "saturate": 1},
        {"output_dtype": 0, "block_size": 0},
    ),
    "types that are written": (
        {"output_dtype": 3, "precision": onnx.TensorProto.FLOAT},
        {"output_dtype": onnx.TensorProto.FLOAT},
    ),
    "another type of integers": ({"output_dtype": 5}, {}),
    "another type of integers from 0": ({"output_dtype": 4}, {}),
}


def rounded_weight(rounds: dict[str, int], widens: dict[str, int]) -> Any:
    """Return a product with a weight that the file rounds, and an input that it rounds."""
    nodes = [
        node("QuantizeLinear", ["w", "s"], ["q"], **rounds),
        node("DequantizeLinear", ["q", "s"], ["v"], **widens),
        node("QuantizeLinear", ["x", "s"], ["p"], **rounds),
        node("DequantizeLinear", ["p", "s"], ["a"], **widens),
        node("MatMul", ["a", "v"], ["y"], name="product"),
    ]
    return model_of(nodes, ROWS, ["y"], 23, w=floats(8, 3) * 9, s=np.float32(0.1))


@pytest.mark.parametrize("name", TYPES_WRITTEN)
def test_types_of_integers_may_be_written(name: str, tmp_path: Path) -> None:
    rounds, widens = TYPES_WRITTEN[name]
    path = tmp_path / "net.onnx"
    model = rounded_weight(rounds, widens)
    path.write_bytes(model.SerializeToString())
    lowest, highest = RANGES[rounds["output_dtype"]]
    whole = np.clip(np.round(floats(8, 3) * 9 / np.float32(0.1)), lowest, highest)
    x = floats(2, 5, 8)
    given = np.maximum(x, 0) if lowest == 0 else x
    wanted = given @ (whole * np.float32(0.1))
    again = from_onnx(path)(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(again, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("rounds", "widens", "said"),
    [
        ({"output_dtype": 17}, {}, "output_dtype 17 is not known"),
        ({"precision": 10}, {}, "precision 10 is not known"),
        ({"output_dtype": 3}, {"output_dtype": 10}, "output_dtype 10 is not known"),
    ],
)
def test_other_types_are_named(
    rounds: dict[str, int], widens: dict[str, int], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(rounded_weight(rounds, widens).SerializeToString())
    with pytest.raises(LissomError, match=f"Linear .*{said}"):
        from_onnx(path)
