"""Users' own data sets work unchanged: Datasets, DataLoaders, tensors, lists."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lissom import Data, LissomError
from lissom.tasks.datasets import own_data

X = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 4
CPU = torch.device("cpu")


class Map(Dataset[Any]):
    """A data set with places, and no list of its targets."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return X[place], int(Y[place])


class Stream(IterableDataset[Any]):
    """A data set without places."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield from ((X[k], int(Y[k])) for k in range(40))


class Named(Map):
    """A data set with a list of its targets."""

    targets = Y.tolist()


def flipped(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return torch.stack([x.flip(2) for x, _ in samples]), torch.tensor([y for _, y in samples])


FORMS: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: [X.numpy(), Y.numpy()],
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Dataset": Map,
    "Dataset with targets": Named,
    "list": lambda: [(X[k], int(Y[k])) for k in range(40)],
    "list of arrays": lambda: [(X[k].numpy(), int(Y[k])) for k in range(40)],
    "DataLoader": lambda: DataLoader(Map(), batch_size=7, shuffle=True),
    "stream": Stream,
    "DataLoader of a stream": lambda: DataLoader(Stream(), batch_size=7),
}


def everything(split: Any) -> tuple[Tensor, Tensor]:
    batches = list(split.batches(16, CPU))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_the_same_samples_is_the_same_data(form: str) -> None:
    data = Data.of_dataset(FORMS[form](), train=FORMS[form]())
    assert data.shape == (3, 8, 8) and data.classes == ("0", "1", "2", "3")
    assert (len(data.train), len(data.valid), len(data.test)) == (36, 4, 40)
    inputs, targets = everything(data.test)
    assert torch.equal(inputs, X) and torch.equal(targets, Y)
    assert torch.equal(data.normalised(inputs), X) and data.stated
    assert torch.equal(data.test.labels, Y)
    order = torch.tensor([9, 0, 33])
    assert torch.equal(next(iter(data.test.batches(5, CPU, order)))[0], X[order])
    again = Data.of_dataset(FORMS[form](), train=FORMS[form]())
    assert data.fingerprint == again.fingerprint
    assert data.preprocessing() == {"preprocess": "as given", "classes": ["0", "1", "2", "3"]}


def test_a_loader_batches_as_it_says() -> None:
    data = Data.of_dataset(DataLoader(Map(), batch_size=7, collate_fn=flipped))
    inputs, _ = everything(data.test)
    assert any(torch.equal(inputs[0], x.flip(2)) for x in X)


def test_without_training_data_a_fifth_of_the_test_set_is_set_apart() -> None:
    data = Data.of_dataset((X, Y))
    assert (len(data.train), len(data.valid), len(data.test)) == (0, 8, 32)
    shown = {x.numpy().tobytes() for x in torch.cat(data.calibration(100))}
    judged = {x.numpy().tobytes() for x in everything(data.test)[0]}
    assert len(shown) == 8 and not shown & judged


def test_other_samples_are_other_data() -> None:
    changed = X.clone()
    changed[0] += 1
    prints = {
        Data.of_dataset((x, y)).fingerprint
        for x, y in ((X, Y), (changed, Y), (X[:39], Y[:39]), (X.half(), Y), (X, Y.flip(0)))
    }
    assert len(prints) == 5


def test_class_names_that_the_user_states_are_part_of_what_data_are() -> None:
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    plain = Data.of_dataset((x, y))
    named = Data.of_dataset((x, y), classes=("yes", "no"))
    others = Data.of_dataset((x, y), classes=("no", "yes"))
    assert len({data.fingerprint for data in (plain, named, others)}) == 3
    assert named.fingerprint == Data.of_dataset((x, y), classes=["yes", "no"]).fingerprint


def test_pictures_are_seen_through_the_preprocessing() -> None:
    draw = np.random.default_rng(0)
    arrays = draw.integers(0, 256, (20, 6, 9, 3), dtype=np.uint8)
    pictures = [(Image.fromarray(array), k % 2) for k, array in enumerate(arrays)]
    data = Data.of_dataset(pictures, preprocess='center_crop(4) | normalize("half")')
    assert data.shape == (3, 4, 4) and not data.as_given and data.mean == (0.5,) * 3
    inputs, _ = everything(data.test)
    crops = {array[1:5, 2:6].transpose(2, 0, 1).tobytes() for array in arrays}
    assert {x.numpy().tobytes() for x in inputs} < crops
    pixels = torch.from_numpy(arrays.transpose(0, 3, 1, 2).copy())
    measured = Data.of_dataset((pixels, torch.arange(20) % 2))
    assert not measured.stated and 0.4 < measured.mean[0] < 0.6


def test_a_series_is_no_picture() -> None:
    data = Data.of_dataset((torch.randn(20, 5, 100), torch.arange(20) % 3))
    assert data.shape == (5, 100) and data.example(2).shape == (2, 5, 100)


def test_targets_that_are_not_counted_from_0_are_told() -> None:
    (_, note) = Data.of_dataset((X, Y + 1)).notes
    assert "no target is 0" in note and len(Data.of_dataset((X, Y)).notes) == 1


def test_targets_may_be_numbers() -> None:
    data = Data.of_dataset((X, torch.randn(40)))
    assert data.classes == () and data.test.labels.is_floating_point()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "expected a Dataset, a DataLoader, a pair of tensors .*; got an int"),
        ((X, Y[:3]), "as many targets as inputs, got 3 and 40"),
        ([X[0], X[1], X[2]], r"expected samples \(input, target\), got \(3, 8, 8\) float32"),
        ([("a.png", 1)] * 9, "expected an input that is a tensor, an array or an image, got str"),
        ((torch.randn(40), Y), "got single numbers"),
        (torch.utils.data.TensorDataset(X, X, Y), r"got 3 parts, .* \(\(a, b\), target\)"),
        ([(X[k, :, : 4 + k % 2], 1) for k in range(40)], "reading it raised .*stack .*pad samples"),
        ([(X[k], "ab"[k % 2]) for k in range(40)], "words become numbers first"),
        ([((X[k], "a"), 1) for k in range(40)], "expected an input that is a tensor, .* got str"),
    ],
)
def test_samples_of_another_form_are_refused(given: Any, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        Data.of_dataset(given)


def test_numbers_are_not_preprocessed() -> None:
    with pytest.raises(LissomError, match=r"which are taken as they are; preprocess is .*forward"):
        Data.of_dataset((X, Y), preprocess="imagenet")


def test_a_stream_that_is_too_large_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.data.own.MAX_BYTES_IN_MEMORY", 1000)
    with pytest.raises(LissomError, match="a stream is held in memory, and this one is larger"):
        Data.of_dataset(Stream())


# file.py:name

CODE = """
import torch
from torch.utils.data import DataLoader, TensorDataset
x, y = torch.randn(30, 3, 8, 8), torch.arange(30) % 3
one = TensorDataset(x, y)
two = (one, DataLoader(one, batch_size=4))
three = [one, one, one]
named = {"train": one, "val": one, "test": one}
valid = {"train": one, "val": one}
wrong = {"tarin": one}
tensors = (x, y)
def make():
    return two
