"""Clustered weights: their values, their gradients, that no step adds further values, and file
sizes.
"""

from __future__ import annotations

import copy
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Net, conv, head
from networks import grouped as fresh
from networks import grouped_and_seen as net
from torch import Tensor, nn

import lissom
from lissom import LissomError, Recipe, apply
from lissom.language.context import Context, SurgeryContext
from lissom.surgery.kmeans import best_values
from lissom.surgery.layers import CompressedLayer
from lissom.surgery.sizes import sizes


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def clustered(text: str, model: nn.Module | None = None) -> tuple[Any, Context]:
    step = Recipe(text).steps[0]
    ctx = SurgeryContext(images(1), lambda count: [images()[:count]], where=str(step))
    return step(net() if model is None else model, ctx), ctx


def layers(model: nn.Module) -> list[CompressedLayer]:
    return [m for m in model.modules() if isinstance(m, CompressedLayer)]


def weights(model: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [layer.transformed().clone() for layer in layers(model)]


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(images())


def learnt(model: nn.Module, updates: int = 4, decay: float = 1e-4) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)
    model.train()
    for _ in range(updates):
        optimizer.zero_grad()
        F.cross_entropy(model(images()), torch.arange(16) % 4).backward()
        optimizer.step()
    model.eval()


def most(model: nn.Module, of: str) -> int:
    """Return how many distinct values the fullest codebook has."""
    found = weights(model)
    if of == "network":
        return len(torch.cat([w.flatten() for w in found]).unique())
    parts = found if of == "layer" else [row for w in found for row in w]
    return max(len(part.unique()) for part in parts)


# which values


def test_the_values_are_those_of_the_least_error() -> None:
    model, ctx = clustered("cluster(4)")
    plain = net()
    from lissom.surgery.fold import fold_batchnorms

    fold_batchnorms(plain, images(1))
    for name, weight in zip(("0", "3", "6.2"), weights(model), strict=True):
        before = plain.get_parameter(f"{name}.weight").detach().double().numpy().ravel()
        wanted = best_values(before, np.ones(len(before)), 4)
        nearest = wanted[np.abs(before[:, None] - wanted).argmin(1)]
        assert np.allclose(weight.numpy().ravel(), nearest, atol=1e-6)
        row = next(row for row in ctx.facts["clustered"] if row["name"] == name)
        lost = np.sqrt(((nearest - before) ** 2).sum() / (before**2).sum())
        assert row["error"] == pytest.approx(lost, abs=1e-5) and row["values"] == 4
    assert [g["name"] for g in ctx.gates] == ["folded = unfolded", "values beyond the limit"]


@pytest.mark.parametrize("of", ["layer", "filter", "network"])
@pytest.mark.parametrize("mask", ["", "mask(0.6) | "])
@pytest.mark.parametrize("renew", [False, True])
@pytest.mark.parametrize("values", [2, 5, 256])
def test_no_more_values_come_up_on_any_way(
    of: str, mask: str, renew: bool, values: int, tmp_path: Path
) -> None:
    text = f"{mask}cluster({values}, of='{of}', renew={renew})"
    small = apply(text, net(), images(1), images())
    zeros = [w == 0 for w in weights(small)]
    assert most(small, of) <= values
    before = weights(small)
    learnt(small)
    assert most(small, of) <= values, "after learning"
    assert all(not torch.equal(a, b) for a, b in zip(before, weights(small), strict=True))
    lissom.save(small, tmp_path)
    again = lissom.load(tmp_path, fresh())
    assert most(again, of) <= values and torch.equal(outputs(again), outputs(small))
    learnt(small)
    learnt(again)
    assert torch.equal(outputs(again), outputs(small)), "what was loaded learns as what was saved"
    if mask:
        assert all(torch.equal(a, w == 0) for a, w in zip(zeros, weights(again), strict=True))


def test_finer_codebooks_lose_less() -> None:
    def lost(text: str) -> float:
        return max(row["error"] for row in clustered(text)[1].facts["clustered"])

    assert lost("cluster(256)") < lost("cluster(16)") < lost("cluster(4)") < lost("cluster(2)")
    assert lost("cluster(4, of='filter')") < lost("cluster(4)") < lost("cluster(4, of='network')")


