"""A metric that is no number for some recipe leaves that recipe out, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lissom
from lissom import LissomError, Store
from lissom.cli.main import main
from lissom.data.data import Data
from lissom.running.search.run_search import SearchResult
from lissom.tasks.task import Task


def task(*, of_uncompressed: bool) -> Task:
    """Digits, with a second metric that only some networks have."""
    made = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    seen: list[float] = []

    def right(outputs: Any, targets: Any) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    def odd(outputs: Any, _: Any) -> float:
        """A number for the first two networks (valid and test), or for none."""
        seen.append(0.0)
        return 0.5 if of_uncompressed and len(seen) <= 2 else float("nan")

    made.metrics = {"right": right, "odd": odd}
    return made


def searched(root: Path, own: Task, want: str, told: list[str]) -> SearchResult:
    return lissom.search(
        "{quantize(8), prune({0.1, 0.2, 0.3})}",
        want,
        own,
        Store(root / "store"),
        budget_s=600,
        trials=2,
        say=told.append,
    )


def test_a_recipe_whose_metric_is_no_number_is_left_out(tmp_path: Path) -> None:
    own = task(of_uncompressed=True)
    told: list[str] = []
    for _ in range(2):  # the same command goes on
        told.clear()
        found = searched(tmp_path, own, "smallest, odd >= float - 0.1", told)
        assert not found.chosen
        assert any("its odd is no number, and --want needs one" in line for line in told), told
    found = searched(tmp_path, own, "smallest", told)
    assert found.chosen, "another want does not need it"
    assert not searched(tmp_path, own, "smallest, odd >= float - 0.2", told).chosen


def test_a_metric_that_the_uncompressed_network_lacks_is_refused(tmp_path: Path) -> None:
    own = task(of_uncompressed=False)
    own.metrics = {"odd": own.metrics["odd"]}
    with pytest.raises(LissomError, match="--want: odd has no number here"):
        searched(tmp_path, own, "accurate", [])


@pytest.mark.parametrize("seed", [-1, 2**31, 10**400], ids=["negative", "large", "huge"])
def test_a_seed_that_no_generator_takes_is_one_line(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", "quantize(8)", "--model", "resnet8", "--data", "digits"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--store", str(tmp_path), "--seed", str(seed)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "--seed" in said and "Traceback" not in said
    own = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    with pytest.raises(LissomError, match="expected a seed from 0 to 2147483647, got "):
        lissom.search("quantize(8)", "smallest", own, tmp_path, budget_s=9, seed=seed)
