"""The GRU that ONNX has by default, which PyTorch lacks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResetFirstGRU(nn.GRU):
    """A GRU of one layer whose candidate state resets the last state before the product with it.

    r, z = sigmoid(W x + R h + b);  n = tanh(W x + R (r h) + b);  h' = (1 - z) n + z h

    PyTorch's GRU and ONNX's with `linear_before_reset=1` reset after the product, r (R h + b).
    Parameters have the names, shapes and order of gates (r z n) of PyTorch's.
    """

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return all states (time batch ways*width) and the last ones (ways batch width).

        `input` is (time batch features), `hx` (ways batch width), zeros by default.
        """
        ways = 2 if self.bidirectional else 1
        # one operation to whoever looks at the calls of a network, as PyTorch's is: none is rounded
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
        """Return the states (time batch width) of one way through `x`, whose weights end in `end`."""
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
        """Return both biases of one way as one, which they are here; None without any."""
        if not self.bias:
            return None
        return self.get_parameter(f"bias_ih_l0{end}") + self.get_parameter(f"bias_hh_l0{end}")
