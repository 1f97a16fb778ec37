"""Refuse to learn from probabilities as if they were logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..data.split import evenly_spaced
from ..errors import LissomError
from ..language.kind import WithClasses
from ..language.recipe import Recipe
from ..tasks.kinds import is_own_kind
from ..tasks.task import Task
from .evaluate import network_answers

TRIED_SAMPLES = 32  # of the validation split


def check_logits(task: Task, recipes: Sequence[Recipe]) -> None:
    """Raise LissomError if the network returns probabilities, the kind of task takes logits, and
    that matters.

    It does for learning: a softmax of probabilities is nearly uniform, so the loss cannot fall and
    the network gets worse without any error. And it does for classes that do not exclude each
    other, whose answers are the outputs above 0.
    """
    kind = task.kind
    if not isinstance(kind, WithClasses) or kind.outputs is not None or task.loss is not None:
        return
    learns = any(any(step.learning for step in recipe.steps) for recipe in recipes)
    if not learns and kind.axis is not None:
        return
    with torch.no_grad():
        answers = network_answers(
            task.fresh(), task.data, evenly_spaced(task.data.valid, TRIED_SAMPLES)
        )
        if not all(kind.are_probabilities(kind.answer(outputs)) for outputs, _ in answers):
            return
    what = (
        "all outputs are between 0 and 1"
        if kind.axis is None
        else "its outputs are between 0 and 1, and sum to 1 over the classes"
    )
    probabilities, logits = (
        f"--kind '{replace(kind, outputs=each)}'" for each in ("probabilities", "logits")
    )
    if is_own_kind(task.kind_text):
        probabilities = f"an `answer` of {task.kind_text} that returns their logarithm"
        logits = f'outputs="logits" in {task.kind_text}'
    raise LissomError(
        f"model {task.name}: it ends with probabilities ({what}), while {kind.name()} takes logits. "
        f"Expected a network without the last softmax or sigmoid, or {probabilities}; "
        f"if these are logits, {logits}"
    )
