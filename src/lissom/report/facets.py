"""The settings in which recipes differ, by which the rows of the report can be filtered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from ..errors import LissomError
from ..language.recipe import Recipe

NO_STEP = "–"  # the recipe has no such step
MAX_FILTERS = 12  # filters that fit above a table


def settings_in(recipe: str) -> dict[str, str]:
    """Return the settings of every step as text; a repeated step has a number.

    >>> found = settings_in("prune(0.5) | train(3) | prune(0.25)")
    >>> found["prune amount"], found["prune 2 amount"], found["train epochs"]
    ('0.5', '0.25', '3')
    """
    settings_by_title: dict[str, str] = {}
    occurrences: dict[str, int] = {}
    try:
        steps = steps_in(recipe)
    except LissomError:  # a recipe of another version
        return {}
    for name, settings in steps:
        occurrences[name] = occurrences.get(name, 0) + 1
        title = name if occurrences[name] == 1 else f"{name} {occurrences[name]}"
        settings_by_title |= {f"{title} {setting}": value for setting, value in settings.items()}
    return settings_by_title


def steps_in(recipe: str) -> list[tuple[str, dict[str, str]]]:
    """Return name and settings of every step. Each step is parsed only once, since thousands of
    recipes share a few steps.
    """
    try:
        return (
            [step for part in recipe.split(" | ") for step in named_settings(part)]
            if recipe
            else []
        )
    except LissomError:  # a setting is a text with ' | ' in it
        return named_settings(recipe)


@cache
def named_settings(recipe: str) -> list[tuple[str, dict[str, str]]]:
    """Return name and settings of every step of a recipe; results are cached."""
    return [
        (step.name(), {name: str(value) for name, value in step.settings().items()})
        for step in Recipe(recipe).steps
    ]


def facets(recipes: Sequence[str], more: Sequence[dict[str, str]] = ()) -> list[dict[str, Any]]:
    """Return the settings in which recipes differ: their names, and the value of each recipe in
    order.

    `more` has further properties of each recipe. Of settings that always differ together, one is
    returned; there are at most MAX_FILTERS.
    """
    settings = [
        {**extra, **settings_in(recipe)}
        for recipe, extra in zip(recipes, more or [{}] * len(recipes), strict=True)
    ]
    names: dict[tuple[str, ...], str] = {}
    for name in dict.fromkeys(name for one in settings for name in one):
        values = tuple(one.get(name, NO_STEP) for one in settings)
        if len(set(values)) > 1:
            place = {value: k for k, value in enumerate(dict.fromkeys(values))}
            pattern = tuple(str(place[value]) for value in values)
            names.setdefault(pattern, name)
    return [
        {"name": name, "values": [one.get(name, NO_STEP) for one in settings]}
        for name in list(names.values())[:MAX_FILTERS]
    ]