def fails():
    raise ValueError("no disk")
def nothing():
    return None
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "loaders.py").write_text(CODE)
    return str(tmp_path / "loaders.py")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("one", (22, 2, 6)),
        ("tensors", (22, 2, 6)),
        ("two", (27, 3, 30)),
        ("make", (27, 3, 30)),
        ("three", (30, 30, 30)),
        ("named", (30, 30, 30)),
        ("valid", (27, 3, 30)),
    ],
)
def test_code_gives_data_in_any_form(code: str, name: str, sizes: tuple[int, int, int]) -> None:
    data = own_data(f"{code}:{name}", classes="5")
    assert (len(data.train), len(data.valid), len(data.test)) == sizes
    assert len(data.classes) == 5 and data.name == f"{code}:{name}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong", "expected train, valid, test, got 'tarin'; did you mean 'train'"),
        ("fails", "raised ValueError: no disk"),
        ("nothing", "expected a Dataset, a DataLoader"),
        ("othr", "has no 'othr'"),
    ],
)
def test_code_that_gives_no_data_is_refused(code: str, name: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        own_data(f"{code}:{name}")


# what a loader or a set says of itself is believed only where it is so


def test_a_loader_of_some_samples_is_a_split_of_these() -> None:
    train = DataLoader(Map(), batch_size=8, sampler=SubsetRandomSampler(list(range(30))))
    test = DataLoader(Map(), batch_size=8, sampler=SubsetRandomSampler(list(range(30, 40))))
    data = Data.of_dataset(test, train=train)
    learned = {x.numpy().tobytes() for x in everything(data.train)[0]}
    judged = {x.numpy().tobytes() for x in everything(data.test)[0]}
    assert len(judged) == 10 and not learned & judged and len(data.train) + len(data.valid) == 30
    for odd in (
        DataLoader(Map(), sampler=WeightedRandomSampler([1.0] * 40, 40)),
        DataLoader(Map(), sampler=RandomSampler(Map(), replacement=True)),
        DataLoader(Map(), batch_sampler=[[0, 1], [5]]),
    ):
        with pytest.raises(LissomError, match=r"cannot tell which samples .*Subset\(dataset"):
            Data.of_dataset(odd)


def test_any_sample_that_lies_in_a_tensor_is_part_of_what_data_are() -> None:
    prints = {Data.of_dataset((X, Y)).fingerprint, Data.of_dataset((X, Y), flip=True).fingerprint}
    for place in (1, 17):
        inputs, targets = X.clone(), Y.clone()
        inputs[place] += 1
        prints.add(Data.of_dataset((inputs, Y)).fingerprint)
        targets[place] = (targets[place] + 1) % 4
        prints.add(Data.of_dataset((X, targets)).fingerprint)
    assert len(prints) == 6


class Varied(Map):
    """A data set whose transform draws from every generator there is."""

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        drawn = random.random() + float(np.random.rand()) + float(torch.rand(()))
        return X[place] + drawn, int(Y[place])


def test_transforms_that_draw_do_not_make_other_data_of_it() -> None:
    torch.manual_seed(1)
    first = Data.of_dataset(Varied())
    after = torch.rand(())
    torch.manual_seed(1)
    random.seed(5)
    assert Data.of_dataset(Varied()).fingerprint == first.fingerprint
    assert torch.rand(()) == after, "as if nothing had been drawn"
    one, two = (everything(first.test)[0] for _ in range(2))
    assert not torch.equal(one, two), "they vary still"


class Noisy(Map):
    """A data set whose transform draws from PyTorch's generator."""

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return torch.rand(3, 8, 8), int(Y[place])


def test_workers_draw_anew_for_each_order_and_alike_in_each_run() -> None:
    split: Any = Data.of_dataset(DataLoader(Noisy(), num_workers=1)).test
    order = torch.arange(len(split))
    one, again, other = (
        torch.cat([x for x, _ in split.batches(16, CPU, given)])
        for given in (order, order, order.flip(0))
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


class Renamed(Map):
    """A data set whose list of targets is from before they were renamed."""

    targets = (Y + 2).tolist()


def test_targets_that_samples_do_not_have_are_not_believed() -> None:
    data = Data.of_dataset(Renamed())
    assert len(data.classes) == 4 and int(data.test.labels.max()) < 4


class Halves(Map):
    """A data set whose list holds whole numbers, and whose samples are a half more."""

    targets = Y.tolist()

    def __getitem__(self, place: int) -> Any:
        x, y = super().__getitem__(place)
        return x, y + 0.5


def test_targets_that_are_rounded_in_the_list_are_not_believed() -> None:
    labels = Data.of_dataset(Halves()).test.labels
    assert labels.is_floating_point() and bool((labels % 1 == 0.5).all())


def test_pictures_in_tensors_are_seen_through_the_preprocessing() -> None:
    pixels = torch.randint(0, 256, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    labels = torch.arange(20) % 2
    data = Data.of_dataset((pixels, labels), preprocess='center_crop(4) | bgr | normalize("half")')
    assert data.shape == (3, 4, 4)
    inputs, _ = everything(data.test)
    crops = {x.numpy().tobytes() for x in pixels[:, [2, 1, 0], 2:6, 2:6].contiguous()}
    assert {x.numpy().tobytes() for x in inputs} < crops
    gray = Data.of_dataset((pixels[:, :1], labels), preprocess="resize(6, 6) | scale(255)")
    assert gray.shape == (1, 6, 6)


def test_numbers_of_numpy_become_those_of_the_network() -> None:
    data = Data.of_dataset((X.double().numpy(), Y.numpy()))
    assert everything(data.test)[0].dtype == torch.float32


def failing() -> Iterator[tuple[Tensor, int]]:
    raise ValueError("no disk")


class Failing(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return failing()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: {"test": None}, "expected something to test on, got None"),
        (lambda: {"test": (X[:0], Y[:0])}, "the valid split is empty"),
        (lambda: {"test": (X[:1], Y[:1])}, "split is empty; more samples are needed"),
        (
            lambda: {"test": (torch.zeros(20, 8, 8).byte(), torch.arange(20))},
            r"expected images \(c h w\) of 1 or 3 channels, .*inputs\[:, None\]",
        ),
        (
            lambda: {"test": ((X * 99).byte(), Y), "train": (X, Y)},
            r"inputs of one shape and type in all splits, got \(3, 8, 8\) float32 beside .*uint8",
        ),
        (lambda: {"test": Map}, "got the class Map: call it"),
        (lambda: {"test": Failing()}, "reading it raised no disk|reading it raised ValueError"),
    ],
)
def test_what_else_is_no_data_is_said(given: Callable[[], Any], said: str) -> None:
    with pytest.raises(LissomError, match=said):
        Data.of_dataset(**given())


def test_code_that_changes_is_other_data(tmp_path: Path) -> None:
    path = tmp_path / "loaders.py"
    path.write_text(CODE)
    first = own_data(f"{path}:one").fingerprint
    path.write_text(CODE + "\n# another line\n")
    assert own_data(f"{path}:one").fingerprint != first
    path.write_text("from lissom import Data\nmade = Data.of('digits')\n")
    assert own_data(f"{path}:made").name == "digits"
    with pytest.raises(LissomError, match=r"--classes: .*is a lissom.Data, which says its own"):
        own_data(f"{path}:made", classes="5")


def test_targets_that_are_all_negative_are_refused() -> None:
    with pytest.raises(LissomError, match=r"data own: every target is negative, at most -1; .*0"):
        Data.of_dataset((X, torch.full((40,), -1)))
