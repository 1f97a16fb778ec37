"""Tasks: how a network is named and built, depths, weights that are loaded completely or not at
all, user tasks.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model_builder

from lissom import Data, LissomError, Store, Task, run
from lissom.commands.explain import Explainer
from lissom.commands.inspect import inspect_network
from lissom.commands.try_remedies import try_remedies
from lissom.data.split import CPU, Images, evenly_spaced
from lissom.kinds.classify import top1
from lissom.learning.examine import examine
from lissom.models import check_name, factory
from lissom.report.explanation import print_explanation
from lissom.report.inspection import print_inspection
from lissom.report.page import decompressed, write_report
from lissom.report.table import print_record
from lissom.running.entries import build_from, load_key
from lissom.running.plan import targets_of
from lissom.steps.prune import Prune
from lissom.tasks.builders import chosen_arguments
from lissom.tasks.networks import check_model_spec, factory_of, is_published, published_argument
from lissom.tasks.task import own_task
from lissom.tasks.teachers import teacher_from
from lissom.tasks.weights import load_weights

NETS = """
from torch import nn
import torch

def linear(outputs, inputs=64):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))

def plain():
    return linear(10)

def classes(num_classes):
    return linear(num_classes)

def both(num_classes=3, in_channels=5):
    return linear(num_classes, 64 * in_channels)

def anything(**given):
    assert given == {"num_classes": 10}, given
    return linear(given["num_classes"])

def random():
    return linear(10)

def wants(size):
    return linear(size)

def raises():
    raise KeyError("no such layer")

def nothing():
    return None

def wrong():
    return linear(7)

def pair():
    return Pair()

def silent():
    return Silent()

def other_size():
    return linear(10, 99)

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, x):
        y = self.layer(x.flatten(1))
        return (y, y) if self.training else y

class Silent(nn.Module):
    def forward(self, x):
        raise AssertionError

