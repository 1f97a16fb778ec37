"""What rounds one tensor: a grid with the tensors that it needs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...language.grid import NEAR, Codes, Grid, by_filter, grid_of


class Rounding(nn.Module):
    """Round weights or inputs to a grid of some bits; what the grid holds is a buffer, or a
    parameter if it learns.
    """

    q_scale: Tensor  # these three only in a network that is being exported
    q_zero: Tensor
    q_step: Tensor
    off = False  # whether values pass unchanged, for a while
    still = False  # whether what is held stays as it is while the network learns

    def __init__(
        self,
        grid: Grid,
        bits: int,
        of: Literal["weights", "inputs"],
        held: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.bits = bits
        self.of = of
        self.names = list(held or {})
        for name, value in (held or {}).items():
            if name in grid.learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def settings(self) -> dict[str, Any]:
        """Return what a rebuilt rounding must be told; its tensors are saved with the others."""
        return {"grid": str(self.grid), "bits": self.bits, "of": self.of, "names": self.names}

    @classmethod
    def rebuilt(cls, settings: dict[str, Any]) -> Rounding:
        """Return a rounding without its tensors, which are filled in next."""
        found = cls(grid_of(settings["grid"]), settings["bits"], settings["of"])
        found.names = list(settings["names"])
        return found

    @property
    def held(self) -> dict[str, Tensor]:
        """What the grid holds, by name."""
        return {name: getattr(self, name) for name in self.names}

    def forward(self, x: Tensor) -> Tensor:
        if self.off:
            return x
        if self.of == "weights":
            if self.training and not self.still:
                self.grid.move_weights(x.detach(), self.bits, self.held)
            return self.grid.weights(x, self.bits, self.held)
        if self.grid.at_run_time:
            return (
                x
                if torch.onnx.is_in_onnx_export() and self.form == "none"
                else self.grid.inputs(x, self.bits, self.held)
            )
        if torch.onnx.is_in_onnx_export():
            return (
                self._exported(x)
                if self.form == "integers"
                else self._in_float(x)
                if self.form == "floats"
                else x
            )
        # the fused form cannot be saved by torch.export
        if torch.compiler.is_exporting() and hasattr(self, "q_step"):
            return self._in_float(x)
        if self.training and not self.still:
            self.grid.move(x, self.held)
        return self.grid.inputs(x, self.bits, self.held)

    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return a weight (out ...) as integers, in float, and the scale of each filter (out)."""
        return self.grid.codes(weight, self.bits, self.held)

    def zeros(self) -> Tensor | None:
        """Return the zero points of filters (out), which the integers need to fit in 8 bits; None
        where all are 0.
        """
        return self.grid.zeros(self.bits, self.held)

    def stored(self, codes: Tensor) -> Tensor:
        """Return the integers of a weight (out ...) as files hold them, int8."""
        zeros = self.zeros()
        return (codes if zeros is None else codes + by_filter(zeros, codes)).to(torch.int8)

    def input_codes(self) -> Codes:
        """Return how inputs are held as integers."""
        return self.grid.input_codes(self.bits, self.held)

    def refresh(self, weight: Tensor) -> None:
        """Let what is held follow a weight (out ...) that has learned."""
        for name, value in (
            {} if self.still else self.grid.refresh(weight, self.bits, self.held)
        ).items():
            getattr(self, name).data = value.to(weight.device)

    def freeze(self, form: Literal["integers", "floats", "none"]) -> None:
        """Hold how inputs become integers as buffers, for the export that comes next.

        An ONNX file then rounds them to integers, by operations on floats, or not at all.
        """
        self.form = form
        if self.grid.at_run_time:
            return
        codes = self.input_codes()
        self.top = codes.top
        self.sign = codes.sign
        self.register_buffer("q_scale", codes.scale.detach().float().clone())
        self.register_buffer("q_zero", torch.tensor(codes.zero, dtype=torch.int32))
        self.register_buffer("q_step", codes.step.detach().float().clone())

    def _in_float(self, x: Tensor) -> Tensor:
        """Round by operations on floats, which every format has."""
        q = (
            ((x - NEAR).sign() + 1).clamp(0, 1) * self.top
            if self.sign
            else (x / self.q_scale).round().add(self.q_zero).clamp(0, self.top)
        )
        return (q - self.q_zero) * self.q_step

    def _exported(self, x: Tensor) -> Tensor:
        """Write QuantizeLinear and DequantizeLinear, with a clip between them of integers below 8 bits.

        The clip is one of integers, since that leaves the convolution before it an integer one in
        every runtime.
        """
        symbolic = torch.onnx.ops.symbolic
        zero = self.q_zero.to(torch.uint8)
        shape = x.shape
        if self.sign:
            above = symbolic(
                "GreaterOrEqual", [x, torch.tensor(NEAR)], dtype=torch.bool, shape=shape, version=21
            )
            high = torch.tensor(self.top, dtype=torch.uint8)
            low = torch.tensor(0, dtype=torch.uint8)
            q = symbolic("Where", [above, high, low], dtype=torch.uint8, shape=shape, version=21)
        else:
            q = symbolic(
                "QuantizeLinear",
                [x, self.q_scale, zero],
                dtype=torch.uint8,
                shape=shape,
                version=21,
            )
            if self.top < 255:
                ends = [torch.tensor(end, dtype=torch.uint8) for end in (0, self.top)]
                q = symbolic("Clip", [q, *ends], dtype=torch.uint8, shape=shape, version=21)
        return symbolic(
            "DequantizeLinear", [q, self.q_step, zero], dtype=torch.float32, shape=shape, version=21
        )


def product_at_run_time(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, zeros: Tensor | None
) -> Tensor:
    """Write the integer product of inputs (... in), rounded when the file runs, and a weight (in
    out) of scales (out).

    `zeros` are the zero points of the weight (out). The nodes are those that ONNX Runtime makes one
    DynamicQuantizeMatMul of.
    """
    q, step, zero = torch.onnx.ops.symbolic_multi_out(
        "DynamicQuantizeLinear",
        [x],
        dtypes=[torch.uint8, torch.float32, torch.uint8],
        shapes=[x.shape, [], []],
        version=11,
    )
    given = [q, weight, zero, *([] if zeros is None else [zeros])]
    total = torch.onnx.ops.symbolic(
        "MatMulInteger",
        given,
        dtype=torch.int32,
        shape=[*x.shape[:-1], weight.shape[1]],
        version=10,
    )
    y: Tensor = total.to(torch.float32) * (step * scale)
    return y if bias is None else y + bias
