"""A pixel shuffle between a convolution and its rounding leaves the convolution in integers."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom.running.plan import one_target


class Larger(nn.Module):
    """Upscales by two, with a ReLU before the shuffle, behind it, or none."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.up = nn.Conv2d(16, 64, 3, padding=1)
        self.tail = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.head(x).relu())
        if self.order == "relu, shuffle":
            x = F.pixel_shuffle(x.relu(), 2)
        elif self.order == "shuffle, relu":
            x = F.pixel_shuffle(x, 2).relu()
        elif self.order == "shuffle, relu6":
            x = F.relu6(F.pixel_shuffle(x, 2))
        else:
            x = F.pixel_shuffle(x, 2)
        out: Tensor = self.tail(x)
        return out


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("order", ["relu, shuffle", "shuffle, relu", "shuffle, relu6", "shuffle"])
def test_all_convolutions_around_a_shuffle_run_in_integers(
    order: str, runtime: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.rand(40, 3, 12, 12)
    small = lissom.apply("quantize(8)", Larger(order).eval(), x[:1], x)
    path = tmp_path / "net.onnx"
    lissom.export(small, runtime, path, (3, 12, 12), x)
    fused = one_target(runtime).fused(path)
    # ONNX Runtime computes the last layer in floats, since its output is not rounded
    assert fused is not None and all(name.startswith("tail") for name in fused.rest)
    assert fused.done == fused.total - len(fused.rest) >= 2
    found = torch.from_numpy(one_target(runtime).load(path, 1)(x.numpy()))
    with torch.no_grad():
        wanted = small(x)
    assert (found - wanted).square().mean().sqrt() < 0.02 * wanted.square().mean().sqrt()
    if order == "shuffle, relu":
        kinds = [node.op_type for node in onnx.load(path).graph.node]
        assert kinds[kinds.index("DepthToSpace") - 1] == "DequantizeLinear"


def test_a_shuffle_whose_output_is_returned_stays(tmp_path: Path) -> None:
    class Returned(Larger):
        def forward(self, x: Tensor) -> Tensor:
            large = F.pixel_shuffle(self.up(self.head(x).relu()), 2).relu()
            return large + self.tail(large).mean()

    torch.manual_seed(0)
    x = torch.rand(40, 3, 12, 12)
    small = lissom.apply("quantize(8)", Returned("").eval(), x[:1], x)
    lissom.export(small, "onnxruntime", tmp_path / "net.onnx", (3, 12, 12), x)  # with its gate
