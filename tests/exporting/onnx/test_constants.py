"""Layers whose inputs are constants are computed at export."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom.running.plan import one_target


class Encoded(nn.Module):
    """An image, to which a convolution of places is added, as in XCiT."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.places = nn.Conv2d(4, 8, 1)
        self.head = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[3], dtype=torch.float32) / x.shape[3]
        angles = torch.stack([at.sin(), at.cos(), (3 * at).sin(), (3 * at).cos()])
        places = self.places(angles[None, :, None].expand(1, 4, x.shape[2], x.shape[3]))
        y = self.conv(x).relu() + places.repeat(x.shape[0], 1, 1, 1)
        return self.head(y).mean((2, 3))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_layer_of_constants_is_a_constant_in_the_file(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Encoded().eval()
    x = torch.randn(8, 3, 16, 16)
    small = lissom.apply("quantize(8, reduce_range=True)", net, x[:1], x)
    path = tmp_path / "model.onnx"
    lissom.export(small, runtime, path, (3, 16, 16), x)
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count("Conv") == 2
    answers = torch.from_numpy(one_target(runtime).load(path, 1)([x.numpy()])[0])
    with torch.no_grad():
        simulated = small(x)
    assert (answers - simulated).norm() < 0.03 * simulated.norm()