def test_one_codebook_for_the_network_is_shared_and_stays_so(tmp_path: Path) -> None:
    small = apply("cluster(6, of='network')", net(), images(1), images())
    lissom.save(small, tmp_path)
    again = lissom.load(tmp_path, fresh())
    for model in (small, again, copy.deepcopy(again)):
        assert len({id(layer.transforms["cluster"].centroids) for layer in layers(model)}) == 1
    assert sum("centroids" in name for name, _ in again.named_parameters()) == 1


# sensitivity


def test_sensitivity_is_the_mean_squared_gradient_of_single_samples() -> None:
    from lissom.surgery.sensitivity import squared_gradients

    model = net()
    ctx = SurgeryContext(images(1), lambda count: [images()[:count]])
    labels = torch.arange(16) % 4
    found = squared_gradients(model, ["0", "6.2"], [(images(), labels)], ctx)
    wanted = torch.zeros_like(model[0].weight)
    for k in range(16):
        model.zero_grad()
        F.cross_entropy(model(images()[k : k + 1]), labels[k : k + 1]).backward()
        wanted += model[0].weight.grad.square() / 16
    assert torch.allclose(found["0"], wanted, rtol=1e-4, atol=1e-12)


def test_weights_that_matter_get_the_closer_values() -> None:
    from lissom.surgery.fold import fold_batchnorms
    from lissom.surgery.sensitivity import squared_gradients

    plain = net()
    fold_batchnorms(plain, images(1))
    ctx = SurgeryContext(images(1), lambda count: [images()[:count]])
    matters = squared_gradients(plain, ["0", "3", "6.2"], ctx.labelled(16), ctx)

    def lost(text: str) -> list[float]:
        found = weights(clustered(text)[0])
        return [
            float(
                (counts * (weight - plain.get_parameter(f"{name}.weight").detach()).square()).sum()
            )
            for (name, counts), weight in zip(matters.items(), found, strict=True)
        ]

    blind = lost("cluster(3)")
    seeing = lost("cluster(3, sensitivity='fisher', samples=16)")
    assert all(a < b for a, b in zip(seeing, blind, strict=True))


# learning


@pytest.mark.parametrize("of", ["layer", "filter"])
def test_a_centroid_gets_the_mean_of_the_gradients_of_its_weights(of: str) -> None:
    small, _ = clustered(f"cluster(4, of='{of}')")
    plain = copy.deepcopy(small)
    for layer in layers(plain):
        layer.weight.data = layer.transformed().detach()
        layer.drop_transforms()
    for model in (small, plain):
        model.train()
        F.cross_entropy(model(images()), torch.arange(16) % 4).backward()
    for ours, theirs in zip(layers(small), layers(plain), strict=True):
        cluster: Any = ours.transforms["cluster"]
        assert ours.weight.grad is None
        for book in range(len(cluster.centroids)):
            codes = cluster.codes if of == "layer" else cluster.codes[book]
            slopes = theirs.weight.grad if of == "layer" else theirs.weight.grad[book]
            for value in range(4):
                held = slopes[codes == value]
                wanted = held.mean() if len(held) else torch.tensor(0.0)
                found = cluster.centroids.grad[book, value]
                assert torch.allclose(found, wanted, atol=1e-6)


def test_with_renew_weights_go_to_other_centroids_and_otherwise_stay() -> None:
    for renew in (False, True):
        small, _ = clustered(f"cluster(16, renew={renew})")
        codes = [layer.transforms["cluster"].codes.clone() for layer in layers(small)]
        learnt(small, 60)
        moved = [
            float((layer.transforms["cluster"].codes != before).float().mean())
            for layer, before in zip(layers(small), codes, strict=True)
        ]
        assert all(0 < share < 0.9 for share in moved) if renew else not any(moved)


# with other steps


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("recipe", ["cluster(6)", "mask(0.5) | cluster(6) | cast('fp16')"])
def test_exported_files_answer_the_same_and_hold_no_more_values(
    recipe: str, target: str, tmp_path: Path
) -> None:
    small = apply(recipe, net(), images(1), images())
    ending = {"onnxruntime": "onnx", "openvino": "onnx"}[target]
    path = lissom.export(small, target, tmp_path / f"net.{ending}", (3, 8, 8))
    import onnx
    from onnx import numpy_helper

    held = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if len(t.dims) > 1]
    assert len(held) == 3 and all(len(np.unique(w)) <= 6 for w in held)


