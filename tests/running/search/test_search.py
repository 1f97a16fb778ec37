"""A search reaches its goal in fewer trials than others, and resumes where it stopped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from landscape import FLOAT, SPACE, Landscape, hypervolume, searched

import lissom
from lissom import LissomError, Store
from lissom.data.data import Data
from lissom.language.recipe import Recipe
from lissom.language.search_space import SearchSpace
from lissom.language.want import Want
from lissom.running.plan import targets_of
from lissom.running.search.effort import Effort, RemainingBudget, expected_count
from lissom.running.search.front import gain
from lissom.running.search.goal import Goal
from lissom.running.search.outcome import Outcome, Point
from lissom.running.search.propose import Proposer
from lissom.running.search.run_search import (
    IncompleteSearch,
    SearchResult,
    few_bits_help,
    finish_search,
)
from lissom.running.search.search import Budget, Search, default_space, reason_not_chosen
from lissom.running.search.surrogate import encoded
from lissom.tasks.task import Task

WANT = "fastest, top1 >= float - 0.03"
LEAST_MS = 0.198  # of the landscape, where accuracies are known exactly


def test_it_finds_the_fastest_within_few_trials(tmp_path: Path) -> None:
    search, _ = searched(tmp_path, WANT, "model", 1, 600)
    best = search.goal.best(search.trained)
    assert best is not None and search.goal.meets(best)
    assert best.values["ms@onnxruntime"] < 1.12 * LEAST_MS
    assert len(search.trained) <= 24


def test_its_front_holds_more_than_that_of_chance(tmp_path: Path) -> None:
    volumes = {"model": 0.0, "random": 0.0}
    for by in volumes:
        for seed in range(2):
            search, _ = searched(tmp_path / f"{by}{seed}", "front", by, seed, 500)
            volumes[by] += hypervolume(search.goal, search.outcomes)
    assert volumes["model"] > 1.15 * volumes["random"]


def test_a_short_search_finds_smaller_files_than_chance(tmp_path: Path) -> None:
    """With time for six recipes, the first ones must not be spent at the ends of the ranges."""
    space = str(default_space(learns=True, labelled=True, few_bits=False, samples=50_000))
    sizes: dict[str, list[float]] = {"model": [], "random": []}
    for by, found in sizes.items():
        for seed in range(4):
            want = "smallest, top1 >= float - 0.02"
            search, _ = searched(tmp_path / f"{by}{seed}", want, by, seed, 120, space=space)
            best = search.goal.best(search.trained)
            assert best is not None and len(search.trained) <= 8
            found.append(best.values["bytes@onnxruntime"])
    assert np.mean(sizes["model"]) < np.mean(sizes["random"])


@pytest.mark.parametrize("want", ["smallest", "fastest"])
def test_a_short_search_where_half_the_options_fail_meets_its_limits(
    want: str, tmp_path: Path
) -> None:
    """4 bits lose more than is allowed, which nothing says before they are tried."""
    for seed in range(4):
        search, _ = searched(
            tmp_path / str(seed), f"{want}, top1 >= float - 0.02", "model", seed, 120
        )
        assert search.goal.best(search.trained) is not None


def test_the_number_of_recipes_is_a_matter_of_time_or_of_trials() -> None:
    recipe = 'prune(0.5) | distill("kd", 5)'
    trained = [Outcome({}, recipe, "", {}, 20.0), Outcome({}, "fold", "", {}, 1.0)]
    assert (
        expected_count([], RemainingBudget(100.0), 1) == np.inf
    )  # how long one takes is not known
    assert expected_count(trained[1:], RemainingBudget(100.0), 1) == np.inf
    assert expected_count(trained, RemainingBudget(100.0), 1) == 2 + 5
    assert expected_count(trained, RemainingBudget(100.0), 4) == 2 + 20
    assert expected_count(trained, RemainingBudget(100.0, recipes=3), 4) == 2 + 3


def test_the_cheapest_combination_is_looked_for_before_a_goal_is_refused(tmp_path: Path) -> None:
    """It is not among the first probes; of 75 recipes, 3 have so few bytes."""
    space = (
        "prune({0.3, 0.4, 0.5, 0.6, 0.7}) | distill('kd', {2, 5, 10}) | quantize({4, 5, 6, 7, 8})"
    )
    search, _ = searched(tmp_path, "accurate, bytes <= 19.5 kB", "model", 0, 600, space=space)
    best = search.goal.best(search.trained)
    assert best is not None and best.values["bytes@onnxruntime"] == 19_000


def test_what_has_learned_takes_no_time_again() -> None:
    """A recipe that begins with all the learning of another takes as long as what does not learn."""
    space = SearchSpace(SPACE)
    points: list[Point] = [
        {"prune.amount": 0.5, "prune.by": 0, "distill.epochs": epochs, "quantize.weights": 0}
        for epochs in range(3)
    ]
    seconds = (20.0, 40.0, 80.0)
    outcomes = [
        Outcome(point, str(space.at(point)), "", {}, took)
        for point, took in zip(points, seconds, strict=True)
    ]
    probe = Outcome(points[0], "prune(0.5) | quantize(8)", "", {}, 3.0, probe=True)
    effort = Effort([probe, *outcomes], space.choices)
    asked = [points[2] | {"quantize.weights": 1}, points[2] | {"prune.amount": 0.52}]
    places = np.stack([encoded(point, space.choices) for point in asked])
    stored, other = effort(places, [space.at(point) for point in asked])
    assert stored == 3.0
    assert 40 < other < 120


def test_what_is_expected_of_a_front_is_the_mean_of_what_is_gained() -> None:
    draw = np.random.default_rng(0)
    losses = draw.random((4, 3))
    mean = draw.random((3, 3))
    deviation = np.full((3, 3), 0.2)
    low = np.zeros(3)
    high = np.ones(3)
    boxed = draw.random((20_000, 3))

    def beaten(front: np.ndarray) -> float:
        return float((front[:, None] <= boxed).all(2).any(0).mean())

    gains = [
        np.mean(
            [
                beaten(np.vstack([losses, draw.normal(mean[k], deviation[k])[None]]))
                for _ in range(300)
            ]
        )
        - beaten(losses)
        for k in range(3)
    ]
    found = np.mean([gain(losses, low, high, mean, deviation, draw) for _ in range(20)], 0)
    assert np.allclose(found, gains, rtol=0.15, atol=0.005)


@pytest.mark.parametrize("by", ["random", "tpe", "nsga2"])
def test_other_ways_to_choose_keep_the_budget(by: str, tmp_path: Path) -> None:
    search, land = searched(tmp_path, WANT, by, 0, 300)
    assert len(search.trained) >= 5 and land.seconds <= 300 + 45
    assert not any(each.probe for each in search.outcomes)


def test_the_budget_is_kept(tmp_path: Path) -> None:
    """Nothing is begun that is expected to end too late."""
    _, land = searched(tmp_path, WANT, "model", 3, 200)
    assert land.seconds <= 200
    few, _ = searched(tmp_path / "few", WANT, "model", 3, 1e6, trials=4)
    assert len(few.trained) == 4


def test_two_at_once_find_as_much(tmp_path: Path) -> None:
    """Recipes that run side by side differ, and each is chosen as if the other had ended."""
    two, land = searched(tmp_path, WANT, "model", 0, 1e6, trials=14, room=2)
    assert len({each.recipe for each in two.outcomes if not each.probe}) == 14
    assert land.seconds < 0.9 * sum(each.seconds for each in two.outcomes)
    best = two.goal.best(two.trained)
    assert best is not None and best.values["ms@onnxruntime"] < 1.2 * LEAST_MS


@pytest.mark.parametrize("by", ["model", "random"])
def test_no_more_trials_than_asked_for(by: str, tmp_path: Path) -> None:
    few, _ = searched(tmp_path, WANT, by, 0, 1e6, trials=5, room=4)
    assert len(few.trained) == 5


def test_an_error_of_trained_networks_is_bounded_by_no_probe(tmp_path: Path) -> None:
    """A metric of which less is better is none of the costs that probes know."""

    class Errs(Landscape):
        def outcome(self, point: Point, recipe: Recipe, *, probe: bool = False) -> Outcome:
            outcome = super().outcome(point, recipe, probe=probe)
            return replace(outcome, values=outcome.values | {"mae": 1 - outcome.values["top1"]})

    land = Errs(tmp_path)
    land.run.task.metric_names = ("top1", "mae")
    land.reference = lambda _: Outcome({}, "", "float", FLOAT | {"mae": 0.05}, 0.0)  # type: ignore[method-assign]
    want = Want.of("fastest, mae <= float + 0.03")
    search = Search(SearchSpace(SPACE), want, land, Budget(400), "", clock=land.clock)  # type: ignore[arg-type]
    search.search()
    best = search.goal.best(search.trained)
    assert best is not None and best.values["mae"] <= 0.08
    assert best.values["ms@onnxruntime"] < 1.3 * LEAST_MS


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    first, _ = searched(tmp_path, WANT, "model", 0, 1e6, trials=4)
    again, land = searched(tmp_path, WANT, "model", 0, 1e6, trials=7)
    assert [each.recipe for each in again.outcomes[: len(first.outcomes)]] == [
        each.recipe for each in first.outcomes
    ]
    assert len(land.calls) == 3 and len(again.trained) == 7


def test_another_want_knows_what_was_found_out(tmp_path: Path) -> None:
    """Outcomes of the same space are taken over, in units of the first reference; trials are its own."""
    first, _ = searched(tmp_path, WANT, "model", 0, 1e6, trials=4)
    slower = {**FLOAT, "ms@onnxruntime": 2 * FLOAT["ms@onnxruntime"]}
    land = Landscape(tmp_path)
    land.reference = lambda _: Outcome({}, "", "float", slower, 0.0)  # type: ignore[method-assign]
    second = Search(
        SearchSpace(SPACE),
        Want.of("smallest"),
        land,  # type: ignore[arg-type]
        Budget(1e6, 2),
        "",
        clock=land.clock,
    )
    assert second.outcomes == first.outcomes and second.reference == first.reference
    second.search()
    assert len(land.calls) == 2 and len(second.trained) == 6
    once_more, land = searched(tmp_path, WANT, "model", 0, 1e6, trials=5)
    begun = [each for each in once_more.outcomes if not each.probe]
    assert len(land.calls) == 1 and len(begun) == 7


def test_what_no_recipe_can_cost_is_refused_before_training(tmp_path: Path) -> None:
    land = Landscape(tmp_path)
    search = Search(
        SearchSpace(SPACE),
        Want.of("accurate, ms <= 0.01"),
        land,  # type: ignore[arg-type]
        Budget(600),
        "",
        clock=land.clock,
    )
    with pytest.raises(
        LissomError, match=r"no recipe of the space comes so far; the least is 0\.1"
    ):
        search.search()
    assert all(each.probe for each in search.outcomes)
    # and so it is when another search has measured already
    searched(tmp_path, WANT, "model", 0, 1e6, trials=3)
    with pytest.raises(LissomError, match="no recipe of the space comes so far"):
        searched(tmp_path, "fastest, ms <= 0.01", "model", 0, 1e6, trials=3)


@pytest.mark.parametrize(
    ("want", "said"),
    [
        ("fastest, top1 >= float + 0.5", "no network reaches more than 1"),
        ("fastest, top2 >= 0.5", "did you mean 'top1'"),
        ("fastest, ms@openvino <= 2", "runtime of --to"),
    ],
)
def test_impossible_wants_are_refused(want: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(LissomError, match=said):
        searched(tmp_path, want, "model", 0, 100)


def test_a_name_that_nobody_measures_is_told_before_anything_is_run(tmp_path: Path) -> None:
    land = Landscape(tmp_path)
    land.reference = pytest.fail  # type: ignore[method-assign]
    want = Want.of("fastest, recall >= 0.5")
    with pytest.raises(LissomError, match="no metric or cost 'recall'"):
        Search(SearchSpace(SPACE), want, land, Budget(100), "")  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["model", "random", "nsga2"])
def test_a_small_space_ends_by_itself(by: str, tmp_path: Path) -> None:
    """A recipe that a sampler names again is neither run nor counted again."""
    search, land = searched(
        tmp_path, WANT, by, 0, 1e6, space="prune({0.2, 0.4}) | distill('kd', {2, 5})", room=2
    )
    assert len(search.trained) == search.study.trained() == 4
    assert len([call for call in land.calls if "distill" in call]) <= 8
    if by != "model":
        assert len(land.calls) == 4


def test_recipes_that_fail_are_told_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = Landscape.outcome

    def sometimes(self: Landscape, point, recipe, *, probe: bool = False) -> Outcome:  # type: ignore[no-untyped-def]
        if "fisher" in str(recipe):
            raise LissomError("fisher: it cannot be")
        return true(self, point, recipe, probe=probe)

    monkeypatch.setattr(Landscape, "outcome", sometimes)
    told: list[str] = []
    search, _ = searched(tmp_path, WANT, "random", 0, 200, say=told.append)
    assert search.trained and not any("fisher" in each.recipe for each in search.trained)
    assert "note: fisher: it cannot be" in told


def test_what_learns_nothing_is_known_from_the_beginning(tmp_path: Path) -> None:
    """To round alone is tried first: where time is short, it is better than nothing."""
    space = '{quantize(8), prune(0.2..0.8) | distill("kd", {20, 40}) | quantize(8)}'
    search, land = searched(tmp_path, WANT, "model", 0, 30, space=space)
    best = search.goal.best(search.trained)
    assert best is not None and best.recipe == "quantize(8)"
    assert land.calls.count("quantize(8)") == 1


def test_choices_within_an_option_are_weighed(tmp_path: Path) -> None:
    """What the metric depends on is said of recipes that make the same choices."""
    space = '{quantize(8), prune(0.1..0.8) | distill("kd", {2, 10}) | {fold, quantize(8)}}'
    search, _ = searched(tmp_path, WANT, "random", 0, 1e6, trials=20, space=space)
    shares = search.study.importances("top1")
    assert {"prune.amount", "distill.epochs", "fold or quantize"} <= shares.keys()
    assert shares["prune.amount"] > 0.3 and sum(shares.values()) == pytest.approx(1, abs=1e-3)


def test_the_cheapest_of_equals_is_best() -> None:
    goal = Goal((("top1", 1),), ())
    outcomes = [
        Outcome({}, f"prune(0.{k})", "", {"top1": top1, "ms@x": ms, "bytes@x": 100.0}, 1)
        for k, (top1, ms) in enumerate([(0.9, 3.0), (0.9, 1.0), (0.9, 2.0), (0.8, 0.5)])
    ]
    assert goal.best(outcomes) is outcomes[1]
    assert reason_not_chosen(outcomes[0], [outcomes[1]], goal) == "as good, and costs more"
    assert reason_not_chosen(outcomes[3], [outcomes[1]], goal) == "top1 0.8, the best has 0.9"


def test_a_front_is_what_nothing_beats() -> None:
    draw = np.random.default_rng(0)
    goal = Goal((("top1", 1), ("ms", -1)), ())
    outcomes = [
        Outcome({}, str(k), "", {"top1": float(a), "ms": float(b)}, 1.0)
        for k, (a, b) in enumerate(draw.random((40, 2)).round(1) + 0.1)
    ]
    front = goal.front(outcomes)
    for each in outcomes:
        beaten = any(
            other.values["top1"] >= each.values["top1"]
            and other.values["ms"] <= each.values["ms"]
            and other.values != each.values
            for other in outcomes
        )
        assert (each in front) == (not beaten)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("few_bits", [True, False])
@pytest.mark.parametrize("samples", [500, 50_000])
@pytest.mark.parametrize("residual", [True, False])
def test_default_spaces_are_spaces(
    learns: bool, labelled: bool, few_bits: bool, samples: int, residual: bool
) -> None:
    space = default_space(
        learns=learns, labelled=labelled, few_bits=few_bits, samples=samples, residual=residual
    )
    assert ("drop(" in str(space)) == (learns and residual)
    assert ("batch=32" in str(space)) == (learns and samples == 500)
    assert space.choices
    assert ("alpha=1" in str(space)) == (learns and not labelled)
    assert ("quantize(4" in str(space)) == few_bits


@pytest.mark.parametrize(
    ("want", "targets", "help"),
    [
        ("fastest", "openvino", False),
        ("front", "openvino", True),
        ("smallest", "openvino,onnxruntime", True),
        ("smallest", "onnxruntime,openvino", False),  # the first is made small
        ("smallest@openvino", "onnxruntime,openvino", True),
        ("fastest, bytes <= 9", "openvino", True),
        ("fastest, bytes <= 9", "onnxruntime,openvino", False),  # the other file decides
        ("fastest, bytes@openvino <= 9", "onnxruntime,openvino", True),
    ],
)
def test_few_bits_are_searched_where_bytes_count(want: str, targets: str, help: bool) -> None:
    assert few_bits_help(Want.of(want), targets_of(targets)) == help


def test_probes_say_nothing_of_metrics() -> None:
    want = Want.of("fastest, top1 >= float - 0.03, ms <= 0.5")
    goal = Goal.of(want, ("top1",), ["onnxruntime"], FLOAT)
    probe = Outcome({}, "", "", {**FLOAT, "top1": 0.1, "ms@onnxruntime": 0.4}, 1.0, True)
    assert goal.meets(probe) and goal.best([probe]) is None


def test_a_search_of_real_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recipes on digits: the answer is a recipe of the store, measured in the runtime."""
    monkeypatch.setattr("lissom.running.search.search.PROBES", 1)
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    store = Store(tmp_path / "store")
    told: list[str] = []

    def searched_for(trials: int, **more: int) -> SearchResult:
        told.clear()
        return lissom.search(
            'train(1) | prune(0.1..0.5, of="macs") | train(1) | quantize(8)',
            "fastest, bytes <= float/2",
            task,
            store,
            budget_s=600,
            targets="onnxruntime",
            trials=trials,
            say=told.append,
            **more,
        )

    found = searched_for(2)
    assert found.met and len(found.records) == 1
    record = found.records[0]
    assert record["recipe"] == found.chosen[0] and record["key"] in store
    measured = record["targets"]["onnxruntime"]
    assert measured["size_bytes"] <= 0.5 * measured["float_size_bytes"]
    trained = [each for each in found.outcomes if not each["probe"]]
    assert len(trained) == 2 and set(found.why_not) == {each["recipe"] for each in trained} - {
        found.chosen[0]
    }
    # once more: nothing is left to do
    again = searched_for(2)
    assert again.chosen == found.chosen and not any("epoch" in line for line in told)
    # two more, by two workers side by side
    more = searched_for(4, workers=2, worker_threads=1)
    assert "2 workers of 1 thread" in told
    recipes = {each["key"] for each in more.outcomes if not each["probe"]}
    assert len(recipes) == 4 and all(key in store for key in recipes)
    assert not psutil.Process().children(recursive=True)


