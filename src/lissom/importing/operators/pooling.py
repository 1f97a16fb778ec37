"""Pooling over windows and over all positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..build import Op
from .windows import window_of


def pooled_axes(op: Op) -> int:
    """Return the number of pooled axes. Raises ValueError if it is not 1 to 3."""
    axes = op.rank(op[0]) - 2
    if axes not in (1, 2, 3):
        raise ValueError(f"expected 1 to 3 axes beside batch and channels, got {axes}")
    return axes


def max_pool(op: Op) -> Any:
    """Call max_pool. Padding that PyTorch's does not support is a separate pad before it."""
    if any(op.node.outputs[1:]):
        raise ValueError("the places of its largest values are read, which is not known")
    if op.get("storage_order", 0):
        raise ValueError("a storage_order other than 0 is not known")
    x = op[0]
    axes = pooled_axes(op)
    window = window_of(op, op.get("kernel_shape", [1] * axes), x)
    padding = window.before
    at_most_half = all(2 * pad <= size for pad, size in zip(padding, window.kernel, strict=True))
    if not (window.is_symmetric and at_most_half):
        x = window.padded(op, x, float("-inf"))
        padding = [0] * axes
    return op.call(
        getattr(F, f"max_pool{axes}d"),
        x,
        tuple(window.kernel),
        tuple(window.strides),
        tuple(padding),
        tuple(window.dilations),
        ceil_mode=bool(op.get("ceil_mode", 0)),
    )


def average_pool(op: Op) -> Any:
    """Call avg_pool. Padding that PyTorch's does not support is a separate pad before it. If padding
    does not count, the mean is divided by the share of the window that is inside the input.
    """
    x = op[0]
    axes = pooled_axes(op)
    window = window_of(op, op.get("kernel_shape", [1] * axes), x)
    if set(window.dilations) != {1}:
        raise ValueError("dilations other than 1 are not known")
    pool = getattr(F, f"avg_pool{axes}d")
    settings = {"ceil_mode": bool(op.get("ceil_mode", 0))}
    counts_padding = bool(op.get("count_include_pad", 0))
    sizes = (tuple(window.kernel), tuple(window.strides))
    at_most_half = all(
        2 * pad <= size for pad, size in zip(window.before, window.kernel, strict=True)
    )
    if window.is_symmetric and at_most_half:
        count_setting = {} if not any(window.before) else {"count_include_pad": counts_padding}
        return op.call(pool, x, *sizes, tuple(window.before), **settings, **count_setting)
    mean = op.call(pool, window.padded(op, x), *sizes, **settings)
    if counts_padding:
        return mean
    inside = window.padded(op, ones_of(op, x))
    return op.call(torch.div, mean, op.call(pool, inside, *sizes, **settings))


def ones_of(op: Op, x: Any) -> Any:
    """Return ones of the size of an image (n c ...): a constant (1 1 ...) if its size is known."""
    sizes = op.shape(x)[2:]
    if sizes == op.shape(x, 1)[2:]:
        return op.call(torch.ones, [1, 1, *sizes])
    return op.call(torch.ones_like, x)


def lp_pool(op: Op) -> Any:
    """Call lp_pool, without padding."""
    axes = pooled_axes(op)
    window = window_of(op, op.get("kernel_shape", [1] * axes), op[0])
    padded = window.opened or any((*window.before, *window.after))
    if padded or set(window.dilations) != {1}:
        raise ValueError("padding and dilations are not known")
    power = float(op.get("p", 2))
    sizes = (tuple(window.kernel), tuple(window.strides))
    # F.lp_pool takes no absolute values, which odd powers need
    powers = op.call(torch.pow, op.call(torch.abs, op[0]), power)
    pool = getattr(F, f"avg_pool{axes}d")
    total = op.call(pool, powers, *sizes, ceil_mode=bool(op.get("ceil_mode", 0)))
    count = 1
    for size in window.kernel:
        count *= size
    return op.call(torch.pow, op.call(torch.mul, total, count), 1 / power)


def global_average_pool(op: Op) -> Any:
    """Call adaptive_avg_pool to one position."""
    axes = pooled_axes(op)
    return op.call(getattr(F, f"adaptive_avg_pool{axes}d"), op[0], (1,) * axes)


def global_max_pool(op: Op) -> Any:
    """Call adaptive_max_pool to one position."""
    axes = pooled_axes(op)
    return op.call(getattr(F, f"adaptive_max_pool{axes}d"), op[0], (1,) * axes)


OPERATORS = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
}
