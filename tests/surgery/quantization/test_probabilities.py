"""The operands of attention are rounded if one grid suits its probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom import apply, export
from lissom.running.integer_share import share_in_integers
from lissom.running.plan import one_target
from lissom.surgery.quantization.sites import averaged

WIDTH = 16


class Attention(nn.Module):
    """Two heads of attention over tokens of an image, in PyTorch's call or by hand."""

    def __init__(self, by_hand: bool, sharp: float = 1.0) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.sharp = sharp  # what the first query is multiplied by
        self.patches = nn.Conv2d(3, WIDTH, 1)
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        q, k, v = self.qkv(y).unflatten(2, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.sharp != 1:
            q = torch.cat([q[:, :, :1] * self.sharp, q[:, :, 1:]], 2)
        if self.by_hand:
            y = ((q * (WIDTH // 2) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.head(y.transpose(1, 2).flatten(2).mean(1))


def samples(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def share(small: nn.Module, runtime: str, path: Path) -> float:
    fused = one_target(runtime).fused(path)
    assert fused is not None
    return share_in_integers(small, samples(1), fused, path)


def products(path: Path) -> list[bool]:
    """Return for each product of activations in a file whether both of its operands are integers."""
    graph = onnx.load(str(path)).graph
    makers: dict[str, Any] = {name: node for node in graph.node for name in node.output}

    def source(name: str) -> str:
        while name in makers and makers[name].op_type in (
            "Transpose", "Reshape", "Split", "Squeeze", "Gather", "Slice",
        ):  # fmt: skip
            name = makers[name].input[0]
        return makers[name].op_type if name in makers else "constant"

    def is_weight(name: str) -> bool:
        while name in makers:
            name = makers[name].input[0]
        return name != graph.input[0].name

    return [
        {source(name) for name in node.input} == {"DequantizeLinear"}
        for node in graph.node
        if node.op_type == "MatMul" and not any(map(is_weight, node.input))
    ]


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_both_products_of_attention_read_integers(
    runtime: str, by_hand: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = Attention(by_hand).eval()
    small = apply("quantize(8, reduce_range=True)", net, samples(1), samples())
    path = tmp_path / "model.onnx"
    export(small, runtime, path, (3, 16, 16), samples())
    assert products(path) == [True, True]
    assert share(small, runtime, path) == 1
    answers = torch.from_numpy(one_target(runtime).load(path, 1)([samples().numpy()])[0])
    with torch.no_grad():
        simulated, exact = small(samples()), net(samples())
    assert (simulated - exact).norm() < 0.02 * exact.norm()
    assert (answers - simulated).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("by_hand", [False, True])
def test_small_probabilities_beside_large_ones_stay_float(by_hand: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Attention(by_hand, sharp=200.0).eval()
    small, notes = apply("quantize(8)", net, samples(1), samples(), notes=True)
    assert any("the probabilities of 1 attention stayed float" in note for note in notes)
    export(small, "openvino", tmp_path / "model.onnx", (3, 16, 16), samples())
    path = tmp_path / "model.onnx"
    assert products(path) == [True, False]
    # the patches, their queries and what comes of 256 tokens; values weighed are as many again
    attended = 256 * 256 * WIDTH
    layers = 256 * WIDTH * (3 + 3 * WIDTH) + 4 * WIDTH
    expected = (layers + attended) / (layers + 2 * attended)
    assert share(small, "openvino", path) == pytest.approx(expected, abs=1e-4)


def test_operands_of_products_are_signed_in_openvino_where_they_go_below_0(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = apply("quantize(8)", Attention(by_hand=False).eval(), samples(1), samples())
    kinds = {}
    for runtime in ("onnxruntime", "openvino"):
        export(small, runtime, tmp_path / f"{runtime}.onnx", (3, 16, 16), samples())
        graph = onnx.load(str(tmp_path / f"{runtime}.onnx")).graph
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        rounds = [types[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
        kinds[runtime] = rounds.count(onnx.TensorProto.INT8)
    assert kinds == {"onnxruntime": 0, "openvino": 3}


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"attn_mask": torch.randn(5, 7)},
        {"attn_mask": torch.rand(2, 1, 5, 7) > 0.3},
        {"is_causal": True},
        {"enable_gqa": True},
    ],
    ids=["plain", "added", "masked", "causal", "groups"],
)
def test_attention_in_parts_is_attention(named: dict[str, Any]) -> None:
    heads = 2 if "enable_gqa" in named else 4
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, heads, 7, 8), torch.randn(2, heads, 7, 6)
    if isinstance(mask := named.get("attn_mask"), Tensor) and mask.dtype == torch.bool:
        mask[..., 0] = True
    ours = averaged(q * 8**-0.5, k, v, lambda p: p, **named)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, **named))
