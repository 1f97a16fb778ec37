"""Who makes the networks of a run, as asked for: this process, several, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from ...errors import LissomError, counted
from ...language.recipe import Recipe
from ...store.store import Store
from ...tasks.task import Task
from ..plan import Node
from ..teachers import teachers
from .cluster import RayWorkers, connect
from .local import LocalWorkers, default_threads
from .schedule import Maker, Schedule
from .workers import Here, Workers


@dataclass(frozen=True)
class Setting:
    """What all networks of a run have in common: what a worker has to know beside the node."""

    task: Task
    store: Store
    device: str  # as the user named it
    checkpoint_s: float | None


def crew_of(
    asked: int | str, threads: int, maker: Maker, setting: Setting, say: Callable[[str], None]
) -> Workers:
    """Return who makes networks: so many processes, the cluster that is named, or `maker` here for 0."""
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


def made(
    ends: Sequence[Node],
    workers: Workers,
    maker: Maker,
    store: Store,
    say: Callable[[str], None],
) -> Generator[tuple[Node, LissomError | None]]:
    """Make networks and all that they are made from; yield each once when it is there, or with the
    error for which it will not be.

    When the last one has been yielded, or the generator is closed, all workers have ended.
    """
    schedule = Schedule(workers, maker, say)
    for end in ends:
        schedule.add(end)
    keys = {end.key for end in ends}
    try:
        for node, error in schedule:
            if node.key in keys:
                yield node, error
    finally:
        workers.close()
        if workers.beside:
            store.sweep()  # what they were at
