"""`lissom list`: methods by their names and by those of the field."""

from __future__ import annotations

import pytest

from lissom import LissomError
from lissom.report.methods import method_rows, print_methods


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("adaround", {"quantize"}),
        ("BRECQ", {"quantize"}),
        ("cle", {"equalize"}),
        ("cross-layer equalization", {"equalize"}),
        ("batch-norm folding", {"fold"}),
        ("network slimming", {"sparsify", "bn"}),
        ("penalty", {"sparsify"}),
        ("hinton", {"kd"}),
        ("prune", {"prune"}),
    ],
)
def test_a_method_is_found_by_any_name_of_it(word: str, names: set[str]) -> None:
    assert {row["name"] for row in method_rows(word)} == names


def test_a_word_that_names_nothing_is_refused_with_the_nearest() -> None:
    with pytest.raises(LissomError, match="no menu or method 'prunne'; did you mean 'prune'"):
        method_rows("prunne")


def test_settings_that_several_steps_share_are_explained_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = method_rows("steps")
    print_methods(rows)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.split()[:1] == ["momentum"] for line in lines) == 1
    assert any("and, as in distill: " in line and "momentum" in line for line in lines)
    assert max(map(len, lines)) < 400


def test_one_method_is_shown_with_what_each_setting_may_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_methods(method_rows("train"), long=True)
    assert "int, >= 1, <= 100000" in capsys.readouterr().out
