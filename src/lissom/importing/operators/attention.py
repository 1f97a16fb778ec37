"""Attention as one operator."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..build import Op
from .activations import setting


def attention(op: Op) -> Any:
    """Call scaled_dot_product_attention; inputs of 3 axes are first split into heads."""
    if any(op.node.outputs[1:]) or any(op.optional(index) is not None for index in (4, 5, 6)):
        raise ValueError("a cache of keys and values, or what is in between, is not known")
    if op.get("softcap", 0.0):
        raise ValueError("softcap is not known")
    heads_merged = op.rank(op[0]) == 3
    head_counts = [op.get("q_num_heads", 0), op.get("kv_num_heads", 0), op.get("kv_num_heads", 0)]
    parts = [op[index] for index in range(3)]
    if heads_merged:
        parts = [
            split_heads(op, part, count) for part, count in zip(parts, head_counts, strict=True)
        ]
    query, key, value = parts
    settings: dict[str, Any] = {}
    if op.get("scale") is not None:
        settings["scale"] = setting(op, "scale", 1.0)
    if op.get("is_causal", 0):
        settings["is_causal"] = True
    if op.shape(query)[1] != op.shape(key)[1]:
        settings["enable_gqa"] = True
    mask = None if op.optional(3) is None else op[3]
    if mask is not None:
        if "is_causal" in settings:
            raise ValueError("a mask beside is_causal is not known")
        settings["attn_mask"] = mask
    out = op.call(F.scaled_dot_product_attention, query, key, value, **settings)
    return op.call(torch.flatten, op.call(torch.transpose, out, 1, 2), 2) if heads_merged else out


def split_heads(op: Op, x: Any, heads: int) -> Any:
    """Split (batch positions width) into (batch heads positions width/heads).

    Raises ValueError if the number of heads does not divide the width.
    """
    width = op.shape(x)[-1]
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} heads do not divide {width}")
    return op.call(torch.transpose, op.call(torch.unflatten, x, -1, (heads, width // heads)), 1, 2)


OPERATORS = {"Attention": attention}
