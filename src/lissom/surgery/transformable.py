"""Which layers can have their weight transformed, and why the others cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..trees import Tree, first
from .compare import gate_same
from .coverage import add_unsupported_reasons, choose_by_patterns
from .fold import fold_batchnorms
from .layers import COMPRESSED, torch_class
from .plain_layers import make_plain_and_note
from .reached import reached

if TYPE_CHECKING:
    from ..language.context import Context


def transformable(
    model: nn.Module, example: Tree, misfit: Callable[[nn.Module], str | None] = lambda _: None
) -> tuple[dict[str, list[nn.Module]], dict[str, str]]:
    """Return the layers whose weight can be transformed, and why the others cannot.

    Layers that share a weight have one name. A layer must be of a class that can be changed, and
    must itself be called in a forward pass on `example` (n ...): code that only reads a layer's
    weight would miss the transform. `misfit` returns another reason against a layer, or None.
    """
    run = reached(model, first(example, 1))
    layers: dict[str, list[nn.Module]] = {}
    left_out: dict[str, str] = {}
    seen = set[torch.Tensor]()
    for name, layer in model.named_modules():
        if torch_class(layer) is None:
            continue
        weight = layer._parameters["weight"]
        owners = [m for m in model.modules() if any(p is weight for p in m._parameters.values())]
        if weight is not None and not weight.numel():
            left_out[name] = "it has no weights"
        elif not has_unrounded_weight(layer):
            left_out[name] = f"{type(layer).__name__} holds its weight otherwise already"
        elif not run.issuperset(owners):
            left_out[name] = "it, or one with the same weight, is not called as a layer"
        elif not all(map(has_unrounded_weight, owners)):
            left_out[name] = "its weight is also that of a layer of another kind"
        elif reason := misfit(layer):
            left_out[name] = reason
        elif weight not in seen:
            seen.add(weight)
            layers[name] = owners
    return layers, left_out


def chosen_layers(
    model: nn.Module,
    ctx: Context,
    only: str,
    keep: str,
    *,
    misfit: Callable[[nn.Module], str | None] = lambda _: None,
    fold: bool = False,
) -> tuple[dict[str, list[nn.Module]], dict[str, str]]:
    """Return the layers whose weight a step is to transform, and why the others stay.

    They have the form of `transformable`. Layers with the forward of a plain layer become that, in
    place, and with `fold` batch-norm is folded into the layer before it. Raises LissomError if a
    pattern of `only` or `keep` matches nothing.
    """
    reasons = make_plain_and_note(model, ctx)
    if fold:
        before = copy.deepcopy(model)
        ctx.facts["folded"] = fold_batchnorms(model, ctx.example)
        gate_same(ctx, "folded = unfolded", before, model, ctx.batch(32), fold_batchnorms)
    layers, left_out = transformable(model, ctx.example, misfit)
    add_unsupported_reasons(model, ctx.example, left_out, reasons, COMPRESSED)
    wanted = choose_by_patterns(layers, left_out, only, keep, ctx.where)
    return {name: owners for name, owners in layers.items() if name in wanted}, left_out


def has_unrounded_weight(layer: nn.Module) -> bool:
    """Return whether a layer computes with its weight as it is or transformed, but not rounded.

    An embedding with max_norm does not: PyTorch writes into its weight at each lookup.
    """
    kind = torch_class(layer)
    if kind is None or getattr(layer, "max_norm", None) is not None:
        return False
    return type(layer) in (kind, COMPRESSED[kind])
