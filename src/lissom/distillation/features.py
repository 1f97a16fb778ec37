"""Find the modules whose features are compared in two networks, and match their channels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LissomError, nearest
from ..surgery.channels.follow import labels_of
from ..surgery.channels.slice import kept_outputs
from ..surgery.layers import CompressedLayer, bake_transforms
from ..surgery.quantization.layers import QuantizedLayer
from ..surgery.quantization.network import QuantizedNetwork
from ..trees import Tree, first, run_network


@dataclass(frozen=True)
class Output:
    """The output of a module: features (c h w) from `calls` calls; `changed`: in place, later."""

    name: str
    shape: tuple[int, int, int]
    calls: int
    changed: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[1:]


@dataclass(frozen=True)
class Place:
    """Two modules whose features are compared.

    `channels` are the teacher's channels that match the student's, None if unknown.
    `how`: "same" for channel by channel, "kept channels" if the student lost some, "adapter" if the
    correspondence of channels is unknown.
    """

    student: Output
    teacher: Output
    channels: Tensor | None

    @property
    def how(self) -> str:
        """How channels are matched, in a word."""
        if self.channels is None:
            return "adapter"
        whole = torch.equal(self.channels, torch.arange(self.teacher.shape[0]))
        return "same" if whole else "kept channels"


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the user's own network, with the module names that the user knows."""
    return model.network if isinstance(model, QuantizedNetwork) else model


def module_outputs(network: nn.Module, example: Tree) -> dict[str, Output]:
    """Run `network` on `example` (n c h w); return each module's output, in order of completion."""
    seen: dict[str, tuple[Tensor, int, int]] = {}  # tensor, version, calls

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record_output(_: nn.Module, __: Any, out: Any) -> None:
            # the last call determines the output and the order
            calls = seen.pop(name)[2] if name in seen else 0
            if isinstance(out, Tensor) and out.ndim == 4:
                seen[name] = (out, out._version, calls + 1)

        return record_output

    hooks = [
        module.register_forward_hook(hook(name))
        for name, module in unwrapped(network).named_modules()
        if name
    ]
    mode = network.training
    try:
        with torch.no_grad():
            run_network(network.eval(), example)
    finally:
        network.train(mode)
        for handle in hooks:
            handle.remove()
    return {
        name: Output(name, (t.shape[1], t.shape[2], t.shape[3]), calls, t._version != version)
        for name, (t, version, calls) in seen.items()
    }


def stage_ends(outputs: dict[str, Output]) -> list[Output]:
    """Return the last module to finish at each size, in order.

    Modules with outputs of 1x1 and modules that run more than once do not count.
    """
    ends: dict[tuple[int, int], Output] = {}
    for output in outputs.values():
        if output.calls == 1 and output.size != (1, 1):
            ends.pop(output.size, None)
            ends[output.size] = output
    return list(ends.values())


def output_pairs(
    at: str | None, student: dict[str, Output], teacher: dict[str, Output], where: str
) -> list[tuple[Output, Output]]:
    """Return pairs of outputs to compare: those that `at` names, else stage ends of equal size.

    `at` is a list such as "blocks.2,blocks.*=layer*": patterns of module names, in which * stands
    for anything between two dots. A student's module without "=" is paired with the teacher's
    module of that name and size, else with the teacher's stage end of that size. Raises LissomError
    for a pattern that matches nothing, and for pairs of different sizes.
    """
    ends = {end.size: end for end in stage_ends(teacher)}
    if at is None:
        found_pairs = [(our, ends[our.size]) for our in stage_ends(student) if our.size in ends]
        if not found_pairs:
            raise LissomError(
                f"{where}: student and teacher have no features of one size to "
                "compare; the student's stages "
                f"end in {outputs_text(stage_ends(student))}, the teacher's in "
                f"{outputs_text(stage_ends(teacher))}; "
                'at="student=teacher" names others'
            )
        return found_pairs
    found_pairs = []
    for part in at.split(","):
        left, equals, right = (word.strip() for word in part.partition("="))
        ours = outputs_matching(left, student, "student", where)
        if equals:
            theirs = outputs_matching(right, teacher, "teacher", where)
            if len(ours) != len(theirs):
                raise LissomError(
                    f"{where}: at='{part.strip()}' names {len(ours)} modules of the "
                    "student and "
                    f"{len(theirs)} of the teacher"
                )
        else:
            theirs = [_counterpart(our, teacher, ends, where) for our in ours]
        for our, their in zip(ours, theirs, strict=True):
            if our.size != their.size:
                raise LissomError(
                    f"{where}: at='{part.strip()}': features of the student's '{our.name}' are "
                    f"{our.size[0]}x{our.size[1]}, those of the teacher's '{their.name}' "
                    f"{their.size[0]}x{their.size[1]}"
                )
            found_pairs.append((our, their))
    order = list(student)
    return sorted(dict.fromkeys(found_pairs), key=lambda pair: order.index(pair[0].name))