def test_a_network_that_misses_what_is_expected_of_it_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lissom.running.search.search.PROBES", 1)
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    store = Store(tmp_path / "store")

    def searched_for(expect: str) -> SearchResult:
        return lissom.search(
            "train(1) | prune(0..0.5)",
            "smallest",
            task,
            store,
            budget_s=600,
            targets="onnxruntime",
            trials=1,
            expect=expect,
        )

    with pytest.raises(LissomError, match="there is no metric 'top2'"):
        searched_for("top2=0.5")
    assert not list(store)
    with pytest.raises(
        LissomError, match=r"--expect: the uncompressed network reaches top1 0\.\d+"
    ):
        searched_for("top1=1.0")
    assert len(list(store)) == 1, "nothing was pruned"
    assert searched_for("top1=0").chosen
    networks = len(list(store))
    # the search knows the uncompressed network now
    with pytest.raises(
        LissomError, match=r"--expect: the uncompressed network reaches top1 0\.\d+"
    ):
        searched_for("top1=1.0")
    assert len(list(store)) == networks


def test_a_space_without_learning_is_searched_by_the_model(tmp_path: Path) -> None:
    """Its recipes are quick, so nothing has to be assumed, nor begun in the middle for ever."""
    want = "smallest, top1 >= float - 0.05"
    search, _ = searched(
        tmp_path, want, "model", 0, 1e6, space="prune(0..0.5) | quantize(8)", trials=16
    )
    best = search.goal.best(search.trained)
    assert best is not None and best.values["bytes@onnxruntime"] < 70_000  # 79,000 in the middle


