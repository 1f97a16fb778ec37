"""Cut channels out of a network, or zero them where they are."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..trees import tensors_in
from .attention import count_heads, match_attention
from .groups import Group
from .tensors import match_widths, owners_of, replace
from .windows import match_windows

Cut = list[tuple[Group, Tensor]]  # each group with the units to remove, a boolean of its size


def removed(cut: Cut) -> dict[tuple[str, int], Tensor]:
    """Return for each (tensor, axis) which indices go: a boolean (n), or (blocks n) of a grouped convolution."""
    gone: dict[tuple[str, int], Tensor] = {}
    for group, units in cut:
        with_none = torch.cat([units, units.new_zeros(1)])  # the last, -1, is no unit
        for member in group.members:
            mine, key = with_none[member.unit], (member.tensor, member.axis)
            gone[key] = gone[key] | mine if key in gone else mine
    return gone


def masked(model: nn.Module, cut: Cut, fresh: bool = False) -> None:
    """Zero in place everything that `sliced` would cut out: the two networks compute the same.

    With `fresh` the tensors first get numbers of their own, so that others which share them do not change.
    """
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    gone_of = removed(cut)
    if fresh:
        for name in dict.fromkeys(name for name, _ in gone_of):
            tensors[name].data = tensors[name].data.clone()
    with torch.no_grad():
        for (name, axis), gone in gone_of.items():
            tensor, gone = tensors[name], gone.to(tensors[name].device)
            if gone.ndim == 1:
                tensor.index_fill_(axis, gone.nonzero().flatten(), 0)
            else:
                each = len(tensor) // len(gone)
                stay = (~gone).repeat_interleave(each, 0).to(tensor.dtype)
                tensor.mul_(stay.view(*stay.shape, *[1] * (tensor.ndim - 2)))


def sliced(model: nn.Module, cut: Cut) -> None:
    """Cut the units of `cut` out of `model` in place; each layer remembers which outputs it kept.

    `layer.kept` lists the outputs of the layer as it was first built that are still there.
    """
    owners, layers = owners_of(model), dict(model.named_modules(remove_duplicate=False))
    makes = {(m.tensor, m.axis) for group, _ in cut for m in group.members if m.role == "out"}
    places: dict[str, list[tuple[int, Tensor]]] = {}  # tensor -> along which of its axes what goes
    for (name, axis), gone in removed(cut).items():
        if gone.any():
            places.setdefault(name, []).append((axis, gone))
    for name, axes in places.items():
        path, _, leaf = name.rpartition(".")
        layer: Any = layers[path]
        now = getattr(layer, leaf).detach()
        for axis, gone in axes:
            now = kept_of(now, axis, ~gone.to(now.device))
            if leaf == "weight" and (name, axis) in makes:
                before = getattr(layer, "kept", range(gone.numel()))
                layer.kept = [before[k] for k in (~gone).flatten().nonzero().flatten().tolist()]
        replace(model, name, now, owners=owners, layer=layer)
    for group, units in cut:
        for width in group.widths:
            norm: Any = layers[width.tensor]
            norm.num_features -= int(units[width.unit[width.unit >= 0]].sum())
    for layer in model.modules():
        match_widths(layer)
        if isinstance(layer, nn.MultiheadAttention):
            match_attention(layer)
        match_windows(layer)
    for group, units in cut:
        if units.any():
            count_heads(layers, group, int((~units).sum()))


def kept_of(tensor: Tensor, axis: int, stay: Tensor) -> Tensor:
    """Return what of a tensor stays: `stay` (n) along `axis`, or (blocks n), another choice for each block of axis 0."""
    if stay.ndim == 1:
        return tensor.index_select(axis, stay.nonzero().flatten())
    parts = tensor.chunk(len(stay))
    return torch.cat([part.index_select(axis, s.nonzero().flatten()) for part, s in zip(parts, stay, strict=True)])


def difference(one: nn.Module, two: nn.Module, images: Tensor) -> float:
    """Return the largest difference of two networks' outputs on `images`, over the largest output."""
    return apart(answers(one, images), answers(two, images))


def answers(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the outputs of a network on `images`, with which those of another are compared."""
    if images.dtype in (torch.float16, torch.bfloat16):  # whose rounding alone would look like a difference
        model, images = copy.deepcopy(model).float(), images.float()
    with torch.no_grad():
        return [t.clone() for t in tensors_in(model.eval()(images))]


def apart(one: list[Tensor], two: list[Tensor]) -> float:
    """Return the largest difference of two lists of outputs, over the largest output; NaN counts as one."""
    found = [float((a - b).abs().max() / a.abs().max().clamp_min(1e-6)) if a.shape == b.shape else float("inf")
             for a, b in zip(one, two, strict=True) if a.is_floating_point() and a.numel()]
    return float("nan") if any(v != v for v in found) else max(found, default=0.0)
