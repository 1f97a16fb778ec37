"""Bring a quantized network back to the float one layer by layer, from unlabelled images alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..grids._grid import by_filter
from .quantized import Quantized, QuantizedLayer
from .sites import hidden

MEMORY = 1 << 29  # bytes of a layer's inputs and outputs that are held at once
LOW, HIGH = -0.1, 1.1  # how far the sigmoid is stretched, so that it reaches 0 and 1


def recorded(network: nn.Module, layer: nn.Module, batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return what a layer reads and what it makes of calibration batches (n ...), as many as fit into memory."""
    read: list[Tensor] = []
    made: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        read.append(hidden(given[0], torch.Tensor.clone))
        made.append(hidden(out, torch.Tensor.clone))

    hook = layer.register_forward_hook(keep)
    try:
        with torch.no_grad():
            for images in batches:
                network(images)
                if sum(x.numel() * x.element_size() for x in (*read, *made)) > MEMORY:
                    break
    finally:
        hook.remove()
    return torch.cat(read), torch.cat(made)


def corrected(whole: Quantized, before: nn.Module, names: Sequence[str], batches: Sequence[Tensor]) -> int:
    """Shift the bias of each layer, in order, by what rounding moved the mean of each of its outputs; return how many.

    b += mean(float output - output), over images and places, the layers before it already corrected.
    `before` is the float network, whose layers have the same `names`. Source: Nagel et al. 2019, Data-Free
    Quantization, https://arxiv.org/abs/1906.04721, section 4.2, measured in place of derived.
    """
    done = 0
    for name in names:
        layer = whole.network.get_submodule(name)
        if not isinstance(layer, QuantizedLayer) or layer.rounding is None:
            continue
        wanted, found = (recorded(net, net.get_submodule(path), batches)[1]
                         for net, path in ((before, name), (whole, f"network.{name}")))
        axes = [0, *range(2, found.ndim)] if isinstance(layer, nn.Conv2d) else list(range(found.ndim - 1))
        shift = (wanted[: len(found)] - found[: len(wanted)]).mean(axes)
        holder = layer if layer.norm is None else layer.norm
        with torch.no_grad():
            if holder.bias is None:
                holder.bias = nn.Parameter(torch.zeros_like(shift))
            holder.bias += shift
        done += 1
    return done


def learned_rounding(whole: Quantized, before: nn.Module, names: Sequence[str], batches: Sequence[Tensor],
                     steps: int, seed: int = 0) -> int:
    """Choose for each weight of each layer, in order, whether it is rounded up or down; return how many layers.

    w = s clamp(floor(w / s) + h(v), low, high), h(v) = clamp(1.2 sigmoid(v) - 0.1, 0, 1); v minimises
    mean |output - float output|^2 + l sum(1 - |2 h(v) - 1|^b), where the layer reads what the layers before it, rounded
    already, give. b falls from 20 to 2, so that every h ends at 0 or 1; the weights are then left on their grid.
    `before` is the float network, whose layers have the same `names`.
    Source: Nagel et al. 2020, Up or Down? Adaptive Rounding, https://arxiv.org/abs/2004.10568. Differs: the error is
    divided by the mean square of the output, so that one l suits all layers.
    """
    done, draw = 0, torch.Generator().manual_seed(seed)
    for name in names:
        layer = whole.network.get_submodule(name)
        if not isinstance(layer, QuantizedLayer) or layer.rounding is None:
            continue
        ends = layer.rounding.grid.ends(layer.rounding.bits)
        if ends is None:  # this grid is not one of equal steps
            continue
        wanted = recorded(before, before.get_submodule(name), batches)[1]
        inputs = recorded(whole, layer, batches)[0]
        count = min(len(wanted), len(inputs))
        _settle(layer, inputs[:count], wanted[:count], ends, steps, draw)
        done += 1
    return done


def _settle(layer: QuantizedLayer, inputs: Tensor, wanted: Tensor, ends: tuple[int, int], steps: int,
            draw: torch.Generator) -> None:
    """Learn the rounding of one layer and leave its weights on the grid."""
    assert layer.rounding is not None
    weight = layer.weight.detach().float()
    scale = by_filter(layer.rounding.codes(weight)[1], weight)
    below = (weight / scale).floor()
    part = (weight / scale - below).clamp(0.01, 0.99)
    v = torch.logit((part - LOW) / (HIGH - LOW)).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=0.03)
    factor, bias = layer.normed()
    times = 1.0 if factor is None else by_filter(factor.float(), weight)
    shift, size = None if bias is None else bias.float(), wanted.square().mean().clamp_min(1e-12)
    with torch.no_grad():
        inputs = inputs if layer.own is None else layer.own(inputs)
    for step in range(steps):
        some = torch.randint(len(inputs), (min(32, len(inputs)),), generator=draw)
        with torch.enable_grad():  # surgery runs without
            h = torch.where(weight == 0, 0.0, (v.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1))  # a mask's zeros stay
            y = layer.computed(inputs[some], (below + h).clamp(*ends) * scale * times, shift)
            loss = (y - wanted[some]).square().mean() / size
            if step >= steps // 5:
                done = (step - steps // 5) / max(1, steps - steps // 5)
                loss = loss + 0.01 * (1 - (2 * h - 1).abs().pow(20 - 18 * done)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        up = (v.sigmoid() * (HIGH - LOW) + LOW) >= 0.5
        layer.weight.copy_(torch.where(weight == 0, 0.0, (below + up).clamp(*ends) * scale))
