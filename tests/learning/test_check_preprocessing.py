"""A network with pretrained weights is not measured with guessed preprocessing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lissom import Data, LissomError, Recipe, Task
from lissom.learning.check_preprocessing import check_data_for, try_preprocessings


class Bright(nn.Module):
    """Call an image 1 where its numbers, as 0 to 255, are above 100 in the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.border = nn.Parameter(torch.tensor(100.0))

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean((1, 2, 3))[:, None] - self.border
        return torch.cat([-brightness, brightness], 1)


def bright_pictures(folder: Path, side: int = 64) -> None:
    """Write images of noise in two classes: around 60 and around 140."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 5)):
        for name, low in (("dark", 20), ("light", 100)):
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(low, low + 80, (side, side + 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{k}.png")


@pytest.fixture
def trained(tmp_path: Path) -> tuple[str, str]:
    """A folder of data and a file of weights."""
    bright_pictures(tmp_path / "photos")
    save_file(Bright().state_dict(), tmp_path / "w.safetensors")
    return f"folder:{tmp_path / 'photos'}", str(tmp_path / "w.safetensors")


def brought(data: Data, weights: str) -> Task:
    task = Task.of("resnet8", data)
    task.build = Bright
    task.weights = weights
    return task


def test_the_preprocessing_that_fits_best_is_named_and_asked_for(trained: tuple[str, str]) -> None:
    name, weights = trained
    task = brought(Data.of(name, size=(64, 64)), weights)
    with pytest.raises(LissomError, match="nobody said how the network sees images") as caught:
        check_data_for(task, [Recipe("quantize(8)")])
    found = re.search(r"--preprocess '([^']*)' fits best: top1 (\d\.\d+)", str(caught.value))
    assert found is not None
    assert found[1].endswith("| scale(255)") and float(found[2]) == 1.0
    assert not check_data_for(brought(Data.of(name, preprocess=found[1]), weights), [])


def test_what_fits_as_well_with_the_middle_cut_out_is_tried_too(trained: tuple[str, str]) -> None:
    name, weights = trained
    texts = list(try_preprocessings(brought(Data.of(name, size=(64, 64)), weights)))
    assert "resize(64, width=64) | scale(1)" in texts and len(texts) == 6
    assert texts[-1] == "resize(73) | center_crop(64) | scale(255)"
    digits = Task.of("resnet8", Data.of("digits"))
    assert len(try_preprocessings(digits)) == 4  # gray and small


def test_a_network_that_is_trained_here_sees_the_data_as_they_are(trained: tuple[str, str]) -> None:
    data = Data.of(trained[0], size=(64, 64))
    assert check_data_for(Task.of("resnet8", data), [Recipe("train(1)")]) == []
    own = Task(Bright, data)
    assert check_data_for(own, [Recipe("train(1) | prune(0.5)")]) == []
    (note,) = check_data_for(own, [Recipe("prune(0.5)")])
    assert "--preprocess says what is right" in note
    assert (
        check_data_for(Task(Bright, Data.of(trained[0], preprocess="data")), [Recipe("fold")]) == []
    )


def test_what_learns_needs_training_images(tmp_path: Path) -> None:
    bright_pictures(tmp_path, 8)
    (tmp_path / "train").rename(tmp_path / "valid")
    task = Task.of("resnet8", Data.of(f"folder:{tmp_path}", preprocess="data"))
    assert check_data_for(task, [Recipe("prune(0.5) | quantize(8)")]) == []
    with pytest.raises(
        LissomError, match=r"train\(1\): it learns, and folder:.* no training images"
    ):
        check_data_for(task, [Recipe("fold"), Recipe("quantize(8) | train(1)")])