number = 3
"""


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what importing a user's file adds to where Python looks."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(scope="module")
def data() -> Data:
    draw = torch.Generator().manual_seed(0)
    part = Images(
        torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=draw),
        torch.arange(12) % 10,
    )
    return Data(
        "tiny", part, part, part, tuple("0123456789"), 1, (8, 8), (0.5,), (0.25,), False, "tiny"
    )


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS)
    return str(tmp_path / "nets.py")


def refused(model: str, data: Data, **given: Any) -> str:
    """Return what is said of a network that cannot be used."""
    with pytest.raises(LissomError) as caught:
        examine(Task.of(model, data, **given))
    return str(caught.value)


# naming a network


def test_a_built_in_network_gets_the_classes_and_channels_of_the_data(data: Data) -> None:
    task = Task.of("resnet8", data)
    examine(task)
    model = task.fresh()
    assert model.stem.in_channels == 1 and model.head.out_features == 10 and not model.training
    assert (
        task.spec == {"model": "resnet8", "num_classes": 10, "in_channels": 1}
        and task.name == "resnet8"
    )


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("plain", {}),
        ("classes", {"num_classes": 10}),
        ("both", {"num_classes": 10, "in_channels": 1}),
        ("anything", {"num_classes": 10}),
    ],
)
def test_a_factory_is_given_what_it_takes_and_no_more(
    data: Data, nets: str, name: str, given: dict[str, int]
) -> None:
    task = Task.of(f"{nets}:{name}", data)
    examine(task)
    assert task.spec == {"model": f"{nets}:{name}", **given}


def test_a_network_is_named_by_module_and_factory(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package_of_nets").mkdir()
    (tmp_path / "package_of_nets" / "small.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    examine(Task.of("package_of_nets.small:both", data))
    assert "package_of_nets.small has no 'bothh'; did you mean 'both'" in refused(
        "package_of_nets.small:bothh", data
    )


def test_a_network_of_torchvision_is_named_by_its_builder(data: Data) -> None:
    task = Task.of("torchvision:squeezenet1_1", data)
    assert task.spec == {"model": "torchvision:squeezenet1_1", "num_classes": 10}
    assert task.fresh().classifier[1].out_channels == 10
    assert "torchvision has no 'resnet19'; did you mean 'resnet18'?" in refused(
        "torchvision:resnet19", data
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet21", "a depth of resnet is 6n+2; near 21 are 14, 20, 26"),
        ("resnet2", "6n+2; near 2 are 8, 14"),
        ("resnet0", "6n+2"),
        ("preresnet36", "a depth of preresnet is 9n+2; near 36 are 29, 38, 47"),
        ("preresnet20x", "no built-in network"),
        ("vgg12", "vgg has the depths 11, 13, 16 and 19"),
        ("resnett20", "did you mean 'resnet20'"),
        ("resnet", "no built-in network"),
        ("", "no built-in network ''"),
        ("resnet-20", "no built-in network"),
        ("ResNet20", "did you mean 'resnet20'"),
    ],
)
def test_a_network_that_does_not_exist_is_refused_with_what_does(
    data: Data, name: str, said: str
) -> None:
    with pytest.raises(LissomError) as caught:
        check_name(name)
    assert said in str(caught.value)
    with pytest.raises(LissomError):
        Task.of(name, data)


@pytest.mark.parametrize("spec", [":", "a:", ":b", "gone.py:net", "dir/gone.py:net"])
def test_a_name_of_a_network_that_cannot_be_one_is_refused(spec: str) -> None:
    with pytest.raises(LissomError, match=r"^model: "):
        check_model_spec(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{nets}:clases", "has no 'clases'; did you mean 'classes'"),
        ("{nets}:wants", "building it raised TypeError: wants() missing"),
        ("{nets}:raises", "building it raised KeyError: 'no such layer'"),
        ("{nets}:nothing", "returned a NoneType, not a torch.nn.Module"),
        ("{nets}:number", "int"),
        (
            "{nets}:wrong",
            "it returns (2, 7) for 2 images; expected outputs (batch, classes) = (2, 10)",
        ),
        (
            "{nets}:pair",
            "outputs: expected one tensor, or several of which one is called logits or out, got (2, 10), "
            "(2, 10); which of others is the answer, a kind of your own says, as in --kind file.py:name",
        ),
        ("{nets}:other_size", "it raised RuntimeError on images of shape (2, 1, 8, 8): "),
        (
            "{nets}:silent",
            "it raised AssertionError on images of shape (2, 1, 8, 8) (nets.py, line ",
        ),
        ("{nets}:Silent", "it raised AssertionError on images of shape (2, 1, 8, 8)"),
        ("no_such_module_here:net", "importing no_such_module_here raised ModuleNotFoundError"),
        ("builtins:prnt", "builtins has no 'prnt'; did you mean 'print'"),
        ("builtins:dict", "returned a dict"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_with_what_it_did(
    data: Data, nets: str, spec: str, said: str
) -> None:
    assert said in refused(spec.format(nets=nets), data)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def x(:", "raised SyntaxError"),
        ("1\n2\ndef x(:", "(broken.py, line 3)"),
        ("raise RuntimeError('oh')", "raised RuntimeError: oh (broken.py, line 1)"),
        ("import nothing_here", "ModuleNotFound"),
        ("import sys\nsys.exit(0)", "raised SystemExit"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_with_what_it_did(
    data: Data, tmp_path: Path, code: str, said: str
) -> None:
    (tmp_path / "broken.py").write_text(code)
    assert said in refused(f"{tmp_path}/broken.py:net", data)


# building


def test_fresh_weights_are_drawn_from_the_seed(data: Data, nets: str) -> None:
    task = Task.of(f"{nets}:random", data)
    one, same, other = (task.fresh(seed).state_dict()["1.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_root_key_tells_networks_data_seeds_and_sources_apart(data: Data, nets: str) -> None:
    def root(name: str = "both", seed: int = 0) -> str:
        return Task.of(f"{nets}:{name}", data).root(seed)

    first = root()
    assert first == root() and len(first) == 12
    other = Data(**{**vars(data), "fingerprint": "other"})
    found = [first, root("classes"), root(seed=1), Task.of(f"{nets}:both", other).root(0)]
    Path(nets).write_text(NETS + "\n# changed\n")
    assert len({*found, root()}) == 5


def test_a_network_is_built_again_from_what_was_kept_of_it(data: Data, nets: str) -> None:
    task = Task.of(f"{nets}:both", data)
    assert build_from(task.spec, "here", trusted=True)[1].weight.shape == (10, 64)
    with pytest.raises(LissomError, match="here does not say how its network is built"):
        build_from({}, "here")


def test_top1_is_the_share_of_images_named_right() -> None:
    assert (
        top1(
            torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]),
            torch.tensor([1, 0, 0, 0]),
        )
        == 0.75
    )


# weights


class Hidden:
    """Not a tensor."""


def saved(kind: str, state: dict[str, Tensor], folder: Path) -> str:
    """Write a weight file of a kind; return its path."""
    path = folder / (kind.replace(" ", "_") + (".safetensors" if "safetensors" in kind else ".pt"))
    contents: dict[str, Any] = {
        "whole": state,
        "wrapped": {"state_dict": state, "epoch": 3},
        "without counts": {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        "missing": {k: v for k, v in state.items() if k != "head.bias"},
        "extra": {**state, "tail.bias": torch.zeros(3)},
        "shapes": {**state, "head.bias": torch.zeros(3)},
        "nothing": {},
        "a list": [torch.zeros(2)],
        "numbers": {"head.bias": 3},
        "names that are numbers": {**state, 3: torch.zeros(2)},
        "prefixed": {f"net.{k}": v for k, v in state.items()},
        "data parallel": {f"module.{k}": v for k, v in state.items()},
        "an object": {"state_dict": state, "args": Hidden()},
        "a network": nn.Linear(2, 2),
    }
    if "safetensors" in kind:
        save_file(state, path)
    elif kind == "a plain pickle":
        path.write_bytes(pickle.dumps({"head.bias": [1.0]}, protocol=4))
    elif kind == "code":
        path.write_bytes(pickle.dumps(sys.exit, protocol=2))
    elif kind == "text":
        path.write_text("hello\n")
    else:
        torch.save(contents.get(kind, state), path)
    if kind.startswith("cut"):
        path.write_bytes(path.read_bytes()[: -500 if kind.startswith("cut late") else 300])
    if kind.startswith("empty"):
        path.write_bytes(b"")
    return str(path)


def tried(kind: str, folder: Path) -> tuple[nn.Module, nn.Module, str | None]:
    """Load a kind of file into a network; return the source, the network, and what was said if it
    was refused.
    """
    torch.manual_seed(1)
    source, model = factory("resnet8")(10, 1), factory("resnet8")(10, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = saved(kind, source.state_dict(), folder)
    try:
        load_weights(model, path)
    except LissomError as error:
        assert path in str(error) and len(str(error).splitlines()) == 1  # noqa: PT017
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), (
            "nothing may be loaded"
        )
        return source, model, str(error)
    return source, model, None


@pytest.mark.parametrize(
    "kind", ["whole", "wrapped", "without counts", "safetensors", "data parallel"]
)
def test_weights_that_fit_are_loaded(tmp_path: Path, kind: str) -> None:
    source, model, said = tried(kind, tmp_path)
    assert said is None
    wanted = source.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "does not fit; nothing was loaded. missing from the file (1): head.bias"),
        ("extra", "nothing was loaded. not in the network (1): tail.bias"),
        ("shapes", "other shapes (1): head.bias: (3,) in the file, (10,) in the network"),
        ("nothing", "missing from the file (47): stem.weight, "),
        ("prefixed", "not in the network (56): net.stem.weight, "),
        ("a list", "is not a state dict: names with tensors"),
        ("numbers", "is not a state dict"),
        ("names that are numbers", "weights: "),
        ("an object", "holds more than tensors and would run code"),
        ("a network", "holds more than tensors and would run code"),
        ("code", "weights: "),
        ("a plain pickle", "weights: "),
        ("text", "weights: "),
        ("cut early", "cannot be read"),
        ("cut late", "cannot be read"),
        ("empty", "cannot be read"),
        ("cut early safetensors", "cannot be read"),
        ("cut late safetensors", "cannot be read"),
        ("empty safetensors", "cannot be read"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(
    tmp_path: Path, kind: str, said: str
) -> None:
    found = tried(kind, tmp_path)[2]
    assert found is not None and said in found


def test_a_weight_file_that_is_not_there_is_refused_when_the_task_is_made(
    data: Data, tmp_path: Path
) -> None:
    for path in (tmp_path / "gone.pt", tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(LissomError, match="cannot be read"):
            Task.of("resnet8", data, weights=str(path))


def test_weights_saved_from_data_parallel_are_those_of_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save(nn.DataParallel(one).state_dict(), tmp_path / "w.pt")
    load_weights(other, str(tmp_path / "w.pt"))
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def test_a_task_with_weights_builds_that_network_under_a_key_of_its_own(
    data: Data, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    state = factory("resnet8")(10, 1).state_dict()
    path = saved("safetensors", state, tmp_path)
    task = Task.of("resnet8", data, weights=path)
    assert torch.equal(task.fresh(0).head.weight, state["head.weight"]) and torch.equal(
        task.fresh(5).head.weight, state["head.weight"]
    )
    before = task.root(0)
    assert before != Task.of("resnet8", data).root(0)
    saved("safetensors", {**state, "head.bias": torch.ones(10)}, tmp_path)
    assert Task.of("resnet8", data, weights=path).root(0) != before


def test_a_teacher_is_the_same_kind_of_network_or_another(data: Data, tmp_path: Path) -> None:
    torch.manual_seed(1)
    path = saved("safetensors", factory("resnet8")(10, 1).state_dict(), tmp_path)
    assert len(teacher_from(path, Task.of("resnet8", data)).blocks) == 3
    assert len(teacher_from(f"resnet8={path}", Task.of("resnet14", data)).blocks) == 3
    with pytest.raises(LissomError, match="does not fit"):
        teacher_from(path, Task.of("resnet14", data))


# own tasks

OWN = """
import torch
from torch import nn
from lissom import Data, Task
from lissom.data.split import Images

part = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)
data = Data("own", part, part, part, ("a", "b"), 1, (8, 8), (0.5,), (0.25,), False, "own")

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

task = Task(net, data, "mine", metrics={"share": lambda outputs, labels: 0.5})

def make():
    return Task(net, data)

def raises():
    raise ValueError("no data")

def number():
    return 3

three = 3
"""


def test_an_own_task_is_an_object_or_what_makes_one(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    task, made = own_task(f"{tmp_path}/own.py:task"), own_task(f"{tmp_path}/own.py:make")
    examine(task)
    examine(made)
    assert task.name == "mine" and list(task.metrics) == ["share"] and made.name == "model"
    assert task.spec == {"task": f"{tmp_path}/own.py:task"}
    assert build_from(task.spec, "here", trusted=True)[1].out_features == 2
    assert task.root(0) != made.root(0) and task.root(0) == own_task(
        f"{tmp_path}/own.py:task"
    ).root(0)
    (tmp_path / "own.py").write_text(OWN + "# changed\n")
    assert task.root(0) != own_task(f"{tmp_path}/own.py:task").root(0)


def test_an_own_task_that_another_module_holds_has_one_key_however_often_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "place_of_a_task.py").write_text(OWN)
    (tmp_path / "own.py").write_text("from place_of_a_task import task\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert own_task(f"{tmp_path}/own.py:task").root(0) == own_task(f"{tmp_path}/own.py:task").root(
        0
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("own.py:raises", "raised ValueError: no data"),
        ("own.py:number", "expected a lissom.Task in "),
        ("own.py:three", "expected a lissom.Task in own.py:three, got an int"),
        ("own.py:tasks", "has no 'tasks'; did you mean 'task'"),
        ("gone.py:task", "there is no file"),
        ("own:task", "expected file.py:name"),
        ("own.py", "expected file.py:name"),
        ("", "expected file.py:name"),
    ],
)
def test_an_own_task_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, said: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LissomError, match=r"^task: ") as caught:
        own_task(spec)
    assert said in str(caught.value)


# labels, splits, losses and metrics of one's own


class Loader:
    """A split as the docs say: labels, __len__ and batches, nothing else."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self)) if order is None else order
        for part in order.split(size):
            yield self.pixels[part].to(device), self.labels[part].to(device)


