"""Small networks in opsets 9 to 23: each is read as the same layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom import from_onnx

from .graphs import PICTURES, node
from .graphs import written as handwritten
from .test_networks import written

EXPORTED = 20  # the last that PyTorch's exporter without a program writes


class Pictures(nn.Module):
    """Convolutions, pooling, padding and what selects parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.slopes = nn.PReLU(4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.norm(self.first(x)), 0.0, 6.0)
        x = F.max_pool2d(F.pad(x, (1, 0, 2, 1)), 2)
        x = self.slopes(self.up(x))
        a, b = x.split([1, 3], 1)
        x = torch.cat([b.clamp(max=2.0), a, F.elu(x[:, :, :7].repeat(1, 1, 2, 1))], 1)
        x = torch.where(x > 0, x, F.leaky_relu(x, 0.2)).mean((2, 3))
        return torch.log_softmax(self.head(x), 1)


class Sequences(nn.Module):
    """An LSTM and a GRU, reductions, the largest, logic and sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(12, 6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gru(self.lstm(x)[0])[0]
        x = x.reshape(x.shape[0], -1, 2, 3).transpose(1, 2).flatten(2)
        x = x - x.amax(-1, keepdim=True) + x.sum(-1, keepdim=True).unsqueeze(0).squeeze(0)
        x = x.masked_fill((x > 1) & (x < 2), 0.5)
        top = x.topk(2, dim=-1)[0]
        return self.head(torch.cat([x[..., :4], top], -1)) / x.norm(dim=-1, keepdim=True)


class Text(nn.Module):
    """Embeddings, attention step by step, and the last place."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 24)
        self.qkv = nn.Linear(24, 72)
        self.after = nn.LayerNorm(24)
        self.norm = nn.GroupNorm(4, 24)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + torch.arange(ids.shape[1])[:, None] * 0.1
        q, k, v = self.qkv(x).reshape(x.shape[0], -1, 3, 2, 12).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) / 12**0.5, -1)
        x = F.gelu(self.after(x + (weights @ v).transpose(1, 2).flatten(2)))
        return self.norm(x.transpose(1, 2)).transpose(1, 2)[:, -1].cumsum(-1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int]] = {
    "pictures": (Pictures, lambda: torch.randn(2, 3, 12, 10), 9),
    "sequences": (Sequences, lambda: torch.randn(2, 5, 8), 9),
    "text": (Text, lambda: torch.randint(0, 20, (2, 7)), 11),  # the first with a cumulative sum
}


@pytest.mark.parametrize("opset", range(9, 24))
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_each_opset_gives_what_it_gave(name: str, opset: int, tmp_path: Path) -> None:
    make, inputs, first = NETWORKS[name]
    if opset < first:
        pytest.skip("the exporter has no form for it")
    torch.manual_seed(0)
    network = make().eval()
    x = inputs()
    path = written(network, x, tmp_path / "net.onnx", opset_version=min(opset, EXPORTED))
    if opset > EXPORTED:
        onnx.save(onnx.version_converter.convert_version(onnx.load(str(path)), opset), str(path))
    model: Any = onnx.load(str(path))
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset]
    again = from_onnx(path)  # or its outputs are not ONNX Runtime's
    with torch.no_grad():
        torch.testing.assert_close(again(x), network(x), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("opset", range(9, 24))
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resizing_of_each_opset(mode: str, opset: int, tmp_path: Path) -> None:
    if mode == "linear" and opset < 11:
        pytest.skip("until opset 10, places lie where PyTorch has none")
    if opset < 11:
        op, reads, settings = "Upsample" if opset == 9 else "Resize", ["x", "f"], {}
    else:
        op, reads = "Resize", ["x", "r", "f"]
        settings = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if mode == "linear":
        settings = {"coordinate_transformation_mode": "pytorch_half_pixel"}
    tensors = {"f": np.array([1, 1, 2, 3], np.float32), "r": np.zeros(0, np.float32)}
    nodes = [node(op, reads, ["y"], mode=mode, **settings)]
    from_onnx(handwritten(tmp_path / "net.onnx", nodes, PICTURES, ["y"], opset, **tensors))
