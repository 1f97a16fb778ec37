"""PyTorch's attention as four linear layers, which can be quantized like any others.

nn.MultiheadAttention multiplies by its weights inside one operation, and in eval mode a whole block
may be one operation: nothing inside can be rounded. This layer has `q_proj`, `k_proj`, `v_proj` and
`out_proj` instead, and computes the same.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..trees import Tree
from .channels.attention import mask_of
from .plain_layers import outputs_of, same


class PlainAttention(nn.Module):
    """Multi-head attention made of linear layers; nn.MultiheadAttention becomes one in place."""

    _qkv_same_embed_dim = False  # else nn.TransformerEncoderLayer would run its own fused operation
    in_proj_bias = None
    num_heads: int
    head_dim: int
    batch_first: bool
    dropout: float
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear

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
        batched = query.ndim == 3
        swapped = batched and not self.batch_first
        inputs: dict[Tensor, Tensor] = {}
        for x in (query, key, value):  # an input passed twice stays one tensor
            if x not in inputs:
                inputs[x] = x.transpose(0, 1) if swapped else x if batched else x[None]
        q = self.split(self.q_proj(inputs[query]))
        k = self.split(self.k_proj(inputs[key]))
        v = self.split(self.v_proj(inputs[value]))
        mask = mask_of(q, key_padding_mask, attn_mask, causal=is_causal)
        drop = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, drop, self.training) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, drop)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out.transpose(0, 1) if swapped else out if batched else out[0]
        if weights is None:
            return out, None
        weights = weights.mean(1) if average_attn_weights else weights
        return out, weights if batched else weights[0]

    def split(self, x: Tensor) -> Tensor:
        """Return the features of tokens (n tokens features) by head (n heads tokens head_dim)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def separate_attention(model: nn.Module, example: Tree) -> list[str]:
    """Turn each nn.MultiheadAttention into linear layers, in place; return their names.

    Nothing is changed if the network, run on the first item of `example` (n ...), would then return
    other outputs, because its code uses more of the layer than its output.
    """
    found = {name: m for name, m in model.named_modules() if can_separate(model, m)}
    if not found:
        return []
    around = [m for m in model.modules() if isinstance(m, nn.TransformerEncoder)]
    changed = [*found.values(), *around]
    before = [(m, type(m), dict(vars(m)), dict(m._parameters), dict(m._modules)) for m in changed]
    outputs = outputs_of(model, example)
    for layer in found.values():
        separate(layer)
    for encoder in around:
        encoder.use_nested_tensor = False  # nested tensors need PyTorch's own attention
    if same(model, example, outputs):
        return [*found]
    for module, kind, state, parameters, modules in before:
        module.__class__ = kind
        module.__dict__ = {**state, "_parameters": parameters, "_modules": modules}
    return []


def can_separate(model: nn.Module, layer: nn.Module) -> bool:
    """Return whether a layer is PyTorch's attention that linear layers can compute.

    Its weights must be its own.
    """
    if not isinstance(layer, nn.MultiheadAttention) or type(layer.out_proj) not in PROJECTIONS:
        return False
    if layer.bias_k is not None or layer.add_zero_attn:
        return False
    mine = {p for p in layer._parameters.values() if p is not None}
    others = (m for m in model.modules() if m is not layer)
    return all(mine.isdisjoint(m._parameters.values()) for m in others)


PROJECTIONS = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)


def separate(layer: Any) -> None:
    """Turn an nn.MultiheadAttention into linear layers, in place."""
    weights = (
        (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        if layer.in_proj_weight is None
        else layer.in_proj_weight.chunk(3)
    )
    biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    learns = [p.requires_grad for p in layer._parameters.values() if p is not None]
    layer._parameters.clear()
    layer.__dict__.pop("_qkv_same_embed_dim", None)
    layer.__class__ = PlainAttention
    for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
        made = nn.Linear(weight.shape[1], len(weight), bias is not None, device="meta")
        made.weight = nn.Parameter(weight.detach().clone(), requires_grad=any(learns))
        if bias is not None:
            made.bias = nn.Parameter(bias.detach().clone(), requires_grad=any(learns))
        layer.add_module(name, made.train(layer.training))
    layer.out_proj.__class__ = nn.Linear
