"""Programs of torch.export: layers are restored, outputs are the same, and all later steps work."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, library, nn
from torch.export import Dim, export, save

import lissom
from lissom import Data, LissomError, Store, Task
from lissom.models import factory
from lissom.running.entries import build_from, load_key
from lissom.tasks.builders import code_file
from lissom.tasks.networks import check_model_spec
from lissom.tasks.program import program_network
from lissom.trees import tensors_in


class Attention(nn.Module):
    """A transformer: a table, a parameter of no layer, attention, dropout, an answer by name."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 32)
        self.places = nn.Parameter(torch.randn(1, 6, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 64)
        self.drop = nn.Dropout(0.5)
        self.down = nn.Linear(64, 32)
        self.qkv = nn.Linear(32, 96)
        self.head = nn.Linear(32, 5)
        self.register_buffer("mask", torch.zeros(6, 6), persistent=False)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.table(ids) + self.places
        x = x + self.attention(x, x, x, attn_mask=self.mask, need_weights=False)[0]
        q, k, v = self.qkv(x).reshape(-1, 6, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.down(self.drop(F.gelu(self.up(self.norm(x)))))
        return {"logits": self.head(x[:, 1:].mean(1)) * torch.tensor(2.0)}


class Mixed(nn.Module):
    """Layers that are called twice, share a weight with another, or have none."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8, affine=False)
        self.plain = nn.LayerNorm(8, elementwise_affine=False)
        self.groups = nn.GroupNorm(2, 8)
        self.turned = nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1, groups=2)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor, *, scale: Tensor) -> tuple[Tensor, Tensor]:
        x = self.table(ids).transpose(1, 2)
        x = self.norm(self.conv(self.conv(x))).relu_()
        x = self.groups(F.dropout(x, 0.3, self.training) + F.conv1d(x, self.conv.weight, padding=1))
        wide = F.hardswish(F.interpolate(self.turned(x[..., None]), scale_factor=2.0), inplace=True)
        return self.head(self.plain(x.transpose(1, 2))) * scale, wide


def written(network: nn.Module, inputs: tuple[Any, ...], path: Path, **named: Tensor) -> str:
    """Export a network with a dynamic batch and return the path of its program."""
    batch = {0: Dim.DYNAMIC}
    arguments = tuple(batch for _ in inputs)
    shapes = {"dynamic_shapes": arguments}
    if named:
        shapes = {"dynamic_shapes": {"ids": batch, **dict.fromkeys(named, batch)}}
    save(export(network.eval(), inputs, named, **shapes), path)
    return str(path)


def difference(one: Tensor, two: Tensor) -> float:
    """Return the largest difference of two tensors, beside the largest value."""
    return float((one - two).detach().abs().max() / two.detach().abs().max())


def settled(network: nn.Module) -> nn.Module:
    """Return a network whose batch-norms are as if it had learned."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.num_batches_tracked += 7
    return network.eval()


NETWORKS = {
    "resnet8": lambda: (factory("resnet8")(), (3, 32, 32)),
    "densenet": lambda: (factory("densenet10-quarter")(), (3, 32, 32)),
    "resnet18": lambda: (torchvision.models.resnet18(num_classes=7), (3, 64, 64)),
    "mobilenet": lambda: (torchvision.models.mobilenet_v3_small(num_classes=7), (3, 64, 64)),
    "shufflenet": lambda: (torchvision.models.shufflenet_v2_x0_5(num_classes=7), (3, 64, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_is_the_network_that_was_exported(name: str, tmp_path: Path) -> None:
    network, shape = NETWORKS[name]()
    settled(network)
    again = program_network(written(network, (torch.randn(2, *shape),), tmp_path / "net.pt2"))
    assert not again.training
    images = torch.randn(5, *shape)  # a batch of another size
    with torch.no_grad():
        assert difference(again(images), network(images)) < 1e-5
    state = network.state_dict()
    assert list(dict(again.named_parameters())) == list(dict(network.named_parameters()))
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    layers = {n: repr(m) for n, m in network.named_modules() if isinstance(m, kinds)}
    assert layers == {n: repr(m) for n, m in again.named_modules() if isinstance(m, kinds)}
    # in training mode batch-norm learns
    images = torch.randn(4, *shape)
    drops = [m for m in again.modules() if isinstance(m, nn.Dropout)]
    assert len(drops) == sum(isinstance(m, nn.Dropout) for m in network.modules())
    for model in (network, again):
        model.train()
        for layer in model.modules():
            layer.training &= not isinstance(layer, nn.Dropout)
    assert difference(again(images), network(images)) < 1e-5
    for (_, mean), (_, other) in zip(again.named_buffers(), network.named_buffers(), strict=True):
        torch.testing.assert_close(mean, other)


def test_a_transformer_keeps_its_answers_and_what_belongs_to_no_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Attention()
    ids = torch.randint(0, 30, (7, 6))
    again = program_network(written(network, (ids[:2],), tmp_path / "net.pt2"))
    with torch.no_grad():
        assert torch.allclose(again(ids)["logits"], network(ids)["logits"], atol=1e-5)
    assert isinstance(again.places, nn.Parameter) and "mask" not in again.state_dict()
    assert {type(m) for m in again.modules()} >= {nn.Embedding, nn.LayerNorm, nn.Dropout}
    assert type(again.attention.in_proj) is nn.Linear  # so that it is quantized
    assert len({*map(str, (again.train()(ids)["logits"] for _ in range(3)))}) == 3  # dropout drops


def test_layers_are_shared_as_their_weights_were(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Mixed()
    ids = torch.randint(0, 20, (5, 8))
    scale = torch.rand(5, 1, 1)
    path = written(network, (ids[:3],), tmp_path / "net.pt2", scale=scale[:3])
    again = program_network(path)
    for a, b in zip(again(ids, scale=scale), network(ids, scale=scale), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    count = sum(p.numel() for p in network.parameters())
    assert sum(p.numel() for p in again.parameters()) == count
    assert [type(m).__name__ for m in again.modules()].count("Conv1d") == 2  # one of them twice
    kinds = ("BatchNorm1d", "ConvTranspose2d", "GroupNorm", "LayerNorm", "Dropout", "Linear")
    assert {type(m).__name__ for m in again.modules()} >= {*kinds}


def test_layers_of_a_decomposed_program_come_back(tmp_path: Path) -> None:
    network = settled(torchvision.models.resnet18(num_classes=7))
    images = torch.randn(3, 3, 64, 64)
    program = export(network, (images[:2],), dynamic_shapes=({0: Dim.DYNAMIC},))
    save(program.run_decompositions(), tmp_path / "net.pt2")
    again = program_network(str(tmp_path / "net.pt2"))
    assert difference(again(images), network(images)) < 1e-5
    assert isinstance(again.fc, nn.Linear) and isinstance(again.bn1, nn.BatchNorm2d)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet"])
def test_steps_do_to_a_program_what_they_do_to_its_network(name: str, tmp_path: Path) -> None:
    network, shape = NETWORKS[name]()
    settled(network)
    images = torch.randn(16, *shape)
    again = program_network(written(network, (images[:2],), tmp_path / "net.pt2"))
    small, notes = lissom.apply("prune(0.3)", again, images[:2], images, notes=True)
    wanted = lissom.apply("prune(0.3)", network, images[:2], images)
    shapes = {key: value.shape for key, value in wanted.state_dict().items()}
    assert {key: value.shape for key, value in small.state_dict().items()} == shapes
    assert difference(small(images), wanted(images)) < 1e-5
    rounded, more = lissom.apply("quantize(8)", small, images[:2], images, notes=True)
    assert not any("stay" in note for note in [*notes, *more])
    file = lissom.export(rounded, "onnxruntime", str(tmp_path / "small.onnx"), shape=shape)
    assert Path(file).stat().st_size > 0


def test_a_transformer_is_pruned_quantized_and_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 30, (16, 6))
    again = program_network(written(Attention(), (ids[:2],), tmp_path / "net.pt2"))
    small = lissom.apply("prune(0.3) | quantize(8)", again, ids[:2], ids, notes=True)[0]
    assert small.network.up.weight.shape[0] < 64
    lissom.export(small, "onnxruntime", str(tmp_path / "small.onnx"), example=ids[:2])


@pytest.fixture
def program(tmp_path: Path) -> str:
    return written(small_network(), (torch.randn(2, 1, 8, 8),), tmp_path / "net.pt2")


def small_network(seed: int = 0) -> nn.Module:
    """Return a network for digits."""
    torch.manual_seed(seed)
    return factory("resnet8")(10, 1).eval()


def test_a_run_names_the_program_and_its_key_changes_with_the_file(
    program: str, tmp_path: Path
) -> None:
    data = Data.of("digits", size=(8, 8))
    task = Task.of(f"pt2:{program}", data)
    assert task.trained and task.spec == {"model": f"pt2:{program}"}
    store = Store(tmp_path / "store")
    recipe = "prune(0.2, multiple=1) | train(1) | quantize(8)"
    (record,) = lissom.run(recipe, task, store)
    assert record["task"]["model"] == f"pt2:{program}"
    # it learns as the network that was exported does
    same = Task(small_network, data, task.name, task.source)  # what is drawn depends on the key
    (own,) = lissom.run(recipe, same, Store(tmp_path / "other"))
    assert record["scores"] == own["scores"] and record["params"] == own["params"]
    again = load_key(record["key"], store)  # from what the entry says
    assert record["params"] == sum(p.numel() for p in again.parameters())
    before = task.root(0)
    assert Task.of(f"pt2:{program}", data).root(0) == before
    written(small_network(1), (torch.randn(2, 1, 8, 8),), Path(program))
    assert Task.of(f"pt2:{program}", data).root(0) != before


def test_a_program_is_code_that_only_its_owner_has_read(program: str) -> None:
    build = {"model": f"pt2:{program}"}
    with pytest.raises(LissomError, match=r"would import pt2:.*nothing shows"):
        build_from(build, "an entry")
    assert code_file(build["model"]) == Path(program).resolve()
    assert list(tensors_in(build_from(build, "an entry", build["model"])(torch.randn(1, 1, 8, 8))))


class Static(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return x + self.seen


@library.custom_op("own::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return twice(x)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Static(), r"for batches of 2 and takes no others; export it with dynamic_shapes"),
        (Branch(), r"it calls cond, which is no operator"),
        (Counter(), r"changes its own buffers as it runs.*eval\(\)"),
        (nn.Sequential(nn.BatchNorm1d(6)), r"changes its own buffers as it runs.*eval\(\)"),
        (Custom(), r"it calls own.twice.default, which is no operator"),
    ],
)
def test_what_a_program_cannot_do_is_one_line(
    network: nn.Module, said: str, tmp_path: Path
) -> None:
    shapes = None if isinstance(network, Static) else ({0: Dim.DYNAMIC},)
    save(export(network.train(), (torch.randn(2, 6),), dynamic_shapes=shapes), tmp_path / "net.pt2")
    with pytest.raises(LissomError, match=said) as raised:
        program_network(str(tmp_path / "net.pt2"))
    assert "\n" not in str(raised.value)


def test_a_static_program_that_takes_any_batch_is_taken(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    save(export(network.eval(), (torch.randn(2, 3, 4),)), tmp_path / "net.pt2")
    images = torch.randn(5, 3, 4)
    torch.testing.assert_close(program_network(str(tmp_path / "net.pt2"))(images), network(images))


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps({"a": 1}), "zip", "damaged"])
def test_a_file_that_is_no_program_is_one_line(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            name = "other.json" if content == "zip" else "net/models/model.json"
            archive.writestr(name, json.dumps({"graph_module": 3}))
    with pytest.raises(
        LissomError, match=r"model: pt2:.*(expected a file that|cannot read it)"
    ) as raised:
        program_network(str(path))
    assert "\n" not in str(raised.value)
    with pytest.raises(LissomError, match=r"there is no file nowhere\.pt2"):
        check_model_spec("pt2:nowhere.pt2")
