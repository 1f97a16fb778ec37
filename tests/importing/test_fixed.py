"""Inputs of a file that are fixed to one value: branches that depend on them can be read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from graphs import model_of, node

import lissom
from lissom import Data, LissomError, Task


def branching(path: Path) -> Path:
    """Write a network that multiplies with one weight at a rate of 16, with another at other rates."""

    def branch(weight: str) -> onnx.GraphProto:
        result = onnx.helper.make_empty_tensor_value_info(f"by {weight}")
        return onnx.helper.make_graph(
            [node("MatMul", ["flat", weight], [f"by {weight}"])], weight, [], [result]
        )

    draw = np.random.default_rng(0)
    model = model_of(
        [
            node("Flatten", ["x"], ["flat"]),
            node("Equal", ["rate", "sixteen"], ["is_sixteen"]),
            node("If", ["is_sixteen"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
        ],
        {"x": ("batch", 1, 8, 8)},
        ["y"],
        a=draw.normal(size=(64, 10)).astype(np.float32),
        b=draw.normal(size=(64, 10)).astype(np.float32),
        sixteen=np.int64(16),
    )
    model.graph.input.append(onnx.helper.make_tensor_value_info("rate", onnx.TensorProto.INT64, []))
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("rate", [16, 8])
def test_an_input_with_a_value_takes_its_branch(rate: int, tmp_path: Path) -> None:
    path = branching(tmp_path / "net.onnx")
    network = lissom.from_onnx(path, rate=rate)
    assert network.input_names == ("x",)
    x = torch.randn(3, 1, 8, 8)
    given = {"x": x.numpy(), "rate": np.array(rate)}
    (wanted,) = ort.InferenceSession(str(path)).run(None, given)
    assert np.allclose(network(x).detach().numpy(), wanted, atol=1e-5)


def test_a_task_takes_the_value_as_an_argument(tmp_path: Path) -> None:
    path = branching(tmp_path / "net.onnx")
    data = Data.of("digits", size=(8, 8))
    sixteen, eight = (Task.of(f"onnx:{path}", data, arguments={"rate": rate}) for rate in (16, 8))
    assert sixteen.root != eight.root
    shown = data.calibration(1)[0]
    assert not torch.allclose(sixteen.fresh()(shown), eight.fresh()(shown))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "depends on the input, which is not known; if on 'rate', give it a value"),
        ({"rat": 16}, "no input of the file 'rat'; did you mean 'rate'"),
        ({"rate": [1, 2]}, "rate: expected a number, got shape (2,)"),
        ({"rate": 1.5}, "rate=1.5"),
        ({"rate": "fast"}, "rate='fast'"),
        ({"x": np.zeros((1, 1, 9, 8))}, "x: expected shape (n, 1, 8, 8), got shape (1, 1, 9, 8)"),
        ({"rate": 16, "x": np.zeros((1, 1, 8, 8))}, "every input is fixed"),
    ],
)
def test_what_cannot_be_fixed_says_so(values: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=re.escape(said)):
        lissom.from_onnx(branching(tmp_path / "net.onnx"), **values)


@pytest.mark.parametrize("size", [-1, "n", None])
def test_an_open_size_of_a_fixed_input_takes_any(size: object, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    inputs = {"x": ("batch", 8), "factors": (size,)}
    onnx.save(model_of([node("Mul", ["x", "factors"], ["y"])], inputs, ["y"]), str(path))
    factors = np.arange(8, dtype=np.float32)
    network = lissom.from_onnx(path, factors=factors)
    x = torch.randn(3, 8)
    assert torch.equal(network(x), x * torch.from_numpy(factors))
    with pytest.raises(LissomError, match=re.escape("expected shape (n), got shape (1, 8)")):
        lissom.from_onnx(path, factors=factors[None])
