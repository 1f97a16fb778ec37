"""The range of least squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..language.method import Method, arg

if TYPE_CHECKING:
    from ..surgery.quantization.calibrate import Seen

MOST = 100_000  # values that are rounded for each range tried


@dataclass(frozen=True)
class Mse(Method):
    """Return the whole range, shrunk to the share at which rounding and saturating together err least.

    argmin over f of mean((grid(x; f low, f high) - x)^2), the grid having as many steps as the bits at hold give.
    Few bits saturate more. Source: Banner et al. 2018, https://arxiv.org/abs/1810.05723, who solve it for Laplace and
    Gauss; here it is tried on the values themselves.
    """

    tries: int = arg("ranges that are tried, evenly between a twentieth and the whole", 60, low=2, high=10_000)

    def __call__(self, seen: Seen, top: int = 255) -> tuple[float, float]:
        import torch

        from ..grids.uniform import affine

        values = seen.values()
        values = values[:: -(-len(values) // MOST)]
        best, least = (seen.low, seen.high), float("inf")
        for part in torch.linspace(1, 0.05, self.tries).tolist():
            scale, zero = affine(part * seen.low, part * seen.high, top)
            found = ((values / scale).round().add_(zero).clamp_(0, top).sub_(zero).mul_(scale).sub_(values)).square_()
            if (error := float(found.double().mean())) < least:
                best, least = (part * seen.low, part * seen.high), error
        return best
