"""Who teaches in recipes: what distill steps name, and what is written into those that name nobody."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import LissomError
from ..language.recipe import Recipe
from ..steps.distill import Distill
from ..store.store import Store
from ..tasks.task import teachers_in


def teachers(recipes: Iterable[Recipe], store: Store) -> list[str]:
    """Return the keys of the teachers that recipes name."""
    texts = [
        text
        for recipe in recipes
        for step in recipe.steps
        if isinstance(step, Distill) and step.teacher
        for text in teachers_in(step.teacher)
    ]
    return [key for key in store if any(key.startswith(text) for text in texts)] if texts else []


def taught(recipe: Recipe, teacher: str | None) -> Recipe:
    """Return the recipe with `teacher` written into every distill step that names none.

    As a setting of the step it is in the key of the distilled network, which depends on the
    teacher, and not in the keys of the steps before, which do not.
    """
    if teacher is None:
        return recipe
    if not any(step.has_teacher for step in recipe.steps):
        raise LissomError(f"recipe: a teacher was given, but '{recipe}' has no distill step")
    return Recipe(
        tuple(
            replace(step, teacher=step.teacher or teacher) if isinstance(step, Distill) else step
            for step in recipe.steps
        )
    )
