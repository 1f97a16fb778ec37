"""A network saved in two files is restored bit by bit, or one line says why not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import lissom
from lissom import LissomError
from lissom.models import factory
from lissom.store.snapshot import restore, save


def mobile() -> nn.Module:
    import torchvision.models as known

    return known.mobilenet_v2(num_classes=5)


BUILD: dict[str, Callable[[], nn.Module]] = {
    **{
        name: lambda name=name: factory(name)(num_classes=5)
        for name in ("resnet20", "vgg11", "preresnet11")
    },
    "mobilenet_v2": mobile,
}


def images(count: int = 4, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


@pytest.mark.parametrize("recipe", ["prune(0.5)", "prune(0.5) | quantize(8)"])
@pytest.mark.parametrize("name", BUILD)
def test_saved_and_restored_is_bit_equal(name: str, recipe: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = BUILD[name]()
    small = lissom.apply(recipe, net, images(1), images())
    lissom.save(small, tmp_path)
    torch.manual_seed(1)
    again = lissom.load(tmp_path, BUILD[name]())
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(images(3)), small(images(3)))
    a, b = small.state_dict(), again.state_dict()
    assert list(a) == list(b) and all(
        torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a
    )
    assert [str(m) for m in small.modules()] == [str(m) for m in again.modules()]
    assert [getattr(m, "kept", None) for m in small.modules()] == [
        getattr(m, "kept", None) for m in again.modules()
    ]


@pytest.mark.parametrize(
    "recipe",
    ["fold", "prune(0.5) | fold", "quantize(8)", "prune(0.3, multiple=4) | prune(0.3, multiple=4)"],
)
def test_every_surgery_comes_back(recipe: str, tmp_path: Path) -> None:
    small = lissom.apply(recipe, small_net(), images(1, 8), images(8, 8))
    lissom.save(small, tmp_path)
    again = lissom.load(tmp_path, small_net())
    with torch.no_grad():
        assert torch.equal(again(images(3, 8)), small(images(3, 8)))


@pytest.mark.parametrize("recipe", ["prune(0.5)", "prune(0.5) | quantize(8)"])
def test_what_was_restored_can_be_trained_and_saved_again(recipe: str, tmp_path: Path) -> None:
    lissom.save(lissom.apply(recipe, small_net(), images(1, 8), images(8, 8)), tmp_path / "one")
    again = lissom.load(tmp_path / "one", small_net())
    before = [p.detach().clone() for p in again.parameters()]
    assert all(p.requires_grad for p in again.parameters())
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    again.train()
    again(images(8, 8)).square().mean().backward()
    optimizer.step()
    assert all(
        not torch.equal(a, b)
        for a, b in zip(before, again.parameters(), strict=True)
        # a bias before batch-norm has no gradient but rounding
        if b.grad.abs().max() > 1e-5
    )
    again.eval()
    lissom.save(again, tmp_path / "two")
    third = lissom.load(tmp_path / "two", small_net())
    with torch.no_grad():
        assert torch.equal(third(images(3, 8)), again(images(3, 8)))


class Shared(nn.Module):
    """Two layers with one weight, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (
            nn.Conv2d(3, 16, 3),
            nn.Conv2d(16, 16, 3),
            nn.Conv2d(16, 16, 3),
        )
        self.two.weight = self.one.weight
        self.again, self.head = self.stem, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.again(x))
        return self.head((F.relu(self.one(y)) + self.two(-y)).mean((2, 3)))


def test_shared_parameters_stay_shared(tmp_path: Path) -> None:
    small = lissom.apply("prune(0.5)", Shared(), images(1, 8), images(4, 8))
    assert (
        small.one.weight is small.two.weight
        and small.again is small.stem
        and len(small.one.weight) == 8
    )
    lissom.save(small, tmp_path)
    again = lissom.load(tmp_path, Shared())
    assert again.one.weight is again.two.weight and again.again is again.stem
    with torch.no_grad():
        assert torch.equal(again(images(3, 8)), small(images(3, 8)))
    names = set(_tensors(tmp_path))
    assert "one.weight" in names and "two.weight" not in names


def _tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_files_are_text_and_plain_numbers(tmp_path: Path) -> None:
    lissom.save(
        lissom.apply("prune(0.5) | quantize(8)", small_net(), images(1, 8), images(8, 8)), tmp_path
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "structure.json"]
    structure = json.loads((tmp_path / "structure.json").read_text())
    assert (
        structure["format"] == 2 and structure["layers"]["network.0"]["class"] == "QuantizedConv2d"
    )
    data = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert all(
        set(v) == {"dtype", "shape", "data_offsets"}
        for k, v in header.items()
        if k != "__metadata__"
    )
    assert b"\x80\x02" not in data[:2] and not data.startswith(b"PK")


