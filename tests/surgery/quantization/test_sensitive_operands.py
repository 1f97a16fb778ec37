"""Divisors and arguments of roots and logarithms are not rounded: a small number rounded to 0 would
ruin the result.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import Net
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.surgery.quantization import forward_record

X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
X[::2] *= 1e-3  # whose norms are small beside those of the others

DIVIDED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "by a constant": lambda n, y: y / (n.spread**0.5 + 1e-8),
    "by its norm": lambda n, y: y / (y.square().sum(1, keepdim=True).sqrt() + 1e-6),
    "by the root of its mean square": lambda n, y: (
        y * (y.pow(2).mean(1, keepdim=True) + 1e-9).rsqrt()
    ),
    "by a power": lambda n, y: y * torch.pow(y.pow(2).mean(1, keepdim=True) + 1e-9, -0.5),
    "by its spread": lambda n, y: (
        (y - y.mean(1, keepdim=True)) / torch.sqrt(y.var(1, keepdim=True) + 1e-9)
    ),
    "into one": lambda n, y: y * (1 / (y.abs().mean(1, keepdim=True) + 1e-6)),
    "by a reciprocal": lambda n, y: y * torch.reciprocal(y.abs().mean(1, keepdim=True) + 1e-6),
    "logarithm": lambda n, y: torch.log(y.abs() + 1e-6),
}


def network(way: Callable[[Net, Tensor], Tensor]) -> Net:
    torch.manual_seed(0)
    net = Net(
        lambda n, x: n.head(n.two(way(n, n.one(x))).mean((2, 3))),
        one=nn.Conv2d(3, 8, 3, bias=False),
        two=nn.Conv2d(8, 8, 1),
        head=nn.Linear(8, 5),
    )
    net.register_buffer("spread", torch.logspace(-9, 3, 8)[:, None, None])
    return net.eval()


def far(net: nn.Module, other: nn.Module) -> float:
    """Return the root mean square of the difference of outputs, over that of the outputs."""
    with torch.no_grad():
        wanted, found = net(X), other(X)
    return float((wanted - found).square().mean().sqrt() / wanted.square().mean().sqrt())


@pytest.mark.parametrize("name", DIVIDED)
def test_what_is_divided_by_is_not_rounded(name: str) -> None:
    net = network(DIVIDED[name])
    # some ranges have not settled
    small, _ = lissom.apply("quantize(8)", net, X[:1], X, notes=True)
    outputs = small(X)
    assert outputs.isfinite().all()
    assert {site for site in small.shared if site.startswith("add")} == set()
    if name == "by a constant":  # the others divide rounding noise of the smallest images, too
        assert far(net, small) < 0.05


def test_numbers_that_are_none_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_record, "sensitive_operand", lambda *_: None)
    with pytest.raises(LissomError, match="expected finite outputs, got infinity or NaN"):
        lissom.apply(
            "quantize(8)", network(lambda n, y: DIVIDED["by a constant"](n, y.relu())), X[:1], X
        )
