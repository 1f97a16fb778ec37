"""Check that a user's task is enough for a recipe: stated preprocessing, training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..data.data import Data
from ..data.split import evenly_spaced
from ..errors import LissomError
from ..language.preprocess import Preprocess
from ..language.recipe import Recipe
from ..tasks.task import Task
from .evaluate import network_answers, scored

NORMALIZATIONS = (
    'normalize("imagenet")',
    'normalize("half")',
    'normalize("data")',
    "scale(1)",
    "scale(255)",
)
TRIED_IMAGES = 500  # of the validation split
PHOTO_SIDE = 64  # pixels; images with at least this side are photos
CROP_MARGIN = 8 / 7  # side of an image divided by that of the usual crop: 256 / 224


def check_data_for(task: Task, recipes: Sequence[Recipe]) -> list[str]:
    """Return notes for the user.

    Raises LissomError if the task lacks a stated preprocessing, or training images that recipes
    need.
    """
    check_preprocessing(task)
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


def check_preprocessing(task: Task) -> None:
    """Raise LissomError, naming the best guess, if a network has weights but no preprocessing.

    A wrong preprocessing costs several points of accuracy without any error, so lissom never
    guesses.
    """
    if not task.weights or task.data.stated:
        return
    ordered = sorted(try_preprocessings(task).items(), key=lambda item: -item[1])
    best, reached = ordered[0]
    name = task.metric_names[0]
    count = min(TRIED_IMAGES, len(task.data.valid))
    others = "".join(f"; {value:.3f} with {text}" for text, value in ordered[1:2])
    raise LissomError(
        f"preprocess: {task.weights} was trained elsewhere, and nobody said how the network sees "
        f"images. Of the usual ways --preprocess '{best}' fits best: {name} {reached:.3f} of "
        f"{count} validation images{others}. Give the one it was trained with"
    )


def try_preprocessings(task: Task) -> dict[str, float]:
    """Return the usual preprocessings as texts, each with the task's first metric.

    These are the usual normalizations with the present image operations; and the best of them
    with a resize of the shorter side and a center crop, if the images can be read again.
    """
    data = task.data
    assert data.preprocess is not None
    pictures = " | ".join(map(str, data.preprocess.pictures))
    fitting = NORMALIZATIONS if data.channels == 3 else NORMALIZATIONS[1:]  # ImageNet is in colour
    of_numbers = {numbers: first_metric(task, with_numbers(data, numbers)) for numbers in fitting}
    results = {joined_texts(pictures, numbers): value for numbers, value in of_numbers.items()}
    height, width = data.size
    if data.reread is not None and height == width and height >= PHOTO_SIDE:
        best = max(of_numbers, key=lambda numbers: of_numbers[numbers])
        text = joined_texts(f"resize({round(CROP_MARGIN * height)}) | center_crop({height})", best)
        results[text] = first_metric(task, data.reread(text))
    return results


def joined_texts(*texts: str) -> str:
    """Return a preprocessing joined from several texts, some of which may be empty."""
    return " | ".join(filter(None, texts))


def with_numbers(data: Data, text: str) -> Data:
    """Return the data with another normalization and the same image operations."""
    assert data.preprocess is not None
    if 'normalize("data")' in text:
        return data
    numbers = Preprocess.of(text).numbers
    preprocess = replace(data.preprocess, numbers=numbers)
    mean, std = preprocess.line(data.channels)
    return replace(data, preprocess=preprocess, mean=mean, std=std)


def first_metric(task: Task, data: Data) -> float:
    """Return the task's first metric on some validation images, preprocessed as in `data`."""
    model = task.fresh()
    answers = network_answers(model, data, evenly_spaced(data.valid, TRIED_IMAGES))
    values = scored(replace(task, data=data), answers)
    return next(iter(values.values())) or 0.0