def two_stripes(count: int, seed: int) -> Loader:
    """Return noise with a bright left half, top half, both or neither; the labels (n 2) say which."""
    draw = torch.Generator().manual_seed(seed)
    pixels, labels = (
        torch.randint(0, 60, (count, 1, 8, 8), generator=draw),
        torch.randint(0, 2, (count, 2), generator=draw),
    )
    pixels[:, :, :, :4] += 90 * labels[:, 0, None, None, None]
    pixels[:, :, :4] += 90 * labels[:, 1, None, None, None]
    return Loader(pixels.byte(), labels.float())


def bce(_: nn.Module, batch: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(batch.outputs, batch.labels)


def both_right(outputs: Tensor, labels: Tensor) -> float:
    return float(((outputs > 0).float() == labels).all(1).double().mean())


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64, 2),
    )


def striped(**changes: Any) -> Task:
    """Return a task of two labels for each image, with a split, loss and score of its own, and with
    changes.
    """
    parts = {
        name: changes.pop(name, two_stripes(count, seed))
        for seed, (name, count) in enumerate((("train", 256), ("valid", 64), ("test", 64)))
    }
    data = Data(
        "stripes",
        **parts,
        classes=("left", "top"),
        channels=1,
        size=(8, 8),
        mean=(0.3,),
        std=(0.2,),
        flip=False,
        fingerprint="stripes",
    )
    return Task(
        changes.pop("build", net), data, **{"loss": bce, "metrics": {"both": both_right}, **changes}
    )