def _counterpart(
    ours: Output, teacher: dict[str, Output], ends: dict[tuple[int, int], Output], where: str
) -> Output:
    same = teacher.get(ours.name)
    if same is not None and same.size == ours.size:
        return same
    if ours.size not in ends:
        raise LissomError(
            f"{where}: at='{ours.name}': the teacher has no such module and no stage of "
            f"{ours.size[0]}x{ours.size[1]}; its stages end in {outputs_text(list(ends.values()))}. "
            f'at="{ours.name}=NAME" names its counterpart'
        )
    return ends[ours.size]


def outputs_matching(
    pattern: str, outputs: dict[str, Output], whose: str, where: str
) -> list[Output]:
    """Return the outputs whose module names match a pattern, part by part between the dots."""
    words = pattern.split(".")
    matches = [
        output
        for name, output in outputs.items()
        if len(parts := name.split(".")) == len(words)
        and all(fnmatchcase(part, word) for part, word in zip(parts, words, strict=True))
    ]
    if not matches:
        close = nearest(pattern, outputs)
        hint = f"; did you mean '{close}'?" if close else "."
        raise LissomError(
            f"{where}: at: no module of the {whose} that makes features (n c h w) "
            f"is called '{pattern}'{hint} "
            f"Its stages end in {outputs_text(stage_ends(outputs))}"
        )
    return matches


def outputs_text(places: Iterable[Output]) -> str:
    """Return names and sizes as text: blocks.2 (16x16), blocks (8x8)."""
    return (
        ", ".join(f"{place.name} ({place.size[0]}x{place.size[1]})" for place in places)
        or "nothing"
    )


def compared_places(
    student: nn.Module, teacher: nn.Module, example: Tree, at: str | None, where: str
) -> list[Place]:
    """Return the places where two networks are compared, with their matched channels.

    Runs a forward pass of each.
    """
    compared = output_pairs(
        at,
        module_outputs(student, first(example, 1)),
        module_outputs(teacher, first(example, 1)),
        where,
    )
    match = channel_matcher(unwrapped(student), unwrapped(teacher), example)
    return [Place(ours, theirs, match(ours, theirs)) for ours, theirs in compared]


# channels

Match = Callable[[Output, Output], Tensor | None]


def channel_matcher(student: nn.Module, teacher: nn.Module, example: Tree) -> Match:
    """Return a function from two outputs to the teacher's matching channels, None if unknown.

    A student that was pruned from the teacher's architecture still has layers of the same names,
    and each records in `kept` which of its outputs are left. A feature's channel is traced back to
    the layer outputs that made it, through additions, concatenations and shuffles. The teacher's
    channel with the same origin matches it.
    """
    if not same_architecture(student, teacher):
        return lambda _, __: None
    layers = chain(student.modules(), teacher.modules())
    if all(kept_outputs(layer) is None for layer in layers):
        return lambda one, two: torch.arange(one.shape[0]) if one.name == two.name else None
    ours = _Origins(student, example)
    theirs = _Origins(teacher, example)
    roots = dict[tuple[str, int], int]()
    for root, origins in theirs.origins.items():
        roots.update(dict.fromkeys(origins, root))

    def match(output: Output, target: Output) -> Tensor | None:
        if output.name not in ours.at or target.name not in theirs.at:
            return None
        student_channels = ours.at[output.name]
        teacher_channels = theirs.at[target.name]
        channels = torch.zeros(output.shape[0], dtype=torch.long)
        for root, spots in student_channels.items():
            # 0 is the network's input, and any channel that could not be traced
            counterparts = {roots.get(origin) for origin in ours.origins.get(root, ())} or (
                {0} if root == 0 else set()
            )
            only = counterparts.pop() if len(counterparts) == 1 else None
            matching = [] if only is None else teacher_channels.get(only, [])
            if len(matching) != len(spots):
                return None
            # channels with the same origin are in the same order in both
            channels[spots] = torch.tensor(matching)
        return channels

    return match


