"""Find the parameters of a network that a text names, and the depth of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ..errors import LissomError, nearest
from ..surgery.transform import WeightTransform

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
WORDS = ("all", "weights", "norm", "bias", "head")
LISTS = (nn.Sequential, nn.ModuleList)


def parameters_named(model: nn.Module, text: str, where: str) -> set[str]:
    """Return the names of the parameters that a comma-separated text names.

    Words are `all`; `weights`, of two or more dimensions; `norm`, of normalisation layers; `bias`;
    `head`, the last layer with a weight; and glob patterns for names of layers and parameters.
    Raises LissomError for a word that names nothing.

    >>> sorted(parameters_named(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), "norm", ""))
    ['1.bias', '1.weight']
    """
    parameters = dict(model.named_parameters())
    named = set[str]()
    for word in filter(None, map(str.strip, text.split(","))):
        hits = {name for name in parameters if any(fnmatchcase(n, word) for n in above(name))}
        if not hits and word in WORDS:
            hits = of_word(model, parameters, word)
        if not hits and word not in ("all", "weights"):
            layers = [
                n for n, m in model.named_modules() if n and any(True for _ in m.parameters())
            ]
            close = nearest(word, [*WORDS, *layers])
            hint = f"; did you mean '{close}'?" if close else "."
            raise LissomError(
                f"{where}: expected {', '.join(WORDS)}, or patterns of names of layers and "
                f"parameters, got '{word}', which names none here{hint}"
            )
        named |= hits
    return named


def above(name: str) -> Iterator[str]:
    """Yield the name of a parameter and of every layer that holds it.

    >>> list(above("layer1.0.weight"))
    ['layer1.0.weight', 'layer1.0', 'layer1']
    """
    while name:
        yield name
        name = name.rpartition(".")[0]


def of_word(model: nn.Module, parameters: Mapping[str, Tensor], word: str) -> set[str]:
    """Return the names of the parameters that one of `WORDS` stands for."""
    weights = [name for name, value in parameters.items() if value.ndim > 1]
    if word == "all":
        return set(parameters)
    if word == "weights":
        return set(weights)
    if word == "bias":
        return {name for name in parameters if name.endswith("bias")}
    if word == "head":
        if not weights:
            return set()
        layer = head_of(model, weights[-1])
        return {name for name in parameters if not layer or layer in above(name)}
    layers = {name for name, module in model.named_modules() if isinstance(module, NORMS)}
    return {name for name in parameters if name.rpartition(".")[0] in layers}


def head_of(model: nn.Module, parameter: str) -> str:
    """Return the name of the layer of a parameter, which a transform of its weight may hold."""
    layer = parameter.rpartition(".")[0]
    while isinstance(model.get_submodule(layer), WeightTransform):
        layer = layer.rpartition(".")[0]
    return layer


def depths(model: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter by name: 0 for those of the first layer.

    timm's networks define their layers (`group_matcher`). In others, a layer is an element of an
    outermost list of modules (nn.Sequential, nn.ModuleList), or a module beside these; a module
    without a weight of 2 or more dimensions, such as a batch-norm, belongs to the layer before.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 2)))
    >>> depths(net)
    {'0.weight': 0, '0.bias': 0, '1.weight': 0, '1.bias': 0, '2.0.weight': 1, '2.0.bias': 1}
    """
    if callable(matcher := getattr(model, "group_matcher", None)):
        from timm.models import group_parameters

        return dict(group_parameters(model, matcher(), reverse=True))
    depth = -1
    deep = dict[str, int]()
    for names in layers_in(model):
        if any(model.get_parameter(name).ndim > 1 for name in names):
            depth += 1
        deep |= dict.fromkeys(names, max(depth, 0))
    return {name: deep.get(name, 0) for name, _ in model.named_parameters()}


def layers_in(module: nn.Module, prefix: str = "") -> Iterator[list[str]]:
    """Yield the names of the parameters of each layer, as `depths` defines layers."""
    for name, child in module.named_children():
        full = f"{prefix}{name}."
        holds_lists = any(isinstance(each, LISTS) for each in child.modules())
        if isinstance(child, LISTS) or (holds_lists and not isinstance(module, LISTS)):
            yield from layers_in(child, full)
        else:
            yield [full + inner for inner, _ in child.named_parameters()]
