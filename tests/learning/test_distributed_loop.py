"""Several processes train the same network as one would, and are equal at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rank
import torch
from safetensors.torch import load_file
from torch import Tensor

LONG_S = 120
Learned = tuple[dict[str, Tensor], list[Any]]  # weights and rows
TOGETHER = {  # processes: the cases that they learn one after another
    2: (
        "one batch",
        "plain",
        "synchronised",
        "normed",
        "statistics",
        "ranges",
        "quantized",
        "everything",
        "killed",
    ),
    3: ("plain", "synchronised", "few"),  # the last is refused
}


def start(cases: str, folder: Path, count: int = 2) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, rank.__file__, cases, str(number), str(count), folder],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for number in range(count)
    ]


def end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    try:
        said = [process.communicate(timeout=LONG_S)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def learned(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[int, tuple[Path, list[tuple[int, str]]]]:
    """Return where all cases were learned, and how the processes ended, for 2 and 3 processes."""
    found = {}
    for count, cases in TOGETHER.items():
        folder = tmp_path_factory.mktemp("together")
        found[count] = folder, end(start(",".join(cases), folder, count))
    return found


@pytest.fixture
def together(learned: Any) -> Callable[..., Learned]:
    """Return a function that says what a case made in several processes."""

    def made(case: str, count: int = 2) -> Learned:
        folder, ends = learned[count]
        refused = int("few" in TOGETHER[count])
        assert [status for status, _ in ends] == [refused] * count, ends
        return results(case, folder, count)

    return made


def results(case: str, folder: Path, count: int = 2) -> Learned:
    """Return the weights and rows of a case, which are equal in all processes."""
    values = [load_file(folder / f"{case}-{count}-{r}.st") for r in range(count)]
    for name, value in values[0].items():
        for other in values[1:]:
            assert torch.equal(value, other[name]), name
    texts = [json.loads((folder / f"{case}-{count}-{r}.json").read_text()) for r in range(count)]
    for rows, _ in texts:
        for row in rows:
            del row["seconds"]
    assert texts.count(texts[0]) == count
    return values[0], texts[0][0]


def alone(case: str, folder: Path) -> Learned:
    rank.learn(case, folder)
    return (
        load_file(folder / f"{case}-1-0.st"),
        json.loads((folder / f"{case}-1-0.json").read_text())[0],
    )


def far(values: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    return max(float((value - others[name]).abs().max()) for name, value in values.items())


@pytest.mark.parametrize(("case", "count"), [("one batch", 2), ("plain", 2), ("plain", 3)])
def test_a_network_without_batch_norm_learns_the_same(
    case: str, count: int, together: Callable[..., Learned], tmp_path: Path
) -> None:
    """57 samples in batches of 24: the last has 9, parts of 5 and 4."""
    one, one_rows = alone(case, tmp_path)
    several, rows = together(case, count)
    assert far(one, several) < 1e-6
    assert [row["top1"] for row in rows] == pytest.approx([row["top1"] for row in one_rows])
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in one_rows])
    assert [row["lr"] for row in rows] == [row["lr"] for row in one_rows]


@pytest.mark.parametrize("count", [2, 3])
def test_batch_norm_over_all_parts_learns_the_same(
    count: int, together: Callable[..., Learned], tmp_path: Path
) -> None:
    """Parts of 24 samples and of 9 differ in size; running statistics are those of one process."""
    one, one_rows = alone("synchronised", tmp_path)
    several, rows = together("synchronised", count)
    assert far(one, several) < 1e-5
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in one_rows])


def test_a_network_with_batch_norm_learns_as_well(
    together: Callable[..., Learned], tmp_path: Path
) -> None:
    """Statistics are those of parts, and augmentations and dropout draw anew: equal within noise."""
    _, one = alone("normed", tmp_path)
    _, several = together("normed")
    assert len(one) == len(several) == 6
    assert several[0]["loss"] == pytest.approx(one[0]["loss"], rel=0.15)
    assert several[-1]["loss"] == pytest.approx(one[-1]["loss"], rel=0.15)
    assert several[-1]["loss"] < 0.9 * several[0]["loss"]


def test_statistics_are_those_of_the_parts_averaged(
    together: Callable[..., Learned], tmp_path: Path
) -> None:
    """Means are those of the whole batch, whose parts have 29 and 28 samples."""
    one, _ = alone("statistics", tmp_path)
    several, _ = together("statistics")
    assert torch.allclose(several["1.running_mean"], one["1.running_mean"], atol=1e-6)
    assert not torch.equal(several["1.running_mean"], torch.zeros(8))
    assert torch.allclose(several["1.running_var"], one["1.running_var"], rtol=0.05)


def test_moving_ranges_are_those_of_the_whole_batch(
    together: Callable[..., Learned], tmp_path: Path
) -> None:
    one, _ = alone("ranges", tmp_path)
    several, _ = together("ranges")
    ends = [name for name in several if name.endswith((".low", ".high")) and "input" in name]
    assert len(ends) == 2  # behind batch-norm values depend on the part
    for name in ends:
        assert torch.equal(several[name], one[name]), name


@pytest.mark.parametrize("case", ["quantized", "everything"])
def test_all_that_moves_is_equal_at_the_end(case: str, together: Callable[..., Learned]) -> None:
    """Moving ranges, buffers of unknown layers, averages, the best epoch, what terms remember."""
    values, rows = together(case)
    assert all(
        torch.isfinite(value).all() for value in values.values() if value.is_floating_point()
    )
    if case == "everything":
        assert [row["valid"] for row in rows] == [0.0] * len(rows)  # as the first process judges


def test_a_killed_process_ends_the_others_and_the_step_goes_on_later(
    together: Callable[..., Learned], tmp_path: Path
) -> None:
    values, rows = together("killed")
    (tmp_path / "kill").touch()
    (first, said), (second, _) = end(start("killed", tmp_path))
    assert second == -9
    assert first == 1 and said.strip().splitlines()[-1] == "lissom: another process ended"
    (tmp_path / "kill").unlink()
    (tmp_path / "meeting").unlink(missing_ok=True)
    ends = end(start("killed", tmp_path))
    assert [status for status, _ in ends] == [0, 0], ends
    again, rows_again = results("killed", tmp_path)
    assert far(values, again) == 0  # it went on, and ends in the same bits
    assert rows == rows_again


def test_too_small_batches_are_refused(learned: dict[int, tuple[Path, list[Any]]]) -> None:
    _, ends = learned[3]
    assert all("expected at least 2 samples of a batch for each of 3" in said for _, said in ends)


HANGS = """
import sys, time, torch
from datetime import timedelta
from pathlib import Path
from lissom import LissomError
from lissom.learning.ranks import join_group

rank = int(sys.argv[1])
wait = timedelta(seconds=3)
ranks = join_group(rank, 2, Path(sys.argv[2]), lambda: "another does not answer", timeout=wait)
if rank == 1:
    time.sleep(60)
try:
    ranks.all_reduce_sum([torch.ones(2)])
except LissomError as error:
    sys.exit(str(error))
"""


def test_a_process_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HANGS, str(number), tmp_path / "meeting"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        _, said = processes[0].communicate(timeout=50)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    # gloo itself may have a last word when the process ends
    assert "another does not answer" in said.splitlines()
