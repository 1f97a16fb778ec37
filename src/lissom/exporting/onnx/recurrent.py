"""Export a GRU that resets before the product as ONNX's GRU operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...importing.gru import ResetFirstGRU


class OnnxGRU(ResetFirstGRU):
    """A ResetFirstGRU that is exported as GRU with linear_before_reset=0."""

    gates: Tensor  # input weights (ways 3*width features), in ONNX's order z r h
    states: Tensor  # recurrent weights (ways 3*width width)
    biases: Tensor  # input and recurrent biases (ways 6*width); only if the layer has a bias

    def register_weights(self) -> None:
        """Register the weights as buffers in ONNX's layout."""
        self.register_buffer("gates", self.in_onnx_order("weight_ih_l0"))
        self.register_buffer("states", self.in_onnx_order("weight_hh_l0"))
        if self.bias:
            both = [self.in_onnx_order("bias_ih_l0"), self.in_onnx_order("bias_hh_l0")]
            self.register_buffer("biases", torch.cat(both, 1))

    def in_onnx_order(self, name: str) -> Tensor:
        """Return a weight of all directions, with gates in ONNX's order."""
        weights = []
        for suffix in ("", "_reverse") if self.bidirectional else ("",):
            reset, update, new = self.get_parameter(f"{name}{suffix}").detach().chunk(3)
            weights.append(torch.cat([update, reset, new]))
        return torch.stack(weights)

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        time, batch = input.shape[:2]
        directions = len(self.gates)
        width = self.hidden_size
        inputs: list[Any] = [input, self.gates, self.states]
        inputs.append(self.biases if self.bias else None)
        if hx is not None:
            inputs += [None, hx]
        out, last = torch.onnx.ops.symbolic_multi_out(
            "GRU",
            inputs,
            attrs={
                "hidden_size": width,
                "linear_before_reset": 0,
                "direction": "bidirectional" if directions == 2 else "forward",
            },
            dtypes=[torch.float32, torch.float32],
            shapes=[[time, directions, batch, width], [directions, batch, width]],
            version=14,
        )
        return out.transpose(1, 2).flatten(2), last


def write_recurrent(network: nn.Module) -> None:
    """Make each ResetFirstGRU of a network export as ONNX's GRU operator, in place."""
    for layer in network.modules():
        if isinstance(layer, ResetFirstGRU):
            layer.__class__ = OnnxGRU
            assert isinstance(layer, OnnxGRU)
            layer.register_weights()
