"""GRUs in ONNX's default form, and lengths and initial states that exporters write explicitly."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom import LissomError, from_onnx
from lissom.importing.gru import ResetFirstGRU

from .graphs import floats, node, written

WIDTH = 3
TIME = {"x": (6, "batch", 8)}


def gru(path: Path, *, direction: str = "forward", bias: bool = True, **more: Any) -> Path:
    """Write a GRU between two transpositions, so that the batch comes first."""
    ways = 2 if direction == "bidirectional" else 1
    tensors = {
        "gru__W": floats(ways, 3 * WIDTH, 8),
        "gru__R": floats(ways, 3 * WIDTH, WIDTH, seed=1),
        "gru__B": floats(ways, 6 * WIDTH, seed=2),
    }
    inputs = ["t", "gru.W", "gru.R", "gru.B" if bias else ""]
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("GRU", inputs, ["o", "h"], hidden_size=WIDTH, direction=direction, **more),
        node("Transpose", ["o"], ["a"], perm=[2, 0, 1, 3]),
        node("Reshape", ["a", "flat"], ["y"]),
        node("Transpose", ["h"], ["last"], perm=[1, 0, 2]),
    ]
    tensors["flat"] = np.array([0, 0, -1])
    return written(path, nodes, {"x": ("batch", 6, 8)}, ["y", "last"], **tensors)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_gru_that_resets_first_comes_in_and_goes_out(
    direction: str, bias: bool, tmp_path: Path
) -> None:
    path = gru(tmp_path / "net.onnx", direction=direction, bias=bias)
    network = from_onnx(path)  # or its outputs are not ONNX Runtime's
    assert isinstance(network.get_submodule("gru"), ResetFirstGRU)
    out = lissom.export(
        network, "onnxruntime", tmp_path / "again.onnx", example=torch.randn(2, 6, 8)
    )
    (again,) = [n for n in onnx.load(str(out)).graph.node if n.op_type == "GRU"]
    assert {a.name: a.i for a in again.attribute}.get("linear_before_reset", 0) == 0
    x = floats(5, 6, 8, seed=3)
    runs = [ort.InferenceSession(str(file)).run(None, {"x": x}) for file in (path, out)]
    for first, second in zip(*runs, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_openvino_runs_a_gru_that_resets_first(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    network = from_onnx(gru(tmp_path / "net.onnx", direction="bidirectional"))
    lissom.export(network, "openvino", tmp_path / "again.onnx", example=torch.randn(2, 6, 8))


def test_a_gru_that_resets_first_begins_with_a_state(tmp_path: Path) -> None:
    tensors = {"w": floats(1, 9, 8), "r": floats(1, 9, 3), "b": floats(1, 18)}
    nodes = [
        node("Unsqueeze", ["x", "first"], ["row"]),
        node("GRU", ["row", "w", "r", "b", "", "h"], ["o", "last"], hidden_size=3),
        node("Squeeze", ["last", "first"], ["y"]),
    ]
    inputs = {"x": ("n", 8), "h": (1, "n", 3)}
    from_onnx(written(tmp_path / "net.onnx", nodes, inputs, ["y"], first=np.array([0]), **tensors))


def test_a_gru_that_resets_first_is_pytorchs_where_the_order_does_not_matter() -> None:
    torch.manual_seed(0)
    ours = ResetFirstGRU(4, WIDTH, bidirectional=True).double()
    theirs = nn.GRU(4, WIDTH, bidirectional=True).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    assert not torch.allclose(ours(x)[0], theirs(x)[0])
    for each in (ours, theirs):  # r (I h + 0) = I (r h) + 0
        for end in ("", "_reverse"):
            each.get_parameter(f"weight_hh_l0{end}").data[2 * WIDTH :] = torch.eye(WIDTH)
            each.get_parameter(f"bias_hh_l0{end}").data[2 * WIDTH :] = 0
    for first, second in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(first, second)
    ours(x)[0].sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in ours.parameters())


class Reader(nn.Module):
    """Two linear layers around a recurrent one."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.before = nn.Linear(5, 8)
        self.recurrent = recurrent
        self.after = nn.Linear(12 * WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        states = self.recurrent(torch.relu(self.before(x)).transpose(0, 1))[0]
        return self.after(states.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("step", ["prune(0.5, multiple=1)", "quantize(8)"])
def test_steps_do_around_a_gru_that_resets_first_what_they_do_around_pytorchs(
    step: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 6, 5)
    shapes = []
    for kind in (nn.GRU, ResetFirstGRU):
        network = Reader(kind(8, WIDTH, bidirectional=True))
        small = lissom.apply(step, network, x[:2], x, notes=True)[0]
        lissom.export(small, "onnxruntime", tmp_path / "net.onnx", shape=(6, 5))
        shapes.append({name: tuple(p.shape) for name, p in small.named_parameters()})
    assert shapes[0] == shapes[1]


def lengths(path: Path, nodes: list[Any], **tensors: Any) -> Path:
    tensors |= {"w": floats(1, 12, 8), "r": floats(1, 12, 3), "b": floats(1, 24)}
    lstm = node("LSTM", ["x", "w", "r", "b", "lengths"], ["y"], hidden_size=3)
    return written(path, [*nodes, lstm], TIME, ["y"], **tensors)


def test_lengths_that_are_all_those_of_the_input_are_none(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "one", "two"], ["batch"]),
        node("Slice", ["s", "zero", "one"], ["time"]),
        node("Expand", ["time", "batch"], ["long"]),
        node("Cast", ["long"], ["lengths"], to=6),
    ]
    places = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    from_onnx(lengths(tmp_path / "net.onnx", nodes, **places))


def test_other_lengths_are_refused_in_one_line(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "one", "two"], ["batch"]),
        node("Expand", ["four", "batch"], ["lengths"]),
    ]
    places = {"four": np.array([4], np.int32), "one": np.array([1]), "two": np.array([2])}
    with pytest.raises(LissomError, match=r"LSTM.*sequences of different lengths") as raised:
        from_onnx(lengths(tmp_path / "net.onnx", nodes, **places))
    assert "\n" not in str(raised.value)


def test_more_steps_than_python_can_take_are_refused(tmp_path: Path) -> None:
    tensors = {"w": floats(1, 9, 8), "r": floats(1, 9, 3)}
    nodes = [node("GRU", ["x", "w", "r"], ["y"], hidden_size=3)]
    path = written(tmp_path / "net.onnx", nodes, {"x": (2**20, "n", 8)}, ["y"], **tensors)
    with pytest.raises(LissomError, match=r"GRU.*1048576 steps are more than 16384"):
        from_onnx(path)


def test_shapes_of_long_sequences_are_found_without_their_steps(tmp_path: Path) -> None:
    tensors = {"w": floats(1, 12, 8), "r": floats(1, 12, 3), "wide": floats(20_000, 2)}
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("LSTM", ["t", "w", "r"], ["o", ""], hidden_size=3),
        node("Transpose", ["o"], ["a"], perm=[2, 3, 1, 0]),
        node("MatMul", ["a", "wide"], ["y"]),  # which fits none of the lengths that are tried
    ]
    path = written(tmp_path / "net.onnx", nodes, {"x": ("batch", "time", 8)}, ["y"], **tensors)
    begin = time.process_time()
    with pytest.raises(LissomError, match=r"MatMul"):
        from_onnx(path)
    assert time.process_time() - begin < 2
