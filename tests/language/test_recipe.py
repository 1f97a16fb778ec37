"""The grammar of recipes: parsing, text, keys, and error texts."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from itertools import product
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lissom import LissomError, Recipe, Space
from lissom.language.menu import menu
from lissom.language.method import Method
from lissom.language.parse_methods import method_of
from lissom.language.settings import BOUNDS, setting_fields
from lissom.running.plan import targets_of
from lissom.steps.train import Train

fuzz = settings(max_examples=150, deadline=None, database=None)
printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


# texts that are neither free nor of a menu, and settings that rarely fit each other by chance
OWN: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
    "pattern": lambda: st.sampled_from(["element", "block", "1:2", "2:4", "3:16"]),
    "augment": lambda: augmentations(),
    "warmup": lambda: st.sampled_from([0, 0, 0, 1]),
    "resume": lambda: st.just(False),
}


def value_of(kind: Any, facts: Any) -> st.SearchStrategy[Any]:
    """Draw a value that a setting allows."""
    if facts.get("menu"):
        folder = menu(facts["menu"])
        return (
            st.sampled_from(list(folder)).flatmap(lambda name: drawn_method(folder[name])).map(str)
        )
    if get_origin(kind) in (Union, UnionType):
        return st.one_of(
            [st.none() if k is NoneType else value_of(k, facts) for k in get_args(kind)]
        )
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.booleans()
    if get_origin(kind) is tuple:
        return st.lists(value_of(get_args(kind)[0], facts), min_size=1, max_size=4).map(tuple)
    ends = [facts[key] for key in BOUNDS if facts.get(key) is not None]
    fits = {key: facts[key] for key in BOUNDS if facts.get(key) is not None}
    if kind is int:
        low, high = (
            fits.get("low", fits.get("above", 0) + 1),
            fits.get("high", fits.get("below", 10**6) - 1),
        )
        return st.integers(int(low), int(high))
    if kind is float:
        low, high = (
            fits.get("low", fits.get("above", -1e6)),
            fits.get("high", fits.get("below", 1e6)),
        )
        return st.floats(low, high).filter(
            lambda x: all(BOUNDS[k][1](x, v) for k, v in fits.items())
        )
    assert kind is str and not ends, f"no values are drawn for {kind}"
    return printable


def drawn_value(name: str, kind: Any, facts: Any) -> st.SearchStrategy[Any]:
    """Draw a value of a setting, by its name where that says more than its type."""
    return OWN[name]() if name in OWN else value_of(kind, facts)


def augmentations() -> st.SearchStrategy[str]:
    """Draw a sum of augmentations, or none."""
    folder = menu("augmentations")
    part = st.one_of(
        st.just("auto"),
        st.sampled_from(list(folder)).flatmap(lambda name: drawn_method(folder[name])).map(str),
    )
    return st.one_of(st.just("none"), st.lists(part, min_size=1, max_size=3).map("+".join))


def drawn_method(kind: type[Method]) -> st.SearchStrategy[Any]:
    """Draw a method of a class with any settings it allows."""
    hints = get_type_hints(kind)
    drawn = {f.name: drawn_value(f.name, hints[f.name], f.metadata) for f in fields(kind)}

    def made(values: dict[str, Any]) -> Method | None:
        try:
            return kind(**values)
        except LissomError:  # settings that fit each by itself, and not together
            return None

    return st.fixed_dictionaries(drawn).map(made).filter(lambda method: method is not None)


steps = (
    st.sampled_from(list(menu("steps")))
    .flatmap(lambda name: drawn_method(menu("steps")[name]))
    .filter(lambda step: not step.refuses(()))
)


def keys(text: str) -> list[str]:
    return Recipe(text).keys("root")


def message(text: str) -> str:
    """Return what is said when `text` is refused."""
    with pytest.raises(LissomError) as caught:
        Space(text)
    return str(caught.value)


def read_or_refused(read: Callable[[str], Any], text: str) -> Any:
    """Return what was read, or what was said; any other exception passes."""
    try:
        return read(text)
    except LissomError as error:
        return str(error)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Stop what takes too long."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# what is read and written back


@fuzz
@given(steps)
def test_a_step_of_any_settings_is_written_so_that_it_reads_back_the_same(step: Any) -> None:
    again = Recipe(str(step))
    assert again.steps == (step,)
    assert again.keys("root") == [step.key("root")]


@fuzz
@given(
    st.lists(st.sampled_from(["fold", "train(1)", "train(2)"]), min_size=1, max_size=24),
    st.integers(1, 4),
)
def test_a_recipe_of_repeats_is_written_in_no_more_letters_and_reads_back_the_same(
    words: list[str], times: int
) -> None:
    plain = " | ".join(words * times)
    recipe = Recipe(plain)
    assert [str(step) for step in recipe.steps] == words * times
    assert Recipe(str(recipe)) == recipe and len(str(recipe)) <= len(plain)
    assert Recipe(f"{times} * ({' | '.join(words)})") == recipe


@fuzz
@given(st.lists(steps, min_size=1, max_size=5))
def test_a_recipe_of_any_steps_is_written_so_that_it_reads_back_the_same(drawn: list[Any]) -> None:
    chosen: tuple[Any, ...] = ()
    for step in drawn:
        if not step.refuses(chosen):
            chosen += (step,)
    recipe = Recipe(chosen)
    again = Recipe(str(recipe))
    assert again == recipe and hash(again) == hash(recipe)
    assert str(again) == str(recipe)


@pytest.mark.parametrize(
    "name",
    ["a\nb", "a\tb", "a\rb", "\\", '"', "'", '\\"', "a\\nb", "{1, 2}", "#", "é", "\x00", "🙂"],
)
def test_a_text_of_any_characters_is_written_so_that_it_reads_back_the_same(name: str) -> None:
    recipe = Recipe((menu("steps")["distill"](loss="kd", epochs=1, teacher=name),))
    assert Recipe(str(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("train( 3 )", "train(3)"),
        ("train(epochs=3)", "train(3)"),
        ("train(3, lr=0.2)", "train(3)"),
        ("train(3, lr=1)", "train(3, lr=1.0)"),
        ("(train(3))|(fold())", "train(3) | fold"),
        ("{fold}", "fold"),
        ("prune(.5, by='bn', scope=local)", 'prune(0.5, by="bn", scope="local")'),
        ("prune(.5, by='l1()')", "prune(0.5)"),
        ("prune(multiple=4, amount=.5)", "prune(0.5, multiple=4)"),
        ("distill(kd(2), 3)", 'distill("kd(2.0)", 3)'),
        ("quantize(8, range=percentile(.99))", 'quantize(8, range="percentile(0.99)")'),
        ("  train(+3)\t| fold ", "train(3) | fold"),
        ("train(3, clip=None)", "train(3)"),
        ("fold # as it is", "fold"),
        ("fold | fold", "2 * fold"),
        ("1 * fold", "fold"),
        ("2 * (3 * fold)", "6 * fold"),
        ("2 * (fold | fold)", "4 * fold"),
        ("fold | (fold | fold)", "3 * fold"),
        ("train(1) | fold | train(1) | fold | train(2)", "2 * (train(1) | fold) | train(2)"),
        ("2 * (2 * train(1) | fold)", "2 * (2 * train(1) | fold)"),
        ("2 * prune(.1) | train(1)", "2 * prune(0.1) | train(1)"),
    ],
)
def test_a_recipe_is_written_in_its_shortest_form(text: str, shortest: str) -> None:
    assert str(Recipe(text)) == shortest
    assert repr(Recipe(text)) == f"Recipe({shortest!r})"


def test_recipes_differ_by_steps_and_order() -> None:
    assert Recipe("fold | train(1)") != Recipe("train(1) | fold")
    assert Recipe("fold") != Recipe("fold | fold") and Recipe("fold") != "fold"


# repeats


def listed(text: str) -> list[list[str]]:
    """Return the steps of every recipe of a space as texts."""
    return [[str(step) for step in recipe.steps] for recipe in Space(text)]


def test_a_number_in_front_says_how_often() -> None:
    a, b = "prune(0.1)", "train(1)"
    assert listed(f"3 * {a}") == [[a] * 3] and listed(f"2 * ({a} | {b})") == [[a, b, a, b]]
    assert listed(f"2 * {a} | {b}") == [[a, a, b]] and listed(f"{b} | 2 * {a}") == [[b, a, a]]
    assert listed(f"2 * ({a} | 2 * {b}) | fold") == [[a, b, b, a, b, b, "fold"]]
    assert listed(f"2 * (1 * {a})") == [[a, a]]


def test_an_option_is_chosen_once_and_then_repeated() -> None:
    assert listed("2 * {fold, train(1)}") == [["fold", "fold"], ["train(1)", "train(1)"]]
    assert listed("2 * train({1, 2})") == [["train(1)", "train(1)"], ["train(2)", "train(2)"]]
    assert listed("{2 * fold, train(1)} | fold") == [["fold"] * 3, ["train(1)", "fold"]]
    assert listed("{1, 3} * fold") == [["fold"], ["fold"] * 3]
    assert listed("{2 * fold, fold | fold}") == [["fold", "fold"]]


def test_a_repeat_has_the_keys_of_what_it_stands_for() -> None:
    assert keys("2 * (fold | train(1))") == keys("fold | train(1) | fold | train(1)")
    assert keys("4 * (fold | train(1))")[:4] == keys("2 * (fold | train(1))")


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("0 * fold", "0"),
        ("-1 * fold", "-1"),
        ("2.0 * fold", "2.0"),
        ("True * fold", "True"),
        ("'2' * fold", "'2'"),
        ("None * fold", "None"),
        ("fold * 2", "'fold'"),
        ("train(1) * 2", "'train(1)'"),
        ("fold * fold", "'fold'"),
        ("{1, 0} * fold", "0"),
    ],
)
def test_a_number_of_times_that_is_none_is_refused(text: str, given: str) -> None:
    assert (
        f"recipe: expected a whole number of at least 1 before *, as in 4 * prune(0.1), got {given}"
        in message(text)
    )


@pytest.mark.parametrize(
    "text",
    [
        "2 * 3",
        "2 * 3 * fold",
        "2 ** fold",
        "2 * (fold",
        "2 * ",
        "2 * {}",
        "2 * {fold, 3}",
        "2 / fold",
        "[2] * fold",
    ],
)
def test_what_is_no_repeat_is_refused(text: str) -> None:
    assert message(text).startswith("recipe: ")


@pytest.mark.parametrize(
    "text",
    [
        "1001 * fold",
        "1000 * (1000 * (1000 * fold))",
        "10 * (" * 40 + "fold" + ")" * 40,
        "9" * 400 + " * fold",
        "9" * 4300 + " * (2 * fold)",
        "600 * fold | 600 * fold",
        "2 * (501 * fold)",
    ],
)
def test_a_recipe_of_more_than_a_thousand_steps_is_refused_at_once(text: str) -> None:
    with at_most(2):
        assert "more than 1000 steps" in message(text)


def test_a_space_of_many_long_recipes_is_refused_at_once() -> None:
    many = ", ".join(str(n) for n in range(1, 1001))
    with at_most(5):
        assert "more than 200000 steps" in message(f"1000 * train({{{many}}})")
        assert "more than 10000 recipes" in message(f"{{{many}}} * train({{{many}}})")
    assert len(Recipe("1000 * fold").steps) == 1000 and str(Recipe("1000 * fold")) == "1000 * fold"


def test_every_place_of_a_repeat_is_checked() -> None:
    assert "step 3, prune(0.5): a quantized network is not cut" in message(
        "2 * (prune(0.5) | quantize(8))"
    )
    assert len(Space("2 * prune(0.5) | quantize(8)")) == 1


# sets


def test_sets_stand_for_every_choice_of_one_item_from_each() -> None:
    found = [
        str(r)
        for r in Space(
            'train({1, 2}) | prune({0.3, 0.5}, by={l1, bn}) | {fold, distill({"kd", kd(2)}, 3)}'
        )
    ]
    wanted = {
        f"train({e}) | prune({a}{by}) | {last}"
        for e, a, by, last in product(
            (1, 2),
            (0.3, 0.5),
            ("", ', by="bn"'),
            ("fold", 'distill("kd", 3)', 'distill("kd(2.0)", 3)'),
        )
    }
    assert len(found) == 24 and set(found) == wanted


@fuzz
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=1, max_size=3),
)
def test_the_space_of_two_sets_is_their_product_without_doubles(
    epochs: list[int], rates: list[float]
) -> None:
    space = Space(f"train({{{', '.join(map(str, epochs))}}}, lr={{{', '.join(map(str, rates))}}})")
    found = [(r.steps[0].epochs, r.steps[0].lr) for r in space]  # type: ignore[attr-defined]
    assert found == list(product(dict.fromkeys(epochs), dict.fromkeys(rates)))
    assert len(space) == len(found)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("{fold, fold}", 1),
        ("prune(0.5, by={l1, 'l1', 'l1()'})", 1),
        ("train({3, {4, {5}}})", 3),
        ("{fold | fold, fold} | fold", 2),
        ("{{fold, train(1)}, {train(1), train(2)}}", 3),
        ("train(3, lr={0.2, .20, 2e-1})", 1),
        ("{fold, fold | fold} | {fold | fold, fold}", 3),
    ],
)
def test_recipes_that_are_the_same_are_held_once(text: str, count: int) -> None:
    assert len(Space(text)) == count


def test_a_recipe_is_no_space() -> None:
    with pytest.raises(LissomError, match="expected one recipe, got 2 in"):
        Recipe("train({1, 2})")


def test_a_space_holds_at_most_ten_thousand_recipes() -> None:
    many = ", ".join(str(n) for n in range(1, 102))
    assert len(Space(f"train({{{', '.join(map(str, range(1, 2001)))}}})")) == 2000
    assert "more than 10000 recipes" in message(f"train({{{many}}}) | train({{{many}}})")


def test_a_space_that_is_many_times_the_same_is_read_in_no_time() -> None:
    with at_most(5):
        assert len(Space(" | ".join(["{fold, fold}"] * 30))) == 1
    with at_most(5):
        assert len(Space(" | ".join(["train({1, 1})"] * 30))) == 1


def test_every_recipe_of_a_space_is_checked_when_it_is_made() -> None:
    assert "step 2, prune(0.5): a quantized network is not cut" in message(
        "{fold, quantize(8)} | prune(0.5)"
    )
    assert "step 3, mask(0.5): the weights are quantized already" in message(
        "quantize(8) | train(1) | mask(0.5)"
    )
    assert len(Space("prune(0.5) | quantize(8)")) == 1


# keys


def test_a_key_is_twelve_hexadecimal_digits_for_each_prefix() -> None:
    found = keys("train(3) | prune(0.5) | quantize(8)")
    assert len(set(found)) == 3
    assert all(len(key) == 12 and int(key, 16) >= 0 for key in found)


def test_recipes_share_the_keys_of_what_they_begin_with_alike_and_none_after() -> None:
    one, other = (
        keys("train(3) | fold | prune(0.5) | quantize(8)"),
        keys("train(3) | fold | prune(0.6) | quantize(8)"),
    )
    assert one[:2] == other[:2] == keys("train(3) | fold")
    assert not set(one[2:]) & set(other[2:])


def test_a_key_depends_on_the_network_before_the_first_step() -> None:
    assert not set(Recipe("train(3) | fold").keys("one")) & set(
        Recipe("train(3) | fold").keys("other")
    )


@fuzz
@given(st.data())
def test_another_value_of_any_setting_gives_another_key(data: st.DataObject) -> None:
    step = data.draw(steps)
    assume(step.settings())
    setting = data.draw(st.sampled_from(setting_fields(type(step))))
    values = step.settings()
    kind = get_type_hints(type(step))[setting.name]
    other = data.draw(drawn_value(setting.name, kind, setting.metadata))
    assume(other != values[setting.name])
    try:
        changed = type(step)(**{**values, setting.name: other})
    except LissomError:  # it does not go with the others
        return
    menu = setting.metadata.get("menu")
    if menu == "targets":  # a packed file is as fast as another: no latency depends on it
        assume(
            method_of(menu, other).identity() != method_of(menu, values[setting.name]).identity()
        )
    assert changed.key("root") != step.key("root")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("prune(0.5, by=bn)", 'prune(0.5, by="bn")'),
        ("prune(0.5)", 'prune(.50, by=l1, scope="global")'),
        ("fold", "fold()"),
        ("train(3, lr=1)", "train(3, lr=1.0)"),
        ('quantize(8, range="percentile")', "quantize(8, range=percentile(0.9999))"),
        ("distill(kd, 3)", 'distill("kd(4)", epochs=3)'),
        ("quantize(8)", "quantize(8.0)"),
        ("train(3, decay=0.0)", "train(3, decay=-0.0)"),
    ],
)
def test_two_spellings_of_one_recipe_have_one_key_or_the_second_is_refused(
    one: str, other: str
) -> None:
    try:
        second = Recipe(other)
    except LissomError:
        assert other == "quantize(8.0)"  # no other may be
        return
    assert second == Recipe(one) and second.keys("root") == keys(one)


def test_a_new_version_of_a_step_or_of_a_method_it_names_gives_a_new_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = keys("train(3) | prune(0.5)")
    monkeypatch.setattr(menu("importance")["l1"], "version", 99)
    middle = keys("train(3) | prune(0.5)")
    assert middle[0] == before[0] and middle[1] != before[1]
    monkeypatch.setattr(Train, "version", 99)
    assert keys("train(3)") != before[:1]


# what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prunne(0.5)", "there is no step 'prunne'; did you mean 'prune'? There are: "),
        ("Train(3)", "there is no step 'Train'; did you mean 'train'?"),
        ("prune(0.5, byy=bn)", "prune: there is no setting 'byy'; did you mean 'by'?"),
        ("prune(0.5, by=bnn)", "prune(by=...): there is no importance 'bnn'; did you mean 'bn'?"),
        ("prune(0.5, by='')", "there is no importance ''"),
        (
            "quantize(8, range=percentil)",
            "there is no range 'percentil'; did you mean 'percentile'?",
        ),
        ("quantize(8, range=percentile(2))", "percentile(p=...): expected a value <= 1, got 2"),
        (
            "prune(0.5, scope=locl)",
            "prune(scope=...): there is no choice 'locl'; did you mean 'local'?",
        ),
        ("train(3, _=1)", "train: there is no setting '_'"),
        ("train(3, **x)", "there is no setting '**'"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_nearest(text: str, said: str) -> None:
    assert said in message(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prune(1)", "prune(amount=...): expected a value < 1, got 1"),
        ("prune(0)", "expected a value > 0, got "),
        ("prune(-0.5)", "expected a value > 0, got -0.5"),
        ("train(0)", "train(epochs=...): expected a value >= 1, got 0"),
        ("train(3, lr=11)", "expected a value <= 10, got "),
        ("train({3, 0})", "got 0"),
        ("prune(1e-400)", "got 0.0"),
        ("train(3, clip=0)", "expected a value > 0, got "),
        ("train(-{3})", "got -3"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bound(text: str, said: str) -> None:
    assert said in message(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train", "train: 'epochs' is missing: training epochs"),
        ("train()", "'epochs' is missing"),
        ("prune(by=bn)", "'amount' is missing"),
        (
            "distill",
            "'loss' is missing: distillation loss, or a weighted sum of losses; "
            "'lissom list distill' shows what fits",
        ),
        ("distill(kd)", "'epochs' is missing"),
        ("train(3, epochs=4)", "'epochs' is given twice"),
        ("train(epochs=3, epochs=4)", "'epochs' is given twice"),
        ("train(3, 4)", "train: 2 settings were given without a name; it takes 1: epochs"),
        ("fold(1)", "it takes 0: none"),
    ],
)
def test_settings_that_are_missing_or_double_or_too_many_are_refused(text: str, said: str) -> None:
    assert said in message(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train(True)", "train(epochs=...): expected int, got True"),
        ("train(3.0)", "expected int, got 3.0"),
        ("train('3')", "expected int, got '3'"),
        ("train(None)", "expected int, got None"),
        ("train(1e400)", "got inf"),
        ("train(3, lr=True)", "train(lr=...): expected float, got True"),
        ("train(3, lr=1e400)", "expected float, got inf"),
        ("train(3, lr=-1e400)", "got -inf"),
        ("train(3, lr=nan)", "expected float, got 'nan'"),
        ("train(3, lr=inf)", "got 'inf'"),
        ("prune(0.5, by=1)", "expected str, got 1"),
        ("quantize(9)", "expected 1 | 2 | 3 | "),
        ("quantize('8')", "expected 1 | 2 | "),
        ("quantize(True)", "expected 1 | 2 | "),
        ("quantize('ternery')", "did you mean 'ternary'"),
        ("distill(kd, 3, teacher=5)", "expected str or None, got 5"),
        ("prune(0.5, scope=None)", "got None"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_type(text: str, said: str) -> None:
    assert said in message(text)


@pytest.mark.parametrize("kind", [int, float])
def test_a_number_too_large_for_a_float_is_refused(kind: type) -> None:
    text = "9" * 400
    assert ", got " in message(f"train({text})" if kind is int else f"train(3, lr={text})")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train(3", "cannot be read at column"),
        ("train(3) |", "at column 10, near 'train(3) |': nothing follows '|'"),
        ("| train(3)", "at column 1"),
        ("train(3) || fold", "at column 11"),
        ("train(3); fold", "at column 9"),
        ("train(03)", "at column 7"),
        ("train(3)\n| fold", "cannot be read"),
        ("train(3)\x00", "cannot be read"),
        ("train(" + "9" * 5000 + ")", "cannot be read"),
        ("", "it is empty; an example: "),
        ("  \n\t", "it is empty"),
    ],
)
def test_a_text_that_is_no_expression_is_refused_with_the_place(text: str, said: str) -> None:
    assert said in message(text)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[fold]",
        "(fold,)",
        "fold, fold",
        "3",
        "'fold'",
        "fold + fold",
        "fold & fold",
        "fold or fold",
        "fold()()",
        "fold[0]",
        "a.fold()",
        "lambda: fold",
        "fold if 1 else fold",
        "{fold: fold}",
        "{f for f in x}",
        "-fold",
        "fold | 3",
        "{fold, 3}",
        "...",
    ],
)
def test_what_is_no_step_is_refused_where_a_step_is_wanted(text: str) -> None:
    assert "recipe: expected a step, as in " in message(text)


@pytest.mark.parametrize(
    "value",
    [
        "{}",
        "[3]",
        "(3, [4])",
        "()",
        "3 + 4",
        "10 ** 9",
        "x.y",
        "x[0]",
        "~3",
        "not 3",
        "3 if 1 else 4",
        "3j",
        "b'3'",
        "f'3'",
        "...",
        "(x := 3)",
        "-'a'",
        "-True",
        "-x",
        "*x",
        "{3, [4]}",
        "{x: 3}",
        "lambda: 3",
        "a.b(3)",
    ],
)
def test_what_is_no_value_is_refused_where_a_value_is_wanted(value: str) -> None:
    said = message(f"train({value})")
    assert said.startswith("train(epochs=...): expected a number, a text in quotes or a {set} of ")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 90 + "fold" + ")" * 90,
        "{" * 90 + "fold" + "}" * 90,
        "(" * 5000 + "fold" + ")" * 5000,
        "-" * 100_000 + "3",
        "train(" + "-" * 500 + "3)",
        "train(" + "-" * 5000 + "3)",
        "train(" + "{" * 5000 + "3",
        " | ".join(["fold"] * 300),
        " | ".join(["fold"] * 5000),
        "prune(0.5, by=" * 150 + "l1" + ")" * 150,
        "prune(0.5, by='" + "-" * 100_000 + "l1')",
    ],
    ids=lambda text: f"{text[:8]}-{len(text)}",
)
def test_a_text_nested_however_deeply_is_read_or_refused(text: str) -> None:
    found = read_or_refused(Space, text)
    assert (
        len(found) == 1
        if isinstance(found, Space)
        else found.startswith(("recipe: ", "prune(by=...): "))
    )


def test_a_refusal_is_one_line_whatever_was_given() -> None:
    for text in ("train(3)\n| fold", "prune(0.5, by='a\\nb')", "prune(0.5, by='''a\nb''')"):
        assert len(message(text).splitlines()) == 1, text


def test_reading_a_text_warns_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Recipe(r'distill("kd", 3, teacher="nets\digits.pt")')
    assert not caught, f"said beside the result: {caught[0].message}"


words = st.lists(
    st.sampled_from(
        [
            "train",
            "prune",
            "fold",
            "quantize",
            "distill",
            "bn",
            "kd",
            "(",
            ")",
            "{",
            "}",
            "|",
            ",",
            "=",
            "-",
            "3",
            "0.5",
            "8",
            "'l1'",
            '"',
            "by",
            "lr",
            "epochs",
            "None",
            "True",
            "*",
            "**",
            ":",
            ".",
            "[",
            "]",
            "lambda",
            " ",
            "\n",
            "#",
            "\\",
            "é",
            "1e999",
        ]
    ),
    max_size=12,
)


@settings(fuzz, max_examples=400)
@given(
    st.one_of(
        st.text(max_size=40),
        words.map("".join),
        words.map(" ".join),
        printable.map("train({})".format),
    )
)
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    found = read_or_refused(Space, text)
    assert (
        [Recipe(str(recipe)) for recipe in found] == list(found)
        if isinstance(found, Space)
        else found
    )


@settings(fuzz, max_examples=100)
@given(st.one_of(st.text(max_size=30), words.map("".join)))
def test_any_text_for_a_method_or_a_list_of_targets_is_read_or_refused(text: str) -> None:
    for read in (partial(method_of, "importance"), partial(method_of, "ranges"), targets_of):
        read_or_refused(read, text)


@pytest.mark.parametrize(
    "read", [partial(method_of, "importance"), targets_of], ids=["method", "targets"]
)
def test_a_method_nested_however_deeply_is_refused(read: Any) -> None:
    for text in ("(" * 5000, "-" * 100_000, "x(" * 90 + ")" * 90, "\x00"):
        with pytest.raises(LissomError):
            read(text)


# size


def numbers(count: int) -> str:
    """Return a set of that many different numbers below 1."""
    return "{" + ", ".join(f"0.{i:05}" for i in range(1, count + 1)) + "}"


LARGE = {
    "amounts": f"prune({numbers(10_000)})",
    "two settings": f"prune({numbers(100)}, floor={numbers(100)})",
    "steps": "{" + ", ".join(f"prune(0.{i:05})" for i in range(1, 10_001)) + "}",
}


@pytest.mark.parametrize("name", LARGE)
def test_ten_thousand_options_are_read_in_two_seconds(name: str) -> None:
    begin = time.process_time()
    assert len(Space(LARGE[name])) == 10_000
    assert time.process_time() - begin < 2


def test_a_recipe_has_up_to_a_thousand_steps_written_out_or_not() -> None:
    for text in (" | ".join(["fold"] * 1000), "1000 * fold", " | ".join(["{fold, fold}"] * 1000)):
        assert len(Recipe(text).steps) == 1000
    with pytest.raises(LissomError, match="more than 1000 steps"):
        Recipe(" | ".join(["fold"] * 1001))


@pytest.mark.parametrize(
    "name", ["x" * 3_000, "MODEL=" + "x" * 3_000, "a\0b"], ids=["long", "long file", "zero"]
)
def test_a_teacher_of_any_name_is_no_file_until_it_is_one(name: str) -> None:
    """No file can have such a name, and the system says so with an error of its own when asked."""
    assert Recipe(f"train(1) | distill('kd', 1, teacher={name!r})").keys("root")
