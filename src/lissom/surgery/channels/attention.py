"""Attention whose heads are fewer than embed_dim / head_dim, because some were pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .group import Group

# attributes in which networks keep the number of heads, and the total width of all heads
HEAD_COUNT_ATTRIBUTES = ("num_heads", "n_heads", "heads", "num_attention_heads", "n_head", "nhead")
WIDTH_ATTRIBUTES = ("attn_dim", "all_head_size", "all_head_dim", "inner_dim", "attention_dim")


class HeadAttention(nn.MultiheadAttention):
    """Multi-head self-attention from which heads were pruned. Made by changing a layer's class.

    PyTorch's forward assumes that all heads together are as wide as the input. Here `num_heads`
    counts the remaining heads, each `head_dim` wide: in_proj_weight (3 * heads * head_dim,
    embed_dim), out_proj (embed_dim, heads * head_dim).
    """

    @property
    # if it were True, nn.TransformerEncoderLayer would skip this forward and run its fused kernel
    def _qkv_same_embed_dim(self) -> bool:
        return False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return outputs and, if asked for, attention weights, as nn.MultiheadAttention does."""
        assert self.in_proj_weight is not None
        batched = query.ndim == 3
        inputs = [
            t if self.batch_first and batched else t.transpose(0, 1) if batched else t[None]
            for t in (query, key, value)
        ]
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            # n heads places head_dim
            for x, w, b in zip(inputs, self.in_proj_weight.chunk(3), biases, strict=True)
        )
        mask = mask_of(q, key_padding_mask, attn_mask, causal=is_causal)
        weights = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        weights = (weights if mask is None else weights + mask).softmax(-1)
        mixed = F.dropout(weights, self.dropout, self.training) @ v
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out if self.batch_first and batched else out.transpose(0, 1) if batched else out[0]
        if not need_weights:
            return out, None
        weights = weights.mean(1) if average_attn_weights else weights
        return out, weights if batched else weights[0]


def mask_of(
    q: Tensor, padding: Tensor | None, mask: Tensor | None, *, causal: bool
) -> Tensor | None:
    """Return the mask to add to the attention scores (n heads places places), or None."""
    if mask is None and causal:
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    parts = []
    if mask is not None:
        if mask.ndim == 3 and len(mask) != len(q) * q.shape[1]:
            raise ValueError(
                f"a mask for each head has {len(mask)} of them; {len(q) * q.shape[1]} are left"
            )
        parts.append(
            _added(mask, q).unflatten(0, (len(q), -1)) if mask.ndim == 3 else _added(mask, q)
        )
    if padding is not None:
        parts.append(_added(padding if padding.ndim == 2 else padding[None], q)[:, None, None])
    return sum(parts[1:], parts[0]) if parts else None


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers to add to the scores: True becomes minus infinity."""
    return (
        torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(
            mask, float("-inf")
        )
        if mask.dtype == torch.bool
        else mask.to(like.dtype)
    )


def count_heads(layers: Mapping[str, nn.Module], group: Group, units: int) -> None:
    """Set the number of heads to `units` in the modules around a group whose units may be heads.

    Hand-written attention keeps its number of heads as an attribute of the module that holds the
    projections. A trial then shows whether the module's code needed anything else.
    """
    for path in group.layers("out"):
        owner: Any = layers[path.rpartition(".")[0]]
        for name in HEAD_COUNT_ATTRIBUTES:
            if type(_plain(owner, name)) is int and getattr(owner, name) == group.size:
                for width in WIDTH_ATTRIBUTES:
                    if (
                        type(_plain(owner, width)) is int
                        and getattr(owner, width) % group.size == 0
                    ):
                        setattr(owner, width, getattr(owner, width) // group.size * units)
                setattr(owner, name, units)


def _plain(layer: nn.Module, name: str) -> Any:
    """Return an attribute of a layer or its class, None if there is none. Ignores parameters and
    submodules.
    """
    return vars(layer).get(name, getattr(type(layer), name, None))


def match_attention(layer: nn.MultiheadAttention) -> None:
    """Make PyTorch's attention a HeadAttention if heads or inputs were pruned from it."""
    weight = layer.in_proj_weight
    if weight is not None and tuple(weight.shape) != (3 * layer.embed_dim, layer.embed_dim):
        layer.num_heads = len(weight) // (3 * layer.head_dim)
        layer.__class__ = HeadAttention