def test_buffers_that_are_not_kept_are_not_saved(tmp_path: Path) -> None:
    def build() -> nn.Module:
        net = small_net()
        net.register_buffer("scratch", torch.ones(3), persistent=False)
        return net

    net = build()
    net.scratch += 1
    lissom.save(net, tmp_path)
    assert "scratch" not in _tensors(tmp_path)
    assert torch.equal(lissom.load(tmp_path, build()).scratch, torch.ones(3))


def saved(folder: Path, recipe: str = "prune(0.5) | quantize(8)") -> None:
    lissom.save(lissom.apply(recipe, small_net(), images(1, 8), images(8, 8)), folder)


def wrong(change: Callable[[nn.Sequential], None]) -> nn.Module:
    net = small_net()
    assert isinstance(net, nn.Sequential)
    change(net)
    return net


WRONG: dict[str, Callable[[], nn.Module]] = {
    "a layer less": lambda: small_net()[:-1],
    "a layer more": lambda: nn.Sequential(*small_net(), nn.Linear(4, 4)),
    "another network": lambda: nn.Linear(3, 3),
    "larger kernels": lambda: wrong(lambda n: n.__setitem__(0, nn.Conv2d(3, 16, 5, padding=2))),
    "no layer where one was": lambda: wrong(lambda n: n.__setitem__(3, nn.Identity())),
    "another kind of layer": lambda: wrong(lambda n: n.__setitem__(7, nn.Conv2d(16, 4, 1))),
}


@pytest.mark.parametrize("recipe", ["prune(0.5)", "prune(0.5) | quantize(8)"])
@pytest.mark.parametrize("name", WRONG)
def test_a_network_built_another_way_is_refused(name: str, recipe: str, tmp_path: Path) -> None:
    saved(tmp_path, recipe)
    with pytest.raises(LissomError, match="load"):
        lissom.load(tmp_path, WRONG[name]())


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=r"structure\.json"):
        lissom.load(tmp_path / "nowhere", small_net())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 99}',
        '{"format": 1}',
        '{"format": 1, "layers": {}}',
        '{"format": 1, "layers": [], "buffers": []}',
        "\x00\x01",
        '"text"',
        '{"format": 1, "layers": {"0": {"class": "Unknown"}}, "buffers": []}',
    ],
)
def test_a_broken_structure_is_one_line(text: str, tmp_path: Path) -> None:
    saved(tmp_path, "prune(0.5)")
    (tmp_path / "structure.json").write_text(text)
    with pytest.raises(LissomError, match="load"):
        lissom.load(tmp_path, small_net())


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_weights_cut_short_are_one_line(keep: int, tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(LissomError, match=r"model\.safetensors"):
        lissom.load(tmp_path, small_net())


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LissomError, match=r"model\.safetensors"):
        lissom.load(tmp_path, small_net())


