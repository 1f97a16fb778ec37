"""Find how an OpenVINO model binarises the inputs of a convolution: one threshold per channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .openvino_graph import constant

ChannelFunction = Callable[[np.ndarray], np.ndarray]  # (channels) -> (channels), monotone in each
SMALLEST_NORMAL = 2.0**-126  # the smallest normal float32


@dataclass(frozen=True)
class BinaryInputs:
    """Inputs binarised per channel: bit = (source > threshold) != flipped."""

    source: Any  # ov.Output (n c h w)
    threshold: np.ndarray  # (c) float32
    flipped: np.ndarray  # (c) bool
    low: int  # the value of a zero bit: -1 or 0


def find_binary_inputs(value: Any) -> BinaryInputs | None:
    """Return how a convolution's inputs are binarised, None if they are not binary."""
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic or shape[1].is_dynamic:
        return None
    channels = shape[1].get_length()
    scalings = []
    node = value.get_node()
    while (kind := node.get_type_name()) in ("Convert", "Subtract", "Multiply"):  # DequantizeLinear
        if kind != "Convert":
            number = constant(node.input_value(1))
            if number is None or number.size != 1:
                return None
            scalings.append((kind, float(number.reshape(-1)[0])))
        node = node.input_value(0).get_node()
    if kind != "Select":
        return None
    compare = node.input_value(0).get_node()
    branches = [constant(v) for v in node.input_values()[1:]]
    if compare.get_type_name() != "GreaterEqual" or any(s is None or s.size != 1 for s in branches):
        return None
    values = np.array([float(s.reshape(-1)[0]) for s in branches if s is not None])
    for kind, number in reversed(scalings):
        values = values - number if kind == "Subtract" else values * number
    threshold = per_channel(constant(compare.input_value(1)), channels)
    values = values.round(6)
    if threshold is None or values[0] != 1 or values[1] not in (-1, 0):
        return None
    source, functions = absorb_functions(compare.input_value(0), channels)

    def is_one(x: np.ndarray) -> np.ndarray:
        for function in functions:
            x = function(x)
        return x >= threshold

    return BinaryInputs(source, *find_thresholds(is_one, channels), int(values[1]))


def per_channel(number: np.ndarray | None, channels: int) -> np.ndarray | None:
    """Return a constant that broadcasts along channels as (channels) float32, else None."""
    if number is None or (
        number.size != 1 and (number.ndim < 3 or number.shape[-3] != number.size)
    ):
        return None
    return np.broadcast_to(number.reshape(-1).astype(np.float32), (channels,))


def absorb_functions(value: Any, channels: int) -> tuple[Any, list[ChannelFunction]]:
    """Return the source of a comparison's input `value`, and the per-channel steps in between.

    Only steps that lead to comparisons alone are absorbed, so that a threshold can replace them.
    """
    functions: list[ChannelFunction] = []
    while readers := [r.get_node().get_type_name() for r in value.get_target_inputs()]:
        if set(readers) != {"GreaterEqual"} and not (functions and len(readers) == 1):
            break
        node = value.get_node()
        kind = node.get_type_name()
        numbers = [constant(v) for v in node.input_values()]
        varying = [
            i for i, n in enumerate(numbers) if n is None
        ]  # the inputs that are not constant
        if kind == "BatchNormInference" and varying == [0]:
            functions.insert(0, batch_norm(numbers[1:], node.get_attributes()["epsilon"]))
        elif (
            len(varying) == 1
            and len(numbers) == 2
            and (kind in ("Multiply", "Add") or (kind, varying) == ("Subtract", [0]))
        ):
            number = per_channel(numbers[1 - varying[0]], channels)
            if number is None:
                break
            operation = np.multiply if kind == "Multiply" else np.add
            functions.insert(0, partial(operation, -number if kind == "Subtract" else number))
        else:
            break
        value = node.input_value(varying[0])
    return value, functions


def batch_norm(numbers: list[Any], epsilon: float) -> ChannelFunction:
    """Return a batch-norm that rounds as PyTorch's kernels do: one fused multiply-add.

    alpha = gamma / sqrt(variance + epsilon);  y = x * alpha + (beta - mean * alpha)
    """
    f32 = np.float32
    f64 = np.float64  # the product of two float32 is exact in it
    gamma, beta, mean, variance = numbers
    alpha = gamma * (f32(1) / np.sqrt(variance + f32(epsilon)))
    shift = (beta.astype(f64) - mean.astype(f64) * alpha).astype(f32)
    return lambda x: (x.astype(f64) * alpha + shift).astype(f32)


def find_thresholds(is_one: ChannelFunction, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return t and f, each (channels), such that holds(x) is (x > t) != f for every float32 x.

    `is_one` is monotone in each channel: its values at the smallest and the largest number tell
    whether it rises (f is False), falls (f is True: negative gamma) or is constant (t is -inf).
    A bisection over all float32 numbers in between ends at two neighbours, so that rounding and
    equality are exactly those of `is_one`.

    >>> import numpy as np
    >>> t, f = find_thresholds(lambda x: np.array([2, -2, 0], np.float32) * x >= 3, 3)
    >>> t.round(6).tolist(), f.tolist()
    ([1.5, -1.5, -inf], [False, True, True])
    """

    # the order of float32 numbers: 0 is 0, 1 is 2**-149, ...
    def number(place: np.ndarray) -> np.ndarray:
        return np.copysign(
            np.abs(place).astype(np.int32).view(np.float32), place.astype(np.float32)
        ) + np.float32(0)

    last_number = int(np.array(np.finfo(np.float32).max).view(np.int32))
    low = np.full(channels, -last_number, np.int64)
    high = np.full(channels, last_number, np.int64)
    with np.errstate(all="ignore"):
        first = is_one(number(low))
        last = is_one(number(high))
        while (high - low > 1).any():
            middle = (low + high) // 2
            same = is_one(number(middle)) == first
            low = np.where(same, middle, low)
            high = np.where(same, high, middle)
    limits = number(low)
    # x = 0 must exceed a negative threshold even if the processor flushes tiny numbers to 0
    limits = np.where(
        (limits < 0) & (limits > -SMALLEST_NORMAL), np.float32(-SMALLEST_NORMAL), limits
    )
    return np.where(first == last, np.float32(-np.inf), limits).astype(np.float32), ~last
