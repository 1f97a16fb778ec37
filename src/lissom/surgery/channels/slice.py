"""Cut channels out of a network, or zero them where they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..by_tensor import ByTensor
from ..tensors import match_widths, owners_of, replace
from .attention import count_heads, match_attention
from .groups import Group
from .windows import match_windows

Cut = list[tuple[Group, Tensor]]  # each group with the units to remove, a boolean of its size


def removed(cut: Cut) -> dict[tuple[str, int], Tensor]:
    """Return for each (tensor, axis) which indices go: a boolean (n), or (blocks n) of a grouped
    convolution.
    """
    gone: dict[tuple[str, int], Tensor] = {}
    for group, units in cut:
        with_none = torch.cat([units, units.new_zeros(1)])  # the last, -1, is no unit
        of_unit = ByTensor[Tensor]()  # members share units
        for member in group.members:
            mine = of_unit.get(member.unit)
            key = (member.tensor, member.axis)
            if mine is None:
                mine = of_unit[member.unit] = with_none[member.unit]
            gone[key] = gone[key] | mine if key in gone else mine
    return gone


def axes_of(cut: Cut, role: str) -> set[tuple[str, int]]:
    """Return the (tensor, axis) that take part in a role in groups of which something goes."""
    axes = set[tuple[str, int]]()
    for group, _ in cut:
        axes.update((m.tensor, m.axis) for m in group.members if m.role == role)
    return axes


def zero_channels(model: nn.Module, cut: Cut) -> None:
    """Zero in place everything that `slice_channels` would cut out: the two networks compute the same."""
    layers = dict(model.named_modules())
    with torch.no_grad():
        for (name, axis), gone in removed(cut).items():
            tensor = held(layers, name)
            gone = gone.to(tensor.device)
            if tensor.ndim == 1:  # statistics may be infinite
                tensor.masked_fill_(gone, 0)
            else:  # which is sooner done in a large tensor
                _multiply(tensor, axis, (~gone).to(tensor.dtype), tensor)


def held(layers: dict[str, nn.Module], name: str) -> Tensor:
    """Return a parameter or buffer by name."""
    path, _, leaf = name.rpartition(".")
    layer = layers[path]
    tensor: Tensor | None = (
        layer._buffers[leaf] if leaf in layer._buffers else layer._parameters[leaf]
    )
    assert tensor is not None
    return tensor


def zero_channels_alike(model: nn.Module, cut: Cut) -> None:
    """Zero the same in tensors of their own, and make up for the inputs that layers lose.

    Numbers that the network shares with another stay as they are. What is left of a layer's inputs
    is multiplied by
    the root of  all inputs / those left,  so that a difference is as large at the end of a deep
                 network as it was.
    """
    layers = dict(model.named_modules())
    copied = set[str]()
    readers = axes_of(cut, "in")
    shared: dict[tuple[Tensor, bool, torch.dtype], Tensor] = {}  # members share what goes
    # of whole rows there are fewest
    for (name, axis), gone in sorted(removed(cut).items(), key=lambda item: -item[0][1]):
        tensor = held(layers, name)
        reads = (name, axis) in readers
        if (key := (gone, reads, tensor.dtype)) not in shared:
            stay = (~gone).to(torch.float32)
            if reads:
                stay /= stay.mean().clamp_min(1e-6).sqrt()
            shared[key] = stay.to(tensor.dtype)
        if name in copied:
            _multiply(tensor.data, axis, shared[key], tensor.data)
        else:
            tensor.data = _multiply(tensor.data, axis, shared[key])
            copied.add(name)


def _multiply(tensor: Tensor, axis: int, values: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply by `values`, (n) along `axis` or (blocks n) of a grouped convolution, into `out` if
    it is given.
    """
    after = tensor.shape[axis + 1 :].numel()
    # in long rows, which is sooner done
    if values.ndim == 1 and axis and after > 1 and tensor.is_contiguous():
        flat = tensor.view(-1, len(values) * after)
        long = values.repeat_interleave(after)
        return torch.mul(flat, long, out=None if out is None else out.view(flat.shape)).view(
            tensor.shape
        )
    return torch.mul(tensor, _over(tensor, axis, values), out=out)


def _over(tensor: Tensor, axis: int, values: Tensor) -> Tensor:
    """Return `values`, (n) along `axis` or (blocks n) of a grouped convolution, in a shape that
    meets the tensor.
    """
    if values.ndim == 1:
        return values.view(-1, *[1] * (tensor.ndim - 1 - axis))
    values = values.repeat_interleave(len(tensor) // len(values), 0)
    return values.view(*values.shape, *[1] * (tensor.ndim - 2))


def slice_channels(model: nn.Module, cut: Cut) -> None:
    """Cut the units of `cut` out of `model` in place; each layer remembers which outputs it kept.

    `layer.kept` lists the outputs of the layer as it was first built that are still there.
    """
    layers = dict(model.named_modules(remove_duplicate=False))
    owners = owners_of(model)
    makers = axes_of(cut, "out")
    changed = dict[nn.Module, None]()
    left = ByTensor[Tensor | range]()  # what goes -> the indices that stay
    axes: dict[str, list[tuple[int, Tensor]]] = {}  # of each tensor, with what goes along them
    # whole rows first
    for (name, axis), gone in sorted(removed(cut).items(), key=lambda item: item[0][1]):
        if gone not in left:
            left[gone] = staying(gone)
        if len(left[gone]) < gone.numel():
            axes.setdefault(name, []).append((axis, gone))
    for name, goes in axes.items():
        path, _, leaf = name.rpartition(".")
        layer: Any = layers[path]
        now = held(layers, name).detach()
        for axis, gone in goes:
            stay = left[gone]
            now = kept_of(now, axis, gone, stay)
            if leaf == "weight" and (name, axis) in makers:
                before = kept_outputs(layer)
                stays = list(stay) if isinstance(stay, range) else stay.tolist()
                layer.kept = stays if before is None else [before[k] for k in stays]
        if now.untyped_storage().nbytes() > now.nbytes:  # a view, which holds what goes
            now = now.clone(memory_format=torch.contiguous_format)
        changed.update(dict.fromkeys(replace(model, name, now, owners=owners, layer=layer)))
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
        if units.any():
            count_heads(layers, group, int((~units).sum()))


def kept_outputs(layer: nn.Module) -> list[int] | None:
    """Return which outputs of a layer as it was first built are still there; None if it was never cut."""
    return getattr(layer, "kept", None)


def staying(gone: Tensor) -> Tensor | range:
    """Return the indices, in a row, of what does not go; a range where one follows the other."""
    stay = (~gone).flatten().nonzero().flatten()
    if gone.ndim == 1 and len(stay) and int(stay[-1] - stay[0]) == len(stay) - 1:
        return range(int(stay[0]), int(stay[-1]) + 1)
    return stay


def kept_of(tensor: Tensor, axis: int, gone: Tensor, stay: Tensor | range) -> Tensor:
    """Return what of a tensor stays along `axis`, a view where `stay` is a range.

    `gone` is (n), or (blocks n), another choice for each block of axis 0.
    """
    if isinstance(stay, range):
        return tensor.narrow(axis, stay.start, len(stay))
    if gone.ndim == 1:
        return tensor.index_select(axis, stay.to(tensor.device))
    parts = tensor.chunk(len(gone))
    return torch.cat(
        [
            part.index_select(axis, (~g).nonzero().flatten())
            for part, g in zip(parts, gone.to(tensor.device), strict=True)
        ]
    )
