"""What a process does that only learns along: the steps that the first one names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..language.recipe import Recipe
from ..store.store import Store
from ..tasks.task import Task
from .execute import Run, device_of
from .plan import ends, tree
from .taught import taught
from .team import Team, one_each


def follow(
    recipes: Iterable[Recipe],
    task: Task,
    store: Store,
    team: Team,
    *,
    seeds: Sequence[int],
    teacher: str | None,
    device: str,
) -> None:
    """Learn along with the first process of a team until it has no more to learn; write nothing."""
    given = device_of(device)
    runner = Run(task, store, team.device(given), checkpoint_s=None)
    last = ends([taught(recipe, teacher) for recipe in recipes], seeds, task.root)
    nodes = {node.key: node for node in tree(last)}
    with team:
        ranks = team.join(nccl=one_each(given, team.count))
        for key in team.keys(ranks):
            model, ctx = runner.begin(nodes[key])
            ctx.ranks = ranks
            step = nodes[key].step
            assert step is not None
            step(model, ctx)
