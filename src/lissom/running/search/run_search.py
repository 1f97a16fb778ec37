"""Search for a network: the function behind the Python API and the command, and its result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...bench.clock import clock_of
from ...errors import LissomError, Unmeasured, silent
from ...language.search_space import SearchSpace
from ...language.target import Target
from ...language.training import Progress
from ...language.want import Want
from ...learning.checkpoint import EVERY_MIN, every_s
from ...store.store import Store
from ...surgery.depth import droppable_blocks
from ...tasks.task import Task
from ..checks import check_run
from ..device import device_of
from ..execute import Run
from ..execute import run as run_recipes
from ..expected import expected_in
from ..launch.crew import Setting, crew_of
from ..plan import targets_of
from .evaluate import Evaluation
from .outcome import Outcome
from .search import Budget, Search, default_space, reason_not_chosen

SEARCH_SHARE = 0.9  # of the budget for searching; the rest is for measuring the chosen networks


class BudgetUsedUp(Exception):
    """Say that the budget ended while a network was learning."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: records of the chosen networks, all outcomes, and why others lost."""

    name: str
    space: str
    want: str
    seed: int
    by: str
    reference: dict[str, float]
    aims: list[str]
    bounds: list[str]
    met: bool
    chosen: list[str]
    outcomes: list[dict[str, Any]]
    why_not: dict[str, str]
    importances: dict[str, float]
    seconds: float
    records: list[dict[str, Any]]

    def json(self) -> dict[str, Any]:
        """Return the result as a dict for JSON."""
        return asdict(self)


class IncompleteSearch(Unmeasured):
    """Say that a chosen network was not made or measured; `result` is the result of the search."""

    def __init__(self, errors: list[LissomError], result: SearchResult) -> None:
        super().__init__(errors, result.records)
        self.result = result


