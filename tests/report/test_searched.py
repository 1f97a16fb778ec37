"""The results of a search in the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.report.searched import print_search
from lissom.running.search.goal import Bound
from lissom.running.search.run_search import SearchResult

VALUES = {"top1": 0.95, "ms@openvino": 0.05213, "bytes@openvino": 60_421.0}
FOUND = SearchResult(
    name="a",
    space="prune(0..0.8)",
    want="fastest, top1 >= 0.9",
    seed=0,
    by="model",
    reference={"top1": 0.96, "ms@openvino": 0.2, "bytes@openvino": 1_094_694.0},
    aims=["ms@openvino"],
    bounds=["top1 >= 0.9"],
    met=True,
    chosen=["prune(0.5)"],
    outcomes=[
        {"recipe": "prune(0.2)", "values": VALUES, "probe": True},
        {"recipe": "prune(0.7)", "values": VALUES, "probe": False, "stopped": True},
        {"recipe": "prune(0.5)", "values": VALUES, "probe": False},
        {"recipe": "prune(0.1)", "values": VALUES | {"ms@openvino": 0.1}, "probe": False},
    ],
    why_not={"prune(0.1)": "ms@openvino 0.1 ms, the best has 0.0521 ms"},
    importances={"prune.amount": 1.0},
    seconds=90.0,
    records=[],
)


def test_what_was_chosen_and_why_others_lost(capsys: pytest.CaptureFixture[str]) -> None:
    print_search(FOUND)
    said = capsys.readouterr().out
    rows = {line.split()[-1]: line for line in said.splitlines() if "ms " in line}
    assert "0.0521 ms" in rows["prune(0.5)"] and "chosen" in rows["prune(0.5)"]
    assert "prune(0.7)" not in rows
    assert "the best has 0.0521 ms" in rows["prune(0.1)"] and "0.2 ms" in rows["uncompressed"]
    assert "2 recipes trained, 1 stopped early, 1 more only measured, 90 s" in said


def test_a_search_that_came_to_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_search(replace(FOUND, met=False, chosen=[], outcomes=[], why_not={}))
    said = capsys.readouterr().out
    assert "the time was up before a recipe was done" in said and "nearest" not in said


def test_a_limit_of_a_runtime_with_settings_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    name = 'bytes@mnn(8, activations="kl")'
    some = {"recipe": "prune(0.5)", "values": VALUES | {name: 3e5}, "probe": False}
    bounds = [f"{name} <= 273673.5123", "top1 >= 0.9399999999999999"]
    print_search(replace(FOUND, met=False, bounds=bounds, outcomes=[some]))
    said = capsys.readouterr().out
    assert "300 kB" in said and name in said
    assert f"keeps {name} <= 2.7367e+05, top1 >= 0.94; the nearest:" in said


@given(st.floats(allow_nan=False), st.booleans())
def test_a_bound_is_read_as_it_was(number: float, least: bool) -> None:
    for name, metric in (("top1", True), ('ms@mnn(8, activations="kl")', False)):
        bound = Bound(name, least, number, metric)
        assert Bound.of(str(bound)) == bound
