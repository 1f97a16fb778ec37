"""Images without labels get the predictions of the user's network as targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import lissom
from lissom import Data, LissomError, Store, Task
from lissom.learning.examine import examine
from lissom.models import factory

NET = """
from lissom.models import factory

def make(num_classes=7, in_channels=3):
    return factory("resnet8")(num_classes, in_channels)

def pictures():
    from torch import nn
    return nn.Conv2d(3, 3, 3)

def narrow():
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(7, 2))

def faces():
    from torch import nn

    class Faces(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            self.boxes, self.odds = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 3, 1)

        def forward(self, x):
            x = self.body(x)
            return self.boxes(x), self.odds(x).softmax(1)

    return Faces()
"""

KIND = """
from lissom.kinds.classify import Classify

class Face(Classify):
    def answer(self, outputs):
        return outputs[1].flatten(1).log()

class Wrong(Classify):
    def answer(self, outputs):
        return outputs[7]

class Flat(Face):
    def answer(self, outputs):
        return outputs[1].flatten()

class Loss(Face):
    def loss(self, outputs, targets, smoothing=0.0):
        return gone

class Number(Face):
    def loss(self, outputs, targets, smoothing=0.0):
        return 3.0

class Counts(Face):
    def tally(self, classes):
        return {}
"""


@pytest.fixture
def brought(tmp_path: Path) -> tuple[str, str, Path]:
    """A folder of images in folders, code that builds a network, and weights of it."""
    draw = np.random.default_rng(0)
    for k in range(40):
        folder = tmp_path / "pictures" / ("a" if k % 3 else "b/c")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 6 * k + 10, (16, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("no image")
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(3)
    save_file(factory("resnet8")(7, 3).state_dict(), tmp_path / "net.safetensors")
    return f"images:{tmp_path / 'pictures'}", f"{tmp_path / 'net.py'}:make", tmp_path


def test_fidelity_takes_the_place_of_accuracy(brought: tuple[str, str, Path]) -> None:
    name, model, root = brought
    data = Data.of(name, preprocess='center_crop(16) | normalize("half")')
    assert data.unlabelled and (len(data.train), len(data.valid), len(data.test)) == (29, 3, 8)
    task = Task.of(model, data, weights=str(root / "net.safetensors"))
    assert len(task.data.classes) == 7 and not task.data.unlabelled
    network = task.fresh()
    for split in (task.data.train, task.data.valid, task.data.test):
        for pixels, labels in split.batches(100, torch.device("cpu")):
            with torch.no_grad():
                assert torch.equal(network(data.normalised(pixels)).argmax(1), labels)
    recipe = 'prune(0.2, multiple=1) | distill("kd", 1, batch=8, alpha=1) | quantize(8, samples=16)'
    one = len(task.data.test.labels.unique()) == 1
    assert one == any("the same answer" in note for note in task.data.notes)
    (record,) = lissom.run(recipe, task, Store(root / "store"), targets="onnxruntime")
    assert record["float"]["scores"]["test"] == {"fidelity": 1.0}
    assert 0 <= record["scores"]["test"]["fidelity"] <= 1


def test_labels_need_a_network_that_knows_something(brought: tuple[str, str, Path]) -> None:
    name, model, root = brought
    data = Data.of(name, preprocess="center_crop(16)")
    with pytest.raises(LissomError, match=r"has no labels, which a trained network has to give"):
        Task.of("resnet8", data)
    with pytest.raises(
        LissomError, match=r"expected outputs \(batch, classes\) for images without"
    ):
        Task.of(model.replace(":make", ":pictures"), data)
    with pytest.raises(LissomError, match=r"narrow: it raised RuntimeError: mat1 and mat2"):
        Task.of(model.replace(":make", ":narrow"), data)
    unsaid = Data.of(name)
    with pytest.raises(LissomError, match="without labels lissom cannot find out how the network"):
        Task.of(model, unsaid, weights=str(root / "net.safetensors"))


def test_a_kind_of_ones_own_says_which_output_is_the_answer(
    brought: tuple[str, str, Path],
) -> None:
    name, model, root = brought
    data = Data.of(name, preprocess='center_crop(16) | normalize("half")')
    model = model.replace(":make", ":faces")
    (root / "kind.py").write_text(KIND)
    with pytest.raises(LissomError, match=r"which of others is the answer, a kind of your own say"):
        Task.of(model, data)
    with pytest.raises(
        LissomError, match=r"--kind .*kind.py:Wrong raised IndexError: .*kind.py, l"
    ):
        Task.of(model, data, kind=f"{root / 'kind.py'}:Wrong")
    task = Task.of(model, data, kind=f"{root / 'kind.py'}:Face")
    pixels, labels = next(task.data.test.batches(100, torch.device("cpu")))
    with torch.no_grad():
        assert torch.equal(task.fresh()(data.normalised(pixels))[1].flatten(1).argmax(1), labels)
    recipe = 'prune(0.3) | distill("kd", 1, batch=8, alpha=0.5) | quantize(8, samples=16)'
    (record,) = lissom.run(recipe, task, Store(root / "store"), targets="onnxruntime")
    assert record["float"]["scores"]["test"] == {"fidelity": 1.0}
    file = record["targets"][
        "onnxruntime"
    ]  # agrees with the small network, more than with the given one
    assert (
        file["agreement"] == 1.0
        and abs(file["fidelity"] - record["scores"]["test"]["fidelity"]) < 0.13
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Wrong", "Wrong raised IndexError: tuple index out of range (kind.py, line"),
        (
            "Flat",
            "(batch, classes) = (6, 3) in training too, and its kind takes (6,) for the answer",
        ),
        ("Loss", "Loss raised NameError: name 'gone' is not defined (kind.py, line"),
        ("Number", "Number: expected a loss that is a tensor of one number, got float"),
        ("Counts", "Counts: expected a lissom.language.tally.Tally, got a dict"),
    ],
)
def test_a_kind_that_does_not_do_its_work_is_refused_before_anything_runs(
    brought: tuple[str, str, Path], name: str, said: str
) -> None:
    _, model, root = brought
    (root / "kind.py").write_text(KIND)
    draw = torch.Generator().manual_seed(0)
    samples = (torch.randn(30, 3, 16, 16, generator=draw), torch.arange(30) % 3)
    kind = f"{root / 'kind.py'}:{name}"
    task = Task.of(
        model.replace(":make", ":faces"), Data.of_dataset(samples, train=samples), kind=kind
    )
    with pytest.raises(LissomError) as caught:
        examine(task)
    assert said in str(caught.value)


def test_a_few_pictures_are_needed(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="holds 0 images; at least 10 are needed"):
        Data.of(f"images:{tmp_path}")
    with pytest.raises(LissomError, match="is not a folder"):
        Data.of("images:")


def test_large_sets_get_labels_too(
    brought: tuple[str, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, model, _ = brought
    whole = Task.of(model, Data.of(name, preprocess="center_crop(16)"))
    monkeypatch.setattr("lissom.data.reading.MAX_BYTES_IN_MEMORY", 100)
    lazy = Task.of(model, Data.of(name, preprocess="center_crop(16)"))
    assert torch.equal(whole.data.test.labels, lazy.data.test.labels)
    assert isinstance(whole.fresh(), nn.Module)
