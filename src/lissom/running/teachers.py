"""The teachers of a run: set in the steps that name none, and kept in the store during the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import LissomError
from ..language.recipe import Recipe, Space
from ..steps.distill import Distill
from ..store.store import Store
from ..tasks.teachers import teachers_in


def teachers(recipes: Iterable[Recipe], store: Store) -> list[str]:
    """Return the keys of the store's entries that recipes name as teachers."""
    texts = [
        text
        for recipe in recipes
        for step in recipe.steps
        if isinstance(step, Distill) and step.teacher
        for text in teachers_in(step.teacher)
    ]
    return [key for key in store if any(key.startswith(text) for text in texts)] if texts else []


def taught(space: str | Space | Recipe, teacher: str | None) -> list[Recipe]:
    """Return the recipes of a space with `teacher` written into every distill step that names none.

    The teacher becomes a setting of the step, so it is part of the key of the distilled network,
    which depends on it. The keys of the steps before do not change.
    """
    space = Space(space) if isinstance(space, str) else space
    recipes = [space] if isinstance(space, Recipe) else space
    return [recipe if teacher is None else with_teacher(recipe, teacher) for recipe in recipes]


def with_teacher(recipe: Recipe, teacher: str) -> Recipe:
    """Return a recipe whose distill steps all name a teacher. Raises LissomError if it has none."""
    if not any(step.has_teacher for step in recipe.steps):
        raise LissomError(f"recipe: a teacher was given, but '{recipe}' has no distill step")
    return Recipe(
        tuple(
            replace(step, teacher=step.teacher or teacher) if isinstance(step, Distill) else step
            for step in recipe.steps
        )
    )
