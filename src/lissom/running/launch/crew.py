"""Choose the workers of a run: this process, several processes, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from ...errors import LissomError, counted
from ...language.recipe import Recipe
from ...store.store import Store
from ...tasks.task import Task
from ..plan import Node, tree
from ..teachers import teachers
from .cluster import RayWorkers, connect
from .local import LocalWorkers, default_threads
from .schedule import Maker, Schedule
from .workers import Here, Workers


@dataclass(frozen=True)
class Setting:
    """The settings that all networks of a run share; a worker needs them besides the node."""

    task: Task
    store: Store
    device: str  # as the user named it
    checkpoint_s: float | None


def crew_of(
    asked: int | str, threads: int, maker: Maker, setting: Setting, say: Callable[[str], None]
) -> Workers:
    """Return the workers: `asked` processes, the cluster of that name, or for 0 `maker` here.

    Raises LissomError if the task cannot be rebuilt by name in another process.
    """
    if asked == 0:
        return Here(maker.make)
    task = setting.task
    if not task.origin:
        raise LissomError(
            f"workers: {task.name} on {task.data.name} was made by Python code, which other "
            "processes do not have; expected a task by name: --task file.py:name, or --model and "
            "--data"
        )
    setup = {
        "task": task.origin,
        "store": str(setting.store.root),
        "device": setting.device,
        "checkpoint_s": setting.checkpoint_s,
    }
    if isinstance(asked, int):
        threads = threads or default_threads(asked)
        say(f"{counted(asked, 'worker')} of {counted(threads, 'thread')}")
        return LocalWorkers(setup, asked, threads, say)
    threads = threads or 1
    say(f"workers of the cluster {asked}, of {counted(threads, 'thread')} each")
    ray, leave = connect(asked, task.origin, setting.store)

    def needs(node: Node) -> list[str]:
        return teachers([Recipe((node.step,))], setting.store) if node.step else []

    return RayWorkers(ray, leave, setup, threads, setting.store, task.spec, needs, say)


def make_networks(
    ends: Sequence[Node],
    workers: Workers,
    maker: Maker,
    store: Store,
    say: Callable[[str], None],
    tell: Callable[[str], None] = lambda _: None,
) -> Generator[tuple[Node, LissomError | None]]:
    """Make networks and those they depend on; yield each of `ends` once, when it is finished or
    with the error that prevents it.

    `tell` is called with the key of each network that workers made. All workers have ended when the
    generator is exhausted or closed.
    """
    schedule = Schedule(workers, maker, say)
    for end in ends:
        schedule.add(end)
    keys = {end.key for end in ends}
    there = {node.key for node in tree(ends) if node.key in store}
    try:
        for node, error in schedule:
            if workers.beside and error is None and node.key not in there:
                tell(node.key)
            if node.key in keys:
                yield node, error
    finally:
        workers.close()
        if workers.beside:
            store.sweep()  # their unfinished entries
