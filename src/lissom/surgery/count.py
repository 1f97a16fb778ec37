"""Count parameters and multiply-adds, of the whole and of each layer.

One convention everywhere: a multiply-add (MAC) is one multiplication with its addition in a
convolution, linear layer or other matrix product, for one image; biases, normalisation and
activations are not counted. Parameters are all learned numbers, batch-norm's included, shared ones
once. PyTorch's own counter does the counting.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..trees import Tree, called, first
from .quantization.layers import QuantizedLayer
from .quantization.rounding import Rounding
from .trace import Trace, decomposed


def parameters(model: nn.Module) -> int:
    """Return the number of learned numbers; the steps of grids, which files hold as scales, are none."""
    learned = set(model.parameters())
    for layer in model.modules():
        if isinstance(layer, Rounding):
            learned -= set(layer.parameters())
    return sum(parameter.numel() for parameter in learned)


def layer_macs(model: nn.Module, example: Tree) -> dict[str, int]:
    """Return the multiply-adds of each layer on one image of `example` (n c h w); "" is the whole."""
    mode = model.training
    counter = FlopCounterMode(display=False)
    learned = [p for p in model.parameters() if p.requires_grad]
    # the counter stumbles over a parameter that modules hand on to each other
    model.eval().requires_grad_(False)
    try:
        with decomposed(model), sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
            called(model, first(example, 1))
    finally:
        model.train(mode)
        for p in learned:
            p.requires_grad_(True)
    counts = counter.get_flop_counts()
    root = type(model).__name__
    totals = {"": sum(counts.get("Global", {}).values()) // 2}
    for name, flops in counts.items():
        if name != "Global":
            totals[name.removeprefix(root).removeprefix(".") or ""] = sum(flops.values()) // 2
    return totals


def weight_macs(trace: Trace) -> dict[str, int]:
    """Return the multiply-adds of one image that each weight takes part in, all its calls together."""
    totals = Counter[str]()
    for name, weight, op in trace.products():
        if op.name == "convolution":
            # a transposed convolution works at its inputs
            sites = (op.args[0] if op.args[6] else op.outputs[0])[0, 0].numel()
        else:
            sites = op.outputs[0].numel() // op.outputs[0].shape[-1]
        totals[name] += sites * weight.numel()
    return dict(totals)


def macs(model: nn.Module, example: Tensor) -> int:
    """Return the multiply-adds of one image."""
    return layer_macs(model, example)[""]


def layer_table(model: nn.Module, example: Tensor) -> list[dict[str, Any]]:
    """Return one row for each layer that holds parameters: name, kind, outputs, parameters, macs."""
    counts = layer_macs(model, example)
    was = {
        f"{name}.norm": layer.norm_name
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLayer)
    }
    rows = []
    for name, layer in model.named_modules():
        if isinstance(layer, Rounding):
            continue
        count = sum(p.numel() for p in layer.parameters(recurse=False))
        if count:
            weight = getattr(layer, "weight", None)
            outputs = int(weight.shape[0]) if isinstance(weight, Tensor) and weight.ndim else None
            rows.append(
                {
                    "name": (was.get(name) or name).removeprefix("network."),
                    "kind": type(layer).__name__,
                    "outputs": outputs,
                    "params": count,
                    "macs": counts.get(name, 0),
                }
            )
    return rows
