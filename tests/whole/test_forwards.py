"""Networks and inputs that surgery takes: trees, integers, forwards with in-place changes, random
numbers or branches; or the true reason why not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lissom
from lissom import LissomError
from lissom.learning.examine import examine
from lissom.surgery.compare import network_difference, relative_difference
from lissom.trees import tensors_in


def small() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    )
    net.train()(torch.randn(8, 3, 8, 8))
    return net.eval()


def far(one: nn.Module, two: nn.Module, *inputs: Any) -> float:
    """Return the root mean square of what outputs differ by, over that of the outputs."""
    with torch.no_grad():
        a, b = (torch.cat([t.flatten() for t in tensors_in(net(*inputs))]) for net in (one, two))
    return float((a - b).square().mean().sqrt() / a.square().mean().sqrt())


X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.one, self.two = nn.Embedding(1000, 16), nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        found = self.emb(ids)
        if keep is not None:
            found = found * keep[..., None]
        return self.two(torch.relu(self.one(found.mean(1))))


def test_numbers_that_say_which_are_never_rounded() -> None:
    torch.manual_seed(0)
    net, ids = Text().eval(), torch.randint(0, 1000, (64, 12))
    keep = torch.rand(64, 12) > 0.3
    seen: list[Tensor] = []
    for example in (ids, (ids, keep), {"ids": ids, "keep": keep}):
        quantized, _ = lissom.apply("quantize(8)", net, example, example, notes=True)
        quantized.network.emb.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # type: ignore[union-attr]
        given = (ids,) if example is ids else (ids, keep)
        assert far(net, quantized, *given) < 0.05
        assert torch.equal(seen.pop(), ids)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(32, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.c(torch.relu(torch.cat([self.a(x), self.b(y)], 1)))


def test_each_of_several_inputs_has_a_range_of_its_own_however_it_is_given() -> None:
    torch.manual_seed(0)
    net, x, y = Two().eval(), torch.randn(32, 8), 40 * torch.randn(32, 8)
    for example in ((x, y), {"x": x, "y": y}, {"y": y, "x": x}):
        quantized = lissom.apply("quantize(8)", net, example)
        assert far(net, quantized, x, y) < 0.02
        with torch.no_grad():
            assert torch.equal(quantized(x, y), quantized(y=y, x=x))
    small = lissom.apply("prune(0.5)", net, (x, y), [(x, y), (x, y)])
    assert small.c.in_features == 16  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "given",
    [
        DataLoader(TensorDataset(X, torch.zeros(8)), 4),
        [(X, torch.zeros(8))],
        X.numpy(),
        X.numpy().astype(np.float64),
        [(x, 0) for x in X],
        TensorDataset(X, torch.zeros(8)),
        [{"label": 1, "image": X}],
        ((X, 1) for _ in range(2)),
    ],
    ids=["loader", "pairs", "array", "float64", "samples", "dataset", "dicts", "generator"],
)
def test_samples_are_taken_as_people_have_them(given: Any) -> None:
    plain = lissom.apply("quantize(8)", small(), X[:1], X)
    found = lissom.apply("quantize(8)", small(), X[:1].numpy(), given)
    # a range of single samples is not that of a batch to the bit
    assert far(plain, found, X) < 0.01


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            torch.randn(4, 1, 8, 8),
            r"does not run on a sample of `images`, of shape \(1, 1, 8, 8\); "
            r"`example` is \(1, 3, 8, 8\)",
        ),
        (
            [("a", 1)],
            r"expected \(1, 3, 8, 8\) float32 as it has, alone or before a label; got \(str, int\)",
        ),
        (
            torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
            r"expected .* float32 as it has.*; got \(4, 3, "
            r"8, 8\) uint8",
        ),
        (3, "`images` is an int; expected a tensor or array"),
        ([], "there are no calibration images"),
    ],
    ids=["shape", "text", "bytes", "number", "none"],
)
def test_samples_that_do_not_fit_are_said_with_what_does(given: Any, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        lissom.apply("quantize(8)", small(), X[:1], given)


class Own(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner = kind, small()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "noise":
            x = x + torch.randn_like(x)
        if self.kind == "dropout":
            x = F.dropout(x, 0.5, True)
        if self.kind == "in place":
            x.sub_(0.5).div_(0.25)
        out: Tensor = self.inner(x)
        return out


@pytest.mark.parametrize("recipe", ["fold", "quantize(8)", "prune(0.5)"])
def test_a_network_that_draws_is_refused_with_the_line_that_does(recipe: str) -> None:
    for kind, word in (("noise", "randn_like"), ("dropout", "dropout|bernoulli_")):
        said = rf"differently each time in eval mode \(({word}) in test_forwards.py, line \d+\)"
        with pytest.raises(LissomError, match=said):
            lissom.apply(recipe, Own(kind).eval(), X[:1], X)


@pytest.mark.parametrize("recipe", ["fold", "quantize(8)", "mask(0.5)", "equalize", "prune(0.5)"])
def test_a_network_that_changes_its_input_works_and_leaves_the_samples(recipe: str) -> None:
    net, x = Own("in place").eval(), X.clone()
    found = lissom.apply(recipe, net, x[:1], x)
    assert torch.equal(x, X)
    with torch.no_grad():
        a, b = net(X.clone()), found(X.clone())
    if recipe not in ("mask(0.5)", "prune(0.5)"):
        assert float((a - b).square().mean() / a.square().mean()) < 1e-3


def test_what_is_changed_in_place_by_an_unknown_call_has_no_grid_of_what_it_was() -> None:
    from lissom.surgery.quantization.dataflow import trace_dataflow

    assert trace_dataflow(Own("in place").eval(), X[:1]).inputs["inner.0"] is None


@pytest.mark.parametrize("recipe", ["fold", "equalize", "quantize(8)", "prune(0.5)"])
def test_inference_mode_changes_nothing(recipe: str) -> None:
    plain = lissom.apply(recipe, small(), X[:1], X)
    with torch.inference_mode():
        around = lissom.apply(recipe, small(), X[:1], X)

    class Decorated(nn.Sequential):
        forward = torch.inference_mode()(nn.Sequential.forward)

    within = lissom.apply(recipe, Decorated(*small()), X[:1], X)
    with torch.no_grad():
        assert torch.equal(plain(X), around(X)) and torch.equal(plain(X), within(X))
    assert all(p.requires_grad and not p.is_inference() for p in around.parameters())


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.router, self.last = nn.Linear(6, 16), nn.Linear(16, 2), nn.Linear(16, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        chosen, y = self.router(x).argmax(1), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (chosen == number).any():
                y[chosen == number] = expert(x[chosen == number])
        out: Tensor = self.last(x + y)
        return out


def test_experts_are_quantized_by_module_and_answer_alike_for_any_batch(tmp_path: Any) -> None:
    torch.manual_seed(0)
    net, x = Experts().eval(), torch.randn(64, 6)
    quantized = lissom.apply("quantize(8)", net, x[:1], x)
    ranges = {name for name in quantized.grids if name.startswith("experts-")}  # type: ignore[union-attr]
    assert {"experts-0-1:relu1", "experts-1-1:relu1"} <= ranges
    assert network_difference(net, quantized, x) < 0.05
    with torch.no_grad():
        assert (
            relative_difference([quantized(x)], [torch.cat([quantized(one[None]) for one in x])])
            < 1e-5
        )
    lissom.save(quantized, tmp_path)
    with torch.no_grad():
        assert torch.equal(lissom.load(tmp_path, Experts())(x), quantized(x))


def test_another_expert_has_weights_of_its_own_where_batches_differ() -> None:
    torch.manual_seed(0)
    net, x = Experts().eval(), torch.randn(64, 6)
    with torch.no_grad():
        one = x[net.router(torch.relu(net.first(x))).argmax(1) == 0]
    quantized = lissom.apply("quantize(8)", net, one[:1], [one, x])
    assert "experts-1-1:relu1" in quantized.grids and far(net, quantized, x) < 0.05  # type: ignore[operator]


@dataclass
class Answer:
    logits: Tensor


class Answering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def forward(self, x: Tensor) -> Answer:
        return Answer(self.inner(x))


def test_tensors_in_a_dataclass_are_seen() -> None:
    net = Answering().eval()
    cut = lissom.apply("prune(0.5)", net, X[:1], X)
    assert cut.inner[0].out_channels == 8  # type: ignore[index, union-attr]
    quantized = lissom.apply("quantize(8)", net, X[:1], X)
    assert far(net, quantized, X) < 0.05 and "conv3" not in quantized.grids  # type: ignore[operator]


def test_torchscript_meta_and_what_cannot_be_copied_are_named(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        script = torch.jit.script(small())
    with pytest.raises(
        LissomError,
        match=r"TorchScript module, .*; give the nn.Module that it "
        r"was made from",
    ):
        lissom.apply("quantize(8)", script, X[:1], X)
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(LissomError, match=r"0\.weight is on the meta device and holds no numbers"):
        lissom.apply("quantize(8)", net, X[:1], X)
    held = small()
    held[0].numbers = np  # type: ignore[assignment]
    with pytest.raises(
        LissomError,
        match=r"the attribute '0.numbers' of the network cannot be "
        r"copied .*module",
    ):
        lissom.apply("fold", held, X[:1], X)
    with pytest.raises(
        LissomError,
        match=r"^export: the attribute '0.numbers' of the network "
        r"cannot be copied",
    ):
        lissom.export(held, "onnxruntime", tmp_path / "net.onnx", X.shape[1:])


class Caching(nn.Module):
    """Keep what was computed of a parameter from one call in eval mode to the next, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.table = (
            nn.Conv2d(3, 16, 3),
            nn.Conv2d(16, 4, 1),
            nn.Parameter(torch.rand(16)),
        )
        self.cache: dict[str, Tensor] = {}
        self.kept: list[Tensor] = []  # a name that lissom uses, too

    def forward(self, x: Tensor) -> Tensor:
        if str(x.device) not in self.cache:
            self.cache[str(x.device)] = self.table.exp()
            self.kept = [self.cache[str(x.device)]]
        return self.two(
            torch.relu(self.one(x) + self.cache[str(x.device)][None, :, None, None])
        ).mean((2, 3))