def test_weights_of_fewer_tensors_are_one_line(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    saved(tmp_path, "prune(0.5)")
    tensors = _tensors(tmp_path)
    del tensors["3.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(LissomError, match=r"3\.weight"):
        lissom.load(tmp_path, small_net())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(LissomError, match="cannot be written"):
        lissom.save(small_net(), tmp_path / "file")


def test_a_folder_without_the_network_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(LissomError, match="freshly built"):
        lissom.load(tmp_path)


def test_the_structure_records_how_to_build(tmp_path: Path) -> None:
    save(small_net(), tmp_path, build={"model": "mine"})
    assert json.loads((tmp_path / "structure.json").read_text())["build"] == {"model": "mine"}
    assert isinstance(restore(small_net(), tmp_path), nn.Sequential)


def test_a_width_that_is_a_property_follows_by_itself(tmp_path: Path) -> None:
    class Block(nn.Sequential):
        @property
        def out_channels(self) -> int:
            return self[0].out_channels

    net = nn.Sequential(Block(nn.Conv2d(3, 16, 3)), nn.ReLU(), nn.Conv2d(16, 4, 3))
    small = lissom.apply("prune(0.5)", net, torch.randn(1, 3, 8, 8))
    save(small, tmp_path)
    assert restore(net, tmp_path)[0].out_channels == 8


def test_what_reads_recurrently_comes_back_narrower(tmp_path: Path) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = (
                nn.Conv2d(3, 16, 3),
                nn.LSTM(16, 8, batch_first=True),
                nn.Linear(8, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.two(self.one(x).flatten(2).transpose(1, 2))[0][:, -1])

    net, x = Reader().eval(), torch.randn(2, 3, 8, 8)
    with pytest.warns(lissom.LissomWarning, match="1 stays whole: .* recurrent layer"):
        small = lissom.apply("prune(0.5)", net, x[:1])
    save(small, tmp_path)
    again = restore(Reader(), tmp_path)
    assert again.two.input_size == 8 and torch.equal(again(x), small(x))


@pytest.mark.parametrize(
    ("key", "value"), [("groups", 1000), ("groups", [1]), ("groups", 0), ("in_channels", 8)]
)
def test_widths_that_are_not_those_of_the_weight_are_one_line(
    key: str, value: object, tmp_path: Path
) -> None:
    lissom.save(lissom.apply("mask(0.5)", small_net(), images(1)), tmp_path)
    structure = json.loads((tmp_path / "structure.json").read_text(encoding="utf-8"))
    structure["layers"]["3"][key] = value
    (tmp_path / "structure.json").write_text(json.dumps(structure), encoding="utf-8")
    expected = (
        "expected a count, got"
        if isinstance(value, list)
        else r"tensors \(.*, its weight \(16, 16, 3, 3\)\)$"
    )
    with pytest.raises(LissomError, match=expected):
        lissom.load(tmp_path, small_net())


class Attending(nn.Module):
    """Layers whose widths have other names: (n 8 p) to (n 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.curve = nn.GroupNorm(4, 8), nn.PReLU(8)
        self.attention, self.head = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.curve(self.norm(x)).transpose(1, 2)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.mark.parametrize(
    ("layer", "key", "value"),
    [
        ("norm", "num_groups", 3),
        ("norm", "num_groups", 0),
        ("norm", "num_channels", 4),
        ("curve", "num_parameters", 2),
        ("attention", "num_heads", 3),
        ("attention", "num_heads", [4]),
        ("head", "in_features", 9),
        ("head", "out_features", 4),
    ],
)
def test_widths_of_every_kind_are_those_of_the_tensors(
    layer: str, key: str, value: object, tmp_path: Path
) -> None:
    lissom.save(Attending(), tmp_path)
    lissom.load(tmp_path, Attending())
    structure = json.loads((tmp_path / "structure.json").read_text(encoding="utf-8"))
    structure["layers"][layer][key] = value
    (tmp_path / "structure.json").write_text(json.dumps(structure), encoding="utf-8")
    with pytest.raises(
        LissomError,
        match=rf"the widths of {layer} are not those of its tensors|expected a count, got",
    ):
        lissom.load(tmp_path, Attending())


@pytest.mark.parametrize("names", [[], ["scale", "zero_point", "more"], ["scale", "other"]])
def test_a_grid_that_holds_something_else_is_one_line(names: list[str], tmp_path: Path) -> None:
    lissom.save(lissom.apply("quantize(8)", small_net(), images(1), images(1)), tmp_path)
    structure = json.loads((tmp_path / "structure.json").read_text(encoding="utf-8"))
    next(iter(structure["quantized"]["grids"].values()))["names"] = names
    (tmp_path / "structure.json").write_text(json.dumps(structure), encoding="utf-8")
    with pytest.raises(
        LissomError, match=r"names: expected what uniform holds: scale, zero_point, got"
    ):
        lissom.load(tmp_path, small_net())


@pytest.mark.parametrize("recipe", ["quantize(8)", "quantize(4)", 'quantize("binary", "binary")'])
def test_what_a_grid_holds_is_saved_or_said_to_be_missing(recipe: str, tmp_path: Path) -> None:
    lissom.save(lissom.apply(recipe, small_net(), images(1), images()), tmp_path)
    tensors = _tensors(tmp_path)
    for name in [name for name in tensors if "rounding" in name or "grids" in name]:
        save_file(
            {other: value for other, value in tensors.items() if other != name},
            tmp_path / "model.safetensors",
        )
        with pytest.raises(LissomError, match=f"nothing is saved for {re.escape(name)}"):
            lissom.load(tmp_path, small_net())


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ("head", "CompressedConv2d"),
        ("", "CompressedLinear"),
        ("curve", "WindowAttention"),
        ("norm", "HeadAttention"),
        ("attention", "CompressedLinear"),
    ],
)
def test_a_class_of_other_layers_is_one_line(layer: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(Attending(), tmp_path)
    said = json.loads((tmp_path / "structure.json").read_text(encoding="utf-8"))
    said["layers"].setdefault(layer, {})["class"] = kind
    (tmp_path / "structure.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(LissomError, match=f"cannot become a {kind}"):
        restore(Attending, tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    saved(tmp_path)
    before = contents(tmp_path)

    def full(_: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises((LissomError, KeyboardInterrupt)):
        lissom.save(small_net(), tmp_path)
    assert contents(tmp_path) == before


def test_a_structure_is_never_beside_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path)
    before = contents(tmp_path)
    real = os.replace

    def refused(old: Path, new: Path) -> None:
        if new == tmp_path / "model.safetensors":
            assert not (tmp_path / "structure.json").exists()
            raise OSError("it is open elsewhere")
        real(old, new)

    monkeypatch.setattr("os.replace", refused)
    with pytest.raises(LissomError, match=r"cannot be written .it is open elsewhere"):
        lissom.save(small_net(), tmp_path)
    assert contents(tmp_path) == before
