"""Errors are one printable line in any terminal, whatever they quote."""

from __future__ import annotations

import pickle

import pytest

from lissom.errors import MOST, LissomError


@pytest.mark.parametrize(
    "text",
    [
        "one\ntwo\r\n  three",
        "\x1b[31mred\x07",
        "a name \udcff",
        "\u2028\x85\x0b",
        "\0",
        "\n" * 5_000,
        "\x1b" * 999,
    ],
)
def test_an_error_is_one_line_that_can_be_printed(text: str) -> None:
    said = str(LissomError(f"data: {text} is no image"))
    assert said.isprintable() and len(said) <= MOST and said.startswith("data: ") and said.encode()


def test_a_long_error_keeps_its_beginning_and_its_cure() -> None:
    error = LissomError("recipe: there is no step '" + "x" * 1_000_000 + "'; a shorter one fits")
    assert len(str(error)) == MOST and str(error).startswith("recipe: there is no step 'xxx")
    assert str(error).endswith("xxx'; a shorter one fits")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    exact = "é" * MOST
    assert str(LissomError(exact)) == exact
