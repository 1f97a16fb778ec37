"""Bring a quantized network closer to the float one part by part, on unlabelled samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...language.grid import by_filter
from ...trees import Tree, first, run_on_copied_inputs
from .layers import QuantizedLayer
from .network import QuantizedNetwork
from .sites import run_without_sites

MAX_RECORDED_BYTES = 1 << 29  # bytes of a part's inputs and outputs that are held at once
# the sigmoid is stretched to this range, so that it reaches 0 and 1
STRETCH_LOW = -0.1
STRETCH_HIGH = 1.1


def recorded(
    network: nn.Module, part: nn.Module, batches: Sequence[Tree]
) -> tuple[list[Tensor], list[Tensor], tuple[Any, ...]]:
    """Return input and output of each call of a part on calibration batches (n ...) that fit into
    memory.

    Also return the other arguments of its last call: the size of its output, for example.
    """
    read: list[Tensor] = []
    outputs: list[Tensor] = []
    more: tuple[Any, ...] = ()

    def enter(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal more
        read.append(run_without_sites(args[0], torch.Tensor.clone))
        more = (*args[1:], *named.values())

    hooks = [
        part.register_forward_pre_hook(enter, with_kwargs=True),
        part.register_forward_hook(
            lambda _, __, out: outputs.append(run_without_sites(out, torch.Tensor.clone))
        ),
    ]
    try:
        with torch.no_grad():
            for images in batches:
                run_on_copied_inputs(network, images)
                if (
                    sum(x.numel() * x.element_size() for x in (*read, *outputs))
                    > MAX_RECORDED_BYTES
                ):
                    break
    finally:
        for hook in hooks:
            hook.remove()
    return read, outputs, more


def positions(outputs: Tensor, layer: nn.Module) -> Tensor:
    """Return the outputs of a call of a layer as rows (positions, channels)."""
    return (outputs if isinstance(layer, nn.Linear) else outputs.movedim(1, -1)).flatten(0, -2)


def of_one_shape(read: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the inputs and wanted outputs of those calls that have the most samples of one shape.

    Only a part that runs more than once, such as a detector's head, has calls of several shapes.
    """
    calls: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for x, y in zip(read, wanted, strict=False):  # each list ends where its memory did
        calls.setdefault(x.shape[1:], []).append((x, y))
    most = max(calls.values(), key=lambda pairs: sum(len(x) for x, _ in pairs))
    return torch.cat([x for x, _ in most]), torch.cat([y for _, y in most])


def correct_biases(
    quantized: QuantizedNetwork, before: nn.Module, names: Sequence[str], batches: Sequence[Tree]
) -> int:
    """Shift the bias of each layer, in order, by the mean error of its outputs.

    Return the number of layers.
    b += mean(float output - output), over samples and positions, with the layers before it already
    corrected. `before` is the float network, whose layers have the same `names`. Source: Nagel et
    al. 2019, Data-Free Quantization, https://arxiv.org/abs/1906.04721, section 4.2, but measured
    instead of derived.
    """
    done = 0
    for name in names:
        layer = quantized.network.get_submodule(name)
        if not isinstance(layer, QuantizedLayer) or layer.rounding is None or layer.is_table:
            continue
        wanted, outputs = (
            recorded(net, net.get_submodule(path), batches)[1]
            for net, path in ((before, name), (quantized, f"network.{name}"))
        )
        errors = [
            positions(y, layer) - positions(out, layer)
            for y, out in zip(wanted, outputs, strict=False)
        ]
        if not any(map(len, errors)):  # no sample reaches this layer
            continue
        shift = torch.cat(errors).mean(0)
        holder = layer if layer.norm is None else layer.norm
        with torch.no_grad():
            if holder.bias is None:
                learns = layer.weight.requires_grad
                holder.bias = nn.Parameter(torch.zeros_like(shift), requires_grad=learns)
            holder.bias += shift
        done += 1
    return done


def learn_rounding(
    quantized: QuantizedNetwork,
    before: nn.Module,
    names: Sequence[str],
    batches: Sequence[Tree],
    steps: int,
    seed: int = 0,
    by_block: bool = False,
) -> int:
    """Learn for each weight whether to round it up or down, layer by layer or block by block.

    Return the number of layers.
    w = s clamp(floor(w / s) + h(v), low, high), h(v) = clamp(1.2 sigmoid(v) - 0.1, 0, 1); v
    minimises mean |output - float output|^2 + l sum(1 - |2 h(v) - 1|^b), where the layer or block
    reads the outputs of those before it, which are already rounded. b falls from 20 to 2, so that
    every h ends at 0 or 1; the weights are then left on their grid. `before` is the float network,
    whose layers have the same `names`.
    Source: Nagel et al. 2020, Up or Down? Adaptive Rounding, https://arxiv.org/abs/2004.10568; by
    blocks, Li et al. 2021, BRECQ, https://arxiv.org/abs/2102.05426. Differs: the error is divided
    by the mean square of the output, so that one l suits all layers; it is not weighted by the
    curvature of the loss, which would need labels.
    """
    done = 0
    draw = torch.Generator().manual_seed(seed)
    parts = (
        blocks(quantized, names, first(batches[0], 1))
        if by_block
        else {name: ([name], Counter[str]()) for name in names}
    )
    for path, (inner, calls) in parts.items():
        choices = [
            Choice(layer) for name in inner if (layer := learnable(quantized, name)) is not None
        ]
        if not choices:
            continue
        part = quantized.network.get_submodule(path)
        wanted = recorded(before, before.get_submodule(path), batches)[1]
        inputs, _, more = recorded(quantized, part, batches)
        if not any(x.numel() for x in inputs):  # no sample reaches this part
            continue
        run = (
            (lambda x, p=part, m=more: p.forward_quantized(x, *m))
            if isinstance(part, QuantizedLayer)
            else lambda x, p=part, n=calls: quantized.run(p, x, n)[0]
        )
        _optimise_rounding(choices, run, *of_one_shape(inputs, wanted), steps, draw)
        done += len(choices)
    return done


