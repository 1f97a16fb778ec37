"""Compare what two networks answer, taking the decisions that depend on the data from the first.

A detector keeps the boxes with the highest scores, a mixture of experts asks the expert that a
score names: two networks whose scores differ by rounding may decide otherwise, and then their
answers cannot be compared at all. So each integer or boolean that the first network computes from
its inputs' floats is given to the second in the place of its own, and the floats that it was
decided by are compared as well.
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

# return values and where these are
BY_INDEX = {"topk", "sort", "max", "min", "median", "mode", "kthvalue"}


@dataclass
class Decision:
    """An operation that makes integers or booleans of floats: its name, the floats, and its result."""

    name: str
    by: list[Tensor]
    result: Any


class Decisions(TorchDispatchMode):
    """Note the decisions of a forward pass, or with `given` put those in the place of what is
    decided here.
    """

    def __init__(self, inputs: Tree, given: Sequence[Decision] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given = given
        self.decisions = list[Decision]()
        self.follows = True
        self.depends = set(tensors_in(inputs))  # on the inputs

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
        # its values hardly change where another place is the largest
        if by and decides(result) and "max_pool" not in name:
            result = self.decided(name, by, result, args, kwargs)
        self.depends.update(tensors_in(result))
        return result

    def decided(self, name: str, by: list[Tensor], result: Any, args: Any, kwargs: Any) -> Any:
        """Note a decision, or return the one that was given."""
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
    """Return whether an operation made integers or booleans, or a number that Python goes on with."""
    if isinstance(result, (bool, int, float)):
        return True
    return any(not t.is_floating_point() and not t.is_complex() for t in tensors_in(result))


@dataclass
class Answers:
    """What a network answers, and by which decisions."""

    tensors: list[Tensor]
    decisions: list[Decision]
    # whether it decided as often, and on as many values, as the network whose decisions it was
    # given
    followed: bool = True

    @property
    def decided_by(self) -> list[Tensor]:
        """The floats of all decisions."""
        return list(chain.from_iterable(decision.by for decision in self.decisions))


def answers(
    model: nn.Module, inputs: Tree, given: Sequence[Decision] | None = None, decides: bool = True
) -> Answers:
    """Return what a network answers in eval mode; weights and inputs of 16 bits are widened, whose
    rounding would show.

    `decides`: its decisions are noted, which takes time; False for a network that is known to make
    none.
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
    """Return the largest difference of a network's outputs from those wanted, over the largest output.

    Where networks decide something by their values, this one is given the decisions of the other,
    and the values that it would have decided by are compared, too.
    """
    if not wanted.decisions:
        return apart(wanted.tensors, answers(model, inputs, decides=False).tensors)
    answered = answers(model, inputs, wanted.decisions)
    # a rounding to signs decides, too
    if not answered.followed or len(answered.decisions) != len(wanted.decisions):
        return apart(wanted.tensors, answers(model, inputs).tensors)
    gaps = [apart(wanted.tensors, answered.tensors), apart(wanted.decided_by, answered.decided_by)]
    return float("nan") if any(map(math.isnan, gaps)) else max(gaps)


def difference(before: nn.Module, after: nn.Module, inputs: Tree) -> float:
    """Return the largest difference of two networks' outputs on `inputs`, over the largest output."""
    return gap(answers(before, inputs), after, inputs)


def difference_in_float64(
    model: nn.Module, change: Callable[[nn.Module, Tree], object], example: Tree, inputs: Tree
) -> float | None:
    """Return the difference that `change(model, example)` makes in float64; None for code that
    takes no such numbers.
    """
    one = copy.deepcopy(model).double()
    two = copy.deepcopy(model).double()
    try:
        change(two, in_float(example, torch.float64))
        return difference(one, two, in_float(inputs, torch.float64))
    except Exception:  # whatever code raises that names a type of numbers
        return None


def apart(one: list[Tensor], two: list[Tensor]) -> float:
    """Return the largest difference of two lists of outputs, over the largest output; NaN counts as one."""
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
    """Record that a network was compared with what it was before a change that should leave it the
    same function.

    A network may make so much of the rounding of float32 that nothing else shows. Then `change`,
    which is given a network to change in place and an example of its inputs, is done in float64.
    """
    largest = difference(before, after, images)
    tolerance = 1e-3
    if largest > tolerance:
        exact = difference_in_float64(
            before, change, ctx.example if example is None else example, images
        )
        largest = largest if exact is None else exact
    ctx.gate(name, largest, tolerance)
