"""Which jobs start when, which are dropped after a failure, and which are retried after a loss; no
network runs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lissom.errors import LissomError
from lissom.language.recipe import Recipe, Space
from lissom.learning.rung import Rung, Stopped
from lissom.running.launch.schedule import MOST_LOST, Schedule
from lissom.running.launch.workers import Ended, Here, Workers
from lissom.running.plan import Node, ends

GRID = "train(1) | prune({0.3, 0.5}) | train({1, 2})"


class Fake(Workers):
    """Ends nodes in the order that `pick` says, `count` at a time."""

    def __init__(self, count: int, outcome: Callable[[Node], Ended] | None = None) -> None:
        self.count, self.outcome = count, outcome or (lambda node: Ended(node.key))
        self.running: list[Node] = []
        self.begun: list[Node] = []
        self.rungs: list[Rung | None] = []
        self.most = 0

    def room(self) -> int:
        return self.count

    def free(self) -> int:
        return self.count - len(self.running)

    def submit(self, node: Node, rung: Rung | None = None) -> None:
        assert self.free() > 0
        self.rungs.append(rung)
        self.running.append(node)
        self.begun.append(node)
        self.most = max(self.most, len(self.running))

    def wait(self) -> list[Ended]:
        return [self.outcome(self.running.pop(0))] if self.running else []

    def close(self) -> None:
        self.running.clear()


class Maker:
    """A store that holds nothing but the keys it is given, and what was made or finished."""

    def __init__(self, there: tuple[str, ...] = (), workers: Fake | None = None) -> None:
        self.there, self.workers = set(there), workers
        self.made: list[Node] = []
        self.finished: list[Node] = []
        self.refuse = ""

    def is_there(self, node: Node) -> bool:
        return node.key in self.there

    def begin(self, node: Node) -> None:
        before = node.before
        assert before is None or before.step is None or before in self.finished

    def make(self, node: Node, rung: Rung | None = None) -> None:
        assert self.workers is None or not self.workers.running, "timed beside a worker"
        self.made.append(node)

    def finish(self, node: Node) -> None:
        self.finished.append(node)
        if self.refuse and str(node.step) == self.refuse:
            raise LissomError("it is not as expected")


def nodes(text: str, seeds: tuple[int, ...] = (0,)) -> list[Node]:
    return ends(list(Space(text)), seeds, lambda seed: f"given{seed}")


def run(
    last: list[Node], workers: Workers, maker: Maker
) -> tuple[dict[str, LissomError | None], list[str]]:
    said: list[str] = []
    schedule = Schedule(workers, maker, said.append)
    for end in last:
        schedule.add(end)
    found: dict[str, LissomError | None] = {}
    for node, error in schedule:
        assert node.key not in found, "told twice"
        found[node.key] = error
    return found, said


def test_a_node_begins_when_the_one_before_is_there_and_all_workers_have_work() -> None:
    workers = Fake(3)
    found, _ = run(nodes(GRID, (0, 1)), workers, Maker())
    assert len(found) == 14 and not any(found.values())
    assert len(workers.begun) == 14 and workers.most == 3


def test_a_lone_worker_goes_recipe_by_recipe() -> None:
    maker = Maker()
    run(nodes(GRID), Here(maker.make), maker)
    assert [str(node.step) for node in maker.made] == [
        "train(1)",
        "prune(0.3)",
        "train(1)",
        "train(2)",
        "prune(0.5)",
        "train(1)",
        "train(2)",
    ]


def test_what_the_store_has_goes_to_no_worker() -> None:
    last = nodes(GRID)
    workers = Fake(2)
    there = {node.key for end in last[:2] for node in end.path}
    found, _ = run(last, workers, Maker(tuple(there)))
    assert len(found) == 7 and [str(node.step) for node in workers.begun] == [
        "prune(0.5)",
        "train(1)",
        "train(2)",
    ]


def test_a_failure_drops_what_begins_with_it_and_nothing_else() -> None:
    def outcome(node: Node) -> Ended:
        return Ended(node.key, "no" if str(node.step) == "prune(0.3)" else "")

    last = nodes(GRID)
    workers = Fake(2, outcome)
    found, _ = run(last, workers, Maker())
    failed = [end.recipe for end in last if found[end.key]]
    assert [str(recipe) for recipe in failed] == [
        "train(1) | prune(0.3) | train(1)",
        "train(1) | prune(0.3) | train(2)",
    ]
    assert len({id(found[end.key]) for end in last if found[end.key]}) == 1, "one error for all"
    assert sum(str(node.recipe).startswith("train(1) | prune(0.3)") for node in workers.begun) == 1


def test_an_uncompressed_network_that_is_refused_ends_what_is_made_of_it() -> None:
    maker = Maker()
    maker.refuse = "train(1)"
    workers = Fake(2)
    found, _ = run(nodes(GRID), workers, maker)
    assert len(found) == 7 and all(found.values()) and len(workers.begun) == 1


def test_a_lost_worker_costs_nothing_but_the_time_and_not_for_ever() -> None:
    losses = {"prune(0.3)": MOST_LOST - 1, "prune(0.5)": MOST_LOST}

    def outcome(node: Node) -> Ended:
        left = losses.get(str(node.step), 0)
        losses[str(node.step)] = left - 1
        return Ended(node.key, lost="was killed by SIGKILL" if left > 0 else "")

    last = nodes(GRID)
    found, said = run(last, Fake(2, outcome), Maker())
    assert [found[end.key] is None for end in last] == [True, True, False, False]
    assert len(said) == 2 * (MOST_LOST - 1)
    assert all("SIGKILL; it is made again" in line for line in said)
    assert f"prune(0.5): {MOST_LOST} workers were lost" in str(found[last[2].key])


@pytest.mark.parametrize("timed", ["prune(0.2, multiple=auto)", "prune(0.2, of=latency)"])
def test_latency_is_timed_here_while_nobody_works(timed: str) -> None:
    last = nodes(f"train(1) | {{prune(0.3), {timed}, prune(0.5)}} | train(1)", (0, 1))
    workers = Fake(3)
    maker = Maker(workers=workers)
    found, _ = run(last, workers, maker)
    assert not any(found.values())
    assert [str(node.step) for node in maker.made] == [str(Recipe(timed).steps[0])] * 2
    assert not any(node.step and node.step.times_latency for node in workers.begun)


def test_more_may_be_added_while_it_runs() -> None:
    first, second, third = nodes("train(1) | prune({0.3, 0.4, 0.5})")
    maker = Maker()
    schedule = Schedule(Here(maker.make), maker, print)
    schedule.add(first)
    found = []
    for node, error in schedule:
        assert error is None
        found.append(str(node.step))
        if node is first:
            schedule.add(second)
        if node is second:
            schedule.add(third)
    assert found == ["train(1)", "prune(0.3)", "prune(0.4)", "prune(0.5)"]


def test_what_was_stopped_begins_again_when_it_is_added_again() -> None:
    """And what comes after it waits for it again."""
    quick, longer = nodes("train(1) | prune(0.5) | train(9) | {fold, quantize(8)}")
    judged = longer.path[-2]
    answers = [Ended(judged.key, "stopped after epoch 3", 0.4), Ended(judged.key)]

    def outcome(node: Node) -> Ended:
        return answers.pop(0) if node.key == judged.key else Ended(node.key)

    workers = Fake(1, outcome)
    schedule = Schedule(workers, Maker(), print)
    schedule.rungs = {judged.key: Rung(0.6)}
    schedule.add(quick)
    errors = {node.key: error for node, error in schedule}
    stopped = errors[judged.key]
    assert isinstance(stopped, Stopped) and stopped.midway == 0.4
    assert errors[quick.key] is stopped  # nothing can be made of it
    assert [rung for rung in workers.rungs if rung] == [Rung(0.6)]

    schedule.rungs = {}
    schedule.add(longer)
    again = {node.key: error for node, error in schedule}
    assert again == {judged.key: None, longer.key: None}
    assert workers.rungs[-2:] == [None, None]
    schedule.add(quick)
    assert {node.key: error for node, error in schedule} == {quick.key: None}
