"""The GRU that is ONNX's default and that PyTorch lacks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResetFirstGRU(nn.GRU):
    """A GRU of one layer that applies the reset gate to the state before the matrix product.

    r, z = sigmoid(W x + R h + b);  n = tanh(W x + R (r h) + b);  h' = (1 - z) n + z h

    PyTorch's GRU and ONNX's with `linear_before_reset=1` reset after the product, r (R h + b).
    Parameters have the names, shapes and gate order (r z n) of PyTorch's GRU.
    """

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return all states (time batch ways*width) and the last states (ways batch width).

        `input` is (time batch features), `hx` is (ways batch width) and zero by default. `ways` is
        the number of directions.
        """
        ways = 2 if self.bidirectional else 1
        # hide the calls inside, so that quantization sees one operation as in PyTorch's GRU
        with torch._C.DisableTorchFunction():
            if hx is None:
                sizes = (ways, input.shape[1], self.hidden_size)
                hx = torch.zeros(sizes, dtype=input.dtype, device=input.device)
            runs = [self.run(input, hx[0], "")]
            if self.bidirectional:
                runs.append(self.run(input.flip(0), hx[1], "_reverse"))
            last = torch.stack([states[-1] for states in runs])
            runs[1:] = [states.flip(0) for states in runs[1:]]
            return torch.cat(runs, -1), last

    def run(self, x: Tensor, state: Tensor, end: str) -> Tensor:
        """Return the states (time batch width) of one direction, whose weight names end in `end`."""
        width = self.hidden_size
        weight = self.get_parameter(f"weight_hh_l0{end}")
        gates = weight[: 2 * width]
        candidate = weight[2 * width :]
        bias = self.summed_bias(end)
        reads = F.linear(x, self.get_parameter(f"weight_ih_l0{end}"), bias)
        states = []
        for read in reads.unbind(0):
            opened = torch.sigmoid(read[:, : 2 * width] + F.linear(state, gates))
            reset, update = opened.chunk(2, -1)
            new = torch.tanh(read[:, 2 * width :] + F.linear(reset * state, candidate))
            state = new + update * (state - new)
            states.append(state)
        return torch.stack(states)

    def summed_bias(self, end: str) -> Tensor | None:
        """Return the sum of both biases of one direction, None if the layer has no bias."""
        if not self.bias:
            return None
        return self.get_parameter(f"bias_ih_l0{end}") + self.get_parameter(f"bias_hh_l0{end}")
