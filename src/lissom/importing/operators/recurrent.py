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
MAX_STEPS = 1 << 14
DEFAULT_ACTIVATIONS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}


def lstm(op: Op) -> Any:
    """Make an LSTM."""
    if op.optional(7) is not None or op.get("input_forget", 0):
        raise ValueError("peepholes and coupled gates are not known")
    return recurrent_layer(op, nn.LSTM, LSTM_GATES, (5, 6))


def gru(op: Op) -> Any:
    """Make a GRU: PyTorch's if it resets the state after the product, otherwise ResetFirstGRU."""
    if op.get("linear_before_reset", 0):
        return recurrent_layer(op, nn.GRU, GRU_GATES, (5,))
    # if time is the first axis of the input, `fixed_batch` is the number of steps
    steps = max(op.shape(op[0], 1)[0], op.build.fixed_batch or 0)
    if steps > MAX_STEPS:
        raise ValueError(
            f"{steps} steps are more than {MAX_STEPS}: with linear_before_reset=0 each runs in Python"
        )
    return recurrent_layer(op, ResetFirstGRU, GRU_GATES, (5,))


def rnn(op: Op) -> Any:
    """Make a plain recurrent layer, with tanh or relu."""
    names = {name.lower() for name in op.get("activations", ["Tanh"])}
    if len(names) > 1 or not names <= {"tanh", "relu"}:
        raise ValueError(f"activations {sorted(names)!s:.80} are not known")
    return recurrent_layer(op, nn.RNN, (0,), (5,), nonlinearity=names.pop())


def recurrent_layer(
    op: Op, kind: Any, gates: tuple[int, ...], states: tuple[int, ...], **more: Any
) -> Any:
    """Make a recurrent layer; return all states and the last states in ONNX's layout."""
    direction = op.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"direction {direction!r:.40} is not known")
    direction_count = 2 if direction == "bidirectional" else 1
    default = [name.lower() for name in DEFAULT_ACTIVATIONS[op.node.op]] * direction_count
    activations = [name.lower() for name in op.get("activations", default)]
    if (not more and activations != default) or op.get("clip") is not None:
        raise ValueError("gates other than the usual ones are not known")
    if not have_full_length(op, op.optional(4)):
        raise ValueError("sequences of different lengths (sequence_lens) are not known")
    if op.get("layout", 0):
        raise ValueError("layout=1 is not known")
    op.read |= {"hidden_size", "activation_alpha", "activation_beta"}
    x = op[0]
    is_reversed = direction == "reverse"
    if is_reversed:
        x = op.call(torch.flip, x, (0,))
    weights = weights_of(op, gates, direction_count)
    width = op.shape(op[2])[-1]
    inputs = op.shape(x)[-1]
    has_bias = op.optional(3) is not None
    inputs_of_layer = [x, *states_of(op, states)]
    results = op.layer(
        lambda: kind(inputs, width, bias=has_bias, bidirectional=direction_count == 2, **more),
        *inputs_of_layer,
        **weights,
    )
    out, last = (op.call(operator.getitem, results, index) for index in (0, 1))
    last_states = (
        [op.call(operator.getitem, last, index) for index in (0, 1)] if len(states) == 2 else [last]
    )
    by_direction = op.call(torch.unflatten, out, -1, (direction_count, width))
    outputs = op.call(torch.transpose, by_direction, 1, 2)
    if is_reversed:
        outputs = op.call(torch.flip, outputs, (0,))
    return [outputs, *last_states]


def weights_of(op: Op, gates: tuple[int, ...], direction_count: int) -> dict[str, Constant]:
    """Return the weights by PyTorch's names, with gates in PyTorch's order."""
    weights = {}
    for direction, suffix in enumerate(("", "_reverse")[:direction_count]):
        for index, name in ((1, "weight_ih_l0"), (2, "weight_hh_l0")):
            weights[name + suffix] = reorder_gates(op.constant(index)[direction], gates)
        if op.optional(3) is not None:
            both = op.constant(3)[direction].chunk(2)
            weights["bias_ih_l0" + suffix] = reorder_gates(both[0], gates)
            weights["bias_hh_l0" + suffix] = reorder_gates(both[1], gates)
    return weights


def reorder_gates(tensor: Tensor, gates: tuple[int, ...]) -> Constant:
    """Return a weight with its gates in another order."""
    parts = tensor.chunk(len(gates))
    return Constant(torch.cat([parts[gate] for gate in gates]))


def have_full_length(op: Op, lengths: Value | None) -> bool:
    """Return whether all sequences have the full length, which some exporters write explicitly."""
    if lengths is None:
        return True
    full_lengths = tuple(op.shape(op[0], trace)[0] for trace in (0, 1))
    return only_number_in(op, lengths) == full_lengths


def states_of(op: Op, indices: tuple[int, ...]) -> list[Any]:
    """Return the initial states of a layer; none if they are all zero."""
    values = [op.optional(index) for index in indices]
    if all(value is None or only_number_in(op, value) == (0, 0) for value in values):
        return []
    states = [op[index] for index in indices]
    return [tuple(states)] if len(states) > 1 else states


def only_number_in(op: Op, value: Any) -> tuple[float, float] | None:
    """Return the only number that a tensor contains, in both traces; None for other tensors.

    It may be repeated for the batch.
    """
    if isinstance(value, Constant):
        return only_number_of_tensor(value.tensor)
    if isinstance(value, Sizes):
        return values_in_traces(value.parts[0]) if len(value.parts) == 1 else None
    if value.target is torch.full:
        return values_in_traces(value.args[1])
    if value.target in (Tensor.expand, Tensor.repeat, Tensor.to, torch.reshape):
        return only_number_in(op, value.args[0]) if isinstance(value.args[0], fx.Node) else None
    if value.target is tensor_of_sizes:
        return values_in_traces(value.args[0][0]) if len(value.args[0]) == 1 else None
    if value.op == "get_attr":
        return only_number_of_tensor(operator.attrgetter(str(value.target))(op.build.root))
    return None


def only_number_of_tensor(tensor: Tensor) -> tuple[float, float] | None:
    """Return the number that all elements equal, once per trace; None if they differ."""
    numbers = tensor.unique().tolist() if tensor.numel() else []
    return (numbers[0], numbers[0]) if len(numbers) == 1 else None


def values_in_traces(number: Any) -> tuple[float, float] | None:
    """Return the values of a number, or of a node that computes one, in both traces."""
    if isinstance(number, fx.Node):
        first, second = number.meta["stand_ins"]
        return (first, second) if isinstance(first, (int, float)) else None
    return (number, number) if isinstance(number, (int, float)) else None


OPERATORS = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
