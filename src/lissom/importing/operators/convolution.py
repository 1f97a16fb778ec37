"""Convolutions, plain and transposed."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from ...surgery.layers import halves
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
    if not window.is_symmetric:
        x = window.padded(op, x)
    padding = window.before if window.is_symmetric else [0] * axes
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
    window = window_of(op, op.shape(weight)[2:], x, transposed=True)
    output_padding = op.get("output_padding", [0] * axes)
    output_sizes = op.get("output_shape", [])[-axes:]
    if output_sizes and len(output_sizes) != axes:
        raise ValueError(f"expected {axes} sizes as output_shape, got {len(output_sizes)}")
    crops_at_run_time = bool(output_sizes) and op.shape(x)[2:] != op.shape(x, 1)[2:]
    if crops_at_run_time:  # cropped to the output shape at run time
        before = after = [0] * axes
    else:
        before, after, output_padding = transposed_padding(op, window, output_padding, output_sizes)
    groups = op.get("group", 1)
    bias = bias_of(op)
    # PyTorch pads symmetrically: the rest is cropped afterwards
    padding = [min(low, high) for low, high in zip(before, after, strict=True)]
    settings: dict[str, Any] = {
        "stride": tuple(window.strides),
        "padding": tuple(padding),
        "output_padding": tuple(output_padding),
        "dilation": tuple(window.dilations),
    }
    if not isinstance(weight, Constant) or isinstance(bias, fx.Node):
        function = getattr(F, f"conv_transpose{axes}d")
        out = op.call(function, x, weight, bias, groups=groups, **settings)
    else:
        inputs, outputs = op.shape(weight)[:2]
        kind = getattr(nn, f"ConvTranspose{axes}d")
        tensors = {"weight": weight, "bias": bias}
        channels = (inputs, outputs * groups)
        has_no_bias = bias is None
        out = op.layer(
            lambda: kind(
                *channels, tuple(window.kernel), groups=groups, bias=not has_no_bias, **settings
            ),
            x,
            **tensors,
        )
    cuts = [(low - pad, high - pad) for low, high, pad in zip(before, after, padding, strict=True)]
    if any(low or high for low, high in cuts):
        out = op.call(F.pad, out, [-amount for amount in last_first(cuts)])
    return op.call(cropped, out, output_sizes, window.upper) if crops_at_run_time else out


def transposed_padding(
    op: Op, window: Window, output_padding: list[int], output_sizes: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Return padding before, padding after and output padding; with them the output has the sizes
    `output_sizes`, if these are given.
    """
    if not output_sizes:
        return window.before, window.after, output_padding
    before = []
    after = []
    for axis, size in enumerate(op.shape(op[0])[2:]):
        total = (
            window.strides[axis] * (size - 1)
            + output_padding[axis]
            + window.extents[axis]
            - output_sizes[axis]
        )
        if total < 0:
            output_padding = [
                *output_padding[:axis],
                output_padding[axis] - total,
                *output_padding[axis + 1 :],
            ]
            total = 0
        first, last = halves(total, window.upper)
        before.append(first)
        after.append(last)
    return before, after, output_padding


def cropped(x: Tensor, output_sizes: list[int], upper: bool) -> Tensor:
    """Return the middle of `x` (n c ...); more is cut from the end if `upper`, otherwise from the
    beginning. Raises ValueError if it is smaller than `output_sizes`.
    """
    sizes = list(x.shape[2:])
    totals = [size - kept for size, kept in zip(sizes, output_sizes, strict=True)]
    if min(totals) < 0:
        raise ValueError(
            f"expected output sizes {output_sizes}, the largest from this input is {sizes}"
        )
    cuts = last_first(halves(total, upper) for total in totals)
    return F.pad(x, [-amount for amount in cuts])


OPERATORS = {"Conv": conv, "ConvTranspose": conv_transpose}
