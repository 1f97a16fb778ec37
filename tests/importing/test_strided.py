"""Reshapes that PyTorch's exporter writes as gathers, for an example in channels_last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lissom

from .graphs import floats, node, written

CHANNELS = 6


def pooled(path: Path, batch: int | str, backwards: bool = False) -> Path:
    """Write conv, global average, as_strided, linear; the channels come `backwards`."""
    conv = node("Conv", ["x", "conv.weight"], ["c"])
    flat = [
        node("ReduceMean", ["c"], ["mean"], axes=[2, 3], keepdims=1),
        node("Reshape", ["mean", "minus_one"], ["flat"]),
    ]
    rows = [
        node("Shape", ["x"], ["shape"], start=0, end=1),
        node("Squeeze", ["shape"], ["count"]),
        node("Range", ["zero", "count", "one"], ["range"]),
        node("Mul", ["range", "stride"], ["begins"]),
        node("Unsqueeze", ["begins", "axes"], ["begins4"]),
        node("Add", ["begins4", "places"], ["index"]),
    ]
    after = [
        node("Gather", ["flat", "index"], ["strided"], axis=0),
        node("Reshape", ["strided", "two"], ["view"]),
        node("Gemm", ["view", "linear.weight"], ["y"], transB=1),
    ]
    places = np.arange(CHANNELS).reshape(1, CHANNELS, 1, 1)
    places = places[:, ::-1] if backwards else places
    integers = {
        "minus_one": [-1],
        "zero": 0,
        "one": 1,
        "stride": CHANNELS,
        "axes": [1, 2, 3],
        "two": [-1, CHANNELS],
    }
    constants = {name: np.array(value, np.int64) for name, value in integers.items()}
    if isinstance(batch, int):
        rows = []
        first = np.arange(batch).reshape(-1, 1, 1, 1) * CHANNELS
        constants["index"] = (places + first).astype(np.int64)
    return written(
        path,
        [conv, *flat, *rows, *after],
        {"x": (batch, 3, 8, 8)},
        ["y"],
        conv__weight=floats(CHANNELS, 3, 3, 3),
        linear__weight=floats(4, CHANNELS),
        places=places.astype(np.int64),
        **constants,
    )


@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_a_gather_of_everything_in_order_is_a_reshape(batch: int | str, tmp_path: Path) -> None:
    net = lissom.from_onnx(pooled(tmp_path / "net.onnx", batch))
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        wanted = nn.functional.conv2d(x, net.get_parameter("conv.weight")).mean((2, 3))
        wanted = wanted @ net.get_parameter("linear.weight").T
        assert torch.allclose(net(x), wanted, atol=1e-4)  # at any batch, even if the file has one
    small, notes = lissom.apply("prune(0.5, multiple=1)", net, x[:1], x, notes=True)
    assert small.get_parameter("conv.weight").shape[0] == CHANNELS // 2 and notes == []


def test_a_gather_in_another_order_stays_one(tmp_path: Path) -> None:
    path = pooled(tmp_path / "net.onnx", "batch", backwards=True)
    net = lissom.from_onnx(path)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        mean = nn.functional.conv2d(x, net.get_parameter("conv.weight")).mean((2, 3))
        wanted = mean.flip(1) @ net.get_parameter("linear.weight").T
        assert torch.allclose(net(x), wanted, atol=1e-4)
