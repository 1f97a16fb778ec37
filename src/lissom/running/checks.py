"""Check the store, the task and the options before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..data.own_splits import STANDARDIZE
from ..errors import LissomError
from ..language.recipe import Recipe
from ..learning.check_preprocessing import check_data_for
from ..learning.examine import examine
from ..learning.probabilities import check_logits
from ..store.store import Store
from ..tasks.task import Task
from .expected import check_metric_names
from .plan import Node


def check_run(
    task: Task,
    store: Store,
    recipes: Sequence[Recipe],
    *,
    bake: bool,
    say: Callable[[str], None],
) -> None:
    """Raise LissomError if the store cannot be used or the task does not suit the recipes; report
    notes to the user.
    """
    store.check()
    store.sweep()
    examine(task)
    check_metric_names(task.metric_names)
    if bake and task.data.as_given:
        raise LissomError(
            "--bake: inputs are taken as the data set gives them; there is nothing to put into the "
            f"file, leave it out; {STANDARDIZE}"
        )
    notes = [*check_data_for(task, recipes), *task.notes()]
    check_logits(task, recipes)
    for note in notes:
        say(f"note: {note}")


def tell_untrained(task: Task, ends: Iterable[Node], say: Callable[[str], None]) -> None:
    """Warn if the uncompressed network, which others are compared with, is untrained."""
    if not task.trained and any(end.reference == end.path[0].key for end in ends):
        say(
            "note: nothing has trained this network: the recipe does not begin with train, and "
            "there are no --weights"
        )
