"""What a layer's forward does to its input: add zeros, then one product; or anything else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..trees import tensors_in
from .property_reads import PROPERTY_READS

PRODUCTS: dict[Any, str] = {
    torch.conv1d: "Conv1d",
    torch.conv2d: "Conv2d",
    torch.conv3d: "Conv3d",
    F.linear: "Linear",
}
DEFAULT_ARGUMENTS = {
    "weight": None,
    "bias": None,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
}
# operations that keep all values
VALUE_PRESERVING: set[Any] = {torch.Tensor.contiguous, torch.Tensor.clone, torch.Tensor.detach}


class Enough(Exception):
    """End a forward early, because the rest of it cannot matter."""


class Calls(TorchFunctionMode):
    """Follow a layer's input through the calls of its forward.

    `kind` and `arguments` are those of the product, `pads` the zeros added before it, in the form
    of F.pad. `other` is any other operation on the input, or on a result computed from it.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.input = x
        self.of_input = {x}  # tensors computed from the input
        self.pads: list[int] = []
        self.kind = ""
        self.arguments = dict[str, Any]()
        self.result: Tensor | None = None
        self.other: str | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in PROPERTY_READS or self.of_input.isdisjoint(tensors_in([args, kwargs])):
            return out
        if self.result is None and func in PRODUCTS:
            self.product(
                PRODUCTS[func],
                {**dict(zip(("input", *DEFAULT_ARGUMENTS), args, strict=False)), **kwargs},
            )
            self.result = out
        elif self.result is None and func is F.pad:
            if not self.padded(*args[1:], **kwargs):
                self.notice("pad with other values than zeros")
        elif self.result is not None or func not in VALUE_PRESERVING:
            self.notice(getattr(func, "__name__", "what has no name").strip("_"))
        self.of_input.update(tensors_in(out))
        return out

    def notice(self, name: str) -> None:
        """Record another operation. Raises Enough after the product."""
        self.other = self.other or f"whose forward also calls {name}"
        if self.result is not None:
            raise Enough

    def product(self, kind: str, arguments: dict[str, Any]) -> None:
        """Record a convolution or linear call on a value computed from the input."""
        self.kind = kind
        self.arguments = {**DEFAULT_ARGUMENTS, **arguments}
        if any(self.arguments[name] in self.of_input for name in ("weight", "bias")):
            self.other = "whose weight depends on what it reads"
        if len(self.pads) > 2 * (self.arguments["weight"].ndim - 2):
            self.other = self.other or "which adds channels of zeros"

    def padded(self, pad: Any = (), mode: str = "constant", value: float | None = None) -> bool:
        """Add zeros to those recorded; return whether the call does exactly that."""
        more = [int(n) for n in pad]
        if mode != "constant" or value or min(more, default=0) < 0:
            return False
        both = max(len(more), len(self.pads))
        added, before = (x + [0] * (both - len(x)) for x in (more, self.pads))
        self.pads = [a + b for a, b in zip(added, before, strict=True)]
        return True

    def zeros(self) -> list[int]:
        """Return the zeros on both sides of every axis of the convolution, last axis first."""
        return self.pads + [0] * (2 * (self.arguments["weight"].ndim - 2) - len(self.pads))

    def geometry(self) -> dict[str, Any]:
        """Return the settings of a plain layer, in a form that can be saved, without `pads`."""
        facts: dict[str, Any] = {"kind": self.kind, "bias": self.arguments["bias"] is not None}
        if self.kind == "Linear":
            return facts
        axes = self.arguments["weight"].ndim - 2
        for name in ("stride", "padding", "dilation"):
            value = self.arguments[name]
            if not isinstance(value, str):
                each = [value] if isinstance(value, int) else [*value]
                value = each * (axes if len(each) == 1 else 1)
            facts[name] = value
        return {**facts, "groups": self.arguments["groups"]}


def calls_of(layer: nn.Module, x: Tensor) -> Calls:
    """Run the forward of a layer on an input, without hooks, and return its calls."""
    out = None
    with torch.no_grad(), Calls(x) as calls, suppress(Enough):
        out = layer.forward(x)
    if calls.result is None:
        calls.other = (
            calls.other or "whose forward does not convolve or multiply by a call that can be seen"
        )
    elif out is not calls.result:
        calls.other = calls.other or "whose forward returns more than its product"
    return calls
