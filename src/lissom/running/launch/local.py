"""Workers that are processes on this machine. They share the store, and end with this process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from ...bench.cores import allowed_cpus
from ...learning.rung import Rung
from ...system.processes import command, ended, surroundings
from ..plan import Node
from .workers import Ended, Workers

LOOK_S = 1.0  # longest wait for an answer before control returns to the caller
PATIENCE_S = 5.0  # until a process that was told to end is killed


def default_threads(workers: int) -> int:
    """Return the number of threads of each worker: its share of the cores."""
    return max(1, (len(allowed_cpus() or ()) or os.cpu_count() or 1) // workers)


def order_of(node: Node, rung: Rung | None) -> dict[str, Any]:
    """Return the order to make a node, as a dict for JSON; a worker rebuilds the node from it."""
    return {
        "key": node.key,
        "recipe": str(node.recipe) if node.step else "",
        "seed": node.seed,
        "rung": rung and {"least": rung.least},
    }


class Child:
    """A process that makes networks. `hear` receives its answers, and None when it has ended."""

    def __init__(
        self,
        setup: dict[str, Any],
        threads: int,
        hear: Callable[[tuple[Child, dict[str, Any] | None]], None],
    ) -> None:
        count = str(threads)
        self.order: dict[str, Any] | None = None
        self.hear = hear
        # in its own process group: Ctrl-C reaches only the parent, which then ends its children
        self.process = subprocess.Popen(
            command("lissom.running.launch.child"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=surroundings(OMP_NUM_THREADS=count, MKL_NUM_THREADS=count),
            process_group=0 if os.name == "posix" else None,
        )
        self.listener = Thread(target=self._listen, daemon=True)
        self.listener.start()
        self.send({**setup, "threads": threads})

    def send(self, value: dict[str, Any]) -> None:
        """Send a line. If the process has died, the line is lost and `hear` receives None."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(value) + "\n")
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.hear((self, json.loads(line)))
        self.hear((self, None))

    def end(self) -> str:
        """End the process now; return how it ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # the process ends at the end of its input, even if busy
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.listener.join(PATIENCE_S)
        self.process.stdout.close()
        return ended(code)


class LocalWorkers(Workers):
    """At most `count` processes with `threads` threads each, started when they are first needed.

    `setup` has the settings that all nodes share, for JSON: see child.py.
    """

    def __init__(
        self, setup: dict[str, Any], count: int, threads: int, say: Callable[[str], None]
    ) -> None:
        self.setup = setup
        self.count = count
        self.threads = threads
        self.say = say
        self.children: list[Child] = []
        self.answers = SimpleQueue[tuple[Child, dict[str, Any] | None]]()

    def room(self) -> int:
        return self.count

    def free(self) -> int:
        return self.count - sum(child.order is not None for child in self.children)

    def submit(self, node: Node, rung: Rung | None = None) -> None:
        self.give(order_of(node, rung))

    def give(self, order: dict[str, Any]) -> None:
        """Give an order to an idle process; start one if needed."""
        child = next((child for child in self.children if child.order is None), None)
        if child is None:
            child = Child(self.setup, self.threads, self.answers.put)
            self.children.append(child)
        child.order = order
        child.send(order)

    def wait(self) -> list[Ended]:
        while True:
            try:
                child, answer = self.answers.get(timeout=LOOK_S)
            except Empty:
                return []
            order = child.order
            if answer is not None and "said" in answer:
                self.say(answer["said"])
            elif answer is not None and order is not None:
                child.order = None
                return [Ended(order["key"], answer["error"], answer.get("midway"))]
            elif child in self.children:  # the process has ended
                self.children.remove(child)
                how = child.end()
                if order is not None:
                    return [Ended(order["key"], lost=how)]

    def close(self) -> None:
        for child in self.children:
            child.end()
        self.children.clear()
