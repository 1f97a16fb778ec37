"""The results of a search in the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lissom.report.searched import print_found
from lissom.running.search.found import Found

VALUES = {"top1": 0.95, "ms@openvino": 0.05213, "bytes@openvino": 60_421.0}
FOUND = Found(
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
    print_found(FOUND)
    said = capsys.readouterr().out
    rows = {line.split()[-1]: line for line in said.splitlines() if "ms " in line}
    assert "0.0521 ms" in rows["prune(0.5)"] and "chosen" in rows["prune(0.5)"]
    assert "prune(0.7)" not in rows
    assert "the best has 0.0521 ms" in rows["prune(0.1)"] and "0.2 ms" in rows["uncompressed"]
    assert "2 recipes trained, 1 stopped early, 1 more only measured, 90 s" in said


def test_a_search_that_came_to_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_found(replace(FOUND, met=False, chosen=[], outcomes=[], why_not={}))
    said = capsys.readouterr().out
    assert "the time was up before a recipe was done" in said and "nearest" not in said
