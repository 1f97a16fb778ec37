"""Attention on tensors without exactly four axes, which PyTorch's ONNX exporter requires."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# the arguments that may be passed by place
ARGUMENT_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class FourAxisAttention(TorchFunctionMode):
    """While active, pass tensors to scaled_dot_product_attention as (batch 1 places width).

    Some networks have windows as a fifth axis, others merge heads into the batch. Here all leading
    axes are merged into the batch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        query: Any = args[0] if args else named.get("query")
        if func is not F.scaled_dot_product_attention or query.ndim == 4:
            return func(*args, **named)
        named.update(zip(ARGUMENT_NAMES, args, strict=False))
        for name in ("query", "key", "value"):
            named[name] = merge_leading_axes(named[name])
        mask = named.get("attn_mask")
        if mask is not None and mask.ndim > 2:
            if mask.shape[:-2] != query.shape[:-2]:
                mask = mask.expand(*query.shape[:-2], *mask.shape[-2:])
            named["attn_mask"] = merge_leading_axes(mask)
        out: Tensor = func(**named)
        # -1: a size that depends on the batch would be computed by nodes in the file
        return out.reshape(-1, *query.shape[1:-1], out.shape[-1])


def merge_leading_axes(tensor: Tensor) -> Tensor:
    """Return a tensor (... places width) as (batch 1 places width)."""
    return tensor.reshape(-1, 1, *tensor.shape[-2:])
