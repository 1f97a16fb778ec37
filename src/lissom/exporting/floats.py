"""A quantized network in operations on floats, which every format has."""

from __future__ import annotations

from torch import Tensor

from ..language.grid import NEAR
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.rounding import Rounding


class FloatRounding(Rounding):
    """A rounding of inputs by operations on floats; made by changing a rounding's class."""

    q_scale: Tensor
    q_zero: Tensor
    q_step: Tensor

    def hold(self) -> None:
        """Hold as buffers how inputs become integers."""
        codes = self.input_codes()
        self.top = codes.top
        self.sign = codes.sign
        self.register_buffer("q_scale", codes.scale.detach().float().clone())
        self.register_buffer("q_zero", self.q_scale.new_tensor(codes.zero))
        self.register_buffer("q_step", codes.step.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.off:
            return x
        if self.sign:
            q = ((x - NEAR).sign() + 1).clamp(0, 1) * self.top
        else:
            q = (x / self.q_scale).round().add(self.q_zero).clamp(0, self.top)
        return (q - self.q_zero) * self.q_step


def round_in_floats(network: QuantizedNetwork, always: bool) -> None:
    """Let a network compute in float, in place: weights on their grid in layers of the original class.

    Activations are rounded `always`, or if any of them has fewer than 8 bits: 8 bits change little,
    and rounding to them costs time.
    """
    roundings = [network.grid_of(site) for site in network.grids]
    rounds = always or any(rounding.bits < 8 for rounding in roundings)
    for layer in network.layers():
        layer.make_plain(*layer.in_inference())
    for rounding in roundings:
        if not rounds:
            rounding.off = True
        elif not rounding.grid.at_run_time:
            rounding.__class__ = FloatRounding
            assert isinstance(rounding, FloatRounding)
            rounding.hold()
