"""Which layers of a network have weights, and a sentence about those that a step left out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from ..trees import Tree
from .by_tensor import ByTensor
from .layers import WEIGHTED, torch_class
from .names import matching
from .quantization.rounding import Rounding
from .trace import traced
from .transform import WeightTransform

if TYPE_CHECKING:
    from ..language.context import Context

NOT_CHOSEN = "it was not chosen"
IS_FIRST_LAYER = "it is the first layer"
IS_LAST_LAYER = "it is the last layer"
AT_RUN_TIME = "ranges at run time are for linear layers"
USER_REASONS = {NOT_CHOSEN, IS_FIRST_LAYER, IS_LAST_LAYER}  # of the user, who needs no note of them
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
# PyTorch layers that multiply by their weights inside one operation
FUSED_LAYERS = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Bilinear)
PRODUCTS = {"convolution", "addmm", "mm", "bmm", "baddbmm", "addbmm", "linear", "embedding"}
# most reasons, and names for each, in a sentence
MAX_REASONS = 3
MAX_NAMES = 3


def layers_with_weights(model: nn.Module, example: Tree) -> dict[str, nn.Module]:
    """Return the layers that multiply by their own weights, or look them up, by name.

    Layers of classes that are not PyTorch's count if a product in a forward pass on `example` (n
    ...) reads their parameters.
    """
    # others: parameter -> the layer that owns it
    layers = dict[str, nn.Module]()
    others = dict[str, str]()
    for name, layer in model.named_modules():
        if isinstance(layer, (*WEIGHTED, *EMBEDDINGS, *FUSED_LAYERS)):
            layers[name] = layer
        elif not isinstance(layer, (Rounding, WeightTransform)):
            # those two hold parameters of a layer
            owner = name.partition("parametrizations.")[0].removesuffix(".")
            others.update(
                {
                    f"{name}.{key}".removeprefix("."): owner
                    for key, p in layer._parameters.items()
                    if p is not None and p.ndim > 1 and owner not in layers
                }
            )
    if others:
        reading = {others[name] for name in multiplied(model, example) if name in others}
        layers.update((name, layer) for name, layer in model.named_modules() if name in reading)
    return {name: layer for name, layer in model.named_modules() if name in layers}


def multiplied(model: nn.Module, example: Tree) -> set[str]:
    """Return the parameters that products of a forward pass read, directly or after computation."""
    trace = traced(model, example)
    # tensor -> the parameters it is computed from, if from nothing else
    of = ByTensor((tensor, {name}) for tensor, name in trace.names.items())
    names: set[str] = set()
    for op in trace.ops:
        made_of = [of.get(t) for t in op.inputs()]
        if op.name in PRODUCTS:
            names.update(*filter(None, made_of))
        elif made_of and all(made_of):
            for tensor in op.outputs:
                of[tensor] = set().union(*filter(None, made_of))
    return names


def add_unsupported_reasons(
    model: nn.Module,
    example: Tree,
    left_out: dict[str, str],
    reasons: Mapping[str, str],
    kinds: Collection[type[nn.Module]],
) -> None:
    """Add to `left_out` each layer with weights whose kind cannot be changed, with the reason.

    `reasons` says why layers with their own forward did not become plain ones (plain_layers.py).
    """
    for name, layer in layers_with_weights(model, example).items():
        if torch_class(layer) not in kinds:
            left_out.setdefault(name, reasons.get(name) or why_not(layer))


def why_not(layer: nn.Module) -> str:
    """Return why a layer of a kind that cannot be changed is left alone."""
    name = type(layer).__name__
    if isinstance(layer, nn.EmbeddingBag):
        return f"{name} adds up rows within its own operation"
    if isinstance(layer, FUSED_LAYERS):
        return f"{name} multiplies by its weights within its own operation, not in layers"
    return f"{name} multiplies by its weights in a forward of its own"


def choose_by_patterns(
    changeable: Iterable[str], left_out: dict[str, str], only: str, keep: str, where: str
) -> set[str]:
    """Return the layers of `changeable` that the user's patterns choose.

    The others are added to `left_out`. Patterns may also name the layers that are in it already,
    which cannot be changed.
    """
    names = [*dict.fromkeys([*changeable, *left_out])]
    wanted = matching(names, only, f"{where}: only") if only else set(names)
    wanted -= matching(names, keep, f"{where}: keep")
    left_out.update((name, NOT_CHOSEN) for name in names if name not in wanted)
    return wanted & set(changeable)


def coverage_sentence(
    where: str, done: Collection[str] | int, left_out: Mapping[str, str], word: str
) -> str | None:
    """Return one line that says how many layers a step changed, and why not the others.

    None if only the user's choice left layers out. `left_out` has the reason for each of these
    layers; `word` is what they stay.

    >>> left_out = {"a": "Own is odd", "b": "Own is odd", "c": "it was not chosen"}
    >>> coverage_sentence("quantize(8)", 1, left_out, "float")
    'quantize(8): 1 of 4 layers; 2 stay float: Own is odd (a, b)'
    """
    causes: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        if reason not in USER_REASONS:
            causes.setdefault(reason, []).append(name or "the network itself")
    if not causes:
        return None
    count = done if isinstance(done, int) else len(done)
    groups = sorted(causes.items(), key=lambda cause: -len(cause[1]))
    said = [
        f"{len(names)} stay{'s' if len(names) == 1 else ''} {word}: {reason} ({some(names)})"
        for reason, names in groups[:MAX_REASONS]
    ]
    rest = sum(len(names) for _, names in groups[MAX_REASONS:])
    said += [f"{rest} more for other reasons"] if rest else []
    return "; ".join([f"{where}: {count} of {count + len(left_out)} layers", *said])


def tell_left_out(
    ctx: Context, done: Collection[str] | int, left_out: Mapping[str, str], word: str = "float"
) -> None:
    """Note which layers a step did not change; `left_out` says why, `word` what they stay."""
    if sentence := coverage_sentence(ctx.where, done, left_out, word):
        ctx.notes.append(sentence)
        ctx.warnings.append(sentence)


def some(names: list[str]) -> str:
    """Return the first few of some names, and how many more there are.

    >>> some(["a", "b"]), some(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 more')
    """
    more = len(names) - MAX_NAMES
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:MAX_NAMES])} and {more} more"
