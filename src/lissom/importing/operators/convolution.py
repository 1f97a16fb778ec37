"""Convolutions, plain and transposed."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from ..build import Op
from ..values import Constant
from .windows import Window, last_first, window_of


def conv(op: Op) -> Any:
    """Make a convolution layer if the weights are constant, otherwise call the function."""
    x = op[0]
    weight = op[1]
    axes = op.rank(weight) - 2
    if axes not in (1, 2, 3):
        raise ValueError(f"expected 1 to 3 axes beside batch and channels, got {axes}")
    window = window_of(op, op.shape(weight)[2:], x)
    groups = op.get("group", 1)
    if not window.even:
        x = op.call(F.pad, x, window.around())
    padding = window.before if window.even else [0] * axes
    bias = bias_of(op)
    settings = {"stride": tuple(window.strides), "dilation": tuple(window.dilations)}
    if not isinstance(weight, Constant) or isinstance(bias, fx.Node):
        function = getattr(F, f"conv{axes}d")
        return op.call(function, x, weight, bias, **settings, padding=tuple(padding), groups=groups)
    outputs, inputs = op.shape(weight)[:2]
    kind = getattr(nn, f"Conv{axes}d")
    return op.layer(
        lambda: kind(
            inputs * groups,
            outputs,
            tuple(window.kernel),
            padding=tuple(padding),
            groups=groups,
            bias=bias is not None,
            **settings,
        ),
        x,
        weight=weight,
        bias=bias,
    )


def bias_of(op: Op) -> Constant | fx.Node | None:
    """Return the bias of a convolution, None if it has none."""
    return None if op.optional(2) is None else op[2]


def conv_transpose(op: Op) -> Any:
    """Make a transposed convolution layer, and crop its output if padding is asymmetric."""
    x = op[0]
    weight = op[1]
    axes = op.rank(weight) - 2
    if axes not in (1, 2, 3):
        raise ValueError(f"expected 1 to 3 axes beside batch and channels, got {axes}")
    window = window_of(op, op.shape(weight)[2:], x, turned=True)
    more = op.get("output_padding", [0] * axes)
    before, after, more = turned_padding(op, window, more)
    groups = op.get("group", 1)
    bias = bias_of(op)
    # PyTorch pads symmetrically: the rest is cropped afterwards
    padding = [min(b, a) for b, a in zip(before, after, strict=True)]
    settings: dict[str, Any] = {
        "stride": tuple(window.strides),
        "padding": tuple(padding),
        "output_padding": tuple(more),
        "dilation": tuple(window.dilations),
    }
    if not isinstance(weight, Constant) or isinstance(bias, fx.Node):
        function = getattr(F, f"conv_transpose{axes}d")
        out = op.call(function, x, weight, bias, groups=groups, **settings)
    else:
        inputs, outputs = op.shape(weight)[:2]
        kind = getattr(nn, f"ConvTranspose{axes}d")
        held = {"weight": weight, "bias": bias}
        channels = (inputs, outputs * groups)
        bare = bias is None
        out = op.layer(
            lambda: kind(*channels, tuple(window.kernel), groups=groups, bias=not bare, **settings),
            x,
            **held,
        )
    cuts = [(b - p, a - p) for b, a, p in zip(before, after, padding, strict=True)]
    if any(b or a for b, a in cuts):
        out = op.call(F.pad, out, [-amount for amount in last_first(cuts)])
    return out


def turned_padding(
    op: Op, window: Window, more: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Return padding before, padding after and output padding, from `output_shape` if it is given."""
    wanted = op.get("output_shape", [])
    if not wanted:
        return window.before, window.after, more
    wanted = wanted[-len(window.kernel) :]
    before = []
    after = []
    for axis, size in enumerate(op.shape(op[0])[2:]):
        reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1
        total = window.strides[axis] * (size - 1) + more[axis] + reach - wanted[axis]
        if total < 0:
            more = [*more[:axis], more[axis] - total, *more[axis + 1 :]]
            total = 0
        small = total // 2
        upper = op.get("auto_pad", "NOTSET") == "SAME_UPPER"
        before.append(small if upper else total - small)
        after.append(total - small if upper else small)
    return before, after, more


OPERATORS = {"Conv": conv, "ConvTranspose": conv_transpose}
