"""Quantized networks as float operations, which every format has."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..language.grid import ZERO_TOLERANCE
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.rounding import Rounding


class ExportedRounding(Rounding):
    """A rounding of inputs that will be exported: its scale, zero point and step are buffers.

    A rounding becomes one when its class is changed. Subclasses define `forward` for their format.
    """

    zero_type: ClassVar[torch.dtype] = torch.float32
    q_scale: Tensor
    q_zero: Tensor  # of `zero_type`
    q_step: Tensor

    def register_buffers(self) -> None:
        """Store the scale, zero point and step of the rounding as buffers."""
        codes = self.input_codes()
        self.top = codes.top
        self.sign = codes.sign
        self.register_buffer("q_scale", codes.scale.detach().float().clone())
        self.register_buffer("q_zero", torch.tensor(codes.zero, dtype=self.zero_type))
        self.register_buffer("q_step", codes.step.detach().float().clone())


class FloatRounding(ExportedRounding):
    """A rounding of inputs in float operations."""

    def forward(self, x: Tensor) -> Tensor:
        if self.off:
            return x
        if self.sign:
            q = ((x - ZERO_TOLERANCE).sign() + 1).clamp(0, 1) * self.top
        else:
            q = (x / self.q_scale).round().add(self.q_zero).clamp(0, self.top)
        return (q - self.q_zero) * self.q_step


def convert_roundings(network: QuantizedNetwork, kind: type[ExportedRounding]) -> None:
    """Change the class of a network's activation roundings to `kind`, which a file can hold, in
    place. Roundings that find their range at run time stay as they are.
    """
    for rounding in map(network.grid_of, network.grids):
        if not rounding.grid.at_run_time:
            rounding.__class__ = kind
            assert isinstance(rounding, ExportedRounding)
            rounding.register_buffers()


def round_in_floats(network: QuantizedNetwork, always: bool) -> None:
    """Turn a network's layers back into float layers whose weights lie on their grid, in place.

    Activations are rounded if `always`, or if any of them has fewer than 8 bits. Rounding to 8 bits
    changes little and costs time.
    """
    roundings = [network.grid_of(site) for site in network.grids]
    rounds = always or any(rounding.bits < 8 for rounding in roundings)
    for layer in network.layers():
        layer.make_plain(*layer.in_inference())
    if rounds:
        convert_roundings(network, FloatRounding)
    else:
        for rounding in roundings:
            rounding.off = True
