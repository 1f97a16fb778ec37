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


def plain(function: Callable[..., Any]) -> Callable[[Op], Any]:
    """Return the operator that calls a function on its input."""
    return lambda op: op.call(function, op[0])


def with_alpha(
    function: Callable[..., Any], default: float, name: str = "alpha"
) -> Callable[[Op], Any]:
    """Return the operator that calls a function on its input and one setting."""
    return lambda op: op.call(function, op[0], setting(op, name, default))


def setting(op: Op, name: str, default: float) -> float:
    """Return a float attribute as the decimal number that was rounded to 32 bits."""
    return shortest(op.get(name, default))


def shortest(value: float) -> float:
    """Return the shortest decimal number with the same value in 32 bits.

    >>> shortest(0.20000000298023224), shortest(float("inf"))
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
    how = op.get("approximate", "none")
    if how not in ("none", "tanh"):
        raise ValueError(f"approximate {how!r:.40} is not known")
    return op.call(F.gelu, op[0]) if how == "none" else op.call(F.gelu, op[0], approximate="tanh")


def hard_sigmoid(op: Op) -> Any:
    """Call hardsigmoid if the slope is 1/6, otherwise clamp a line."""
    slope = op.get("alpha", 0.2)
    middle = op.get("beta", 0.5)
    if abs(slope - 1 / 6) < 1e-6 and middle == 0.5:
        return op.call(F.hardsigmoid, op[0])
    line = op.call(torch.add, op.call(torch.mul, op[0], setting(op, "alpha", 0.2)), middle)
    return op.call(torch.clamp, line, 0.0, 1.0)


def swish(op: Op) -> Any:
    """Call silu, or with alpha other than 1 compute x sigmoid(alpha x)."""
    factor = setting(op, "alpha", 1.0)
    if factor == 1:
        return op.call(F.silu, op[0])
    return op.call(torch.mul, op[0], op.call(torch.sigmoid, op.call(torch.mul, op[0], factor)))


def clip(op: Op) -> Any:
    """Call relu6 or hardtanh if both bounds are constants, otherwise clamp."""
    lowest = bound(op, "min", 1)
    highest = bound(op, "max", 2)
    if lowest is None and highest is None:
        return op.call(torch.clone, op[0])
    ends = (lowest, highest)
    if any(isinstance(end, (Constant, fx.Node)) for end in ends):  # clamp takes no mixture
        return op.call(torch.clamp, op[0], *(as_tensor(op, end) for end in ends))
    numbers = [end for end in ends if isinstance(end, float)]
    if len(numbers) < 2 or lowest > highest:
        return op.call(torch.clamp, op[0], lowest, highest)
    if ends == (0, 6):
        return op.call(F.relu6, op[0])
    return op.call(F.hardtanh, op[0], lowest, highest)


def as_tensor(op: Op, end: Any) -> Any:
    """Return a bound of clip as a tensor of the type of its input; None stays None."""
    return Constant(torch.tensor(end, dtype=op.dtype(op[0]))) if is_number(end) else end


def is_number(end: Any) -> bool:
    """Return whether a bound of clip is a number."""
    return isinstance(end, (int, float))


def bound(op: Op, name: str, place: int) -> Any:
    """Return a bound of clip: a number, a tensor, or None if it is missing or infinite."""
    if op.get(name) is not None:  # before opset 11
        end = setting(op, name, 0.0)
        return None if abs(end) > 3e38 else end
    if op.optional(place) is None:
        return None
    value = op[place]
    if not isinstance(value, Constant) or value.tensor.numel() != 1:
        return value
    number = value.tensor.item()
    if not value.tensor.is_floating_point():
        return number
    return None if abs(number) > 3e38 else shortest(number)


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
    shape = [op.size(x, place) for place in range(op.rank(x))]
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

    return op.layer(lambda: nn.Dropout(shortest(ratio)), op[0])


OPERATORS: dict[str, Callable[[Op], Any]] = {
    "Relu": plain(F.relu),
    "Sigmoid": plain(torch.sigmoid),
    "Tanh": plain(torch.tanh),
    "Softplus": plain(F.softplus),
    "Softsign": plain(F.softsign),
    "Mish": plain(F.mish),
    "HardSwish": plain(F.hardswish),
    "HardSigmoid": hard_sigmoid,
    "Swish": swish,
    "Gelu": gelu,
    "LeakyRelu": with_alpha(F.leaky_relu, 0.01),
    "Elu": with_alpha(F.elu, 1.0),
    "Celu": with_alpha(F.celu, 1.0),
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
