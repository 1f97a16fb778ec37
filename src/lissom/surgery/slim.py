"""Cut channels out of a network, or zero them where they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .groups import Group
from .tensors import match_widths, replace
from .trace import tensors_in

Cut = list[tuple[Group, Tensor]]  # each group with the units to remove, a boolean of its size


def removed(cut: Cut) -> dict[tuple[str, int], Tensor]:
    """Return for each (tensor, axis) which indices go, as a boolean of the axis' length."""
    gone: dict[tuple[str, int], Tensor] = {}
    for group, units in cut:
        for member in group.members:
            mine = (member.unit >= 0) & units[member.unit.clamp_min(0)]
            key = (member.tensor, member.axis)
            gone[key] = gone[key] | mine if key in gone else mine
    return gone


def masked(model: nn.Module, cut: Cut) -> None:
    """Zero in place everything that `sliced` would cut out: the two networks compute the same."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    with torch.no_grad():
        for (name, axis), gone in removed(cut).items():
            tensors[name].index_fill_(axis, gone.nonzero().flatten().to(tensors[name].device), 0)


def sliced(model: nn.Module, cut: Cut) -> None:
    """Cut the units of `cut` out of `model` in place; each layer remembers which outputs it kept.

    `layer.kept` lists the outputs of the layer as it was first built that are still there.
    """
    for (name, axis), gone in removed(cut).items():
        if not gone.any():
            continue
        stay = (~gone).nonzero().flatten()
        path, _, leaf = name.rpartition(".")
        layer = model.get_submodule(path)
        now = getattr(layer, leaf).detach()
        replace(model, name, now.index_select(axis, stay.to(now.device)).clone())
        if axis == 0 and name.endswith("weight") and isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            before = getattr(layer, "kept", list(range(len(gone))))
            layer.kept = [before[k] for k in stay.tolist()]  # type: ignore[assignment]
    for layer in model.modules():
        match_widths(layer)


def difference(one: nn.Module, two: nn.Module, images: Tensor) -> float:
    """Return the largest difference of two networks' outputs on `images`, over the largest output."""
    with torch.no_grad():
        pairs = zip(tensors_in(one.eval()(images)), tensors_in(two.eval()(images)), strict=True)
        found = [float((a - b).abs().max() / a.abs().max().clamp_min(1e-6)) if a.shape == b.shape else float("inf")
                 for a, b in pairs if a.is_floating_point()]
    return float("nan") if any(v != v for v in found) else max(found, default=0.0)
