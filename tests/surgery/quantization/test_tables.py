"""Embeddings with rounded rows: a scale per row, and integer inputs are not rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from lissom import LissomWarning, apply, load, save
from lissom.language.context import SurgeryContext
from lissom.language.recipe import Recipe
from lissom.running.integer_share import share_in_integers
from lissom.running.plan import one_target
from lissom.surgery.quantization.layers import QuantizedEmbedding
from lissom.surgery.quantization.network import QuantizedNetwork
from lissom.surgery.quantization.noise import layer_noise, rounding_only
from lissom.surgery.sizes import sizes

VOCABULARY = 50


class Words(nn.Module):
    """A classifier of texts: words and places are looked up and added."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(VOCABULARY, 16, padding_idx=0, **settings)
        self.places = nn.Embedding(12, 16)
        self.one = nn.Linear(16, 32)
        self.two = nn.Linear(32, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x) + self.places(torch.arange(x.shape[1], device=x.device))
        y = y + self.two(self.one(y).relu())
        return self.head(y.mean(1))


def ids(count: int = 32) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, 12), generator=torch.Generator().manual_seed(0))


def quantized(recipe: str, net: nn.Module | None = None) -> Any:
    return apply(recipe, net or Words().eval(), ids(1), ids(), notes=True)[0]


@pytest.mark.parametrize("bits", [8, 4])
def test_each_row_is_rounded_to_equal_steps_of_its_own(bits: int) -> None:
    net = Words().eval()
    with torch.no_grad():
        net.words.weight.mul_(torch.logspace(-3, 1, VOCABULARY)[:, None])
    table = quantized(f"quantize({bits}, grid='uniform', first={bits})", net).network.words
    assert isinstance(table, QuantizedEmbedding) and table.rounding.bits == bits
    top = 2 ** (bits - 1) - 1
    rows = net.words.weight.detach().double().numpy()
    scale = (np.abs(rows).max(1, keepdims=True) / top).clip(1e-12)
    wanted = np.rint(rows / scale).clip(-top, top) * scale
    found = table.in_inference()[0].detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-9)
    assert not found[0].any()  # the row of padding
    assert torch.equal(table(ids()), torch.from_numpy(found)[ids()])


def test_what_is_read_is_not_rounded_and_no_call_gets_another_name() -> None:
    plain = quantized("quantize(8, keep='words,places')")
    small = quantized("quantize(8)")
    assert small.calls == plain.calls and set(small.grids) == set(plain.grids)
    for table in (small.network.words, small.network.places):
        assert (
            table.site_rounding is None and table.own_input_rounding is None and table.site is None
        )


def test_tables_have_at_least_the_bits_of_a_first_layer() -> None:
    def bits(recipe: str) -> dict[str, int | None]:
        return {
            name: layer.rounding and layer.rounding.bits
            for name, layer in quantized(recipe).network.named_modules()
            if hasattr(layer, "rounding")
        }

    ends = {"words": 8, "places": 8, "one": 8, "head": 8}
    assert bits("quantize(4)") == ends | {"two": 4}
    assert bits("quantize(4, first=4)") == dict.fromkeys(ends, 4) | {"two": 4, "head": 8}
    floats = bits("quantize(8, first=32)")
    assert [name for name, found in floats.items() if found is None] == ["words", "places", "one"]
    auto = bits("quantize('auto', size=0.27)")
    assert {name: auto[name] for name in ends} == ends


@pytest.mark.parametrize(
    "recipe",
    [
        "quantize(8)",
        "quantize(8, 32)",
        "quantize(4, first=2)",
        'quantize("ternary", first=2)',
        'quantize(8, "dynamic")',
        'quantize(8, grid="uniform(asymmetric_weights=True)")',
        """quantize(8, grid="uniform('tensor')")""",
        "mask(0.5) | quantize(8)",
        "cluster(16) | quantize(8)",
        'cast("bf16") | quantize(8)',
        "quantize(8) | quantize(4)",
        'quantize(4, rounding="learned", steps=10, correct=True)',
    ],
)
def test_recipes_round_learn_come_back_from_disk_and_answer_alike_in_files(
    recipe: str, tmp_path: Path
) -> None:
    small = quantized(recipe)
    assert isinstance(small, QuantizedNetwork) and small.network.words.rounding is not None
    small.train()
    small(ids()).square().mean().backward()
    table = small.network.words
    learned = next(table.cluster.parameters()) if "cluster" in recipe else table.weight
    assert learned.grad is not None and float(learned.grad.abs().sum()) > 0
    torch.optim.SGD(small.parameters(), lr=0.1).step()
    save(small.eval(), tmp_path / "net")
    again = load(tmp_path / "net", Words().eval())
    with torch.no_grad():
        wanted = small(ids())
        assert torch.equal(again(ids()), wanted)
    for runtime in ("onnxruntime", "openvino"):
        target: Any = one_target(runtime)
        if target.missing():
            continue
        path = tmp_path / f"m.{target.ending}"
        target.export(small, path, (12,), {}, example=ids(2))
        found = target.load(path, 1)(ids().numpy())
        gap = np.square(found - wanted.numpy()).mean() ** 0.5
        assert gap < 0.01 * float(wanted.square().mean().sqrt()), runtime


