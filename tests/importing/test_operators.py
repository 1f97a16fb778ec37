"""Every supported operator passes ONNX's own tests of it, or gives a reason why it does not."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

from lissom import LissomError, from_onnx
from lissom.importing.nodes import file_of
from lissom.importing.onnx_network import built, check_operators, finished
from lissom.importing.operators.table import OPERATORS
from lissom.importing.patterns import simplify
from lissom.importing.values import Constant
from lissom.trees import tensors_in

from .graphs import PICTURES, ROWS, floats, model_of, node, written
from .test_networks import written as exported

PASS = 750  # cases at least
HALVES = ("float16", "bfloat16")
# what refuses a case, and why that is right
REFUSED = {
    "its mean or deviation is read": "second outputs of layer normalisation",
    "cache of keys and values": "attention that goes on from earlier tokens",
    "softcap": "attention whose products are bent",
    "a mask beside is_causal": "PyTorch takes one of them",
    "left_window_size": "attention within a window",
    "dilations other than 1": "PyTorch averages without dilations",
    "padding and dilations": "no padding of means of powers",
    "drops values although nothing learns": "networks in training mode",
    "learns as it runs": "the same",
    "its output .* is read": "the mask of dropout",
    "linear_before_reset=0": "PyTorch's GRU resets after the product",
    "sequence_lens": "sequences of different lengths",
    "peepholes": "PyTorch's LSTM has none",
    "layout=1": "batch first, which no exporter writes",
    "gates other than": "activations of gates that PyTorch lacks",
    "nearest_mode": "places that PyTorch does not round so",
    "coordinate_transformation_mode": "places that PyTorch does not have",
    "keep_aspect_ratio_policy": "sizes that depend on two of them",
    "exclude_outside|antialias|cubic_coeff_a": "weights that PyTorch does not have",
    "batch or channels are resized": "PyTorch resizes positions only",
    "mode '.*' on .* axes": "PyTorch has cubic for images only",
    "mode .* on axis": "PyTorch mirrors positions only",
    "places of its largest values": "second outputs of pooling",
    "storage_order": "the same",
    "reducing over zero-size": "the largest of nothing",
    "reduction '(mul|max|min)'": "scattering that PyTorch lacks",
    "batch_dims other than 0": "gathering by samples",
    "attribute 'mode' is not known": "orders of channels of a later version",
    "scales of blocks": "scales of blocks",
    "rounding other than between layers": "rounding alone",
    "expected a constant": "shapes that are inputs themselves",
    "bias of .* beside a limit": "a shrink that PyTorch lacks",
    "a kernel of .* axes": "images of other axes",
    "is no tensor of known axes": "sequences, and values that may be missing",
}
# not a difference that matters
OTHERWISE = {
    "top_k_same_values": "of equal numbers another is taken",
    "resize_downsample_scales_.*_align_corners": "a size that is no whole number; the gate sees it",
    "resize_downsample_sizes_linear_pytorch_half_pixel": "a single position; the gate sees it",
    "cast(like)?_": "numbers beyond 16 bits, which stay what they are in 32",
}


@cache
def cases() -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return load_model_tests(kind="node")


def answers(case: Any) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return what the network of a case gives, and what is wanted; its first input stays an input."""
    inputs, wanted = case.data_sets[0]
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    arrays = [np.asarray(value) for value in inputs]
    shown = [value.astype(np.float32) if value.dtype.name in HALVES else value for value in arrays]
    names = [value.name for value in proto.graph.input]
    inputs_kept = 0 if case.name.startswith("test_range") else min(1, len(names))
    for name, array in list(zip(names, arrays, strict=False))[inputs_kept:]:
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    file = file_of(proto, Path("."))
    check_operators(file)
    simplify(file)
    network = finished(built(file, opened=False))
    with torch.no_grad():
        outputs = network(*[torch.from_numpy(array.copy()) for array in shown[:inputs_kept]])
    given = [tensor.detach().numpy() for tensor in tensors_in(outputs)]
    return list(zip(given, map(np.asarray, wanted), strict=False))


