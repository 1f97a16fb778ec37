"""Activations, softmax and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from ..build import Op
from ..values import Constant


def unary(function: Callable[..., Any]) -> Callable[[Op], Any]:
    """Return the operator that calls a function on its input."""
    return lambda op: op.call(function, op[0])


def unary_with_setting(
    function: Callable[..., Any], default: float, name: str = "alpha"
) -> Callable[[Op], Any]:
    """Return the operator that calls a function on its input and one setting."""
    return lambda op: op.call(function, op[0], setting(op, name, default))


def setting(op: Op, name: str, default: float) -> float:
    """Return a float attribute as the decimal number that was rounded to 32 bits."""
    return shortest_decimal(op.get(name, default))


def shortest_decimal(value: float) -> float:
    """Return the shortest decimal number with the same value in 32 bits.

    >>> shortest_decimal(0.20000000298023224), shortest_decimal(float("inf"))
    (0.2, inf)
    """
    if not math.isfinite(value):
        return value
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if np.float32(short) == np.float32(value):
            return short
    return value


def gelu(op: Op) -> Any:
    """Call gelu, exact or with the tanh approximation."""
    approximation = op.get("approximate", "none")
    if approximation not in ("none", "tanh"):
        raise ValueError(f"approximate {approximation!r:.40} is not known")
    return (
        op.call(F.gelu, op[0])
        if approximation == "none"
        else op.call(F.gelu, op[0], approximate="tanh")
    )


def hard_sigmoid(op: Op) -> Any:
    """Call hardsigmoid if the slope is 1/6, otherwise clamp a line."""
    slope = op.get("alpha", 0.2)
    offset = op.get("beta", 0.5)
    if abs(slope - 1 / 6) < 1e-6 and offset == 0.5:
        return op.call(F.hardsigmoid, op[0])
    line = op.call(torch.add, op.call(torch.mul, op[0], setting(op, "alpha", 0.2)), offset)
    return op.call(torch.clamp, line, 0.0, 1.0)


def swish(op: Op) -> Any:
    """Call silu, or with alpha other than 1 compute x sigmoid(alpha x)."""
    factor = setting(op, "alpha", 1.0)
    if factor == 1:
        return op.call(F.silu, op[0])
    return op.call(torch.mul, op[0], op.call(torch.sigmoid, op.call(torch.mul, op[0], factor)))


def clip(op: Op) -> Any:
    """Call relu6 or hardtanh if both bounds are constants, otherwise clamp."""
    low = clip_bound(op, "min", 1)
    high = clip_bound(op, "max", 2)
    if low is None and high is None:
        return op.call(torch.clone, op[0])
    bounds = (low, high)
    if any(isinstance(bound, (Constant, fx.Node)) for bound in bounds):  # clamp takes no mixture
        return op.call(torch.clamp, op[0], *(as_tensor(op, bound) for bound in bounds))
    numbers = [bound for bound in bounds if isinstance(bound, float)]
    if len(numbers) < 2 or low > high:
        return op.call(torch.clamp, op[0], low, high)
    if bounds == (0, 6):
        return op.call(F.relu6, op[0])
    return op.call(F.hardtanh, op[0], low, high)


def as_tensor(op: Op, bound: Any) -> Any:
    """Return a bound of clip as a tensor of the type of its input; None stays None."""
    return Constant(torch.tensor(bound, dtype=op.dtype(op[0]))) if is_number(bound) else bound


def is_number(bound: Any) -> bool:
    """Return whether a bound of clip is a number."""
    return isinstance(bound, (int, float))


def clip_bound(op: Op, name: str, index: int) -> Any:
    """Return a bound of clip: a number, a tensor, or None if it is missing or infinite."""
    if op.get(name) is not None:  # before opset 11
        bound = setting(op, name, 0.0)
        return None if abs(bound) > 3e38 else bound
    if op.optional(index) is None:
        return None
    value = op[index]
    if not isinstance(value, Constant) or value.tensor.numel() != 1:
        return value
    number = value.tensor.item()
    if not value.tensor.is_floating_point():
        return number
    return None if abs(number) > 3e38 else shortest_decimal(number)


def prelu(op: Op) -> Any:
    """Call prelu if there is one slope or one per channel, otherwise compute it."""
    x = op[0]
    slope = op[1]
    shape = op.shape(slope)
    count = math.prod(shape)
    channels = [1] * (len(shape) - (op.rank(x) - 1)) + [count] + [1] * (op.rank(x) - 2)
    if isinstance(slope, Constant) and (count == 1 or shape == channels[-len(shape) :]):
        row = Constant(slope.tensor.reshape(-1), slope.source)
        return op.call(F.prelu, x, row)
    below = op.call(torch.mul, op.call(torch.clamp, x, max=0), slope)
    return op.call(torch.add, op.call(F.relu, x), below)


def softmax(op: Op, function: Callable[..., Any] = F.softmax) -> Any:
    """Call softmax over one axis; before opset 13, over that axis and all after it together."""
    axis = op.get("axis", -1 if op.opset >= 13 else 1)
    x = op[0]
    last = axis in (-1, op.rank(x) - 1)
    if op.opset >= 13 or last:
        return op.call(function, x, dim=axis)
    shape = [op.size(x, position) for position in range(op.rank(x))]
    flat = op.call(torch.flatten, x, axis)
    return op.call(torch.reshape, op.call(function, flat, dim=-1), shape)


def shrink(op: Op) -> Any:
    """Call hardshrink or softshrink."""
    limit, bias = setting(op, "lambd", 0.5), setting(op, "bias", 0.0)
    if bias == 0:
        return op.call(F.hardshrink, op[0], limit)
    if bias == limit:
        return op.call(F.softshrink, op[0], limit)
    raise ValueError(f"a bias of {bias} beside a limit of {limit} is not known")


def dropout(op: Op) -> Any:
    """Make a dropout layer, which passes its input on in eval mode and drops in training."""
    ratio = op.get("ratio", 0.5)
    if isinstance(op.optional(1), Constant):
        ratio = float(op.constant(1))
    if isinstance(op.optional(2), Constant) and bool(op.constant(2)):
        raise ValueError("it drops values although nothing learns; export the network in eval mode")
    from torch import nn

    return op.layer(lambda: nn.Dropout(shortest_decimal(ratio)), op[0])


OPERATORS: dict[str, Callable[[Op], Any]] = {
    "Relu": unary(F.relu),
    "Sigmoid": unary(torch.sigmoid),
    "Tanh": unary(torch.tanh),
    "Softplus": unary(F.softplus),
    "Softsign": unary(F.softsign),
    "Mish": unary(F.mish),
    "HardSwish": unary(F.hardswish),
    "HardSigmoid": hard_sigmoid,
    "Swish": swish,
    "Gelu": gelu,
    "LeakyRelu": unary_with_setting(F.leaky_relu, 0.01),
    "Elu": unary_with_setting(F.elu, 1.0),
    "Celu": unary_with_setting(F.celu, 1.0),
    "Selu": lambda op: selu(op),
    "ThresholdedRelu": lambda op: op.call(F.threshold, op[0], setting(op, "alpha", 1.0), 0.0),
    "Shrink": shrink,
    "PRelu": prelu,
    "Clip": clip,
    "Softmax": softmax,
    "LogSoftmax": partial(softmax, function=F.log_softmax),
    "Dropout": dropout,
}


def selu(op: Op) -> Any:
    """Call selu, or with other constants compute gamma elu(x, alpha)."""
    alpha, gamma = (
        op.get("alpha", 1.67326319217681884765625),
        op.get("gamma", 1.05070102214813232421875),
    )
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.050701) < 1e-6:
        return op.call(F.selu, op[0])
    return op.call(torch.mul, op.call(F.elu, op[0], alpha), gamma)
