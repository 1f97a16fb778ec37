"""Whether what a user brought is enough for a recipe: how pictures are seen, what is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..data.data import Data
from ..data.split import spread
from ..errors import LissomError
from ..language.preprocess import Preprocess
from ..language.recipe import Recipe
from ..tasks.task import Task
from .evaluate import network_answers, scored

NUMBERS = (
    'normalize("imagenet")',
    'normalize("half")',
    'normalize("data")',
    "scale(1)",
    "scale(255)",
)
TRIED = 500  # validation images
LEAST = 64  # pixels of a side from which on pictures are photos
MARGIN = 8 / 7  # of a picture's side over that of the usual crop: 256 over 224


def check_brought(task: Task, recipes: Sequence[Recipe]) -> list[str]:
    """Raise where recipes need what the task lacks, a stated preprocessing or training images;
    return what the user should know.
    """
    check_stated(task)
    learning = [step for recipe in recipes for step in recipe.steps if step.learning]
    if learning and not len(task.data.train):
        raise LissomError(
            f"{learning[0]}: it learns, and {task.data.name} has no training images; expected a "
            "folder or a split 'train'"
        )
    untrained = not task.trained or all(
        step.learning for recipe in recipes for step in recipe.steps[:1]
    )
    if untrained or task.data.stated:
        return []
    return [
        f"if {task.name} was trained already, it may not see images as it did then, but through "
        f"{task.data.preprocess}: --preprocess says what is right"
    ]


def check_stated(task: Task) -> None:
    """Raise where a network comes with weights and no preprocessing; say which of the usual ones fits best.

    A wrong preprocessing costs several points of accuracy and no error shows it, so that lissom
    never goes on with a guess.
    """
    if not task.weights or task.data.stated:
        return
    ordered = sorted(tried(task).items(), key=lambda item: -item[1])
    best, reached = ordered[0]
    name = task.metric_names[0]
    count = min(TRIED, len(task.data.valid))
    others = "".join(f"; {value:.3f} with {text}" for text, value in ordered[1:2])
    raise LissomError(
        f"preprocess: {task.weights} was trained elsewhere, and nobody said how the network sees "
        f"pictures. Of the usual ways --preprocess '{best}' fits best: {name} {reached:.3f} of "
        f"{count} validation images{others}. Give the one it was trained with"
    )


def tried(task: Task) -> dict[str, float]:
    """Return the usual preprocessings as texts, each with the task's first metric through it.

    First the changes of numbers with pictures as they are now; then the best of them with the
    shorter side resized and the middle cut out, where pictures can be read anew.
    """
    data = task.data
    assert data.preprocess is not None
    pictures = " | ".join(map(str, data.preprocess.pictures))
    fitting = NUMBERS if data.channels == 3 else NUMBERS[1:]  # ImageNet is in colour
    of_numbers = {numbers: metric(task, with_numbers(data, numbers)) for numbers in fitting}
    results = {joined(pictures, numbers): value for numbers, value in of_numbers.items()}
    height, width = data.size
    if data.reread is not None and height == width and height >= LEAST:
        best = max(of_numbers, key=lambda numbers: of_numbers[numbers])
        text = joined(f"resize({round(MARGIN * height)}) | center_crop({height})", best)
        results[text] = metric(task, data.reread(text))
    return results


def joined(*texts: str) -> str:
    """Return a preprocessing made of several, some of which may be empty."""
    return " | ".join(filter(None, texts))


def with_numbers(data: Data, text: str) -> Data:
    """Return the data with other changes of numbers and the same pictures."""
    assert data.preprocess is not None
    if 'normalize("data")' in text:
        return data
    numbers = Preprocess.of(text).numbers
    preprocess = replace(data.preprocess, numbers=numbers)
    mean, std = preprocess.line(data.channels)
    return replace(data, preprocess=preprocess, mean=mean, std=std)


def metric(task: Task, data: Data) -> float:
    """Return the task's first metric on some validation images, seen as `data` shows them."""
    model = task.fresh()
    answers = network_answers(model, data, spread(data.valid, TRIED))
    values = scored(replace(task, data=data), answers)
    return next(iter(values.values())) or 0.0