def test_integers_of_clustered_weights_are_as_few() -> None:
    small: Any = apply("cluster(6) | quantize(8)", net(), images(1), images())
    alone = outputs(apply("cluster(6)", net(), images(1), images()))
    assert float((outputs(small) - alone).abs().max()) < 0.02 * float(alone.abs().max())
    for layer in small.layers():
        assert all(len(row.unique()) <= 6 for row in layer.integers()[0])
    learnt(small)
    for layer in small.layers():
        assert all(len(row.unique()) <= 6 for row in layer.integers()[0])


def test_a_table_of_words_is_clustered_as_well() -> None:
    torch.manual_seed(0)
    model = Net(
        lambda s, x: s.out(s.words((x[:, 0] > 0).long().flatten(1)).mean(1)),
        words=nn.Embedding(2, 6),
        out=nn.Linear(6, 2),
    )
    small = apply("cluster(3)", model.eval(), images(1), images())
    assert [len(w.unique()) for w in weights(small)] == [3, 3]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("quantize(8)", "cluster(4)"),
        ("cast('bf16')", "cluster(4)"),
        ("cluster(4)", "cluster(8)"),
        ("cluster(4)", "mask(0.5)"),
        ("cluster(4)", "prune(0.5)"),
        ("cluster(4)", "equalize"),
        ("cluster(4)", "fold"),
        ("cluster(4)", "quantize(4, rounding='learned')"),
        ("cluster(4)", "quantize(4, rounding='blocks')"),
    ],
)
def test_what_cannot_follow_is_one_clear_line(one: str, two: str) -> None:
    says = "already|before|has folded|leave rounding= out"
    with pytest.raises(LissomError, match=says):
        Recipe(f"{one} | {two}")
    between = apply(one, net(), images(1), images())
    with pytest.raises(LissomError, match=says):
        apply(two, between, images(1), images())


def test_clustering_nothing_is_an_error() -> None:
    with pytest.raises(LissomError, match=r"no layer can be clustered \(0: it was not chosen"):
        clustered("cluster(4, keep='*')")


# sizes


@pytest.mark.parametrize(
    ("text", "books"), [("cluster(16)", 3), ("cluster(16, of='filter')", 8 + 16 + 5)]
)
def test_the_packed_size_counts_codes_and_codebooks(text: str, books: int) -> None:
    small, ctx = clustered(text)
    numbers = sum(w.numel() for w in weights(small))
    biases = sum(layer.bias.numel() for layer in layers(small))
    theory = ceil(numbers * 4 / 8) + 4 * (books * 16 + biases)
    found = sizes(small)
    assert found["theory_bytes"] == theory
    assert theory <= found["packed_bytes"] <= theory + 3 * 20
    assert ctx.facts["packed_bytes"] == found["packed_bytes"] < ctx.facts["dense_bytes"] / 2


@pytest.mark.parametrize(
    "recipe", ["cluster(16)", "cluster(16, of='filter')", "cluster(16) | cast('fp16')"]
)
def test_a_packed_file_is_about_as_small(recipe: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 64), nn.ReLU(), conv(64, 64), head(64)).eval()
    small = apply(recipe, model, images(1), images())
    path = lissom.export(small, "onnxruntime(packed=True)", tmp_path / "net.onnxz", (3, 8, 8))
    assert path.stat().st_size < sizes(small)["packed_bytes"] + 3000
    assert path.stat().st_size < 4 * sum(p.numel() for p in model.parameters()) / 5


def test_a_codebook_counts_where_a_file_has_it() -> None:
    plain = sizes(apply("quantize(8)", net(), images(1), images()))["theory_bytes"]
    both = sizes(apply("cluster(16) | quantize(8)", net(), images(1), images()))["theory_bytes"]
    assert plain == both, "integers need no codebook"
    full = sizes(apply("cluster(16)", net(), images(1), images()))["theory_bytes"]
    half = sizes(apply("cluster(16) | cast('bf16')", net(), images(1), images()))["theory_bytes"]
    assert full - half == 3 * 16 * 2


