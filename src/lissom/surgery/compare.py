"""Compare the outputs of two networks, with data-dependent decisions taken from the first.

A detector keeps the boxes with the highest scores. A mixture of experts runs the expert with the
highest score. Two networks whose scores differ by rounding may decide differently, and then their
outputs cannot be compared. So each integer or boolean that the first network computes from floats
replaces that of the second, and the floats behind these decisions are compared too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..trees import Tree, copied, in_float, run_network, tensors_in
from .modes import in_mode

if TYPE_CHECKING:
    from ..language.context import Context

# operations that return values and their indices
BY_INDEX = {"topk", "sort", "max", "min", "median", "mode", "kthvalue"}


@dataclass
class Decision:
    """An operation that computes integers or booleans from floats: its name, the floats, its
    result.
    """

    name: str
    by: list[Tensor]
    result: Any


class DecisionRecorder(TorchDispatchMode):
    """Record the decisions of a forward pass. With `replay`, replace them by these."""

    def __init__(self, inputs: Tree, replay: Sequence[Decision] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.replay = replay
        self.decisions = list[Decision]()
        self.matched = True
        self.depends = set(tensors_in(inputs))  # tensors that depend on the inputs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            with self:
                if (whole := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return whole
        result = func(*args, **kwargs)
        read = [t for t in tensors_in((args, kwargs)) if t in self.depends]
        if not read:
            return result
        by = [t for t in read if t.is_floating_point()]
        name = str(func.overloadpacket.__name__)
        # max-pooling is no decision: near ties hardly change its values
        if by and is_decision(result) and "max_pool" not in name:
            result = self.decided(name, by, result, args, kwargs)
        self.depends.update(tensors_in(result))
        return result

    def decided(self, name: str, by: list[Tensor], result: Any, args: Any, kwargs: Any) -> Any:
        """Record a decision. Return its result, or that of the given decision."""
        place = len(self.decisions)
        self.decisions.append(Decision(name, [t.detach().clone() for t in by], copied(result)))
        if self.replay is None:
            return result
        other = self.replay[place] if place < len(self.replay) else None
        if (
            other is None
            or other.name != name
            or [t.shape for t in other.by] != [t.shape for t in by]
        ):
            self.matched = False
            return result
        if name not in BY_INDEX or not isinstance(result, tuple):
            return copied(other.result)
        place = 2 if name in ("topk", "kthvalue") else 1
        dim = int(kwargs.get("dim", args[place] if len(args) > place else -1))
        where = other.result[1]
        at = where if where.ndim == by[0].ndim else where.unsqueeze(dim)
        return by[0].gather(dim, at).view_as(result[0]), where.clone()


def is_decision(result: Any) -> bool:
    """Return whether an operation returned integers or booleans, as tensors or Python numbers."""
    if isinstance(result, (bool, int, float)):
        return True
    return any(not t.is_floating_point() and not t.is_complex() for t in tensors_in(result))


@dataclass
class RecordedOutputs:
    """The outputs of a network, and the decisions that led to them."""

    tensors: list[Tensor]
    decisions: list[Decision]
    # whether its decisions matched the given ones in number, operation and shape
    matched: bool = True

    @property
    def decided_by(self) -> list[Tensor]:
        """The floats of all decisions."""
        return list(chain.from_iterable(decision.by for decision in self.decisions))


def record_outputs(
    model: nn.Module,
    inputs: Tree,
    replay: Sequence[Decision] | None = None,
    record_decisions: bool = True,
) -> RecordedOutputs:
    """Return the outputs of a network in eval mode.

    For inputs of 16 bits, inputs and weights are converted to float32, as their rounding would show
    as a difference. `record_decisions` takes time; False if the network makes none.
    """
    if any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors_in(inputs)):
        model = copy.deepcopy(model).float()
        inputs = in_float(inputs)
    copies = copied(inputs)
    if not record_decisions:
        with torch.no_grad():
            return RecordedOutputs(
                [t.detach().clone() for t in tensors_in(run_network(in_mode(model), copies))], []
            )
    with torch.no_grad(), DecisionRecorder(copies, replay) as recorder:
        outputs = [t.detach().clone() for t in tensors_in(run_network(in_mode(model), copies))]
    return RecordedOutputs(outputs, recorder.decisions, recorder.matched)


def difference_from(recorded: RecordedOutputs, model: nn.Module, inputs: Tree) -> float:
    """Return the largest difference of a network's outputs from `recorded`, relative to the largest
    output.

    If the other network made decisions, this one is given them, and the floats behind its own
    decisions are compared too.
    """
    if not recorded.decisions:
        return relative_difference(
            recorded.tensors, record_outputs(model, inputs, record_decisions=False).tensors
        )
    found = record_outputs(model, inputs, recorded.decisions)
    # binary weights and activations decide too, so decisions may not match: compare without them
    if not found.matched or len(found.decisions) != len(recorded.decisions):
        return relative_difference(recorded.tensors, record_outputs(model, inputs).tensors)
    differences = [
        relative_difference(recorded.tensors, found.tensors),
        relative_difference(recorded.decided_by, found.decided_by),
    ]
    return float("nan") if any(map(math.isnan, differences)) else max(differences)


def network_difference(before: nn.Module, after: nn.Module, inputs: Tree) -> float:
    """Return the largest difference between two networks' outputs on `inputs`, over the largest
    output.
    """
    return difference_from(record_outputs(before, inputs), after, inputs)


def difference_in_float64(
    model: nn.Module, change: Callable[[nn.Module, Tree], object], example: Tree, inputs: Tree
) -> float | None:
    """Return the difference that `change(model, example)` makes in float64, None if that does not
    run.
    """
    one = copy.deepcopy(model).double()
    two = copy.deepcopy(model).double()
    try:
        change(two, in_float(example, torch.float64))
        return network_difference(one, two, in_float(inputs, torch.float64))
    except Exception:  # whatever the user's code raises if it fixes a dtype
        return None


def relative_difference(one: list[Tensor], two: list[Tensor]) -> float:
    """Return the largest difference between two lists of outputs, over the largest output.

    NaN if an output holds NaN, infinity if the shapes differ.
    """
    if len(one) != len(two):
        return float("inf")
    differences = [
        float((a - b).abs().max() / a.abs().max().clamp_min(1e-6))
        if a.shape == b.shape
        else float("inf")
        for a, b in zip(one, two, strict=True)
        if a.is_floating_point() and a.numel()
    ]
    return float("nan") if any(map(math.isnan, differences)) else max(differences, default=0.0)


def gate_same(
    ctx: Context,
    name: str,
    before: nn.Module,
    after: nn.Module,
    images: Tree,
    change: Callable[[nn.Module, Tree], object],
    example: Tree = None,
) -> None:
    """Record a gate that compares a network before and after a change that should keep its
    function.

    Some networks amplify the rounding of float32 beyond the tolerance. Then `change`, which takes a
    network to change in place and an example of its inputs, is repeated in float64.
    """
    largest = network_difference(before, after, images)
    tolerance = 1e-3
    if largest > tolerance:
        exact = difference_in_float64(
            before, change, ctx.example if example is None else example, images
        )
        largest = largest if exact is None else exact
    ctx.gate(name, largest, tolerance)
