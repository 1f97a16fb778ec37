"""Whole heads are pruned from attention, both PyTorch's own and attention written by hand."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import Net
from torch import Tensor, nn
from torchvision.models.maxvit import MaxVit, RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import (
    ShiftedWindowAttention,
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)

from lissom import apply, load, save
from lissom.surgery.channels.attention import HeadAttention
from lissom.surgery.channels.slice import slice_channels, zero_channels
from lissom.surgery.channels.trial_cut import cuttable
from lissom.surgery.channels.windows import CLASSES, PartitionAttention, WindowAttention
from lissom.surgery.compare import network_difference


class ByHand(nn.Module):
    """Attention as many networks write it."""

    def __init__(
        self, width: int, heads: int, names: tuple[str, str] = ("num_heads", "attn_dim")
    ) -> None:
        super().__init__()
        self.names, self.head_dim = names, width // heads
        setattr(self, names[0], heads)
        setattr(self, names[1], width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, places, _ = x.shape
        heads, width = (getattr(self, name) for name in self.names)
        q, k, v = self.qkv(x).reshape(n, places, 3, heads, self.head_dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, places, width))


def vision(layer: nn.Module, call: Any) -> nn.Module:
    """Return a network that looks at 16 patches of 8x8 images."""
    torch.manual_seed(0)
    return Net(
        lambda s, x: s.head(call(s.layer, s.patch(x).flatten(2).transpose(1, 2)).mean(1)),
        patch=nn.Conv2d(3, 24, 2, 2),
        layer=layer,
        head=nn.Linear(24, 5),
    ).eval()


def swin(second: bool) -> nn.Module:
    """Return a network whose windows of 3 do not divide its 4x4 places, so that it pads and shifts them."""
    torch.manual_seed(0)
    model = SwinTransformer(
        [2, 2],
        24,
        [2],
        [4],
        [3, 3],
        num_classes=5,
        block=SwinTransformerBlockV2 if second else SwinTransformerBlock,
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


def maxvit() -> nn.Module:
    """Return a network of windows and grids of 2x2 in its 4x4 places, each attention of 4 heads."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Upsample(scale_factor=2), MaxVit((16, 16), 16, 2, [16], [2], 4, 0, num_classes=5)
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


NETWORKS = {
    "in parts": maxvit,
    "in windows": lambda: swin(False),
    "in windows, by cosine": lambda: swin(True),
    "by hand": lambda: vision(ByHand(24, 4), lambda f, x: x + f(x)),
    "other names": lambda: vision(ByHand(24, 4, ("n_head", "inner_dim")), lambda f, x: f(x)),
    "of PyTorch": lambda: vision(
        nn.MultiheadAttention(24, 4, batch_first=True), lambda f, x: x + f(x, x, x)[0]
    ),
    "without weights": lambda: vision(
        nn.MultiheadAttention(24, 4, bias=False),
        lambda f, x: f(y := x.transpose(0, 1), y, y, need_weights=False)[0].transpose(0, 1),
    ),
    "a layer of a transformer": lambda: vision(
        nn.TransformerEncoderLayer(24, 4, 32, batch_first=True), lambda f, x: f(x)
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_are_units_and_cutting_them_is_exact(name: str) -> None:
    model, x = NETWORKS[name](), torch.randn(3, 3, 8, 8)
    group = next(g for g in cuttable(model, x) if g.size == 4)
    for units in ([True, False, False, False], [False, True, False, True]):
        cut = [(group, torch.tensor(units))]
        zeroed, small = copy.deepcopy(model), copy.deepcopy(model)
        zero_channels(zeroed, cut)
        slice_channels(small, cut)
        assert network_difference(zeroed, small, x) < 1e-5
        assert sum(p.numel() for p in small.parameters()) < sum(
            p.numel() for p in model.parameters()
        )
        small.train()(x)[0, 0].backward()


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (12, 12), (22, 6), (6, 6)])
def test_windows_with_all_heads_are_torchvisions_own(second: bool, size: tuple[int, int]) -> None:
    model, x = swin(second), torch.randn(2, 3, *size)
    ours = copy.deepcopy(model)
    for layer in ours.modules():
        if isinstance(layer, ShiftedWindowAttention):
            layer.__class__ = WindowAttention
    assert network_difference(model, ours, x) < 1e-5


def test_parts_with_all_heads_are_torchvisions_own() -> None:
    model, x = maxvit(), torch.randn(2, 3, 8, 8)
    ours = copy.deepcopy(model)
    layers = [
        layer for layer in ours.modules() if isinstance(layer, RelativePositionalMultiHeadAttention)
    ]
    for layer in layers:
        layer.__class__ = PartitionAttention
    assert len(layers) == 4
    assert network_difference(model, ours, x) < 1e-5


@pytest.mark.parametrize("path", CLASSES)
def test_torchvision_still_has_the_classes(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), name), nn.Module)


@pytest.mark.parametrize(
    "name", [name for name in NETWORKS if name not in ("other names", "without weights")]
)
def test_a_network_with_fewer_heads_is_saved_and_read_back(name: str, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 8, 8)
    # some say what stays whole
    small, _ = apply("prune(0.4, multiple=1)", NETWORKS[name](), x[:1], x, notes=True)
    save(small, tmp_path)
    again = load(tmp_path, NETWORKS[name]())
    with torch.no_grad():
        assert torch.equal(again(x), small(x))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "each head", "padding", "both"])
@pytest.mark.parametrize("average", [True, False])
def test_with_all_heads_it_is_pytorchs_own(first: bool, mask: str, average: bool) -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(12, 3, batch_first=first).eval()
    ours = copy.deepcopy(whole)
    ours.__class__ = HeadAttention
    q, k = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    given: dict[str, Any] = {"need_weights": True, "average_attn_weights": average}
    if mask in ("bool", "both"):
        given["attn_mask"] = torch.rand(5, 7) > 0.7
    if mask == "float":
        given["attn_mask"] = torch.randn(5, 7)
    if mask == "each head":
        given["attn_mask"] = torch.randn(6, 5, 7)
    if mask in ("padding", "both"):
        given["key_padding_mask"] = torch.tensor([[False] * 5 + [True] * 2, [False] * 7])
    if mask == "both":
        given["key_padding_mask"] = (
            given["key_padding_mask"].float().masked_fill(given["key_padding_mask"], float("-inf"))
        )
        given["attn_mask"] = torch.zeros(5, 7).masked_fill(given["attn_mask"], float("-inf"))
    q, k = (q, k) if first else (q.transpose(0, 1), k.transpose(0, 1))
    with torch.no_grad():
        for one, two in zip(whole(q, k, k, **given), ours(q, k, k, **given), strict=True):
            torch.testing.assert_close(one, two)


def test_one_sequence_without_a_batch_and_a_causal_mask() -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(12, 3).eval()
    ours = copy.deepcopy(whole)
    ours.__class__ = HeadAttention
    x, mask = torch.randn(5, 12), torch.ones(5, 5, dtype=torch.bool).triu(1)
    with torch.no_grad():
        torch.testing.assert_close(whole(x, x, x)[0], ours(x, x, x)[0])
        torch.testing.assert_close(whole(x, x, x)[1], ours(x, x, x)[1])
        wanted = whole(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]
        torch.testing.assert_close(wanted, ours(x, x, x, is_causal=True, need_weights=False)[0])
        assert ours(x, x, x, need_weights=False)[1] is None
    with pytest.raises(ValueError, match="a mask for each head"):
        ours(x[None], x[None], x[None], attn_mask=torch.zeros(7, 1, 1))
