"""Surgery alone: what does not fit is said in one line that names what fits."""

from __future__ import annotations

import pytest
import torch
from networks import images, seasoned
from torch import nn

import lissom
from lissom import LissomError


def test_an_example_that_the_network_does_not_take_is_said_with_its_shape() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    said = r"^apply: the network does not run on `example`, of shape \(3, 8, 9\); one input .* batch first: "
    with pytest.raises(LissomError, match=said):
        lissom.apply("quantize(8)", net, torch.randn(3, 8, 9))


def test_a_quantized_network_is_not_cut() -> None:
    seen = images(8, 16)
    small = lissom.apply("quantize(8)", seasoned(), seen[:1], seen)
    with pytest.raises(LissomError, match=r"prune\(0.5\): a quantized network is not cut; prune before quantize"):
        lissom.apply("prune(0.5)", small, seen[:1], seen)


def test_a_range_that_has_not_settled_names_layers_and_asks_for_images_only_if_there_are_more() -> None:
    from lissom.context import Context
    from lissom.menu import menu

    def notes(count: int) -> list[str]:
        seen = torch.cat([0.1 * images(32, 16), 40 * images(32, 16)])
        ctx = Context(seen[:1], lambda wanted: list(seen[:wanted].split(8)), seed=0, where="quantize")
        menu("steps").make(f"quantize(8, images={count}, range='minmax')")(seasoned(), ctx)
        return [note for note in ctx.notes if "has not settled" in note]
    assert any("the range of what blocks.1.conv1 and blocks.1.shortcut.0 read" in note for note in notes(64))
    assert all("more images= or a percentile" in note for note in notes(64)) and notes(64)
    assert notes(512) and all("; a percentile would steady it" in note for note in notes(512))
    assert all("of half the 64 images" in note for note in notes(512))
