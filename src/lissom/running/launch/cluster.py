"""Workers on the machines of a Ray cluster. The head, where the run was started, owns the store.

A worker is a Ray actor with a process like that of local workers, and a store in a temporary
folder. The networks that it makes go back as files (carried.py). Ray pickles arguments and results;
those of lissom are only texts, numbers and bytes. Anyone who can reach a Ray cluster can run code
on it. That is how Ray works, so keep the cluster private.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...errors import LissomError, first_line
from ...learning.rung import Rung
from ...store.store import Store
from ...system.scratch import temporary
from ..plan import Node
from .carried import Files, check_made, files_of, take_in
from .local import LocalWorkers, order_of
from .workers import Ended, Workers

LOOK_S = 2.0  # between two checks of the cluster's resources
PATIENCE_S = 10.0  # for workers to end by themselves
MOST_FAILED = 3  # give up after this many workers in a row fail to start
WAIT_TOLD_S = 30.0  # without a free worker, before the user is told


class Remote:
    """The actor on a machine of the cluster: one process that makes networks, and its store."""

    def __init__(self, setup: dict[str, Any], threads: int) -> None:
        self.stack = ExitStack()
        self.said: list[str] = []
        self.store = Store(self.stack.enter_context(temporary()) / "store")
        self.workers = LocalWorkers(
            {**setup, "store": str(self.store.root)}, 1, threads, self.said.append
        )

    def versions(self) -> dict[str, str]:
        """Return the versions that must be equal on all machines to give the same bits."""
        return versions()

    def make(self, order: dict[str, Any], entries: dict[str, Files]) -> dict[str, Any]:
        """Make the network of an order from these entries; return its files or its error."""
        for key, files in entries.items():
            take_in(self.store, key, files)
        self.workers.give(order)
        while not (answers := self.workers.wait()):
            pass
        (ended,) = answers
        key = order["key"]
        well = not (ended.error or ended.lost)
        answer = {
            "error": ended.error,
            "midway": ended.midway,
            "lost": ended.lost,
            "said": [*self.said],
            "files": files_of(self.store, key) if well else {},
        }
        self.said.clear()
        for made in [*self.store]:  # the next order brings the entries that it needs
            self.store.remove(made)
        return answer

    def close(self) -> None:
        """End the process, even if it is busy, and delete the store."""
        self.workers.close()
        self.stack.close()


class RayWorkers(Workers):
    """As many workers as the cluster has room for, each with `threads` threads, one CPU per thread.

    `leave` is called at the end. `needs` returns the keys of further entries that a node needs
    besides the network before it and the uncompressed one: its teachers.
    """

    def __init__(
        self,
        ray: Any,
        leave: Callable[[], None],
        setup: dict[str, Any],
        threads: int,
        store: Store,
        spec: dict[str, Any],
        needs: Callable[[Node], list[str]],
        say: Callable[[str], None],
    ) -> None:
        self.ray = ray
        self.leave = leave
        self.setup = setup
        self.threads = threads
        self.store = store
        self.spec = spec
        self.needs = needs
        self.say = say
        gpus = int(setup["device"].startswith("cuda"))
        # two calls at once, so that a busy worker can be closed
        self.remote = ray.remote(
            num_cpus=threads, num_gpus=gpus, max_concurrency=2, max_restarts=0
        )(Remote)
        self.actors: list[Any] = []
        self.idle: list[Any] = []
        # pending calls: of an actor that starts (None), or that makes a node
        self.pending: dict[Any, tuple[Any, Node | None]] = {}
        self.failed = 0
        self.seen = time.monotonic()

    def room(self) -> int:
        return max(1, self._room())

    def free(self) -> int:
        self._grow()
        return len(self.idle)

    def submit(self, node: Node, rung: Rung | None = None) -> None:
        actor = self.idle.pop()
        entries = {key: files_of(self.store, key) for key in self._entries(node)}
        self.pending[actor.make.remote(order_of(node, rung), entries)] = (actor, node)

    def wait(self) -> list[Ended]:
        self._grow()
        done = []
        if self.pending:
            done, _ = self.ray.wait([*self.pending], num_returns=1, timeout=LOOK_S)
        else:
            time.sleep(LOOK_S)
        if done:
            return self._answered(done[0])
        self._tell_wait()
        return []

    def close(self) -> None:
        starting = [actor for actor, node in self.pending.values() if node is None]
        calls = [actor.close.remote() for actor in self.actors if actor not in starting]
        if calls:
            self.ray.wait(calls, num_returns=len(calls), timeout=PATIENCE_S)
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors.clear()
        self.idle.clear()
        self.pending.clear()
        self.leave()

    def _grow(self) -> None:
        """Start as many workers as there is room for; Ray places them."""
        for _ in range(self._room() - len(self.actors)):
            actor = self.remote.remote(self.setup, self.threads)
            self.actors.append(actor)
            self.pending[actor.versions.remote()] = (actor, None)

    def _room(self) -> int:
        return sum(
            int(machine["Resources"].get("CPU", 0)) // self.threads
            for machine in self.ray.nodes()
            if machine["Alive"]
        )

    def _entries(self, node: Node) -> Iterator[str]:
        before = [node.before.key] if node.before else []
        for key in dict.fromkeys([*before, node.reference, *self.needs(node)]):
            if key in self.store:
                yield key

    def _answered(self, call: Any) -> list[Ended]:
        actor, node = self.pending.pop(call)
        try:
            answer = self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            self.actors.remove(actor)
            self.ray.kill(actor)
            said = f"was lost ({type(error).__name__}: {first_line(error)})"
            if node is not None:
                return [Ended(node.key, lost=said)]
            self.failed += 1
            if self.failed >= MOST_FAILED:
                raise LissomError(f"workers: none could start on the cluster; one {said}") from None
            return []
        if node is None:
            check_versions(answer)
            self.failed = 0
        self.idle.append(actor)
        return [] if node is None else [self._taken_in(node, answer)]

    def _taken_in(self, node: Node, answer: dict[str, Any]) -> Ended:
        for line in answer["said"]:
            self.say(line)
        if answer["error"] or answer["lost"]:
            return Ended(node.key, answer["error"], answer["midway"], answer["lost"])
        try:
            check_made(answer["files"], node, self.spec)
            take_in(self.store, node.key, answer["files"])
        except LissomError as error:
            return Ended(node.key, lost=f"gave back what is no good ({error})")
        return Ended(node.key)

    def _tell_wait(self) -> None:
        now = time.monotonic()
        if self.idle or any(node for _, node in self.pending.values()):
            self.seen = now
        elif now - self.seen > WAIT_TOLD_S:
            self.say(
                f"the cluster has no worker free: each takes {self.threads} of its CPUs; "
                "it is waited for"
            )
            self.seen = now + 10 * WAIT_TOLD_S  # do not repeat the note for a while


def versions() -> dict[str, str]:
    """Return the versions of lissom and torch here."""
    from ... import __version__

    return {"lissom": __version__, "torch": version("torch")}


def check_versions(there: dict[str, str]) -> None:
    """Raise LissomError if a worker has other versions than the head: its results could differ."""
    if there != (here := versions()):
        raise LissomError(f"workers: expected the versions that are here, {here}, got {there}")


def connect(address: str, origin: dict[str, Any], store: Store) -> tuple[Any, Callable[[], None]]:
    """Connect Ray to a cluster; return the module, and a function that disconnects it unless it was
    connected before.

    `address` is ray://HOST:PORT, or "ray" for the cluster that Ray finds; if there is none, Ray
    starts one on this machine. If the task names files in the current folder, that folder is sent
    to all workers. Raises LissomError if Ray is not installed or the cluster cannot be used.
    """
    try:
        import ray
    except ImportError:
        raise LissomError("workers: Ray is not installed: pip install 'lissom[ray]'") from None
    if ray.is_initialized():
        return ray, lambda: None
    settings: dict[str, Any] = {}
    if any(is_file_here(text) for text in texts_in(origin)):
        inside = store.root.is_relative_to(Path.cwd())
        own = [f"/{store.root.relative_to(Path.cwd()).as_posix()}"] if inside else []
        settings = {"working_dir": ".", "excludes": ["/.git", "/.venv", *own]}
    try:
        ray.init(
            address=None if address == "ray" else address,
            logging_level="ERROR",
            log_to_driver=False,
            runtime_env=settings,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise LissomError(
            f"workers: the cluster {address} cannot be used ({first_line(error)})"
        ) from None
    return ray, ray.shutdown


def texts_in(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def is_file_here(text: str) -> bool:
    """Return whether a text names an existing file or folder relative to the current folder, such
    as net.py:make, folder:photos, net.pth.
    """
    names = (text, text.partition(":")[2], text.rpartition(":")[0])
    return any(name and not os.path.isabs(name) and os.path.exists(name) for name in names)
