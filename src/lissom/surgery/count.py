"""Count parameters and multiply-adds of a network and of each layer.

One convention everywhere: a multiply-add (MAC) is one multiplication with its addition in a
convolution, linear layer or other matrix product, for one sample; biases, normalisation and
activations are not counted. Parameters are all learned numbers, including batch-norm's; shared ones
count once. PyTorch's own counter counts the MACs.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..trees import Tree, first, run_on_copied_inputs
from .quantization.layers import QuantizedLayer
from .quantization.rounding import Rounding
from .trace import Trace, decomposed


def parameters(model: nn.Module) -> int:
    """Return the number of learned parameters, without the steps of grids.

    Files hold these as scales.
    """
    learned = set(model.parameters())
    for layer in model.modules():
        if isinstance(layer, Rounding):
            learned -= set(layer.parameters())
    return sum(parameter.numel() for parameter in learned)


def layer_macs(model: nn.Module, example: Tree) -> dict[str, int]:
    """Return the multiply-adds of each layer on one sample of `example` (n c h w); "" is all."""
    mode = model.training
    counter = FlopCounterMode(display=False)
    learned = [p for p in model.parameters() if p.requires_grad]
    # the counter fails on a parameter that modules pass to each other
    model.eval().requires_grad_(False)
    try:
        with decomposed(model), sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
            run_on_copied_inputs(model, first(example, 1))
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
    """Return the multiply-adds of one sample that each weight takes part in, over all its calls."""
    totals = Counter[str]()
    for name, weight, op in trace.products():
        if op.name == "convolution":
            # a transposed convolution multiplies once for each input position
            sites = (op.args[0] if op.args[6] else op.outputs[0]).shape[2:].numel()
        else:
            sites = op.outputs[0].shape[:-1].numel()
        totals[name] += sites * weight.numel()
    return dict(totals)


def macs(model: nn.Module, example: Tensor) -> int:
    """Return the multiply-adds of one sample."""
    return layer_macs(model, example)[""]


def layer_table(model: nn.Module, example: Tensor) -> list[dict[str, Any]]:
    """Return a row for each layer with parameters: name, kind, outputs, parameters, macs."""
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
