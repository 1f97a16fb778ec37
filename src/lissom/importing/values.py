"""Values of an ONNX graph while the network is built: constants, sizes, or nodes of the fx graph.

Each node is traced twice, for two batch sizes, on meta tensors. A size that differs between the two
traces is open, and the network reads it from the tensor at run time. All other sizes are numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

MOST_ELEMENTS = 1 << 27  # of one tensor: 512 MiB of float32
MOST_FOLDED = 1 << 28  # of all tensors computed from constants: 1 GiB of float32
MOST_COMPUTED = 1 << 20  # integers in a tensor that is computed from sizes
MOST_COMPUTED_NODES = 64  # nodes that compute it
MOST_LISTED = 1 << 24  # of a constant that is read number by number


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that is the same at each call.

    `source` is the name of the tensor in the file, "" if the tensor was computed. `permutation` is
    the order of the file's axes here.
    """

    tensor: Tensor
    source: str = ""
    permutation: tuple[int, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """Return a key: equal for the same tensor of the file, unique for a computed tensor."""
        permutation = () if list(self.permutation) == sorted(self.permutation) else self.permutation
        return (self.source, permutation, tuple(self.tensor.shape)) if self.source else (self,)

    def permuted(self, axes: list[int]) -> Constant:
        """Return the constant with its axes in another order."""
        before = self.permutation or tuple(range(self.tensor.ndim))
        permutation = tuple(before[axis] for axis in axes)
        return Constant(self.tensor.permute(axes), self.source, permutation)


@dataclass(frozen=True, eq=False)
class Sizes:
    """A row of numbers, or one number (`single`). Some are read from tensors at run time."""

    parts: tuple[Any, ...]  # int, float or fx.Node
    single: bool = False


Value: TypeAlias = "Constant | Sizes | fx.Node"


def stand_ins_of(value: Any, which: int) -> Any:
    """Return a value, or a tree of values, with its stand-ins in the first (0) or second (1) trace."""

    def stand_in(part: Any) -> Any:
        if isinstance(part, Constant):
            return part.tensor.to("meta")
        return part.meta["stand_ins"][which] if isinstance(part, fx.Node) else part

    return map_aggregate(value, stand_in)


def run_in_both_traces(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the results of a function in both traces, on meta tensors.

    Raises ValueError if a result is too large.
    """
    results = []
    for which in (0, 1):
        with torch.device("meta"), torch.no_grad():
            if isinstance(function, nn.RNNBase):  # would run step by step
                result = recurrent_shapes(function, *stand_ins_of(args, which))
            else:
                result = function(*stand_ins_of(args, which), **stand_ins_of(kwargs, which))
        check_size(result, MOST_ELEMENTS)
        results.append(result)
    return results[0], results[1]


def recurrent_shapes(layer: nn.RNNBase, x: Tensor, states: Any = None) -> tuple[Tensor, Any]:
    """Return stand-ins for the results of a one-layer recurrent module on (time batch features)."""
    time, batch = x.shape[:2]
    ways = 2 if layer.bidirectional else 1
    last = torch.empty(ways, batch, layer.hidden_size)
    ends = (last, last) if isinstance(layer, nn.LSTM) else last
    layer.check_forward_args(x, ends if states is None else states, None)  # type: ignore[arg-type]
    return torch.empty(time, batch, ways * layer.hidden_size), ends


def check_size(result: Any, most: int) -> None:
    """Raise ValueError if a tensor, or one of several, has more than `most` elements."""
    for part in result if isinstance(result, (list, tuple)) else [result]:
        if isinstance(part, Tensor) and math.prod(part.shape) > most:
            raise ValueError(f"a tensor {tuple(part.shape)} is larger than {most} numbers")


def computed(value: Any, which: int) -> Any:
    """Return the integers that a value has in the first (0) or second (1) trace, if they follow from
    sizes and constants alone; None otherwise.
    """
    known: dict[fx.Node, Any] = {}

    def integers(part: Any) -> Any:
        if not isinstance(part, fx.Node):
            return part.tensor if isinstance(part, Constant) else part
        if part not in known:
            stand_in = part.meta["stand_ins"][which]
            if not isinstance(stand_in, Tensor):
                return stand_in
            if "made_by" not in part.meta or stand_in.is_floating_point():
                raise LookupError
            if stand_in.numel() > MOST_COMPUTED or len(known) > MOST_COMPUTED_NODES:
                raise LookupError
            known[part] = None
            function, args, kwargs = part.meta["made_by"]
            known[part] = function(
                *map_aggregate(args, integers), **map_aggregate(kwargs, integers)
            )
        return known[part]

    try:
        return integers(value)
    except LookupError:
        return None


def numbers_only(args: Any, kwargs: Any) -> bool:
    """Return whether the arguments of a call contain no nodes."""
    nodes: list[fx.Node] = []

    def note(part: Any) -> Any:
        if isinstance(part, fx.Node):
            nodes.append(part)
        return part

    map_aggregate((args, kwargs), note)
    return not nodes


def plain(value: Any) -> Any:
    """Return a tree with tensors instead of constants."""
    return map_aggregate(value, lambda part: part.tensor if isinstance(part, Constant) else part)