def test_what_a_network_computed_and_keeps_is_copied(tmp_path: Path) -> None:
    net = Caching().eval()
    wanted = net(X)  # with gradients, so that what it keeps is of a graph
    assert far(net, lissom.apply("quantize(8)", net, X[:1], X), X) < 0.05
    # wide as it is
    with pytest.raises(LissomError, match="a tensor that is no parameter of one axis enters 'add'"):
        lissom.apply("prune(0.5)", net, X[:1], X)
    assert lissom.export(net, "onnxruntime", tmp_path / "net.onnx", X.shape[1:]).exists()
    lissom.save(net, tmp_path / "saved")
    assert torch.equal(lissom.load(tmp_path / "saved", Caching())(X), wanted)
    assert not next(iter(net.cache.values())).is_leaf, "the network itself is left as it was"


def test_wrappers_of_a_network_are_looked_through() -> None:
    plain = lissom.apply("quantize(8)", small(), X[:1], X)
    for wrapped in (torch.compile(small()), nn.DataParallel(small())):
        with torch.no_grad():
            assert torch.equal(lissom.apply("quantize(8)", wrapped, X[:1], X)(X), plain(X))


class Chooser(nn.Module):
    """Keep the rows with the largest scores, as a detector keeps boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.values = nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        scores, at = self.scores(x)[..., 0].topk(2, 1)
        found = self.values(x).gather(1, at[..., None].expand(-1, -1, 4))
        return [
            {"values": value[score > 0], "scores": score[score > 0]}
            for value, score in zip(found, scores, strict=True)
        ]


def test_decisions_are_taken_from_the_first_of_two_networks_and_what_decides_is_compared() -> None:
    torch.manual_seed(0)
    # all but ties
    one, x = Chooser().eval(), torch.randn(6, 1, 8).expand(6, 5, 8) + 1e-7 * torch.randn(6, 5, 8)
    two, other = (Chooser().eval() for _ in range(2))
    two.load_state_dict(one.state_dict())
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        two.scores.weight += 1e-6 * torch.randn(1, 8)
        other.scores.weight += 0.1 * torch.randn(1, 8)
    assert network_difference(one, two, x) < 1e-4
    assert network_difference(one, other, x) > 0.01


class Asking(nn.Module):
    """A forward that asks its batch-norm how wide it is, or computes with its weight."""

    def __init__(self, computes: bool = False) -> None:
        super().__init__()
        self.computes = computes
        self.conv, self.bn, self.head = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        if self.computes:
            x = x * self.bn.weight[:, None, None]
        out: Tensor = self.head(
            x[:, : self.bn.num_features // 2] + self.bn.eps * len(self.bn.weight)
        )
        return out


@pytest.mark.parametrize("recipe", ["fold", "quantize(8)"])
def test_a_batchnorm_that_is_gone_still_answers(recipe: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    net = Asking()
    net(torch.randn(8, 3, 8, 8))
    nn.init.uniform_(net.bn.weight, 0.5, 2)
    found = lissom.apply(recipe, net.eval(), X[:1], X)
    assert not isinstance(
        found.get_submodule("network.bn" if "q" in recipe else "bn"), nn.BatchNorm2d
    )
    assert far(net, found, X) < (0.03 if "q" in recipe else 1e-5)
    lissom.save(found, tmp_path)
    with torch.no_grad():
        assert torch.equal(lissom.load(tmp_path, Asking())(X), found(X))


@pytest.mark.parametrize("recipe", ["fold", "quantize(8)"])
def test_a_batchnorm_whose_weight_the_forward_computes_with_stays(recipe: str) -> None:
    torch.manual_seed(0)
    net = Asking(computes=True)
    nn.init.uniform_(net.bn.weight, 0.5, 2)
    found = lissom.apply(recipe, net.eval(), X[:1], X)
    assert isinstance(found.get_submodule("network.bn" if "q" in recipe else "bn"), nn.BatchNorm2d)
    assert far(net, found, X) < (0.03 if "q" in recipe else 1e-5)


@pytest.mark.parametrize(
    "recipe", ["quantize(8)", "quantize(4, 4)", "quantize(8, 32)", "mask(0.5) | quantize(8)"]
)
def test_learning_in_eval_mode_is_that_of_training_with_the_statistics_held(
    recipe: str, tmp_path: Any
) -> None:
    net = small()
    found = lissom.apply(recipe, net, X[:1], X)
    with torch.no_grad():
        plain = found(X)
    assert torch.equal(found(X), plain)  # with gradients the same to the bit
    found(X).square().mean().backward()
    eager = {name: p.grad.clone() for name, p in found.named_parameters() if p.grad is not None}
    assert {
        "network.0.weight",
        "network.0.norm.weight",
        "network.0.norm.bias",
        "network.3.weight",
    } <= eager.keys()
    found.zero_grad()
    found.train()
    for norm in (m for m in found.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eval()
    found(X).square().mean().backward()
    for name, p in found.named_parameters():
        if p.grad is not None:
            assert F.cosine_similarity(eager[name].flatten(), p.grad.flatten(), 0) > 0.98, name
    optimizer, zeros = (
        torch.optim.SGD(found.eval().parameters(), 0.2),
        (found.network[3].weight == 0),
    )  # type: ignore[index, union-attr]
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = found(X).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    if "mask" in recipe:
        assert zeros.any() and (found.network[3].weight[zeros] == 0).all()  # type: ignore[index, union-attr]
    lissom.save(found, tmp_path)
    with torch.no_grad():
        assert torch.equal(lissom.load(tmp_path, small())(X), found(X))
        now = found(X)
        found.train()
        found.eval()  # where the scales of all weights are measured anew
        assert torch.equal(found(X), now)


def test_zeros_of_a_mask_stay_where_the_network_learns_in_eval_mode() -> None:
    found = lissom.apply("mask(0.5)", small(), X[:1], X)
    zeros = found[3].weight == 0  # type: ignore[index]
    optimizer = torch.optim.SGD(found.parameters(), 0.1)
    found(X).square().mean().backward()
    optimizer.step()
    assert zeros.any() and (found[3].weight[zeros] == 0).all()  # type: ignore[index]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_stay_so_but_where_they_are_rounded(dtype: torch.dtype) -> None:
    net, x = small().to(dtype), X.to(dtype)
    for recipe in ("prune(0.5)", "mask(0.5)", "fold", "equalize"):
        stays = dtype == torch.float64 or recipe in ("prune(0.5)", "mask(0.5)")
        assert {p.dtype for p in lissom.apply(recipe, net, x[:1], x).parameters()} == {
            dtype if stays else torch.float32
        }
    for recipe in ("quantize(8)", "prune(0.5) | quantize(8)", "cast('bf16')"):
        found = lissom.apply(recipe, net, x[:1], x)
        assert {p.dtype for p in found.parameters()} == {torch.float32}
        if "prune" not in recipe:
            assert far(small(), found, X) < 0.05


def detector() -> nn.Module:
    """Return a small Faster R-CNN: a trunk, anchors, boxes that are kept by their scores, and heads
    that look at these.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1),
        nn.ReLU(),
    )
    trunk.out_channels = 32  # type: ignore[assignment]
    return FasterRCNN(
        trunk,
        4,
        min_size=64,
        max_size=64,
        box_score_thresh=0.0,
        rpn_pre_nms_top_n_test=40,
        rpn_post_nms_top_n_test=10,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((0.5, 1.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
    ).eval()


def test_a_detectors_trunk_and_heads_are_cut_and_quantized_and_its_choice_of_boxes_is_left() -> (
    None
):
    net, x = detector(), torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cut, _ = lissom.apply("prune(0.3)", net, x[:1], x, notes=True)
    assert sum(p.numel() for p in cut.parameters()) < 0.85 * sum(
        p.numel() for p in net.parameters()
    )
    assert cut.backbone[0].out_channels < 16 and cut.roi_heads.box_head.fc6.out_features < 1024  # type: ignore
    quantized, notes = lissom.apply("quantize(8)", net, x[:1], x, notes=True)
    assert len([layer for layer in quantized.layers() if layer.rounding is not None]) == 10  # type: ignore[operator]
    assert any("roi_heads" in note and "depend on the data" in note for note in notes)
    assert network_difference(net, quantized, x) < 0.1
    with torch.no_grad():
        assert {tuple(found) for found in quantized(x)} == {("boxes", "labels", "scores")}


def test_a_task_whose_network_draws_is_refused_before_it_runs() -> None:
    from lissom import Data, Task

    data = Data.of("digits")
    net = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))

    class Noisy(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand_like(x))

    examine(Task(lambda: net, data))
    with pytest.raises(
        LissomError,
        match=r"model model: the network answers differently each "
        r"time .*\(rand_like",
    ):
        examine(Task(lambda: Noisy(*net), data))
