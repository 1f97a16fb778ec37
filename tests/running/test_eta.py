"""The position of a run in a grid, and the time left, estimated from finished steps."""

from __future__ import annotations

from pathlib import Path

import lissom
from lissom.data.data import Data
from lissom.language.recipe import Recipe
from lissom.running.eta import Eta
from lissom.running.plan import ends
from lissom.tasks.task import Task


def test_time_left_goes_by_epochs_of_what_is_finished() -> None:
    now = [0.0]
    (end,) = ends([Recipe("train(4) | prune(0.5) | train(2) | train(8)")], [0], str)
    first, a, b, c, d = (node.key for node in end.path)
    eta = Eta(end.path, lambda: now[0])
    assert eta.status(a) == "  [1 of 4]"
    now[0] = 400
    eta.finish(a)
    assert eta.status(b) == "  [2 of 4, about 17 min left]"  # 10.2 of 100 s each
    eta.skip(b)
    assert eta.status(c) == "  [3 of 4, about 17 min left]"
    now[0] = 500
    eta.finish(c)
    assert eta.status(d) == "  [4 of 4, about 11 min left]"
    assert eta.status(first) == "" and Eta(end.path[:2]).status(a) == ""


def test_a_network_may_be_trained_in_several_steps(tmp_path: Path) -> None:
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    (record,) = lissom.run("train(1) | train(2) | fold", task, tmp_path)
    assert record["float"]["key"] == record["before"]


def test_a_grid_tells_where_it_is_over_all_seeds_and_leaves_out_what_the_store_has(
    tmp_path: Path,
) -> None:
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    lissom.run("train(1)", task, tmp_path)
    said: list[str] = []
    lissom.run("train(1) | {prune(0.3), prune(0.5)}", task, tmp_path, seeds=(0, 1), say=said.append)
    places = [line.split("[")[1].split("]")[0].split(",")[0] for line in said if " of 5" in line]
    assert (
        places == [f"{k} of 5" for k in range(1, 6)] and sum("left]" in line for line in said) == 4
    )
