"""A search space with ranges: its choices have names, and every combination is a recipe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom import LissomError, Recipe, SearchSpace, Space
from lissom.language.search_space import Choice


def names(text: str) -> dict[str, Choice]:
    return {choice.name: choice for choice in SearchSpace(text).choices}


def ways(space: SearchSpace) -> set[str]:
    """The recipes of every way to choose options, with ranges at their upper ends."""
    found = set[str]()
    begun: list[list[int]] = [[]]
    while begun:
        taken = begun.pop()
        met: list[int] = []

        def choose(choice: Choice, taken: list[int] = taken, met: list[int] = met) -> float:
            if not choice.options:
                return choice.high
            place = taken[len(met)] if len(met) < len(taken) else 0
            if len(met) >= len(taken):
                begun.extend([*met, other] for other in range(1, len(choice.options)))
            met.append(place)
            return place

        found.add(str(space.recipe(choose)))
    return found


def test_choices_have_the_names_of_settings() -> None:
    found = names(
        'train(10) | prune(0..0.8, by={fisher, l1}, of="macs") | distill("kd", {2, 5}, lr=log(0.001..0.1)) '
        "| prune(0.1..0.5..0.1) | {fold, quantize({8, 4})}"
    )
    assert list(found) == [
        "prune.amount",
        "prune.by",
        "distill.epochs",
        "distill.lr",
        "prune.amount #2",
        "step 5",
        "quantize.weights",
    ]
    assert found["prune.by"].options == ("fisher", "l1")
    assert found["distill.epochs"].numbers == [2.0, 5.0]
    assert found["distill.lr"].log and not found["prune.amount"].log
    assert found["prune.amount #2"].step == 0.1


def test_sets_of_one_setting_in_two_options_are_two_choices() -> None:
    space = SearchSpace("{prune({0.1, 0.2, 0.3}), prune({0.4, 0.5})} | train(1)")
    found = {choice.name: choice.options for choice in space.choices}
    assert found == {
        "step 1": ("prune({0.1, 0.2, 0.3})", "prune({0.4, 0.5})"),
        "prune.amount": ("0.1", "0.2", "0.3"),
        "prune.amount #2": ("0.4", "0.5"),
    }
    last = space.recipe(lambda choice: choice.high)
    assert str(last) == "prune(0.5) | train(1)"


def test_choices_within_options_within_options_are_found() -> None:
    inner = "{cast, prune(0..0.5)}"
    found = names(f"{{quantize(8), {{mask(0.5), {inner} | train({{1, 2}})}} | quantize({{8, 4}})}}")
    assert {"prune.amount", "train.epochs", "quantize.weights"} <= found.keys()


@given(st.data())
def test_every_number_lies_in_the_range_and_on_its_grid(data: st.DataObject) -> None:
    low = data.draw(st.floats(-10, 10, allow_nan=False))
    high = low + data.draw(st.floats(1e-3, 10))
    step = data.draw(st.none() | st.floats(1e-3, high - low)) if high - low > 1e-3 else None
    choice = Choice("x", low=low, high=high, step=step)
    number = choice.number(data.draw(st.floats(-30, 30)))
    assert low - 1e-9 <= number <= high + 1e-9
    if step is not None:
        assert abs((number - low) / step - round((number - low) / step)) < 1e-6


@given(st.floats(0.1, 1000), st.floats(1e-6, 1).filter(lambda width: width > 1e-6), st.floats(0, 1))
def test_a_narrow_range_far_from_0_keeps_its_inner_numbers(
    low: float, width: float, share: float
) -> None:
    choice = Choice("x", low=low, high=low + width)
    value = low + share * width
    assert abs(choice.number(value) - value) <= 0.0051 * width


@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("prune({0..0.5, 0.7})", {"prune(0.5)", "prune(0.7)"}),
        ("quantize({8, {4, 2}})", {"quantize(8)", "quantize(4)", "quantize(2)"}),
        ("{2, {3, 4}} * mask(0.5)", {"2 * mask(0.5)", "3 * mask(0.5)", "4 * mask(0.5)"}),
        ("prune(0.5, by={l1, {bn, fisher}})", {'prune(0.5, by="bn")', 'prune(0.5, by="fisher")'}),
        ("train(1, lr={log(0.01..0.1), 0.2})", {"train(1, lr=0.1)", "train(1, lr=0.2)"}),
    ],
)
def test_sets_and_ranges_within_sets_are_choices(text: str, some: set[str]) -> None:
    found = ways(SearchSpace(text))
    assert {str(Recipe(each)) for each in some} <= found
    assert not any("span" in each for each in found)


values = st.recursive(
    st.integers(1, 9).map(str),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(", ".join).map("{{{}}}".format),
    max_leaves=6,
)


@given(values, values)
def test_nested_sets_are_those_of_a_grid(epochs: str, batch: str) -> None:
    text = f"train({epochs}, batch={batch})"
    assert ways(SearchSpace(text)) == set(map(str, Space(text)))


def test_a_range_within_a_set_may_leave_the_step_out() -> None:
    space = SearchSpace("train(1) | prune({0..0.5, 0.7})")
    assert str(space.recipe(lambda _: 0)) == "train(1)"


def test_a_range_of_a_whole_setting_is_whole() -> None:
    found = names('distill("kd", 1..20) | prune(0..1)')
    assert found["distill.epochs"].whole and not found["prune.amount"].whole
    assert found["distill.epochs"].number(3.4) == 3


def test_every_way_is_a_recipe_of_the_grid() -> None:
    """Without ranges, the ways are exactly the recipes of a grid."""
    text = "train({1, 2}) | {fold, prune({0.3, 0.5}) | {2, 3} * train(1)} | quantize({8, 4})"
    space = SearchSpace(text)
    draw = np.random.default_rng(0)
    found = {str(space.recipe(lambda c: int(draw.integers(len(c.options))))) for _ in range(400)}
    assert found == set(map(str, Space(text)))


def test_no_amount_leaves_the_step_out() -> None:
    space = SearchSpace("train(1) | prune(0..0.8) | quantize(8)")
    assert str(space.recipe(lambda _: 0.0)) == "train(1) | quantize(8)"
    assert str(space.recipe(lambda _: 0.01)) == "train(1) | quantize(8)"
    assert str(space.recipe(lambda _: 0.3)) == "train(1) | prune(0.3) | quantize(8)"
    with pytest.raises(LissomError, match=r"no step of 'prune\(0..0.8\)' is left"):
        SearchSpace("prune(0..0.8)").recipe(lambda _: 0.0)


def test_numbers_stay_in_the_range_and_on_the_grid() -> None:
    choice = Choice("x", low=0.1, high=0.8, step=0.25)
    assert [choice.number(v) for v in (0.0, 0.2, 0.5, 0.9)] == [0.1, 0.1, 0.6, 0.6]
    assert Choice("x", low=0.1, high=0.5, step=0.1).number(0.5) == 0.5
    assert Choice("x", low=1, high=20, step=5, whole=True).number(20) == 16
    assert Choice("x", low=0, high=0.6667).number(0.6667) == 0.6667  # not 0.667, beyond the range
    assert Choice("x", low=0.99, high=0.9999).number(0.9999) == 0.9999
    assert Choice("x", low=0.0, high=1.0).number(0.123456) == 0.123


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the space is empty"),
        ("prune(0.8..0.2)", "expected a range from less to more, got 0.8..0.2"),
        ("prune(0.2..0.8..0.9)", "expected a step above 0 and within the range"),
        ('distill("kd", 1..2.5)', "expected whole numbers, got 1..2.5"),
        ("train(1, lr=log(0..0.1))", "with low above 0"),
        ("train(1, batch=log(1..64..2))", r"takes no step, got log\(1..64..2\)"),
        (f"train(1..{'9' * 400})", "expected a range of numbers below 1e308, got 1..999"),
        ("prune(0..1e999)", "expected a range of numbers below 1e308"),
        ("prun(0..0.8)", "did you mean 'prune'"),
        ("prune(0..0.8, bye={l1, l2})", "'bye'"),
        ("quantize(8) | prune(0.1..0.5)", "quantize"),
    ],
)
def test_what_is_no_space_says_so(text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        SearchSpace(text)


@pytest.mark.parametrize("text", ["prune(0..0.8)", "train(1, lr=log(0.01..0.1))", "train(1..3)"])
def test_a_grid_takes_no_range(text: str) -> None:
    with pytest.raises(LissomError, match="is a range, which `lissom search` takes"):
        Space(text)
    with pytest.raises(LissomError, match="is a range"):
        Recipe(text)


def test_dots_in_quotes_are_no_range() -> None:
    (recipe,) = Space('distill("kd", 1, teacher="a/1..2/net.pt")')
    assert "1..2" in str(recipe)
