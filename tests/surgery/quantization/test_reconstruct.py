"""Learned rounding and bias correction: what they may change, and that outputs get closer to the
float network's.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Net, conv
from torch import Tensor, nn

from lissom import apply
from lissom.models import factory
from lissom.surgery.quantization.layers import QuantizedLayer
from lissom.surgery.quantization.reconstruct import blocks, recorded


def images(count: int = 64, seed: int = 0) -> Tensor:
    """Return images whose neighbouring pixels are alike, as those of photographs are."""
    coarse = torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (16, 16), mode="bilinear")


def trained(name: str = "resnet8") -> nn.Module:
    """Return a network with batch-norm statistics of its own."""
    torch.manual_seed(0)
    net = factory(name)(num_classes=4)
    for _ in range(5):
        net(images())
    return net.eval()


def error(small: nn.Module, net: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((small(x) - net(x)).square().mean() / net(x).square().mean())


@pytest.mark.parametrize(
    ("bits", "grid", "share", "how"),
    [
        (4, "lsq", 0.8, "learned"),
        (3, "lsq", 0.8, "learned"),
        (4, "uniform", 0.9, "learned"),
        (4, "lsq", 0.8, "blocks"),
    ],
)
def test_learned_rounding_errs_less_and_moves_no_weight_by_more_than_a_step(
    bits: int, grid: str, share: float, how: str
) -> None:
    net, fresh = trained(), images(64, seed=9)
    with torch.no_grad():  # as steps of a recipe run
        near, learned = (
            apply(f"quantize({bits}, grid='{grid}'{more})", net, images(1), images())
            for more in ("", f", rounding='{how}', steps=100")
        )
    assert error(learned, net, fresh) < share * error(near, net, fresh)
    changed = 0
    for one, other in zip(near.layers(), learned.layers(), strict=True):  # type: ignore[operator]
        scale = one.rounding.codes(one.weight.detach())[1].view(-1, *[1] * (one.weight.ndim - 1))
        whole = other.weight.detach() / scale
        torch.testing.assert_close(whole, whole.round(), atol=1e-3, rtol=0)
        low, high = one.rounding.grid.ends(one.rounding.bits)
        wanted = (one.weight.detach() / scale).floor()
        assert bool(((whole.round() - wanted.clamp(low, high)).abs() <= 1).all())
        changed += int(
            (whole.round() != (one.weight.detach() / scale).round().clamp(low, high)).sum()
        )
    assert changed > 100, "nearest would have done"


def test_of_one_linear_layer_learned_rounding_finds_almost_the_best_of_all() -> None:
    ranks, gains = [], []
    for seed in range(5):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 1, bias=False)).eval()
        # inputs that go together, so that errors can cancel
        x = torch.randn(512, 6) @ torch.randn(6, 6)
        small: Any = apply(
            "quantize(3, 32, grid='uniform', first=3, last=3, rounding='learned', steps=800)",
            net,
            x[:1],
            x,
        )
        layer = small.layers()[0]
        weight, scale = net[0].weight.detach()[0], float(layer.rounding.scale)

        def off(rounded: Tensor, x: Tensor = x, weight: Tensor = weight) -> float:
            return float((x @ rounded - x @ weight).square().mean())

        ups = [torch.tensor([choice >> k & 1 for k in range(6)]) for choice in range(2**6)]
        every = sorted(off(((weight / scale).floor() + up).clamp(-3, 3) * scale) for up in ups)
        found = off(layer.weight.detach()[0])
        ranks.append(sum(e < 0.999 * found for e in every))
        gains.append(found / off((weight / scale).round() * scale))
    assert sum(ranks) / len(ranks) <= 5 and sum(gains) / len(gains) < 0.8 and max(gains) <= 1.001


def test_corrected_biases_leave_the_means_of_outputs_where_they_were() -> None:
    net = nn.Sequential(
        conv(3, 8),
        nn.ReLU(),
        conv(8, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 4),
    )
    net = net.eval()
    for how, bound in (("False", None), ("True", 2e-3)):
        small: Any = apply(
            f"quantize(2, 32, first=2, last=2, correct={how})", net, images(1), images()
        )
        with torch.no_grad():
            gap = (small(images()) - net(images())).mean(0).abs().max()
        assert gap < bound if bound else gap > 0.02
    assert error(
        apply("quantize(2, 32, correct=True)", net, images(1), images()), net, images()
    ) < error(apply("quantize(2, 32)", net, images(1), images()), net, images())


def test_the_zeros_of_a_mask_stay_zero() -> None:
    net = trained()
    small: Any = apply(
        "mask(0.8) | quantize(3, rounding='learned', steps=100)", net, images(1), images()
    )
    for layer in small.layers():
        assert float((layer.weight == 0).float().mean()) > 0.75 and "mask" in layer.transforms
    plain: Any = apply("mask(0.8) | quantize(3)", net, images(1), images())
    assert all(
        bool((one.weight[other.weight == 0] == 0).all())
        for one, other in zip(small.layers(), plain.layers(), strict=True)
    )


def test_a_rehearsal_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from lissom.language.context import SurgeryContext
    from lissom.language.parse_methods import method_of

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("rounding was learned on an untrained network")

    monkeypatch.setattr("lissom.surgery.quantization.recover.learn_rounding", never)
    step: Any = method_of("steps", "quantize(4, rounding='learned', steps=9)")
    step.rehearse(trained(), SurgeryContext(images(1), lambda count: [images(count)]))
    with pytest.raises(AssertionError, match="untrained"):
        step(trained(), SurgeryContext(images(1), lambda count: [images(count)]))


def test_a_layer_without_a_bias_gets_one_that_is_saved(tmp_path: Any) -> None:
    import lissom

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return Net(
            lambda s, x: s.two(s.one(x).relu()).mean((2, 3)),
            one=nn.Conv2d(3, 8, 3, bias=False),
            two=conv(8, 4),
        )

    small = apply(
        "quantize(3, correct=True, rounding='learned', steps=20)", fresh(), images(1), images()
    )
    lissom.save(small, tmp_path)
    with torch.no_grad():
        assert torch.equal(lissom.load(tmp_path, fresh())(images()), small(images()))


def test_grids_of_other_steps_are_left_to_their_own_rounding() -> None:
    net = trained()
    near, learned = (
        apply(f"quantize('ternary'{more})", net, images(1), images())
        for more in ("", ", rounding='learned', steps=20")
    )
    same = [
        torch.equal(one.weight, other.weight)
        for one, other in zip(near.layers(), learned.layers(), strict=True)
    ]
    # the first and the last have equal steps of 8 bits
    assert same == [False, *[True] * (len(same) - 2), False]


def test_a_block_is_what_adds_and_runs_alone_as_it_does_in_its_network() -> None:
    small: Any = apply("quantize(4, 4)", trained(), images(1), images())
    names = [name for name, m in small.network.named_modules() if isinstance(m, QuantizedLayer)]
    found = blocks(small, names, images(1))
    assert [len(inner) for inner, _ in found.values()] == [1, 2, 3, 3, 1]  # a shortcut counts
    path, (_, calls) = list(found.items())[2]
    part = small.network.get_submodule(path)
    (read,), (made,), _ = recorded(small, part, [images()])
    with torch.no_grad():
        assert torch.equal(small.run(part, read, calls)[0], made)
        assert not torch.equal(small.run(part, read, Counter())[0], made), (
            "its activations meet its own grids"
        )


def test_blocks_are_layers_where_nothing_is_added() -> None:
    net = nn.Sequential(
        conv(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        conv(8, 8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 4),
    )
    one, other = (
        apply(f"quantize(3, rounding='{how}', steps=20)", net.eval(), images(1), images())
        for how in ("learned", "blocks")
    )
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_what_a_block_reads_is_recorded_before_it_is_overwritten() -> None:
    block = Net(lambda s, x: s.one(F.relu(x, inplace=True)) + x, one=conv(8, 8))
    net = Net(lambda s, x: s.block(s.stem(x)), stem=conv(3, 8), block=block)
    with torch.no_grad():
        assert float(recorded(net, block, [images()])[0][0].min()) < 0


def test_a_block_that_runs_twice_is_learned_layer_by_layer() -> None:
    block = Net(lambda s, x: x + s.two(s.one(x).relu()), one=conv(8, 8), two=conv(8, 8))
    net = Net(lambda s, x: s.block(s.block(s.stem(x))).mean((2, 3)), stem=conv(3, 8), block=block)
    small: Any = apply("quantize(4, 32)", net, images(1), images())
    names = [name for name, m in small.network.named_modules() if isinstance(m, QuantizedLayer)]
    assert all(inner == [path] for path, (inner, _) in blocks(small, names, images(1)).items())
    apply("quantize(4, rounding='blocks', steps=5)", net, images(1), images())