@pytest.mark.parametrize(
    "space", ["prune(0..0.8)", "train(1) | quantize(8)", "{fold, prune(0..0.5)}"]
)
def test_spaces_with_hardly_a_choice_are_searched_to_their_end(space: str, tmp_path: Path) -> None:
    for want in ("smallest", "front"):
        search, _ = searched(tmp_path / want, want, "model", 0, 600, space=space, trials=8)
        assert search.trained and all(each.recipe for each in search.outcomes)


def test_a_model_learns_where_recipes_cannot_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What looks best may lie beyond what can be run, as the floor of prune."""
    true = Landscape.outcome
    refused: list[float] = []

    def sometimes(self: Landscape, point: Point, recipe: Recipe, *, probe: bool = False) -> Outcome:
        if point.get("prune.amount", 0) > 0.4:
            refused.append(point["prune.amount"])
            raise LissomError("prune: the floor")
        return true(self, point, recipe, probe=probe)

    monkeypatch.setattr(Landscape, "outcome", sometimes)
    for want in ("smallest, top1 >= float / 2", "front"):
        refused.clear()
        search, _ = searched(tmp_path / want[:5], want, "model", 0, 600)
        assert len(search.trained) >= 12 and len(refused) < 40
        best = min(each.values["bytes@onnxruntime"] for each in search.trained)
        assert best < 4e5 * 0.68 * 4 / 32 + 4000  # at least 0.32 is cut, of the 0.4 that can be


@pytest.mark.parametrize(
    ("want", "by", "said"),
    [
        ("fastest", "modle", "did you mean 'model'"),
        ("fastest@onnxrntime", "model", "did you mean 'onnxruntime'"),
        ("fastest@openvino", "model", "runtime of --to"),
    ],
)
def test_what_is_misspelt_is_told_before_anything_is_run(
    want: str, by: str, said: str, tmp_path: Path
) -> None:
    land = Landscape(tmp_path)
    land.reference = pytest.fail  # type: ignore[method-assign]
    with pytest.raises(LissomError, match=said):
        Search(SearchSpace(SPACE), Want.of(want), land, Budget(100), "", by)  # type: ignore[arg-type]


def test_a_runtime_of_no_target_is_refused_without_any(tmp_path: Path) -> None:
    land = Landscape(tmp_path)
    land.targets = []
    with pytest.raises(LissomError, match="--to names its runtime"):
        Search(SearchSpace(SPACE), Want.of("fastest@openvino"), land, Budget(100), "")  # type: ignore[arg-type]


def test_neighbours_on_a_logarithmic_range_are_a_share_of_it_away() -> None:
    space = SearchSpace("train(1, lr=log(0.0001..0.1))")
    goal = Goal((("top1", 1),), ())
    proposer = Proposer(space, goal, FLOAT, np.random.default_rng(0))
    rates = [proposer.near({"train.lr": 0.001})[0]["train.lr"] for _ in range(300)]
    spread = np.std(np.log(rates)) / np.log(0.1 / 0.0001)
    assert spread == pytest.approx(0.1, rel=0.2) and min(rates) > 0.0001


def test_what_was_found_is_kept_though_its_file_cannot_be_made_again(tmp_path: Path) -> None:
    search, land = searched(tmp_path, WANT, "model", 0, 200)

    def gone(_: Outcome) -> list[dict[str, object]]:
        raise LissomError("store: it was deleted")

    with pytest.raises(IncompleteSearch, match="it was deleted") as caught:
        finish_search(search, gone, land.run.store)
    assert caught.value.result.met and caught.value.result.outcomes
    assert list((tmp_path / ".searches").glob("*.json"))