def agrees(given: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> bool:
    near = 1e-2 if wanted.dtype.name in HALVES else 1e-4
    one, two = given.astype(np.float64), wanted.astype(np.float64)
    return one.shape == two.shape and np.allclose(
        one, two, rtol=10 * near, atol=near, equal_nan=True
    )


def test_operators_do_what_the_tests_of_onnx_want() -> None:
    passed = 0
    wrong: list[str] = []
    for case in cases():
        operators = {node.op_type for node in case.model.graph.node}
        known = operators <= set(OPERATORS) and "_expanded" not in case.name
        if not known or not types_fit(case):
            continue
        try:
            right = all(agrees(given, wanted) for given, wanted in answers(case))
        except (LissomError, ValueError, TypeError, IndexError) as error:
            if not any(re.search(reason, str(error)) for reason in REFUSED):
                wrong.append(f"{case.name}: {error}")
            continue
        passed += right
        if not right and not any(re.match(f"test_{name}", case.name) for name in OTHERWISE):
            wrong.append(case.name)
    assert not wrong
    assert passed >= PASS


def types_fit(case: Any) -> bool:
    """Return whether the numbers of a case are of types that networks of PyTorch compute in."""
    inputs, outputs = case.data_sets[0]
    kinds = {np.asarray(value).dtype.name for value in (*inputs, *outputs)}
    return kinds <= {
        "float32",
        "float64",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        *HALVES,
    }


# one small graph for each family, through ONNX Runtime's gate
GRAPHS: dict[str, tuple[list[Any], Any, dict[str, Any]]] = {
    "uneven padding": (
        [node("Conv", ["x", "w"], ["y"], pads=[0, 1, 2, 1], strides=[2, 1])],
        PICTURES,
        {"w": floats(6, 4, 3, 3)},
    ),
    "same padding": (
        [node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2], group=2)],
        PICTURES,
        {"w": floats(6, 2, 3, 4)},
    ),
    "transposed": (
        [node("ConvTranspose", ["x", "w", "b"], ["y"], pads=[1, 0, 0, 1], strides=[2, 2])],
        PICTURES,
        {"w": floats(4, 3, 3, 3), "b": floats(3)},
    ),
    "pooling": (
        [
            node("MaxPool", ["x"], ["m"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
            node("AveragePool", ["m"], ["y"], kernel_shape=[2, 2], pads=[0, 1, 1, 0]),
        ],
        PICTURES,
        {},
    ),
    "a product and a sum": (
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])],
        ROWS,
        {"w": floats(8, 6), "b": floats(6)},
    ),
    "slices backwards": (
        [node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        ROWS,
        {
            "s": np.array([-1, 1]),
            "e": np.array([-(2**63), 7]),
            "a": np.array([1, 2]),
            "t": np.array([-2, 3]),
        },
    ),
    "sizes": (
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Unsqueeze", ["n", "first"], ["u"]),
            node("Concat", ["u", "rest"], ["c"], axis=0),
            node("Reshape", ["x", "c"], ["y"]),
        ],
        ROWS,
        {"zero": np.array(0), "first": np.array([0]), "rest": np.array([2, -1])},
    ),
    "resizing": (
        [node("Resize", ["x", "", "f"], ["y"], mode="linear")],
        PICTURES,
        {"f": np.array([1, 1, 2, 1.5], np.float32)},
    ),
    "a constant branch": (
        [
            node(
                "If",
                ["yes"],
                ["y"],
                then_branch=onnx.helper.make_graph(
                    [node("Relu", ["x"], ["inner"])],
                    "then",
                    [],
                    [onnx.helper.make_empty_tensor_value_info("inner")],
                ),
                else_branch=onnx.helper.make_graph(
                    [node("Neg", ["x"], ["other"])],
                    "else",
                    [],
                    [onnx.helper.make_empty_tensor_value_info("other")],
                ),
            )
        ],
        ROWS,
        {"yes": np.array(True)},
    ),
    "a mask that nobody reads": (
        [node("Dropout", ["x"], ["d", "mask"]), node("Relu", ["d"], ["y"])],
        ROWS,
        {},
    ),
    "rows that are mirrored": (
        [node("Pad", ["x", "p"], ["y"], mode="reflect")],
        {"x": ("batch", 8)},
        {"p": np.array([0, 2, 0, 3])},
    ),
    "a batch of -1": ([node("Relu", ["x"], ["y"])], {"x": (-1, 4, -1, -1)}, {}),
    "open sizes of one name": (
        [node("MaxPool", ["x"], ["y"], kernel_shape=[8, 8])],
        {"x": ("?", 4, "?", "?")},
        {},
    ),
    "weights of one number, as large as those of VGG": (
        [node("ConstantOfShape", ["s"], ["w"]), node("MatMul", ["x", "w"], ["y"])],
        ROWS,
        {"s": np.array([8, 2**21 + 1])},
    ),
    "probabilities near 0": (
        [node("Sub", ["x", "far"], ["s"]), node("Sigmoid", ["s"], ["y"])],
        ROWS,
        {"far": np.float32(17)},
    ),
    "lines of text of one height": (
        [
            node("MaxPool", ["x"], ["m"], kernel_shape=[48, 4], strides=[48, 4]),
            node("Squeeze", ["m", "two"], ["y"]),
        ],
        {"x": ("batch", 3, "h", "w")},
        {"two": np.array([2])},
    ),
    "an lstm that goes on": (
        [
            node("Unsqueeze", ["x", "first"], ["row"]),
            node("LSTM", ["row", "w", "r", "b", "", "h", "c"], ["o", "", "last"], hidden_size=3),
            node("Squeeze", ["last", "first"], ["y"]),
        ],
        {"x": (1, 8), "h": (1, 1, 3), "c": (1, 1, 3)},
        {
            "w": floats(1, 12, 8),
            "r": floats(1, 12, 3),
            "b": floats(1, 24),
            "first": np.array([0]),
        },
    ),
    "states of a named batch": (
        [
            node("Unsqueeze", ["x", "first"], ["row"]),
            node("RNN", ["row", "w", "r", "", "", "h"], ["o", "last"], hidden_size=3),
            node("Squeeze", ["last", "first"], ["y"]),
        ],
        {"x": ("n", 8), "h": (1, "n", 3)},
        {"w": floats(1, 3, 8), "r": floats(1, 3, 3), "first": np.array([0])},
    ),
    "a product of constants and a sum": (
        [
            node("MatMul", ["v", "w"], ["m"]),
            node("Add", ["b", "m"], ["n"]),
            node("Mul", ["x", "n"], ["y"]),
        ],
        ROWS,
        {"v": floats(5, 3), "w": floats(3, 8, seed=1), "b": floats(8)},
    ),
    "a product of integers and a sum": (
        [
            node("DequantizeLinear", ["i", "s"], ["w"]),
            node("MatMul", ["v", "w"], ["m"]),
            node("Add", ["b", "m"], ["n"]),
            node("Mul", ["x", "n"], ["y"]),
        ],
        ROWS,
        {
            "v": floats(5, 3),
            "i": np.arange(24, dtype=np.int8).reshape(3, 8),
            "s": np.float32(0.1),
            "b": floats(8),
        },
    ),
    "bounds of which the larger is computed": (
        [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Clip", ["x", "half", "m"], ["y"])],
        ROWS,
        {"half": np.float32(0.5)},
    ),
    "bounds of which the smaller is computed": (
        [node("ReduceMin", ["x"], ["m"], keepdims=0), node("Clip", ["x", "m", "half"], ["y"])],
        ROWS,
        {"half": np.float32(0.5)},
    ),
    "a smaller bound that is the larger one": (
        [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Clip", ["x", "m", "half"], ["y"])],
        ROWS,
        {"half": np.float32(0.5)},
    ),
    "bounds of integers of which one is computed": (
        [
            node("Cast", ["x"], ["i"], to=7),
            node("ReduceMax", ["i"], ["m"], keepdims=0),
            node("Clip", ["i", "one", "m"], ["c"]),
            node("Cast", ["c"], ["y"], to=1),
        ],
        ROWS,
        {"one": np.array(-1)},
    ),
    "bounds of which one is a size": (
        [
            node("Shape", ["x"], ["n"], end=1),
            node("Squeeze", ["n"], ["s"]),
            node("Cast", ["s"], ["f"], to=1),
            node("Clip", ["x", "half", "f"], ["y"]),
        ],
        ROWS,
        {"half": np.float32(0.5)},
    ),
    "pads beside another padding": (  # ONNX Runtime takes them for pools only
        [
            node("MaxPool", ["x"], ["a"], auto_pad="VALID", pads=[1, 1, 1, 1], kernel_shape=[2, 2]),
            node(
                "AveragePool",
                ["a"],
                ["y"],
                auto_pad="SAME_LOWER",
                pads=[0, 0, 0, 0],
                kernel_shape=[2, 3],
                strides=[2, 1],
            ),
        ],
        PICTURES,
        {},
    ),
    "infinities of no sign": (
        [
            node("Div", ["x", "zero"], ["d"]),
            node("IsInf", ["d"], ["i"], detect_negative=0, detect_positive=0),
            node("Cast", ["i"], ["y"], to=1),
        ],
        ROWS,
        {"zero": np.float32(0)},
    ),
    "infinities of one sign": (
        [
            node("Div", ["x", "zero"], ["d"]),
            node("IsInf", ["d"], ["i"], detect_negative=0),
            node("Cast", ["i"], ["y"], to=1),
        ],
        ROWS,
        {"zero": np.float32(0)},
    ),
    "an lstm": (
        [node("LSTM", ["x", "w", "r", "b"], ["y", "h", ""], hidden_size=3)],
        {"x": (6, "batch", 8)},
        {"w": floats(1, 12, 8), "r": floats(1, 12, 3), "b": floats(1, 24)},
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_small_graphs_give_what_onnx_runtime_gives(name: str, tmp_path: Path) -> None:
    nodes, inputs, tensors = GRAPHS[name]
    from_onnx(written(tmp_path / "net.onnx", nodes, inputs, ["y"], **tensors))  # or it raises


def test_a_bias_of_a_product_of_constants_is_kept(tmp_path: Path) -> None:
    class Biased(nn.Module):
        """A table of biases computed by two layers from places, as in Swin V2."""

        def __init__(self) -> None:
            super().__init__()
            self.places = torch.randn(5, 2)
            self.first = nn.Linear(2, 6)
            self.second = nn.Linear(6, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.sigmoid(self.second(F.relu(self.first(self.places[None]))))

    torch.manual_seed(0)
    network = Biased().eval()
    x = torch.randn(2, 5, 8)
    path = exported(network, x, tmp_path / "net.onnx")
    with torch.no_grad():
        torch.testing.assert_close(from_onnx(path)(x), network(x))


def test_sizes_that_the_network_fixes_are_said(tmp_path: Path) -> None:
    nodes, inputs, tensors = GRAPHS["lines of text of one height"]
    network = from_onnx(written(tmp_path / "net.onnx", nodes, inputs, ["y"], **tensors))
    assert network.notes == ("input 'x' is open in the file; here axis 2 is 48",)
    assert network(torch.zeros(2, 3, 48, 20)).shape == (2, 3, 5)


def test_probabilities_near_0_that_are_wrong_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"Sigmoid": lambda op: op.call(torch.exp, op.call(torch.mul, op[0], 1.001))}
    monkeypatch.setattr("lissom.importing.onnx_network.OPERATORS", OPERATORS | wrong)
    nodes, inputs, _ = GRAPHS["probabilities near 0"]
    path = written(tmp_path / "net.onnx", nodes, inputs, ["y"], far=np.float32(16))
    with pytest.raises(LissomError, match=r"by 0\.0\d+ of their size.*part is Sigmoid"):
        from_onnx(path)


def test_constants_that_come_and_go_are_told_apart() -> None:
    file = file_of(model_of([node("Relu", ["x"], ["y"])], ROWS, ["y"]), Path("."))
    build = built(file)
    for number in range(20):
        constant = Constant(torch.full((2, 3), number).T)  # which is copied
        assert build.parameter(constant)[0, 0] == number
        del constant
