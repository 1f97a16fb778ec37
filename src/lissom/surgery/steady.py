"""Whether a network returns the same outputs each time: if not, no surgery on it can be checked."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import place_of
from ..trees import Tree, run_on_copied_inputs, tensors_in
from .compare import relative_difference

MAX_REPEAT_DIFFERENCE = (
    1e-4  # relative to the largest output: threads that sum in another order cause less
)


class _Draws(TorchDispatchMode):
    """Record each operation that draws random numbers, with its line in the user's code."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            place = place_of(traceback.extract_stack())
            self.found[str(func.overloadpacket.__name__) + (f" in {place}" if place else "")] = None
        return func(*args, **(kwargs or {}))


def unsteady(model: nn.Module, inputs: Tree, answer: Tree = None) -> str | None:
    """Return why a network in eval mode gives other outputs when it is run again, or None.

    `answer` are its outputs, if it has been run already.
    """
    with torch.no_grad():
        first = run_on_copied_inputs(model.eval(), inputs) if answer is None else answer
        second = run_on_copied_inputs(model.eval(), inputs)
        if (
            not relative_difference(list(tensors_in(first)), list(tensors_in(second)))
            > MAX_REPEAT_DIFFERENCE
        ):
            return None
        with _Draws() as draws:
            run_on_copied_inputs(model, inputs)
    drawn = f" ({', '.join(list(draws.found)[:3])})" if draws.found else ""
    return (
        f"the network answers differently each time in eval mode{drawn}: what surgery makes "
        "of it cannot be compared. "
        + (
            "Switch the drawing of random numbers off outside training"
            if draws.found
            else "It keeps something from call to call; reset that in its forward"
        )
    )