def of_no_kind() -> dict[str, Images]:
    """Return splits whose labels are grids of grids of whole numbers."""
    labels = torch.full((4, 2, 2, 2), 3)
    split = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), labels)
    return dict.fromkeys(("train", "valid", "test"), split)


def test_several_labels_for_each_image_are_learned_quantized_measured_and_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, task = Store(tmp_path), striped()
    (record,) = run(
        "train(4, batch=16) | prune(0.5) | train(1) | quantize(8)",
        task,
        store,
        targets="onnxruntime",
    )
    assert record["scores"]["test"]["both"] > 0.9 and list(record["scores"]["test"]) == ["both"]
    file = record["targets"]["onnxruntime"]
    assert file["both"] > 0.9 and file["agreement"] is None, (
        "the largest of several labels is no answer"
    )
    assert [row["top1"] for row in store.log(record["before"])] == [None]
    explained = Explainer(task, store, record["key"])
    monkeypatch.setattr("lissom.commands.try_remedies.remedies", lambda *_: [])
    found = explained.findings(targets_of("onnxruntime"), 32)
    (tried,) = try_remedies(explained, found, targets_of("onnxruntime"), CPU)
    assert tried["failed"] is None and tried["targets"]["onnxruntime"]["score"] == file["both"]
    print_explanation({**found, "tried": [tried]})


def test_a_part_of_a_split_of_ones_own_is_its_images_in_that_order() -> None:
    whole = two_stripes(10, 0)
    part = evenly_spaced(whole, 4)
    pixels, labels = next(part.batches(9, CPU, torch.tensor([3, 0])))
    assert (
        len(part) == 4
        and torch.equal(pixels, whole.pixels[[7, 0]])
        and torch.equal(labels, whole.labels[[7, 0]])
    )
    assert torch.equal(part.labels, whole.labels[[0, 2, 5, 7]])


