"""Smoothed transformers give the same outputs, with the factors of the paper; values with other
readers stay unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Net
from torch import Tensor, nn

import lissom
from lissom.surgery.quantization.bits import precision_of
from lissom.surgery.quantization.dataflow import trace_dataflow
from lissom.surgery.quantization.smooth import divide, factor_of, smooth, sources

EIGHT = precision_of(8, None, "inputs", "test")
WIDE = [3, 17]  # features that are a hundred times larger than the others


class HandRMS(nn.Module):
    """Normalization by the root mean square, as language models write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def attention(s: Any, x: Tensor, fused: bool) -> Tensor:
    q, k, v = s.qkv(s.one(x)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4).unbind(0)
    if fused:
        y = F.scaled_dot_product_attention(q, k, v)
    else:
        y = F.dropout((q * 8**-0.5 @ k.transpose(-2, -1)).softmax(-1), training=False) @ v
    return x + s.proj(y.transpose(1, 2).flatten(2))


def block(norm: Callable[[int], nn.Module] = nn.LayerNorm, fused: bool = True) -> nn.Module:
    """Return a block of a transformer whose normalizations have a few large features."""
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(
            s.last(
                (y := attention(s, s.patch(x).flatten(2).mT, fused))
                + s.down(F.gelu(s.up(s.two(y))))
            ).mean(1)
        ),
        patch=nn.Conv2d(3, 32, 4, 4),
        one=norm(32),
        qkv=nn.Linear(32, 96),
        proj=nn.Linear(32, 32),
        two=norm(32),
        up=nn.Linear(32, 64),
        down=nn.Linear(64, 32),
        last=norm(32),
        head=nn.Linear(32, 10),
    )
    with torch.no_grad():
        for layer in (net.one, net.two):
            layer.weight[WIDE] *= 100.0
        for layer in (net.qkv, net.up):
            layer.weight[:, WIDE] *= 0.02
    return net.eval()


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=2, max_size=9),
    st.floats(0, 1),
)
def test_factors_are_those_of_the_paper(sizes: list[tuple[float, float]], alpha: float) -> None:
    one, two = np.array(sizes).T
    wanted = [x**alpha / w ** (1 - alpha) for x, w in zip(one, two, strict=True)]
    fixed = torch.zeros(len(sizes), dtype=torch.bool)
    factor = factor_of(torch.tensor(one), torch.tensor(two), fixed, alpha).numpy()
    assert np.allclose(factor / factor[0], np.array(wanted) / wanted[0])


def test_channels_that_others_read_keep_their_size() -> None:
    sizes = torch.tensor([1.0, 50.0, 3.0])
    factor = factor_of(sizes, sizes.flip(0), torch.tensor([False, True, False]), 0.8)
    assert factor[1] == 1
    assert factor[0] != 1


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, HandRMS])
@pytest.mark.parametrize("fused", [True, False])
def test_outputs_stay_and_large_features_shrink(norm: Any, fused: bool) -> None:
    net = block(norm, fused).double()
    before = copy.deepcopy(net)
    x = images().double()
    done = smooth(net, [x], EIGHT, EIGHT)
    assert {tuple(s.source.readers) for s in done} >= {("qkv",), ("up",)}
    assert torch.allclose(net(x), before(x), rtol=0, atol=1e-12)
    sizes = net.one.weight.detach().abs()
    assert sizes[WIDE].mean() < 20 * sizes.mean()  # it was a hundred times the others


def test_values_that_attention_averages_are_smoothed_for_the_layer_behind_it() -> None:
    net = block()
    found = {source.parameters[0]: source for source in sources(net, images())}
    source = found["qkv.weight"]
    assert list(source.readers) == ["proj"]
    assert source.fixed.tolist() == [True] * 64 + [False] * 32  # queries and keys
    assert source.readers["proj"].tolist() == [*range(64, 96)]
    del found["qkv.weight"]
    assert {name: [*s.readers] for name, s in found.items()} == {
        "one.weight": ["qkv"],
        "two.weight": ["up"],
        "last.weight": ["head"],
    }


def test_what_a_sum_reads_too_is_left_alone() -> None:
    net = Net(
        lambda s, x: (lambda y: s.head(y + s.up(y)))(s.norm(x)),
        norm=nn.LayerNorm(8),
        up=nn.Linear(8, 8),
        head=nn.Linear(8, 2),
    )
    assert sources(net, torch.randn(1, 5, 8)) == []


def test_layers_that_share_an_input_share_its_factor() -> None:
    net = Net(
        lambda s, x: (lambda y: s.q(y) * s.k(y))(s.norm(x)),
        norm=nn.LayerNorm(8),
        q=nn.Linear(8, 6),
        k=nn.Linear(8, 6, bias=False),
    ).double()
    x = torch.randn(64, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        net.norm.weight[2] = 300.0
    before = net(x)
    done = smooth(net, [x], EIGHT, EIGHT)
    assert [[*s.source.readers] for s in done] == [["q", "k"]]
    assert torch.allclose(net(x), before, rtol=0, atol=1e-9)
    assert net.norm.weight[2] < 100
    divide(net, [])  # nothing is nothing
    assert torch.allclose(net(x), before, rtol=0, atol=1e-9)


def test_the_stream_of_tokens_stays_float_and_convolutions_do_not() -> None:
    flow = trace_dataflow(block(), images(1))
    kinds = {site.rstrip("0123456789") for site in flow.sites}
    multiplied = {"query", "key", "value", "softmax"}  # by attention
    assert kinds == {"input", "conv", "norm", "act", "pool"} | multiplied
    assert flow.sums == []
    assert flow.of_tokens


def test_a_transformer_is_nearer_than_without() -> None:
    net = block()
    x = images(64)
    errors = []
    for recipe in ("quantize(8)", "quantize(8, smooth=False)"):
        small = lissom.apply(recipe, net, x[:1], x)
        with torch.no_grad():
            errors.append(float((small(x) - net(x)).square().mean() / net(x).square().mean()))
    assert errors[0] < 0.3 * errors[1]
    assert errors[0] < 4e-4


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_file_answers_as_the_simulation(target: str, tmp_path: Any) -> None:
    x = images()
    small = lissom.apply("quantize(8)", block(), x[:1], x)
    path = lissom.export(small, target, tmp_path / "net.onnx", (3, 16, 16), x)
    assert path.is_file()
    lissom.save(small, tmp_path / "saved")
    again = lissom.load(tmp_path / "saved", block())
    with torch.no_grad():
        assert torch.equal(again(x), small(x))


def test_the_step_equalize_smooths_too() -> None:
    net = block()
    even, notes = lissom.apply("equalize", net, images(1), images(), notes=True)
    with torch.no_grad():
        assert torch.allclose(even(images()), net(images()), rtol=1e-3, atol=1e-4)
    largest = even.one.weight.abs().max() / even.one.weight.abs().median()
    assert largest < 30 and net.one.weight.abs().max() > 99
    assert not any("nothing to equalize" in note for note in notes)
    (plain, notes) = lissom.apply("equalize(smooth=False)", net, images(1), images(), notes=True)
    assert torch.equal(plain.one.weight, net.one.weight)
    assert any("nothing to equalize" in note for note in notes)
