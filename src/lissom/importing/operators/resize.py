"""Resizing of images, in the modes that PyTorch supports."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from ..build import Op
from ..values import stand_ins_of

MODES = {
    ("nearest", 3): "nearest",
    ("nearest", 4): "nearest",
    ("nearest", 5): "nearest",
    ("linear", 3): "linear",
    ("linear", 4): "bilinear",
    ("linear", 5): "trilinear",
    ("cubic", 4): "bicubic",
}
HALF_PIXEL_MODES = ("half_pixel", "pytorch_half_pixel")


def resize(op: Op) -> Any:
    """Call interpolate, by factors or to a size."""
    x = op[0]
    axes = op.get("axes", list(range(op.rank(x))))
    if op.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("a keep_aspect_ratio_policy other than stretch is not known")
    # before opset 11 the factors are the second input
    factors_index = 2 if op.opset >= 11 else 1
    factors = None
    sizes = None
    if op.opset >= 11 and op.optional(3) is not None:
        sizes = replace_in_row(axes, op.sizes(3), [op.size(x, axis) for axis in range(op.rank(x))])
    else:
        factors = replace_in_row(axes, op.numbers(factors_index), [1.0] * op.rank(x))
    return interpolate(op, factors, sizes)


def replace_in_row(axes: list[int], numbers: list[Any], row: list[Any]) -> list[Any]:
    """Return a row for all axes with the numbers given for some axes replaced.

    Raises ValueError if there are not as many numbers as axes.
    """
    if len(numbers) != len(axes):
        raise ValueError(f"expected {len(axes)} numbers, got {len(numbers)}")
    row = list(row)
    for axis, number in zip(axes, numbers, strict=True):
        row[axis] = number
    return row


def upsample(op: Op) -> Any:
    """Call interpolate by factors. They are an attribute before opset 9."""
    factors = op.get("scales")
    return interpolate(op, op.numbers(1) if factors is None else list(factors), None)


def interpolate(op: Op, factors: list[float] | None, sizes: list[Any] | None) -> Any:
    """Call interpolate on all axes after the channels. Raises ValueError if others are resized."""
    x = op[0]
    settings = interpolation_settings(op, factors_of(op, factors, sizes))
    keeps_batch_and_channels = (
        factors[:2] == [1, 1] if factors is not None else same_sizes(op, sizes or [])
    )
    if not keeps_batch_and_channels:
        raise ValueError("batch or channels are resized, which is not known")
    if sizes is not None:
        return op.call(F.interpolate, x, size=tuple(sizes[2:]), **settings)
    assert factors is not None
    return op.call(F.interpolate, x, scale_factor=tuple(factors[2:]), **settings)


def same_sizes(op: Op, sizes: list[Any]) -> bool:
    """Return whether batch and channels keep their sizes."""
    first, channels = (stand_ins_of(part, 0) for part in sizes[:2])
    batch = op.shape(op[0])[0]
    return channels == op.shape(op[0])[1] and first in (batch, op.build.fixed_batch)


def factors_of(op: Op, factors: list[float] | None, sizes: list[Any] | None) -> list[float]:
    """Return the scale factors of the axes after the channels: with sizes, those in both traces."""
    if factors is not None:
        return factors[2:]
    traced_factors = []
    for trace in (0, 1):
        pairs = zip((sizes or [])[2:], op.shape(op[0], trace)[2:], strict=True)
        traced_factors += [stand_ins_of(new_size, trace) / old_size for new_size, old_size in pairs]
    return traced_factors


def interpolation_settings(op: Op, factors: list[float]) -> dict[str, Any]:
    """Return the settings of interpolate. Raises ValueError for modes that PyTorch lacks."""
    mode = op.get("mode", "nearest")
    name = MODES.get((mode, op.rank(op[0])))
    if name is None:
        raise ValueError(f"mode {mode!r:.40} on {op.rank(op[0])} axes is not known")
    is_old = op.opset < 11 or op.node.op == "Upsample"
    default = "asymmetric" if is_old else "half_pixel"
    coordinates = op.get("coordinate_transformation_mode", default)
    options = {"antialias": op.get("antialias", 0), "exclude_outside": op.get("exclude_outside", 0)}
    if mode == "nearest":  # which the options do not change
        rounding = op.get("nearest_mode", "floor" if is_old else "round_prefer_floor")
        are_whole = all(factor >= 1 and factor == int(factor) for factor in factors)
        if coordinates == "asymmetric" and rounding == "floor":
            return {"mode": name}
        if coordinates in HALF_PIXEL_MODES and rounding.startswith("round_") and are_whole:
            return {"mode": name}
        if coordinates in HALF_PIXEL_MODES and rounding == "round_prefer_ceil":
            return {"mode": "nearest-exact"}
        raise ValueError(f"nearest_mode {rounding!r:.40} with {coordinates!r:.40} is not known")
    for option, value in options.items():
        if value:
            raise ValueError(f"{option} is not known")
    if abs(op.get("cubic_coeff_a", -0.75) + 0.75) > 1e-6:
        raise ValueError("a cubic_coeff_a other than -0.75 is not known")
    if coordinates in HALF_PIXEL_MODES or coordinates == "align_corners":
        return {"mode": name, "align_corners": coordinates == "align_corners"}
    raise ValueError(f"coordinate_transformation_mode {coordinates!r:.40} of {mode} is not known")


def grid_sample(op: Op) -> Any:
    """Call grid_sample."""
    names = {
        "linear": "bilinear",
        "bilinear": "bilinear",
        "nearest": "nearest",
        "cubic": "bicubic",
        "bicubic": "bicubic",
    }
    mode = names.get(op.get("mode", "bilinear"))
    padding = op.get("padding_mode", "zeros")
    if mode is None or padding not in ("zeros", "border", "reflection"):
        raise ValueError("its mode is not known")
    align_corners = bool(op.get("align_corners", 0))
    return op.call(F.grid_sample, op[0], op[1], mode, padding, align_corners=align_corners)


OPERATORS = {"Resize": resize, "Upsample": upsample, "GridSample": grid_sample}
