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

from ..trees import Tree, copied, handed, in_float, tensors_in
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


class Decisions(TorchDispatchMode):
    """Record the decisions of a forward pass. With `given`, replace them by the given decisions."""

    def __init__(self, inputs: Tree, given: Sequence[Decision] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given = given
        self.decisions = list[Decision]()
        self.follows = True
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
        if by and decides(result) and "max_pool" not in name:
            result = self.decided(name, by, result, args, kwargs)
        self.depends.update(tensors_in(result))
        return result

    def decided(self, name: str, by: list[Tensor], result: Any, args: Any, kwargs: Any) -> Any:
        """Record a decision. Return its result, or that of the given decision."""
        place = len(self.decisions)
        self.decisions.append(Decision(name, [t.detach().clone() for t in by], copied(result)))
        if self.given is None:
            return result
        other = self.given[place] if place < len(self.given) else None
        if (
            other is None
            or other.name != name
            or [t.shape for t in other.by] != [t.shape for t in by]
        ):
            self.follows = False
            return result
        if name not in BY_INDEX or not isinstance(result, tuple):
            return copied(other.result)
        place = 2 if name in ("topk", "kthvalue") else 1
        dim = int(kwargs.get("dim", args[place] if len(args) > place else -1))
        where = other.result[1]
        at = where if where.ndim == by[0].ndim else where.unsqueeze(dim)
        return by[0].gather(dim, at).view_as(result[0]), where.clone()


def decides(result: Any) -> bool:
    """Return whether an operation returned integers or booleans, as tensors or Python numbers."""
    if isinstance(result, (bool, int, float)):
        return True
    return any(not t.is_floating_point() and not t.is_complex() for t in tensors_in(result))


@dataclass
class Answers:
    """The outputs of a network, and the decisions that led to them."""

    tensors: list[Tensor]
    decisions: list[Decision]
    # whether its decisions matched the given ones in number, operation and shape
    followed: bool = True

    @property
    def decided_by(self) -> list[Tensor]:
        """The floats of all decisions."""
        return list(chain.from_iterable(decision.by for decision in self.decisions))


def answers(
    model: nn.Module, inputs: Tree, given: Sequence[Decision] | None = None, decides: bool = True
) -> Answers:
    """Return the outputs of a network in eval mode.

    For inputs of 16 bits, inputs and weights are converted to float32, as their rounding would show
    as a difference. `decides`: record decisions, which takes time; False if the network makes none.
    """
    if any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors_in(inputs)):
        model = copy.deepcopy(model).float()
        inputs = in_float(inputs)
    shown = copied(inputs)
    if not decides:
        with torch.no_grad():
            return Answers(
                [t.detach().clone() for t in tensors_in(handed(in_mode(model), shown))], []
            )
    with torch.no_grad(), Decisions(shown, given) as decisions:
        outputs = [t.detach().clone() for t in tensors_in(handed(in_mode(model), shown))]
    return Answers(outputs, decisions.decisions, decisions.follows)


def gap(wanted: Answers, model: nn.Module, inputs: Tree) -> float:
    """Return the largest difference of a network's outputs from `wanted`, over the largest output.

    If the other network made decisions, this one is given them, and the floats behind its own
    decisions are compared too.
    """
    if not wanted.decisions:
        return apart(wanted.tensors, answers(model, inputs, decides=False).tensors)
    answered = answers(model, inputs, wanted.decisions)
    # binary weights and activations decide too, so decisions may not match: compare without them
    if not answered.followed or len(answered.decisions) != len(wanted.decisions):
        return apart(wanted.tensors, answers(model, inputs).tensors)
    gaps = [apart(wanted.tensors, answered.tensors), apart(wanted.decided_by, answered.decided_by)]
    return float("nan") if any(map(math.isnan, gaps)) else max(gaps)


def difference(before: nn.Module, after: nn.Module, inputs: Tree) -> float:
    """Return the largest difference between two networks' outputs on `inputs`, over the largest
    output.
    """
    return gap(answers(before, inputs), after, inputs)


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
        return difference(one, two, in_float(inputs, torch.float64))
    except Exception:  # whatever the user's code raises if it fixes a dtype
        return None


def apart(one: list[Tensor], two: list[Tensor]) -> float:
    """Return the largest difference between two lists of outputs, over the largest output.

    NaN if an output holds NaN, infinity if the shapes differ.
    """
    if len(one) != len(two):
        return float("inf")
    gaps = [
        float((a - b).abs().max() / a.abs().max().clamp_min(1e-6))
        if a.shape == b.shape
        else float("inf")
        for a, b in zip(one, two, strict=True)
        if a.is_floating_point() and a.numel()
    ]
    return float("nan") if any(map(math.isnan, gaps)) else max(gaps, default=0.0)


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
    largest = difference(before, after, images)
    tolerance = 1e-3
    if largest > tolerance:
        exact = difference_in_float64(
            before, change, ctx.example if example is None else example, images
        )
        largest = largest if exact is None else exact
    ctx.gate(name, largest, tolerance)
