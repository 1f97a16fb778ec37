"""The teachers that a recipe or an option names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .builders import code_file, code_named
from .code import file_mark
from .task import Task

if TYPE_CHECKING:
    from torch import nn


def teachers_in(text: str) -> list[str]:
    """Return the teachers that a text names: one, or several separated by commas.

    >>> teachers_in("4f2a, resnet56=big.safetensors")
    ['4f2a', 'resnet56=big.safetensors']
    """
    model, equals, path = text.partition("=")
    if os.path.isfile(text) or (equals and "," not in model and os.path.isfile(path)):
        return [text]  # a file may have a comma in its name
    return [part.strip() for part in text.split(",")]


def teacher_code(text: str) -> str | None:
    """Return the user's code that a teacher, MODEL=FILE, would import, None if there is none."""
    model, equals, _ = text.rpartition("=")
    return code_named({"model": model}) if equals else None


def teacher_marks(text: str) -> str:
    """Return the hashes of all files of the teachers that a text names: weights, and the user's code
    that builds the network for them; "" for keys.
    """
    marks = ""
    for part in teachers_in(text):
        path = part.rpartition("=")[2]
        if not os.path.isfile(path):
            continue
        marks += file_mark(path)
        code = teacher_code(part)
        file = code_file(code) if code else None
        if file is not None and file.is_file():
            marks += file_mark(str(file))
    return marks


def teacher_from(text: str, task: Task) -> nn.Module:
    """Build the teacher from a weight file: FILE for the task's network, MODEL=FILE for another."""
    model, _, path = text.rpartition("=")
    return Task.of(model or task.name, task.data, weights=path).fresh()
