"""The work of a process that only joins in learning: the steps that the first process names."""

from __future__ import annotations

from collections.abc import Sequence

from ..language.recipe import Space
from ..store.store import Store
from ..tasks.task import Task
from .device import device_of
from .execute import Run
from .plan import ends, tree
from .teachers import taught
from .team import Team, one_each


def learn_with_team(
    space: Space,
    task: Task,
    store: Store,
    team: Team,
    *,
    seeds: Sequence[int],
    teacher: str | None,
    device: str,
) -> None:
    """Join the first process of a team in learning until it is done; write nothing."""
    given = device_of(device)
    runner = Run(task, store, team.device(given), checkpoint_s=None)
    last = ends(taught(space, teacher), seeds, task.root)
    nodes = {node.key: node for node in tree(last)}
    with team:
        ranks = team.join(nccl=one_each(given, team.count))
        for key in team.keys(ranks):
            model, ctx = runner.prepared(nodes[key])
            ctx.ranks = ranks
            step = nodes[key].step
            assert step is not None
            step(model, ctx)