class Unordered(Loader):
    def batches(
        self, size: int, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        yield from super().batches(size, device, None if order is None else order.sort().values)


class Unready(Loader):
    def batches(self, size: int, device: torch.device) -> Iterator[Any]:  # type: ignore[override]
        yield from ()


class Lengthless:
    labels = torch.zeros(4)


def loader(
    kind: type[Loader] = Loader,
    images: int = 8,
    labels: int | None = None,
    size: int = 8,
    top: int = 2,
) -> Loader:
    return kind(
        torch.zeros(images, 1, size, size, dtype=torch.uint8), torch.arange(labels or images) % top
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"valid": Lengthless()},
            "data stripes: the valid split, a Lengthless, has no __len__; a split has labels",
        ),
        ({"test": torch.zeros(3)}, "the test split, a Tensor, has no batches"),
        ({"train": loader(Unready)}, "the train split: batches(2, device, order) raised TypeError"),
        ({"train": loader(Unordered)}, "the train split: batches gave other labels for `order`"),
        (
            {"test": loader(size=4)},
            "the test split: batches gave images of shape (8, 1, 4, 4) for 8 indices; (8, 1, 8, 8)",
        ),
        ({"valid": two_stripes(0, 0)}, "the valid split is empty"),
        (
            {"test": Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(0).long())},
            "the test split is empty",
        ),
        (
            {"loss": None, **of_no_kind()},
            "its labels, (4, 2, 2, 2) int64 in the train split, are of no kind of task (classify, "
            "detect, multilabel, regress, segment, tag); Task(loss=...)",
        ),
        ({"metrics": {}, **of_no_kind()}, "are of no kind of task"),
        (
            {
                "loss": None,
                "metrics": {},
                **{name: loader(top=3) for name in ("train", "valid", "test")},
            },
            "the train split: classify: expected targets from 0 to 1, got 0 to 2",
        ),
        (
            {"build": lambda: Pair(), "loss": None},
            "outputs: expected one tensor, or several of which one is called logits or out, got "
            "(2, 1, 8, 8), (2, 1, 8, 8); which of others",
        ),
        (
            {"build": lambda: Chosen()},
            "it returns (1, 1, 8, 8) for 2 images; expected a tensor, batch first, or a tuple or dict",
        ),
        (
            {"loss": lambda _, batch: F.cross_entropy(batch.outputs, batch.labels[:, :1])},
            "its loss raised ",
        ),
        (
            {"loss": lambda _, batch: batch.outputs - batch.labels},
            "its loss returns (2, 2) for a batch; a tensor of one number",
        ),
        (
            {"metrics": {"f1": lambda outputs, labels: outputs @ labels}},
            "its metric 'f1' raised RuntimeError",
        ),
        (
            {"metrics": {"f1": lambda outputs, labels: outputs == labels}},
            "its metric 'f1' returns a Tensor; a number is wanted",
        ),
    ],
)
def test_what_does_not_fit_of_an_own_task_is_refused_before_anything_runs(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(LissomError) as caught:
        examine(striped(**changes))
    assert said in str(caught.value)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"one": x, "two": x}


class Chosen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:1]


def test_a_network_may_answer_with_a_tensor_of_any_shape_if_loss_and_metrics_take_it() -> None:
    def loss(_: nn.Module, batch: Any) -> Tensor:
        return batch.outputs.mean((1, 2, 3)).sub(batch.labels[:, 0]).square().mean()

    examine(
        striped(
            build=lambda: nn.Conv2d(1, 2, 3),
            loss=loss,
            metrics={"size": lambda outputs, _: outputs.shape[-1]},
        )
    )