def same_architecture(student: nn.Module, teacher: nn.Module) -> bool:
    """Return whether two networks can have one architecture, pruned or not.

    Their layers must have the same names and, before pruning, the same widths.
    """
    ours = _layers(student)
    theirs = _layers(teacher)
    return ours.keys() == theirs.keys() and all(_fits(ours[name], theirs[name]) for name in ours)


def _layers(network: nn.Module) -> dict[str, nn.Module]:
    return {
        name: m
        for name, m in network.named_modules()
        if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))
    }


def _fits(one: Any, two: Any) -> bool:
    """Return whether both layers can have had the same outputs before pruning."""
    if one.weight.ndim != two.weight.ndim or one.weight.shape[2:] != two.weight.shape[2:]:
        return False
    left = kept_outputs(one)
    other = kept_outputs(two)
    if left is None or other is None:
        cut, whole = (left, two) if left is not None else (other, one)
        return len(one.weight) == len(two.weight) if cut is None else max(cut) < len(whole.weight)
    return True


class _Origins:
    """The origins of a network's channels: layer outputs, with their indices before any pruning."""

    def __init__(self, network: nn.Module, example: Tree) -> None:
        labels = labels_of(_float(network), example)
        root = labels.representatives()
        self.origins: dict[int, set[tuple[str, int]]] = {}
        for use in labels.uses:
            if use.role == "out":
                layer = use.tensor.rpartition(".")[0]
                left = kept_outputs(network.get_submodule(layer))
                for k, maker in enumerate(root[use.labels.reshape(-1).numpy()].tolist()):
                    self.origins.setdefault(maker, set()).add(
                        (layer, k if left is None else left[k])
                    )
        # module -> root -> channels of the module that have it
        self.at: dict[str, dict[int, list[int]]] = {}
        for name, channels in labels.at.items():
            if channels.ndim == 4 and torch.equal(
                channels, channels[:, :, :1, :1].expand_as(channels)
            ):
                spots = self.at.setdefault(name, {})
                for k, channel in enumerate(root[channels[0, :, 0, 0].numpy()].tolist()):
                    spots.setdefault(channel, []).append(k)


def _float(network: nn.Module) -> nn.Module:
    """Return the network with ordinary layers instead of compressed ones, for tracing of labels."""
    if not any(isinstance(m, CompressedLayer) for m in network.modules()):
        return network
    network = copy.deepcopy(network)
    bake_transforms(network)
    for layer in list(network.modules()):
        if isinstance(layer, QuantizedLayer):
            layer.set_input_roundings(None)  # rounding moves no channel
            layer.make_plain(*layer.in_inference())
    return network


# features as they are made


@contextmanager
def record_features(model: nn.Module, wanted: Iterable[Output]) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that holds the outputs of the `wanted` modules after each forward pass."""
    seen: dict[str, Tensor] = {}

    def hook(output: Output) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, out: Tensor) -> None:
            seen[output.name] = out.clone() if output.changed else out

        return keep

    network = unwrapped(model)
    hooks = [
        network.get_submodule(output.name).register_forward_hook(hook(output))
        for output in dict.fromkeys(wanted)
    ]
    try:
        yield seen
    finally:
        for handle in hooks:
            handle.remove()
