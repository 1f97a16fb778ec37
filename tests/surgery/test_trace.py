"""What a trace records of a network's layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module

from lissom.surgery.trace import traced


def test_a_layer_returns_what_its_own_hooks_make_of_its_output() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)).eval()
    other = nn.Linear(3, 3)  # no part of the network
    net[0].register_forward_hook(lambda *args: 2 * other(args[2]))
    trace = traced(net, torch.ones(1, 2))
    assert set(trace.returned) == {"", "0", "1"}
    torch.testing.assert_close(trace.returned["0"], 2 * other(net[0].forward(torch.ones(1, 2))))
    assert trace.returned["1"] is trace.returned[""] is trace.outputs[0]


def test_a_trace_leaves_no_hooks() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU()).eval()
    net[1].register_forward_hook(lambda *_: None)
    traced(net, torch.ones(1, 2))
    assert [len(layer._forward_hooks) for layer in net.modules()] == [0, 0, 1]
    assert not module._global_forward_hooks
