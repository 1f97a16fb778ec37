"""In a file for OpenVINO each rounding has its own scale and zero point."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import torch
from torch import nn

import lissom


def test_no_two_roundings_share_a_scale_or_a_zero_point(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()).eval()
    net.append(nn.Conv2d(8, 4, 1))
    x = torch.randn(8, 3, 16, 16)
    small = lissom.apply("quantize(8)", net.eval(), x[:1], x)
    path = tmp_path / "model.onnx"
    lissom.export(small, "openvino", path, (3, 16, 16), x)
    graph = onnx.load(str(path)).graph
    single = {tensor.name for tensor in graph.initializer if not tensor.dims}
    read = Counter[str]()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            read.update(single & {*node.input[1:]})
    assert len(read) > 6
    assert set(read.values()) == {1}
