"""A quantized network in operations on floats, which every format has."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..language.grid import NEAR
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.rounding import Rounding


class HeldRounding(Rounding):
    """A rounding of inputs that a file is to hold: how they become integers stands in buffers.

    Made by changing a rounding's class; a format's own class says how it rounds.
    """

    zero_type: ClassVar[torch.dtype] = torch.float32
    q_scale: Tensor
    q_zero: Tensor  # of `zero_type`
    q_step: Tensor

    def hold(self) -> None:
        """Hold as buffers how inputs become integers."""
        codes = self.input_codes()
        self.top = codes.top
        self.sign = codes.sign
        self.register_buffer("q_scale", codes.scale.detach().float().clone())
        self.register_buffer("q_zero", torch.tensor(codes.zero, dtype=self.zero_type))
        self.register_buffer("q_step", codes.step.detach().float().clone())


class FloatRounding(HeldRounding):
    """A rounding of inputs by operations on floats."""

    def forward(self, x: Tensor) -> Tensor:
        if self.off:
            return x
        if self.sign:
            q = ((x - NEAR).sign() + 1).clamp(0, 1) * self.top
        else:
            q = (x / self.q_scale).round().add(self.q_zero).clamp(0, self.top)
        return (q - self.q_zero) * self.q_step


def hold_roundings(network: QuantizedNetwork, kind: type[HeldRounding]) -> None:
    """Let the roundings of a network's activations be of a class that a file can hold, in place;
    those at run time stay.
    """
    for rounding in map(network.grid_of, network.grids):
        if not rounding.grid.at_run_time:
            rounding.__class__ = kind
            assert isinstance(rounding, HeldRounding)
            rounding.hold()


def round_in_floats(network: QuantizedNetwork, always: bool) -> None:
    """Let a network compute in float, in place: weights on their grid in layers of the original class.

    Activations are rounded `always`, or if any of them has fewer than 8 bits: 8 bits change little,
    and rounding to them costs time.
    """
    roundings = [network.grid_of(site) for site in network.grids]
    rounds = always or any(rounding.bits < 8 for rounding in roundings)
    for layer in network.layers():
        layer.make_plain(*layer.in_inference())
    if rounds:
        hold_roundings(network, FloatRounding)
    else:
        for rounding in roundings:
            rounding.off = True