def search(
    space: str | SearchSpace | None,
    want: str | Want,
    task: Task,
    store: str | Path | Store = ".lissom",
    *,
    budget_s: float,
    targets: str | Iterable[Target] = (),
    trials: int | None = None,
    seed: int = 0,
    threads: int = 1,
    device: str = "",
    by: str = "model",
    storage: str = "",
    workers: int | str = 0,
    worker_threads: int = 0,
    checkpoint: float = EVERY_MIN,
    expect: str = "",
    say: Callable[[str], None] = silent,
    watch: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Search a space of recipes for networks that meet `want`, and measure the best ones.

    The default space is for trained networks. The search stops after `budget_s` seconds or
    `trials` recipes, those that were stopped early included; called again, it continues. Choices
    use validation data; only the chosen networks see the test set. `by` is model (Gaussian
    processes), random, tpe or nsga2. `storage` is a file, or the URL of a database that several
    searches share. `workers` and `worker_threads` are those of `lissom.run`: several recipes then
    run in parallel, each proposed as if the pending ones gave their predicted results; files are
    measured while none learns. `expect` is that of `lissom.run`: nothing is searched unless the
    uncompressed network reaches it. Raises LissomError for bounds that are known to be out of
    reach before anything is trained, and IncompleteSearch if a chosen network cannot be made again,
    or its file cannot be exported or run.
    """
    end_s = time.monotonic() + budget_s
    store = store if isinstance(store, Store) else Store(store)
    want = want if isinstance(want, Want) else Want.of(want)
    wanted = targets_of(targets)
    searched = space_for(space, task, few_bits_help(want, wanted))
    check_run(task, store, [searched.example], bake=False, say=say)
    state: Search | None = None

    def check_time() -> None:
        if time.monotonic() > end_s and state is not None and state.trained:
            raise BudgetUsedUp

    def report_progress(progress: Progress) -> None:
        if watch is not None:
            watch(progress)
        check_time()

    runner = Run(
        task,
        store,
        device_of(device),
        say,
        report_progress,
        clock_of(threads, store.tables),
        checkpoint_s=every_s(checkpoint),
        expected=expected_in(expect, task.metric_names),
    )
    setting = Setting(task, store, device, runner.checkpoint_s)
    crew = crew_of(workers, worker_threads, runner, setting, say)
    with (
        store.protect() as protect,
        closing(Evaluation(runner, wanted, seed, threads, crew, check_time, protect)) as evaluation,
    ):
        state = Search(
            searched, want, evaluation, Budget(SEARCH_SHARE * budget_s, trials), storage, by, say
        )
        if runner.expected:  # an earlier search may have measured the uncompressed network
            evaluation.check_reference(searched.example)
        search_until_stopped(state)

    def run(outcome: Outcome) -> list[dict[str, Any]]:
        return run_recipes(
            outcome.recipe,
            task,
            store,
            targets=wanted,
            seeds=[seed],
            threads=threads,
            device=device,
            checkpoint=checkpoint,
            say=say,
        )

    return finish_search(state, run, store)


def search_until_stopped(state: Search) -> None:
    """Search until the budget is exhausted or the user interrupts."""
    try:
        state.search()
    except KeyboardInterrupt:
        state.say("interrupted: the results so far are measured; interrupt again to stop at once")
    except BudgetUsedUp:
        state.say("the time is up; the network that was still training is left out")


def space_for(space: str | SearchSpace | None, task: Task, few_bits: bool) -> SearchSpace:
    """Return the space to search. Raises LissomError if none is given for an untrained network."""
    if isinstance(space, SearchSpace):
        return space
    if space is not None:
        return SearchSpace(space)
    if not task.trained:
        raise LissomError(
            "search: nothing has trained this network: expected --weights, or a space that begins "
            "with train, as in 'train(30) | prune(0..0.8) | distill(\"kd\", 10) | quantize(8)'"
        )
    return default_space(
        learns=bool(len(task.data.train)),
        labelled=not task.data.unlabelled,
        few_bits=few_bits,
        samples=len(task.data.train),
        residual=bool(droppable_blocks(task.fresh(), task.data.example())),
    )


def few_bits_help(want: Want, targets: Sequence[Target]) -> bool:
    """Return whether 4-bit weights make a file smaller that the objective or a limit weighs."""

    def pack(at: str | None, count: int | None = None) -> bool:
        """Return whether the first `count` targets of this name, or of all, pack few bits."""
        named = [each for each in targets if at in (None, str(each), str(each).partition("(")[0])]
        return bool(named) and all(each.packs() for each in named[:count])

    limited = any(pack(limit.at) for limit in want.limits if limit.quantity == "bytes")
    return limited or (want.objective in ("smallest", "front") and pack(want.at, 1))


def finish_search(
    state: Search, run: Callable[[Outcome], list[dict[str, Any]]], store: Store
) -> SearchResult:
    """Run the chosen recipes with `run`; return the result of the search and save it."""
    chosen = state.chosen()
    met = bool(chosen)
    if not chosen and (near := state.nearest()) is not None:
        chosen = [near]
    records = list[dict[str, Any]]()
    failed = list[LissomError]()
    for outcome in chosen:
        try:
            records += run(outcome)
        except Unmeasured as error:
            records += error.records
            failed.append(error)
        except LissomError as error:
            failed.append(error)
    metrics = state.evaluation.run.task.metric_names
    result = SearchResult(
        name=state.name,
        space=str(state.space),
        want=str(state.want),
        seed=state.evaluation.seed,
        by=state.by,
        reference=state.reference.values,
        aims=[name for name, _ in state.goal.aims],
        bounds=[str(bound) for bound in state.goal.bounds],
        met=met,
        chosen=[each.recipe for each in chosen],
        outcomes=[each.json() for each in state.outcomes],
        why_not=reasons_not_chosen(state, chosen),
        importances=state.study.importances(metrics[0]),
        seconds=round(state.clock() - state.begun, 1),
        records=records,
    )
    place = store.root / ".searches" / f"{state.name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(result.json(), indent=1), encoding="utf-8")
    if failed:
        raise IncompleteSearch(failed, result)
    return result


def reasons_not_chosen(state: Search, chosen: list[Outcome]) -> dict[str, str]:
    """Return for every trained recipe that was not chosen why it lost."""
    recipes = {each.recipe for each in chosen}
    return {
        each.recipe: reason_not_chosen(each, chosen, state.goal)
        for each in state.trained
        if each.recipe not in recipes
    }
