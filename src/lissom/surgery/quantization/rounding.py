"""The rounding of one tensor: a grid, and the tensors that the grid needs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...language.grid import Codes, Grid, by_filter, grid_of


class Rounding(nn.Module):
    """Round weights or inputs to a grid with some number of bits.

    The tensors of the grid are parameters if they learn, else buffers.
    """

    off = False  # whether values pass unchanged for now
    still = False  # whether the grid's tensors stay fixed while the network learns

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
        """Return the settings to rebuild it from; its tensors are in the network's state dict."""
        return {"grid": str(self.grid), "bits": self.bits, "of": self.of, "names": self.names}

    @classmethod
    def rebuilt(cls, settings: dict[str, Any]) -> Rounding:
        """Return a rounding without its tensors, which are loaded next."""
        found = cls(grid_of(settings["grid"]), settings["bits"], settings["of"])
        found.names = list(settings["names"])
        return found

    @property
    def held(self) -> dict[str, Tensor]:
        """The tensors of the grid, by name."""
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
        """Return the zero points of filters (out) that make integers fit in 8 bits, or None."""
        return self.grid.zeros(self.bits, self.held)

    def stored(self, codes: Tensor) -> Tensor:
        """Return the integers of a weight (out ...) as stored in files, int8."""
        zeros = self.zeros()
        return (codes if zeros is None else codes + by_filter(zeros, codes)).to(torch.int8)

    def input_codes(self) -> Codes:
        """Return how inputs are represented as integers."""
        return self.grid.input_codes(self.bits, self.held)

    def refresh(self, weight: Tensor) -> None:
        """Update the tensors of the grid for a trained weight (out ...)."""
        for name, value in (
            {} if self.still else self.grid.refresh(weight, self.bits, self.held)
        ).items():
            getattr(self, name).data = value.to(weight.device)
