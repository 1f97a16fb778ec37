"""Attention rewritten as linear layers gives PyTorch's outputs, and is quantized, saved and loaded."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import Net
from torch import nn

import lissom
from lissom.surgery.plain_attention import PlainAttention, separate_attention


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 10}])
def test_it_answers_as_pytorchs_own(first: bool, bias: bool, widths: dict[str, int]) -> None:
    torch.manual_seed(0)
    own = nn.MultiheadAttention(8, 2, bias=bias, batch_first=first, **widths).eval().double()
    sizes = (8, widths.get("kdim", 8), widths.get("vdim", 8))
    shape = (3, 5) if first else (5, 3)
    inputs = [torch.randn(*shape, size, dtype=torch.float64) for size in sizes]
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    net = Net(lambda s, x: s.attention(*x, need_weights=False)[0], attention=copy.deepcopy(own))
    assert separate_attention(net, {"x": inputs}) == ["attention"]
    plain: Any = net.attention
    assert type(plain) is PlainAttention
    for settings in (
        {},
        {"need_weights": False},
        {"key_padding_mask": padding, "average_attn_weights": False},
        {"attn_mask": mask, "need_weights": False},
    ):
        for wanted, got in zip(own(*inputs, **settings), plain(*inputs, **settings), strict=True):
            assert (wanted is None and got is None) or torch.allclose(wanted, got, atol=1e-12)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(layers, nn.Flatten(), nn.Linear(96, 4)).eval()


def test_an_encoder_is_quantized_saved_and_loaded(tmp_path: Any) -> None:
    net = encoder()
    x = torch.randn(32, 6, 16)
    small, notes = lissom.apply("quantize(8)", net, x[:1], x, notes=True)
    assert not [note for note in notes if "stay" in note]
    names = {name for name, m in small.named_modules() if type(m).__name__ == "QuantizedLinear"}
    assert {name.rpartition(".")[2] for name in names} >= {"q_proj", "k_proj", "v_proj", "out_proj"}
    with torch.no_grad():
        answers = small(x)
        assert (answers - net(x)).abs().max() < 0.05 * net(x).abs().max()
    lissom.save(small, tmp_path)
    with torch.no_grad():
        assert torch.equal(lissom.load(tmp_path, encoder())(x), answers)


def test_attention_whose_weights_code_reads_stays() -> None:
    net = Net(
        lambda s, x: s.a(x, x, x)[0] + s.a.in_proj_weight.sum(),
        a=nn.MultiheadAttention(8, 2, batch_first=True),
    ).eval()
    x = torch.randn(1, 3, 8)
    before = net(x)
    assert separate_attention(net, x) == []
    assert type(net.a) is nn.MultiheadAttention
    assert torch.equal(net(x), before)