def test_what_a_network_from_elsewhere_is_shown_is_said_wherever_its_numbers_are(
    tmp_path: Path, data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    path = saved("safetensors", factory("resnet8")(10, 1).state_dict(), tmp_path)
    task, store, said = (
        Task.of("resnet8", data, weights=path),
        Store(tmp_path / "store"),
        list[str](),
    )
    (note,) = task.notes()
    assert note.startswith(
        f"{path} was trained elsewhere; images are seen through resize(8, width=8) | normalize("
    )
    assert not Task.of("resnet8", data).notes()
    (record,) = run("quantize(8)", task, store, say=said.append)
    assert said.count(f"note: {note}") == 1 and note in record["task"]["notes"]
    print_record(record)
    assert f"note: {note}" in capsys.readouterr().out
    assert Explainer(task, store, record["key"]).findings([], 8)["said"][0] == f"{note}."
    print_inspection(inspect_network(task.fresh(), task, Prune(0.5)))
    assert f"note: {note}" in capsys.readouterr().out
    write_report([], store, tmp_path / "report.html")
    held = re.search(r'id="data">(.*?)<', (tmp_path / "report.html").read_text())
    assert held is not None and note in decompressed(held[1])


def test_a_builder_is_called_with_arguments(data: Data, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n"
        "def make(num_classes, width=4, act='relu', sizes=(1, 2)):\n"
        "    assert sizes == (3, 4) and act == 'gelu'\n"
        "    return nn.Sequential(nn.Conv2d(1, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(width, num_classes))\n"
    )
    wanted = {"width": 7, "act": "gelu", "sizes": (3, 4)}
    task = Task.of(f"{path}:make", data, arguments=wanted)
    assert task.fresh()[0].out_channels == 7  # type: ignore[index]
    assert task.root(0) != Task.of(f"{path}:make", data, arguments={**wanted, "width": 8}).root(0)
    store = Store(tmp_path / "store")
    (record,) = run("prune(0.5, floor=0.1, multiple=1)", task, store)
    assert load_key(record["key"], store)[0].out_channels < 7  # type: ignore[index]
    with pytest.raises(LissomError, match=r"there is no argument 'widht'; did you mean 'width'"):
        Task.of(f"{path}:make", data, arguments={"widht": 8})


def test_arguments_of_an_entry_that_nobody_signed_are_not_used(tmp_path: Path) -> None:
    build = {"model": "torchvision:resnet18", "num_classes": 3, "weights": "DEFAULT"}
    assert chosen_arguments(build) == ["weights"]
    with pytest.raises(
        LissomError, match="would build its network with weights, and nothing shows"
    ):
        build_from(build, str(tmp_path), "torchvision:resnet18")
    made = build_from(
        {"model": "torchvision:resnet18", "num_classes": 3, "norm_layer": None},
        "here",
        trusted=True,
    )
    assert made.fc.out_features == 3  # type: ignore[union-attr]


def test_published_weights_are_named_for_libraries_only(data: Data) -> None:
    assert is_published("DEFAULT", "torchvision:resnet18")
    assert is_published("IMAGENET1K_V2", "torchvision:resnet50")
    assert not is_published("DEFAULT", "resnet20") and not is_published("a.pth", "timm:resnet18")
    assert published_argument("timm:resnet18", "DEFAULT") == {"pretrained": True}
    with pytest.raises(LissomError, match="expected DEFAULT, got IMAGENET1K_V1"):
        published_argument("timm:resnet18", "IMAGENET1K_V1")
    task = Task.of("torchvision:resnet18", data, weights="DEFAULT")
    assert task.spec["weights"] == "IMAGENET1K_V1" and task.weights == "DEFAULT"


def test_weights_that_cannot_be_downloaded_are_one_line() -> None:
    def build() -> nn.Module:
        raise URLError("no such host")

    with pytest.raises(
        LissomError, match=r"cannot be downloaded \(no such host\); expected a network"
    ):
        Task(build, Data.of("digits")).fresh()


def test_weights_among_the_arguments_of_a_builder_count_as_trained(data: Data) -> None:
    name = "torchvision:resnet18"
    assert not Task.of(name, data).trained
    assert not Task.of(name, data, arguments={"weights": None}).trained
    assert Task.of(name, data, arguments={"weights": "DEFAULT"}).trained


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_resnet50_fpn"])
@pytest.mark.parametrize("by", ["weights", "arguments"])
def test_published_detectors_know_cocos_ids_from_1_on(name: str, by: str) -> None:
    pixels = torch.zeros(12, 3, 64, 64, dtype=torch.uint8)
    boxes = torch.tensor([[[4.0, 4, 20, 20, 17]]]).repeat(12, 1, 1)
    model = f"torchvision:{name}"
    more: Any = {"weights": "DEFAULT"} if by == "weights" else {"arguments": {"weights": "DEFAULT"}}
    more["kind"] = 'detect(scores="softmax")'
    ids = [str(k) for k in range(1, 91)]
    for classes in (91, 90, ["cat"]):
        own = replace(Data.of_dataset((pixels, boxes), classes=classes), name="coco:x")
        with pytest.raises(LissomError, match=r"knows 90 classes, .* 1 to 90, .* --classes FILE"):
            Task.of(model, own, **more)
        Task.of(model, own, kind=more["kind"])
    task = Task.of(model, Data.of_dataset((pixels, boxes), classes=ids), **more)
    assert task.spec["num_classes"] == 90
    # the logits of 90 classes and the background, as torchvision's own 91
    built = factory_of(model)[0](num_classes=90)
    shapes = {name: tensor.shape for name, tensor in torchvisions_own(name).state_dict().items()}
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == shapes


def torchvisions_own(name: str) -> nn.Module:
    """torchvision's own detector of 91 classes, untrained."""
    return get_model_builder(name)(weights=None, weights_backbone=None, num_classes=91)


@pytest.mark.parametrize("value", [nn.GELU, float("nan"), {1}])
def test_arguments_that_no_entry_can_hold_are_refused_at_once(value: Any) -> None:
    with pytest.raises(LissomError, match=r"its argument act is stored as JSON: expected .* got "):
        Task.of("timm:resnet18", Data.of("digits", size=(8, 8)), arguments={"act": value})
