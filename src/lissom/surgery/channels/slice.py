"""Slice channels out of a network, or zero them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..by_tensor import ByTensor
from ..tensors import match_widths, owners_of, replace
from .attention import count_heads, match_attention
from .group import Group
from .windows import match_windows

LAZY_PAGES_BYTES = (
    1 << 17
)  # from this size on, the system allocates pages only when they are written
Cut = list[tuple[Group, Tensor]]  # each group with the units to remove, a boolean of its size


def removed(cut: Cut) -> dict[tuple[str, int], Tensor]:
    """Return the indices removed of each (tensor, axis): a boolean (n), (blocks n) for grouped
    convolutions.
    """
    gone: dict[tuple[str, int], Tensor] = {}
    for group, units in cut:
        with_none = torch.cat([units, units.new_zeros(1)])  # index -1 is no unit: never removed
        of_unit = ByTensor[Tensor]()  # members share units
        for member in group.members:
            mine = of_unit.get(member.unit)
            key = (member.tensor, member.axis)
            if mine is None:
                mine = of_unit[member.unit] = with_none[member.unit]
            gone[key] = gone[key] | mine if key in gone else mine
    return gone


class Loss(NamedTuple):
    """The indices that a tensor loses along an axis."""

    axis: int
    gone: Tensor  # a boolean (n), or (blocks n) with a separate choice for each block of axis 0
    stay: Tensor | range  # the remaining flat indices, a range if they are contiguous


def losses(cut: Cut) -> dict[str, list[Loss]]:
    """Return the losses of each tensor that loses anything, axis 0 first."""
    stays = ByTensor[Tensor | range]()
    goes: dict[str, list[Loss]] = {}
    for (name, axis), gone in sorted(removed(cut).items(), key=lambda item: item[0][1]):
        if gone not in stays:
            stays[gone] = staying(gone)
        if len(stays[gone]) < gone.numel():
            goes.setdefault(name, []).append(Loss(axis, gone, stays[gone]))
    return goes


def staying(gone: Tensor) -> Tensor | range:
    """Return the indices that stay, in the form of `Loss.stay`."""
    stay = np.flatnonzero(~gone.numpy())
    if gone.ndim == 1 and len(stay) and stay[-1] - stay[0] == len(stay) - 1:
        return range(int(stay[0]), int(stay[-1]) + 1)
    return torch.from_numpy(stay)


def axes_of(cut: Cut, role: str) -> set[tuple[str, int]]:
    """Return the (tensor, axis) that have a role in a group of the cut."""
    axes = set[tuple[str, int]]()
    for group, _ in cut:
        axes.update((m.tensor, m.axis) for m in group.members if m.role == role)
    return axes


def zero_channels(model: nn.Module, cut: Cut) -> None:
    """Zero in place what `slice_channels` would remove. Both networks compute the same function."""
    layers = dict(model.named_modules())
    with torch.no_grad():
        for (name, axis), gone in removed(cut).items():
            tensor = tensor_named(layers, name)
            gone = gone.to(tensor.device)
            if tensor.ndim == 1:  # statistics may be infinite
                tensor.masked_fill_(gone, 0)
            else:  # faster than masked_fill_ in a large tensor
                _multiply(tensor, axis, (~gone).to(tensor.dtype))


def tensor_named(layers: dict[str, nn.Module], name: str) -> Tensor:
    """Return a parameter or buffer by name."""
    path, _, leaf = name.rpartition(".")
    layer = layers[path]
    tensor: Tensor | None = (
        layer._buffers[leaf] if leaf in layer._buffers else layer._parameters[leaf]
    )
    assert tensor is not None
    return tensor


def zero_channels_alike(model: nn.Module, cut: Cut) -> None:
    """Zero the same channels in new tensors, and scale weights up for the inputs that layers lose.

    Memory shared with another network is not written to. Weights of the remaining inputs are
    multiplied by
    the root of  all inputs / remaining inputs,  so that differences do not fade in deep networks.
    """
    layers = dict(model.named_modules())
    readers = axes_of(cut, "in")
    for name, goes in losses(cut).items():
        tensor = tensor_named(layers, name)
        numbers = tensor.data
        fresh = zeros_like(numbers)
        stays = fresh  # narrowed below along axes where the indices that stay are contiguous
        factor = 1.0
        for loss in goes:
            if (name, loss.axis) in readers:
                factor *= (loss.gone.numel() / max(1, len(loss.stay))) ** 0.5
            if isinstance(loss.stay, range):
                numbers = kept_of(numbers, loss)
                stays = kept_of(stays, loss)
        if factor == 1:
            stays.copy_(numbers)
        else:
            torch.mul(numbers, factor, out=stays)
        for loss in goes:
            if not isinstance(loss.stay, range):
                _multiply(fresh, loss.axis, (~loss.gone).to(fresh.dtype))
        tensor.data = fresh


def zeros_like(tensor: Tensor) -> Tensor:
    """Return zeros like a CPU tensor. In a large one, pages that nobody writes to cost nothing."""
    if tensor.nbytes < LAZY_PAGES_BYTES:
        return torch.zeros_like(tensor)
    return torch.from_numpy(np.zeros(tensor.nbytes, np.uint8)).view(tensor.dtype).view(tensor.shape)


def _multiply(tensor: Tensor, axis: int, values: Tensor) -> None:
    """Multiply in place by `values`, (n) along `axis` or (blocks n) of a grouped convolution."""
    after = tensor.shape[axis + 1 :].numel()
    # long rows are faster
    if values.ndim == 1 and axis and after > 1 and tensor.is_contiguous():
        tensor.view(-1, len(values) * after).mul_(values.repeat_interleave(after))
    else:
        tensor.mul_(_over(tensor, axis, values))


def _over(tensor: Tensor, axis: int, values: Tensor) -> Tensor:
    """Return `values`, (n) along `axis` or (blocks n) of a grouped convolution, in a shape that
    broadcasts against the tensor.
    """
    if values.ndim == 1:
        return values.view(-1, *[1] * (tensor.ndim - 1 - axis))
    values = values.repeat_interleave(len(tensor) // len(values), 0)
    return values.view(*values.shape, *[1] * (tensor.ndim - 2))


def slice_channels(model: nn.Module, cut: Cut, *, trial: bool = False) -> None:
    """Remove the units of `cut` from `model` in place. Each layer records the outputs it kept.

    `layer.kept` lists the remaining outputs by their index in the layer as it was first built. In a
    `trial`, which is undone later, parameters keep their identity and only their data is replaced.
    Otherwise they are new, so that no gradient or optimizer state has the old shape.
    """
    layers = dict(model.named_modules(remove_duplicate=False))
    owners = owners_of(layers.values())
    makers = axes_of(cut, "out")
    changed = dict[nn.Module, str]()  # layer -> the name of a changed tensor
    for name, goes in losses(cut).items():
        path, _, leaf = name.rpartition(".")
        layer: Any = layers[path]
        tensor = tensor_named(layers, name)
        now = tensor.detach()
        for loss in goes:
            now = kept_of(now, loss)
            if leaf == "weight" and (name, loss.axis) in makers:
                before = kept_outputs(layer)
                stays = list(loss.stay) if isinstance(loss.stay, range) else loss.stay.tolist()
                layer.kept = stays if before is None else [before[k] for k in stays]
        if now.untyped_storage().nbytes() > now.nbytes:  # a view, whose storage is the old tensor
            now = now.clone(memory_format=torch.contiguous_format)
        if trial:
            tensor.data = now
            changed |= dict(owners.get(tensor, [(layer, leaf)]))
        else:
            holders = replace(model, name, now, owners=owners, layer=layer)
            changed |= dict.fromkeys(holders, leaf)
    for group, units in cut:
        for width in group.widths:
            norm: Any = layers[width.tensor]
            norm.num_features -= int(units[width.unit[width.unit >= 0]].sum())
    for layer in changed:
        match_widths(layer)
        if isinstance(layer, nn.MultiheadAttention):
            match_attention(layer)
    for layer in layers.values():
        match_windows(layer)
    for group, units in cut:
        left = group.size - int(units.sum())
        if left < group.size:
            count_heads(layers, group, left)


def kept_outputs(layer: nn.Module) -> list[int] | None:
    """Return the remaining outputs of a layer, by original index; None if it was never cut."""
    return getattr(layer, "kept", None)


def kept_of(tensor: Tensor, loss: Loss) -> Tensor:
    """Return the part of a tensor that stays, as a view if it is contiguous along the axis."""
    if isinstance(loss.stay, range):
        return tensor.narrow(loss.axis, loss.stay.start, len(loss.stay))
    if loss.gone.ndim == 1:
        return tensor.index_select(loss.axis, loss.stay.to(tensor.device))
    return torch.cat(
        [
            part.index_select(loss.axis, (~gone).nonzero().flatten())
            for part, gone in zip(
                tensor.chunk(len(loss.gone)), loss.gone.to(tensor.device), strict=True
            )
        ]
    )
