"""A search stops trainings that can be of no use, and counts on nothing that it stopped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from landscape import FLOAT, SPACE, WITH_RATES, WithRates, searched

import lissom
from lissom.data.data import Data
from lissom.language.recipe import Recipe
from lissom.language.search_space import SearchSpace
from lissom.language.want import Want
from lissom.learning.rung import Rung
from lissom.running.plan import ends
from lissom.running.search.early import LEAST_KNOWN, EarlyStopping
from lissom.running.search.effort import Effort
from lissom.running.search.evaluate import rungs_of
from lissom.running.search.goal import Goal
from lissom.running.search.outcome import Outcome, Point
from lissom.running.search.propose import Proposer
from lissom.running.search.scale import SHORTFALL_MARGIN
from lissom.running.search.search import Search
from lissom.running.search.surrogate import encoded
from lissom.store.store import Store
from lissom.tasks.task import Task

MS = "ms@onnxruntime"
BYTES = "bytes@onnxruntime"


def tried(
    root: Path, want: str, seed: int, budget_s: float, **settings: Any
) -> tuple[Search, WithRates]:
    """A search on the landscape where most learning rates are bad."""
    search, land = searched(
        root, want, "model", seed, budget_s, space=WITH_RATES, kind=WithRates, **settings
    )
    assert isinstance(land, WithRates)
    return search, land


def outcome(top1: float, ms: float, **more: object) -> Outcome:
    """An outcome of pruning more and more, the faster the more."""
    point: Point = {"prune.amount": 0.8 * (1 - ms), "prune.by": 0, "distill.epochs": 2}
    point["quantize.weights"] = 0
    values = {**FLOAT, "top1": top1, MS: ms, BYTES: 1e5 * ms}
    recipe = str(SearchSpace(SPACE).at(point))
    return Outcome(point, recipe, "", values, 1.0, **more)  # type: ignore[arg-type]


def early(want: str) -> EarlyStopping:
    goal = Goal.of(Want.of(want), ["top1"], ["onnxruntime"], FLOAT)
    return EarlyStopping(
        goal, Proposer(SearchSpace(SPACE), goal, FLOAT, np.random.default_rng(0)), "top1"
    )


KNOWN = [
    outcome(0.94, 0.9, midway=0.9),
    outcome(0.92, 0.6, midway=0.85),
    outcome(0.9, 0.4, midway=0.8),
    outcome(0.8, 0.2, midway=0.5),
]


def test_a_training_is_stopped_if_no_earlier_one_came_so_far() -> None:
    """Of the shortfall, the rest of the epochs leaves at least as little as ever, less a deviation."""
    known = early("fastest, top1 >= 0.9")
    far = [(0.95 - each.values["top1"]) / 0.95 + SHORTFALL_MARGIN for each in KNOWN]
    before = [(0.95 - each.midway) / 0.95 + SHORTFALL_MARGIN for each in KNOWN if each.midway]
    left = [a / b for a, b in zip(far, before, strict=True)]
    most = min(left) / np.exp(np.std(np.log(left)))
    rung = known.rung(KNOWN[0].point, KNOWN)
    assert rung.least is not None
    at_rung = (0.95 - rung.least) / 0.95 + SHORTFALL_MARGIN
    assert at_rung * most == pytest.approx((0.95 - 0.9) / 0.95 + SHORTFALL_MARGIN)


def test_nothing_is_stopped_while_little_is_known() -> None:
    assert known_of(KNOWN[: LEAST_KNOWN - 1]) == Rung()
    unmeasured = [replace(each, midway=None) for each in KNOWN]
    assert known_of(unmeasured) == Rung()
    assert known_of([replace(each, stopped=True) for each in KNOWN]) == Rung()


def known_of(outcomes: list[Outcome]) -> Rung:
    return early("fastest, top1 >= 0.9").rung(KNOWN[0].point, outcomes)


def test_what_costs_least_is_of_use_whatever_its_metric() -> None:
    front = early("front")
    assert front.needed(outcome(0.5, 0.1), KNOWN) is None
    assert front.needed(outcome(0.5, 0.5), KNOWN) == 0.9
    assert front.needed(outcome(0.5, 1.0), KNOWN) == 0.94
    assert early("fastest").needed(outcome(0.5, 0.5), KNOWN) is None
    assert early("accurate").needed(outcome(0.5, 0.1), KNOWN) == 0.94
    assert early("accurate, ms <= 0.5").needed(outcome(0.5, 0.1), KNOWN) == 0.9
    assert early("smallest, top1 >= 0.93").needed(outcome(0.5, 0.1), KNOWN) == 0.93


def test_what_was_stopped_is_believed_to_have_learned_as_usual() -> None:
    known = early("front")
    stopped = Outcome(KNOWN[1].point, "r", "", {}, 1.0, midway=0.5, stopped=True)
    values = known.with_predictions(stopped, KNOWN).values
    assert 0.5 < values["top1"] < 0.92
    assert values[MS] == pytest.approx(0.6, rel=0.2)
    assert known.goal.front([known.with_predictions(stopped, KNOWN)]) == []


@pytest.mark.parametrize("seed", range(2))
def test_what_it_stops_would_not_have_been_of_use(seed: int, tmp_path: Path) -> None:
    search, land = tried(tmp_path, "front", seed, 900)
    assert len(land.stopped) >= 3
    found = search.chosen()
    for each in land.stopped:  # with what it would have become
        assert any(
            other.values["top1"] >= each.values["top1"] - 0.005
            and other.values[MS] <= each.values[MS] * 1.02
            and other.values[BYTES] <= each.values[BYTES] * 1.02
            for other in found
        ), each
    stopped = {each.recipe for each in search.outcomes if each.stopped}
    assert len(stopped) == len(land.stopped)
    assert not stopped & {each.recipe for each in search.trained}


def test_it_finds_what_is_wanted_where_most_trainings_fail(tmp_path: Path) -> None:
    search, land = tried(tmp_path, "fastest, top1 >= float - 0.03", 0, 700)
    assert search.chosen() and land.stopped


def test_stopped_trainings_count_as_trials_and_are_not_begun_again(tmp_path: Path) -> None:
    first, _ = tried(tmp_path, "front", 0, 1e6, trials=14)
    assert len(first.trained) < first.study.trained() == 14
    again, land = tried(tmp_path, "front", 0, 1e6, trials=18)
    recipes = [each.recipe for each in again.outcomes if not each.probe]
    assert len(recipes) == len({*recipes}) == 18
    assert len([call for call in land.calls if "distill" in call]) <= 4 + 8  # and probes


def test_another_want_may_need_what_was_stopped(tmp_path: Path) -> None:
    first, _ = tried(tmp_path, "front", 0, 1e6, trials=14)
    second, _ = tried(tmp_path, "smallest", 0, 1e6, trials=0)
    assert any(each.stopped for each in first.outcomes)
    assert [each for each in first.outcomes if not each.stopped] == second.outcomes


def test_other_ways_to_choose_stop_nothing(tmp_path: Path) -> None:
    search, land = searched(tmp_path, "front", "random", 0, 400)
    assert search.trained and not land.stopped
    assert all(each.midway is None for each in search.outcomes)


def test_the_time_of_a_stopped_training_says_nothing_of_whole_ones() -> None:
    space = SearchSpace(SPACE)
    whole = [replace(each, recipe=str(space.at(each.point)), seconds=100.0) for each in KNOWN[:3]]
    stopped = replace(whole[0], seconds=1.0, stopped=True)
    point = encoded(KNOWN[3].point, space.choices)[None]
    seconds = Effort([*whole, stopped], space.choices)(point, [space.at(KNOWN[3].point)])
    assert seconds == pytest.approx(100)


def test_recipes_that_share_a_training_are_judged_by_the_lowest_rung() -> None:
    recipes = [
        Recipe(f"train(1) | prune(0.5) | train(9) | {end}") for end in ("fold", "quantize(8)")
    ]
    last = ends(recipes, [0], lambda _: "given")
    judged = last[0].path[3].key
    assert rungs_of(last, [Rung(0.8), Rung(0.7)]) == {judged: Rung(0.7)}
    assert rungs_of(last, [Rung(0.8), Rung()]) == {judged: Rung()}
    assert rungs_of(last, [None, None]) == {}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_real_training_is_stopped_and_goes_on_when_it_is_run(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process and in a worker; a stopped recipe is still a recipe."""
    monkeypatch.setattr("lissom.running.search.search.PROBES", 1)
    rungs = [Rung(), Rung(1.5)]
    monkeypatch.setattr(EarlyStopping, "rung", lambda *_: rungs.pop(0))
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    store = Store(tmp_path / "store")
    told: list[str] = []
    found = lissom.search(
        'train(1) | prune(0.1..0.5, of="macs") | train(3, batch=256) | quantize(8)',
        "fastest",
        task,
        store,
        budget_s=600,
        targets="onnxruntime",
        trials=2,
        workers=workers,
        worker_threads=1 if workers else 0,
        say=told.append,
    )
    whole, stopped = [Outcome.of(each) for each in found.outcomes if not each["probe"]]
    assert whole.finished and whole.midway is not None and stopped.stopped
    assert found.chosen == [whole.recipe] and stopped.recipe not in found.why_not
    assert stopped.key not in store
    assert any("after a third of the epochs is too low" in line for line in told)
    told.clear()
    (record,) = lissom.run(stopped.recipe, task, store, say=told.append)
    assert record["key"] == stopped.key
    if not workers:  # the checkpoint is of one number of threads
        assert any("goes on from the checkpoint of an earlier run, in epoch 2/3" in t for t in told)
