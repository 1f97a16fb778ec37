"""What rounds one tensor: a grid with the tensors that it needs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...language.grid import Codes, Grid, by_filter, grid_of


class Rounding(nn.Module):
    """Round weights or inputs to a grid of some bits; what the grid holds is a buffer, or a
    parameter if it learns.
    """

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
        if self.training and not self.still and not self.grid.at_run_time:
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
