"""Window attention of torchvision's Swin and MaxViT from which heads were pruned."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowAttention(nn.Module):
    """Attention within windows of an image (n h w c), from which heads were pruned. Made by
    changing a layer's class.

    torchvision's forward assumes that all heads together are as wide as the input. Here `num_heads`
    counts the remaining heads: qkv.weight (3 * heads * d, c), proj.weight (c, heads * d). It runs
    both versions: version 1 has a table of position biases, version 2 computes them and compares
    queries and keys by their cosine.
    Source: Liu et al. 2021, https://arxiv.org/abs/2103.14030, and 2022,
    https://arxiv.org/abs/2111.09883.
    """

    qkv: nn.Linear
    proj: nn.Linear
    num_heads: int
    window_size: list[int]
    shift_size: list[int]
    attention_dropout: float
    dropout: float
    relative_position_bias_table: Tensor
    relative_position_index: Tensor
    relative_coords_table: Tensor
    cpb_mlp: nn.Module
    logit_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed images, of the shape of `x`."""
        high, wide = self.window_size
        h, w = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -w % wide, 0, -h % high))
        # windows
        rows = x.shape[1] // high
        columns = x.shape[2] // wide
        shift = [0 if n == 1 else s for n, s in zip((rows, columns), self.shift_size, strict=True)]
        x = torch.roll(x, [-s for s in shift], (1, 2)) if any(shift) else x
        # n rows columns high wide c
        x = x.unflatten(2, (columns, wide)).unflatten(1, (rows, high)).transpose(2, 3)
        # n windows places 3 heads d
        q, k, v = (
            F.linear(x.flatten(3, 4).flatten(1, 2), self.qkv.weight, self._qkv_bias())
            # each n windows heads places d
            .unflatten(-1, (3, self.num_heads, -1))
            .transpose(2, 4)
            .unbind(3)
        )
        bias = self._position_bias()
        if any(shift):
            bias = bias + self._apart(rows, columns, shift, x)
        mixed = self._mixed(q, k, v, bias).transpose(2, 3).flatten(3)
        out = F.dropout(self.proj(mixed), self.dropout, self.training)
        out = out.unflatten(2, (high, wide)).unflatten(1, (rows, columns))
        # n rows high columns wide c
        out = out.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        out = torch.roll(out, shift, (1, 2)) if any(shift) else out
        return out[:, :h, :w].contiguous()

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Return the attention-weighted values. All tensors are (n windows heads places d)."""
        if hasattr(self, "logit_scale"):
            q = F.normalize(q, dim=-1) * self.logit_scale.clamp(max=math.log(100)).exp()
            k = F.normalize(k, dim=-1)
        else:
            q = q * q.shape[-1] ** -0.5
        weights = (q @ k.transpose(-2, -1) + bias).softmax(-1)
        return F.dropout(weights, self.attention_dropout, self.training) @ v

    def _qkv_bias(self) -> Tensor | None:
        bias = self.qkv.bias
        if bias is None or not hasattr(self, "logit_scale"):
            return bias
        q, _, v = bias.chunk(3)  # cosine attention has no bias of keys
        return torch.cat([q, torch.zeros_like(q), v])

    def _position_bias(self) -> Tensor:
        """Return the bias of each head by the relative position of two places (heads places
        places).
        """
        computed = hasattr(self, "cpb_mlp")
        table = (
            self.cpb_mlp(self.relative_coords_table).flatten(0, -2)
            if computed
            else self.relative_position_bias_table
        )
        bias = table[self.relative_position_index].T.unflatten(1, (math.prod(self.window_size), -1))
        return 16 * bias.sigmoid() if computed else bias

    def _apart(self, rows: int, columns: int, shift: list[int], x: Tensor) -> Tensor:
        """Return the mask of shifted windows (windows 1 places places).

        It is -100 between places that the shift brought together from opposite edges, else 0.
        """
        regions = []
        for windows, side, moved in zip((rows, columns), self.window_size, shift, strict=True):
            place = torch.arange(windows * side, device=x.device).view(windows, side)
            regions.append(
                ((place >= (windows - 1) * side).long() + (place >= windows * side - moved))
                * (moved > 0)
            )
        # rows columns high wide
        region = 3 * regions[0][:, None, :, None] + regions[1][None, :, None, :]
        region = region.flatten(2).flatten(0, 1)
        return (region[:, None, :, None] != region[:, None, None, :]).to(x.dtype) * -100


class PartitionAttention(nn.Module):
    """Attention within parts of an image (n parts places c), from which heads were pruned.

    Made by changing a layer's class, like WindowAttention. `n_heads` counts the remaining heads:
    to_qkv.weight (3 * n_heads * d, c), merge.weight (c, n_heads * d).
    Source: Tu et al. 2022, https://arxiv.org/abs/2204.01697.
    """

    to_qkv: nn.Linear
    merge: nn.Linear
    n_heads: int
    scale_factor: float
    relative_position_bias_table: Tensor
    relative_position_index: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed parts, of the shape of `x`."""
        # n parts heads places d
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.n_heads, -1)).transpose(2, 4).unbind(3)
        # heads places places
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        weights = (q @ k.transpose(-2, -1) * self.scale_factor + bias).softmax(-1)
        return self.merge((weights @ v).transpose(2, 3).flatten(3))


CLASSES = {  # torchvision's class: our class, and the names of its input and output projections
    "torchvision.models.swin_transformer.ShiftedWindowAttention": (WindowAttention, "qkv", "proj"),
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": (
        WindowAttention,
        "qkv",
        "proj",
    ),
    "torchvision.models.maxvit.RelativePositionalMultiHeadAttention": (
        PartitionAttention,
        "to_qkv",
        "merge",
    ),
}
CLASS_NAMES = {name.rpartition(".")[2] for name in CLASSES}


def becomes(layer: nn.Module) -> type[nn.Module] | None:
    """Return the class that supports pruned heads for one of torchvision's, None for other layers."""
    return CLASSES.get(f"{type(layer).__module__}.{type(layer).__qualname__}", (None, "", ""))[0]


def match_windows(layer: nn.Module) -> None:
    """Change the class of torchvision's attention to ours if heads were pruned from it."""
    if type(layer).__qualname__ not in CLASS_NAMES:
        return
    ours, before, after = CLASSES.get(
        f"{type(layer).__module__}.{type(layer).__qualname__}", (None, "", "")
    )
    if ours and len(layer.get_parameter(f"{before}.weight")) != 3 * len(
        layer.get_parameter(f"{after}.weight")
    ):
        layer.__class__ = ours