def learnable(quantized: QuantizedNetwork, name: str) -> QuantizedLayer | None:
    """Return the layer of that name if its weights are rounded to equal steps, else None.

    Embeddings do not count: the nearest value is best for them.
    """
    layer = quantized.network.get_submodule(name)
    if not isinstance(layer, QuantizedLayer) or layer.rounding is None or layer.is_table:
        return None
    return None if layer.rounding.grid.ends(layer.rounding.bits) is None else layer


def blocks(
    quantized: QuantizedNetwork, names: Sequence[str], example: Tree
) -> dict[str, tuple[list[str], Counter[str]]]:
    """Return the parts that are learned together, in order: their layers and the calls before them.

    A block is a module that adds or concatenates, reads and returns one tensor, runs once as its
    layers do, and contains no other block: the block of a residual network. Any other layer is a
    part of its own. The counts of calls are enough to run a part, so no graph of the network is
    needed. Single layers remain an option: with few updates, or in a network that was never
    trained, they do better.
    """
    runs = Counter[str]()
    around = {}

    def enter(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        runs[name] += 1
        single = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
        around[name] = [quantized.counts.copy()] if single else []

    def leave(name: str, _: nn.Module, __: Any, out: Any) -> None:
        around[name] += [quantized.counts.copy()] if isinstance(out, Tensor) else []

    modules = {name: module for name, module in quantized.network.named_modules() if name}
    with ExitStack() as hooks, torch.no_grad():
        for name, module in modules.items():
            before = module.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
            hooks.callback(before.remove)
            hooks.callback(module.register_forward_hook(partial(leave, name)).remove)
        run_on_copied_inputs(quantized, example)
    inner = {path: [n for n in names if n.startswith(f"{path}.")] for path in modules}
    joined = [
        path
        for path, layers in inner.items()
        if len(layers) > 1
        and len(around.get(path, [])) == 2
        and all(runs[n] == 1 for n in (path, *layers))
        and any(around[path][1][kind] > around[path][0][kind] for kind in ("add", "cat"))
    ]
    home = dict[str, str]()  # layer -> its block
    for path in joined:
        if not any(other.startswith(f"{path}.") for other in joined):
            home.update(dict.fromkeys(inner[path], path))
    return {
        home.get(name, name): (inner[home[name]], around[home[name]][0])
        if name in home
        else ([name], Counter())
        for name in names
    }


class Choice:
    """Whether each weight of a layer is rounded up or down, while this is learned."""

    def __init__(self, layer: QuantizedLayer) -> None:
        assert layer.rounding is not None
        ends = layer.rounding.grid.ends(layer.rounding.bits)
        assert ends is not None
        weight = layer.to_grid_form(layer.weight.detach().float())
        zeros = layer.rounding.zeros()
        shift = 0 if zeros is None else by_filter(zeros, weight)
        self.layer = layer
        self.ends = [torch.as_tensor(end - shift).to(weight) for end in ends]
        self.scale = by_filter(layer.weight_codes()[1], weight)
        self.below = (weight / self.scale).floor()
        self.zero = weight == 0
        part = (weight / self.scale - self.below).clamp(0.01, 0.99)
        self.v = torch.logit((part - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)).requires_grad_()
        factor, bias = layer.normed()
        in_grid = layer.filter_factor()  # what `weight` is multiplied by already
        self.times = (
            1.0
            if factor is None
            else by_filter((factor if in_grid is None else factor / in_grid).float(), weight)
        )
        self.shift = None if bias is None else bias.float()

    def up(self) -> Tensor:
        """Return how far each weight is rounded up, 0 to 1; masked zeros stay 0."""
        stretched = self.v.sigmoid() * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW
        return torch.where(self.zero, 0.0, stretched.clamp(0, 1))

    def weights(self, up: Tensor) -> Tensor:
        return (self.below + up).clamp(*self.ends) * self.scale


def _optimise_rounding(
    choices: Sequence[Choice],
    run: Callable[[Tensor], Tensor],
    inputs: Tensor,
    wanted: Tensor,
    steps: int,
    draw: torch.Generator,
) -> None:
    """Learn the rounding of the layers of one part, and leave their weights on the grid."""
    learned = [c.v for c in choices]
    size = wanted.square().mean().clamp_min(1e-12)
    optimizer = torch.optim.Adam(learned, lr=0.03)
    for step in range(steps):
        some = torch.randint(len(inputs), (min(32, len(inputs)),), generator=draw)
        with torch.enable_grad():  # surgery runs with gradients off
            ups = [c.up() for c in choices]
            for choice, up in zip(choices, ups, strict=True):
                weight = choice.layer.as_held(choice.weights(up) * choice.times)
                now = weight, choice.shift
                choice.layer.in_inference = lambda now=now: now  # type: ignore[method-assign, misc]
            loss = (run(inputs[some]) - wanted[some]).square().mean() / size
            if step >= steps // 5:
                done = (step - steps // 5) / max(1, steps - steps // 5)
                loss = loss + 0.01 * sum(
                    (1 - (2 * up - 1).abs().pow(20 - 18 * done)).mean() for up in ups
                )
        for v, slope in zip(learned, torch.autograd.grad(loss, learned), strict=True):
            v.grad = slope
        optimizer.step()
    with torch.no_grad():
        for choice in choices:
            vars(choice.layer).pop("in_inference", None)
            choice.layer.weight.copy_(
                choice.layer.from_grid_form(choice.weights((choice.up() >= 0.5).float()))
            )
