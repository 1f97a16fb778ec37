"""Recurrent layers: PyTorch's, and the GRU that resets before the product."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..build import Op, tensor_of_sizes
from ..gru import ResetFirstGRU
from ..values import Constant, Sizes, Value

# position in ONNX of each gate in PyTorch's order
LSTM_GATES = (0, 2, 3, 1)  # i o f c -> i f c o
GRU_GATES = (1, 0, 2)  # z r h -> r z h
MOST_STEPS = 1 << 14
USUAL = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}


def lstm(op: Op) -> Any:
    """Make an LSTM."""
    if op.optional(7) is not None or op.get("input_forget", 0):
        raise ValueError("peepholes and coupled gates are not known")
    return recurrent(op, nn.LSTM, LSTM_GATES, (5, 6))


def gru(op: Op) -> Any:
    """Make a GRU: PyTorch's if it resets the state after the product, otherwise ResetFirstGRU."""
    if op.get("linear_before_reset", 0):
        return recurrent(op, nn.GRU, GRU_GATES, (5,))
    # if time is the first axis of the input, `fixed_batch` is the number of steps
    steps = max(op.shape(op[0], 1)[0], op.build.fixed_batch or 0)
    if steps > MOST_STEPS:
        raise ValueError(
            f"{steps} steps are more than {MOST_STEPS}: with linear_before_reset=0 each runs in Python"
        )
    return recurrent(op, ResetFirstGRU, GRU_GATES, (5,))


def rnn(op: Op) -> Any:
    """Make a plain recurrent layer, with tanh or relu."""
    names = {name.lower() for name in op.get("activations", ["Tanh"])}
    if len(names) > 1 or not names <= {"tanh", "relu"}:
        raise ValueError(f"activations {sorted(names)!s:.80} are not known")
    return recurrent(op, nn.RNN, (0,), (5,), nonlinearity=names.pop())


def recurrent(
    op: Op, kind: Any, gates: tuple[int, ...], states: tuple[int, ...], **more: Any
) -> Any:
    """Make a recurrent layer; return all states and the last states in ONNX's layout."""
    direction = op.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"direction {direction!r:.40} is not known")
    count = 2 if direction == "bidirectional" else 1
    usual = [name.lower() for name in USUAL[op.node.op]] * count
    given = [name.lower() for name in op.get("activations", usual)]
    if (not more and given != usual) or op.get("clip") is not None:
        raise ValueError("gates other than the usual ones are not known")
    if not all_long(op, op.optional(4)):
        raise ValueError("sequences of different lengths (sequence_lens) are not known")
    if op.get("layout", 0):
        raise ValueError("layout=1 is not known")
    op.read |= {"hidden_size", "activation_alpha", "activation_beta"}
    x = op[0]
    backwards = direction == "reverse"
    if backwards:
        x = op.call(torch.flip, x, (0,))
    held = weights_of(op, gates, count)
    width = op.shape(op[2])[-1]
    inputs = op.shape(x)[-1]
    biases = op.optional(3) is not None
    reads = [x, *states_of(op, states)]
    made = op.layer(
        lambda: kind(inputs, width, bias=biases, bidirectional=count == 2, **more), *reads, **held
    )
    out, last = (op.call(operator.getitem, made, place) for place in (0, 1))
    ends = (
        [op.call(operator.getitem, last, place) for place in (0, 1)] if len(states) == 2 else [last]
    )
    apart = op.call(torch.unflatten, out, -1, (count, width))
    outputs = op.call(torch.transpose, apart, 1, 2)
    if backwards:
        outputs = op.call(torch.flip, outputs, (0,))
    return [outputs, *ends]


def weights_of(op: Op, gates: tuple[int, ...], count: int) -> dict[str, Constant]:
    """Return the weights by PyTorch's names, with gates in PyTorch's order."""
    held = {}
    for way, end in enumerate(("", "_reverse")[:count]):
        for place, name in ((1, "weight_ih_l0"), (2, "weight_hh_l0")):
            held[name + end] = in_order(op.constant(place)[way], gates)
        if op.optional(3) is not None:
            both = op.constant(3)[way].chunk(2)
            held["bias_ih_l0" + end] = in_order(both[0], gates)
            held["bias_hh_l0" + end] = in_order(both[1], gates)
    return held


def in_order(tensor: Tensor, gates: tuple[int, ...]) -> Constant:
    """Return a weight with its gates in another order."""
    parts = tensor.chunk(len(gates))
    return Constant(torch.cat([parts[gate] for gate in gates]))


def all_long(op: Op, lengths: Value | None) -> bool:
    """Return whether all sequences have the full length, which some exporters write explicitly."""
    if lengths is None:
        return True
    wanted = tuple(op.shape(op[0], which)[0] for which in (0, 1))
    return everywhere(op, lengths) == wanted


def states_of(op: Op, places: tuple[int, ...]) -> list[Any]:
    """Return the initial states of a layer; none if they are all zero."""
    given = [op.optional(place) for place in places]
    if all(value is None or everywhere(op, value) == (0, 0) for value in given):
        return []
    states = [op[place] for place in places]
    return [tuple(states)] if len(states) > 1 else states


def everywhere(op: Op, value: Any) -> tuple[float, float] | None:
    """Return the only number that a tensor contains, in both traces; None for other tensors.

    It may be repeated for the batch.
    """
    if isinstance(value, Constant):
        return only_number(value.tensor)
    if isinstance(value, Sizes):
        return showings_of(value.parts[0]) if len(value.parts) == 1 else None
    if value.target is torch.full:
        return showings_of(value.args[1])
    if value.target in (Tensor.expand, Tensor.repeat, Tensor.to, torch.reshape):
        return everywhere(op, value.args[0]) if isinstance(value.args[0], fx.Node) else None
    if value.target is tensor_of_sizes:
        return showings_of(value.args[0][0]) if len(value.args[0]) == 1 else None
    if value.op == "get_attr":
        return only_number(operator.attrgetter(str(value.target))(op.build.root))
    return None


def only_number(tensor: Tensor) -> tuple[float, float] | None:
    """Return the number that all elements equal, once per trace; None if they differ."""
    numbers = tensor.unique().tolist() if tensor.numel() else []
    return (numbers[0], numbers[0]) if len(numbers) == 1 else None


def showings_of(number: Any) -> tuple[float, float] | None:
    """Return the values of a number, or of a node that computes one, in both traces."""
    if isinstance(number, fx.Node):
        first, second = number.meta["stand_ins"]
        return (first, second) if isinstance(first, (int, float)) else None
    return (number, number) if isinstance(number, (int, float)) else None


OPERATORS = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