def test_the_gradient_of_a_row_is_that_of_its_rounded_values() -> None:
    """Straight through: within the ends of the grid the rounding has a gradient of 1."""
    small = quantized("quantize(8, 32)")
    small.train()
    small(ids()).square().mean().backward()
    table = small.network.words
    net = Words().train()
    with torch.no_grad():
        for name in ("words", "places", "one", "two", "head"):
            layer = small.network.get_submodule(name)
            net.get_submodule(name).weight.copy_(layer.on_grid(layer.weight, layer.rounding))
    net(ids()).square().mean().backward()
    torch.testing.assert_close(table.weight.grad, net.words.weight.grad, rtol=1e-4, atol=1e-7)
    assert not table.weight.grad[0].any()  # of padding


def test_the_file_holds_the_table_in_8_bits_and_looks_up_before_it_widens(tmp_path: Path) -> None:
    small = quantized("quantize(8)")
    path = tmp_path / "m.onnx"
    target: Any = one_target("onnxruntime")
    target.export(small, path, (12,), {}, example=ids(2))
    graph = onnx.load(str(path)).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    table = tensors["words.weight_q"]
    assert np.array_equal(table, small.network.words.integers()[0].numpy())
    assert table.dtype == np.int8 and table.shape == (VOCABULARY, 16)
    assert [n.op_type for n in graph.node if "words.weight_q" in n.input] == ["Gather"]
    assert not any(t.dtype == np.float32 and t.shape == table.shape for t in tensors.values())
    fused = target.fused(path)
    assert not [name for name in fused.rest if name.startswith("words")]
    assert 0 <= share_in_integers(small, ids(1), fused, path) <= 1


def test_a_table_that_shares_its_weight_stays_float_and_the_layer_does_not() -> None:
    class Tied(nn.Module):
        def __init__(self, table_first: bool) -> None:
            super().__init__()
            if table_first:
                self.words = nn.Embedding(VOCABULARY, 8)
            self.head = nn.Linear(8, VOCABULARY, bias=False)
            if not table_first:
                self.words = nn.Embedding(VOCABULARY, 8)
            self.head.weight = self.words.weight
            self.mix = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(self.words(x)).relu())

    for first in (True, False):
        ctx = SurgeryContext(ids(1), lambda count: [ids()])
        small: Any = Recipe("quantize(8)").steps[0](Tied(first).eval(), ctx)
        assert ctx.facts["left_float"] == {"words": "its weight is that of head as well"}
        assert (
            small.network.head.rounding is not None and small.network.head.site_rounding is not None
        )


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"max_norm": 1.0}, "max_norm changes its rows"), ({"sparse": True}, "gradient is sparse")],
)
def test_tables_that_cannot_be_rounded_are_named(settings: dict[str, Any], why: str) -> None:
    with pytest.warns(LissomWarning, match=why):
        small: Any = apply("quantize(8)", Words(**settings).eval(), ids(1), ids())
    assert type(small.network.words) is nn.Embedding


def test_sums_of_rows_and_lookups_of_ones_own_are_named() -> None:
    class Scaled(nn.Embedding):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.scaled = nn.EmbeddingBag(VOCABULARY, 8), Scaled(VOCABULARY, 8)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.bag(x) + self.scaled(x[:, 0]))

    ctx = SurgeryContext(ids(1), lambda count: [ids()])
    Recipe("quantize(8)").steps[0](Bag().eval(), ctx)
    assert ctx.facts["left_float"] == {
        "bag": "EmbeddingBag adds up rows within its own operation",
        "scaled": "Scaled, whose forward also calls embedding",
    }


def test_rows_and_their_scales_are_counted() -> None:
    small = quantized("quantize(8, 32, only='words')")
    floats = sum(p.numel() for p in Words().parameters()) - VOCABULARY * 16
    assert sizes(small)["theory_bytes"] == VOCABULARY * (16 + 4) + 4 * floats


def test_the_noise_of_rows_is_measured_and_rounding_can_be_switched_off() -> None:
    net = Words().eval()
    small = quantized("quantize(8)", net)
    rows = {row["name"]: row for row in layer_noise(small, [ids()])}
    assert rows["words"]["weights"]["sqnr_db"] > 30 and rows["words"]["inputs"] is None
    with torch.no_grad(), rounding_only(small, []):
        torch.testing.assert_close(small(ids()), net(ids()), rtol=1e-5, atol=1e-6)