def test_codes_that_stand_for_nothing_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    small = apply("cluster(4, of='filter')", net(), images(1), images())
    lissom.save(small, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["0.cluster.codes"][0, 0, 0, 0] = 4  # the first value of the next filter
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(LissomError, match="a code stands for no value of its codebook"):
        lissom.load(tmp_path, fresh())


def test_codes_follow_their_weights_in_each_forward_pass_that_learns() -> None:
    small, _ = clustered("cluster(8, renew=True)")
    layer = layers(small)[0]
    cluster: Any = layer.transforms["cluster"]
    before = cluster.codes.clone()
    with torch.no_grad():
        layer.weight += 1.0
        small(images())
    assert torch.equal(cluster.codes, before)
    small(images())
    assert (cluster.codes == cluster.centroids[0].argmax()).float().mean() > 0.9


# frozen weights


def test_sensitivity_of_frozen_weights_is_that_of_others() -> None:
    from lissom.surgery.sensitivity import squared_gradients

    model, frozen = net(), net()
    frozen[0].weight.requires_grad_(False)
    ctx = SurgeryContext(images(1), lambda count: [images()[:count]])
    labelled = [(images(), torch.arange(16) % 4)]
    wanted = squared_gradients(model, ["0", "6.2"], labelled, ctx)
    found = squared_gradients(frozen, ["0", "6.2"], labelled, ctx)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not frozen[0].weight.requires_grad and frozen[6][2].weight.requires_grad
    clustered("cluster(4, sensitivity='fisher')", frozen.requires_grad_(False))


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_sensitivity_takes_one_sample_of_labels_of_any_form(form: str) -> None:
    from lissom.surgery.sensitivity import squared_gradients

    class Kept:
        def term(self, smoothing: float = 0.0) -> Any:
            return lambda _, batch: F.cross_entropy(batch.outputs, inner(batch.labels))

    def inner(labels: Any) -> Tensor:
        return labels["label"] if form == "dict" else labels[0]

    truth = torch.arange(16) % 4
    labels: Any = {"label": truth} if form == "dict" else (truth, truth)
    ctx = SurgeryContext(images(1), lambda count: [images()[:count]], task=Kept())  # type: ignore[arg-type]
    found = squared_gradients(net(), ["0"], [(images(), labels)], ctx)
    ctx.task = None
    wanted = squared_gradients(net(), ["0"], [(images(), truth)], ctx)
    assert torch.equal(found["0"], wanted["0"])


@pytest.mark.parametrize("of", ["layer", "filter", "network"])
@pytest.mark.parametrize("renew", [False, True])
def test_frozen_weights_stay_frozen(of: str, renew: bool, tmp_path: Path) -> None:
    def frozen(model: nn.Module) -> nn.Module:
        for name in ("0", "1", "3", "4"):
            model.get_submodule(name).requires_grad_(False)
        return model

    small, _ = clustered(f"cluster(4, of='{of}', renew={renew})", frozen(net()))
    lissom.save(small, tmp_path)
    for model in (small, lissom.load(tmp_path, frozen(fresh()))):
        first, second, last = layers(model)
        books = [layer.transforms["cluster"].centroids for layer in (first, second, last)]
        assert [book.requires_grad for book in books] == [False, False, of != "network"]
        before = weights(model)
        learnt(model)
        after = weights(model)
        assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
        if of != "network":
            assert not torch.equal(before[2], after[2])


# layers without weights


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    "recipe", ["cluster(4)", "mask(0.5)", "cast('fp16')", "cluster(4, of='filter')"]
)
def test_layers_without_weights_stay_whole_with_the_reason(recipe: str) -> None:
    torch.manual_seed(0)

    def forward(s: Any, x: Tensor) -> Tensor:
        middle = s.stem(x).mean((2, 3))
        return s.out(torch.cat([middle, s.none(middle)], 1)) + s.bias(s.none(middle))

    model = Net(
        forward,
        stem=conv(3, 8),
        none=nn.Linear(8, 0),
        bias=nn.Linear(0, 4),
        out=nn.Linear(8, 4),
    )
    small, ctx = clustered(recipe, model.eval())
    left = ctx.facts.get("left_whole", ctx.facts.get("left_float"))
    assert left == {"none": "it has no weights", "bias": "it has no weights"}
    assert len(layers(small)) == 2 and outputs(small).shape == (16, 4)
