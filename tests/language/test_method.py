"""Settings declared with `arg`: their checks, text and help, and the identity made from them."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, FrozenInstanceError, dataclass, fields
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom import LissomError, arg
from lissom.errors import nearest, unknown
from lissom.importance.l1 import L1
from lissom.language.describe import settings_of
from lissom.language.menu import Menu, menu
from lissom.language.method import Method
from lissom.language.parse_methods import method_of
from lissom.language.settings import checked, setting_fields, type_text


@dataclass(frozen=True)
class Named(Method):
    """Hold settings that every subclass takes by name."""

    _: KW_ONLY
    speed: float = arg("how fast", 1.5, above=0, high=10)


@dataclass(frozen=True)
class Sample(Named):
    """Hold a setting of each kind."""

    count: int = arg("how many", low=1, below=10)
    share: float = arg("how much", 0.5, low=0, high=1)
    mode: Literal["fast", "slow"] = arg("in what way", "fast")
    by: str = arg("ranked by what", "l1", menu="importance")
    limit: float | None = arg("at most", None, above=0)
    flag: bool = arg("whether", False)
    level: Literal[1, 2] = arg("which level", 1)
    word: str = arg("called what", "x")


@dataclass(frozen=True)
class Plain(Method):
    """Hold settings in the order of place."""

    first: float = arg("the first", 1.0)
    second: int = arg("the second", 2)


def refusal(**values: Any) -> str:
    with pytest.raises(LissomError) as caught:
        Sample(**{"count": 1, **values})
    return str(caught.value)


def test_arg_holds_help_bounds_and_default() -> None:
    found = {f.name: f for f in fields(Sample)}
    assert found["count"].metadata == {
        "help": "how many",
        "low": 1,
        "high": None,
        "above": None,
        "below": 10,
        "menu": None,
        "sum": False,
        "late": False,
    }
    assert found["share"].default == 0.5 and found["by"].metadata["menu"] == "importance"


def test_a_setting_without_default_is_required() -> None:
    with pytest.raises(TypeError, match="count"):
        Sample()  # type: ignore[call-arg]


def test_a_method_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Sample(1).count = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "inside", "outside"),
    [
        ("count", (1, 9), (0, 10, -5)),
        ("share", (0, 1, 0.3), (-0.01, 1.01)),
        ("speed", (0.001, 10), (0, -1, 10.5)),
        ("limit", (None, 0.1), (0, -1)),
    ],
)
def test_bounds_include_low_and_high_and_leave_out_above_and_below(
    setting: str, inside: Any, outside: Any
) -> None:
    for value in inside:
        assert getattr(Sample(**{"count": 1, setting: value}), setting) == value
    for value in outside:
        said = refusal(**{setting: value})
    assert f"({setting}=...): expected a value " in said and said.endswith(f", got {value!r}")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("count", 1.0),
        ("count", True),
        ("count", "1"),
        ("count", None),
        ("share", True),
        ("share", float("nan")),
        ("share", float("inf")),
        ("share", "a"),
        ("share", None),
        ("limit", "a"),
        ("limit", float("nan")),
        ("flag", 1),
        ("flag", "True"),
        ("flag", None),
        ("mode", 1),
        ("mode", None),
        ("mode", True),
        ("level", 3),
        ("level", None),
        ("by", 3),
        ("by", None),
        ("word", 3),
    ],
)
def test_a_value_of_another_type_is_refused(setting: str, value: Any) -> None:
    said = refusal(**{setting: value})
    assert f"({setting}=...): expected " in said and said.endswith(f", got {value!r}")


@pytest.mark.parametrize("value", [True, 1.0, 2.0])
def test_a_choice_among_whole_numbers_takes_whole_numbers_only(value: Any) -> None:
    try:
        found = Sample(1, level=value).level
    except LissomError:
        return
    assert type(found) is int


def test_a_whole_number_given_for_a_float_becomes_one() -> None:
    assert isinstance(Sample(1, share=1).share, float) and isinstance(
        Sample(1, limit=2).limit, float
    )


def test_a_choice_that_does_not_exist_is_refused_with_the_nearest() -> None:
    assert "there is no choice 'fats'; did you mean 'fast'? There are: fast, slow" in refusal(
        mode="fats"
    )
    assert "expected 1 | 2, got '2'" in refusal(level="2")


def test_a_setting_that_names_a_method_is_that_methods_shortest_text() -> None:
    assert Sample(1, by="l1()").by == "l1" and Sample(1, by=" bn ").by == "bn"
    assert "(by=...): there is no importance 'l11'; did you mean 'l1'?" in refusal(by="l11")
    assert "l1: 1 settings were given" in refusal(by="l1(3)")


def test_the_text_of_a_method_gives_the_required_by_place_and_leaves_out_what_is_default() -> None:
    assert Plain.name() == "test_method"  # that of the file
    assert str(Plain()) == "test_method" and str(Plain(1.0, 2)) == "test_method"
    assert str(Plain(3)) == "test_method(3.0)" and str(Plain(second=3)) == "test_method(second=3)"
    assert str(Sample(4, speed=2, by="bn")) == 'test_method(4, by="bn", speed=2.0)'
    assert str(Sample(4, word='a"b\\')) == r"""test_method(4, word='a"b\\')"""


def test_settings_by_name_alone_come_after_those_by_place() -> None:
    assert [f.name for f in setting_fields(Sample)] == [
        "count",
        "share",
        "mode",
        "by",
        "limit",
        "flag",
        "level",
        "word",
        "speed",
    ]


def test_settings_of_says_what_is_known_of_each_setting() -> None:
    found = {s.name: s for s in settings_of(Sample)}
    assert list(found) == [f.name for f in setting_fields(Sample)]
    count, by = found["count"], found["by"]
    assert (count.kind, count.required, count.default, count.bounds, count.help) == (
        "int",
        True,
        None,
        ">= 1, < 10",
        "how many",
    )
    assert (by.kind, by.required, by.default) == ("str", False, "l1") and by.bounds == " | ".join(
        menu("importance")
    )
    assert found["speed"].bounds == "> 0, <= 10" and found["limit"].kind == "float or None"
    assert found["mode"].kind == "'fast' | 'slow'" and found["flag"].bounds == ""


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (float | None, "float or None"),
        (Literal["a", "b"], "'a' | 'b'"),
        (Literal[8] | None, "8 or None"),
        (str, "str"),
    ],
)
def test_a_type_is_named_as_a_user_says_it(kind: Any, text: str) -> None:
    assert type_text(kind) == text


def test_identity_holds_name_version_and_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(Plain(second=5).identity()) == ["test_method", 1, {"first": 1.0, "second": 5}]
    monkeypatch.setattr(Plain, "version", 2)
    assert json.loads(Plain().identity()) == ["test_method", 2, {"first": 1.0, "second": 2}]


def test_a_late_setting_at_its_default_leaves_the_identity_as_it_was() -> None:
    @dataclass(frozen=True)
    class Later(Plain):
        third: int = arg("came later", 3, late=True)

    assert json.loads(Later().identity())[2] == json.loads(Plain().identity())[2]
    assert json.loads(Later(third=4).identity())[2] == {"first": 1.0, "second": 2, "third": 4}


def test_identity_of_a_method_that_names_another_changes_with_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prune = method_of("steps", "prune(0.5)")
    before = prune.identity()
    assert json.loads(before)[2]["by"] == L1().identity()
    monkeypatch.setattr(L1, "version", 7)
    assert prune.identity() != before


def test_equal_settings_make_equal_methods_of_equal_identity() -> None:
    assert Sample(1, share=1) == Sample(1, share=1.0) and hash(Plain()) == hash(Plain(1.0))
    assert Plain(-0.0) == Plain(0.0) and Plain(-0.0).identity() == Plain(0.0).identity()


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    st.sampled_from(
        [int, float, str, bool, int | None, float | None, Literal["a"], Literal[1] | None]
    ),
)
def test_any_value_is_taken_as_the_type_or_refused(value: Any, kind: Any) -> None:
    try:
        found = checked(value, kind, {"low": None}, "here")
    except LissomError as error:
        found, value = str(error)[:6], "here: "
    assert found == value


def test_a_menu_lists_files_and_refuses_other_names() -> None:
    assert "prune" in list(menu("steps")) and not {"__init__", "_onnx", "_target"} & set(
        menu("targets")
    )
    assert menu("steps") is menu("steps")
    with pytest.raises(LissomError, match="there is no step 'prunne'; did you mean 'prune'"):
        menu("steps")["prunne"]
    with pytest.raises(LissomError, match="there is no menu 'stepss'; did you mean 'steps'"):
        Menu("stepss")


@pytest.mark.parametrize(
    "text", ["percentile({0.9, 0.99})", "{minmax, percentile}", "minmax | minmax", "", "3"]
)
def test_a_menu_makes_one_method_of_a_text_and_no_set(text: str) -> None:
    with pytest.raises(LissomError, match=r"^here: "):
        method_of("ranges", text, "here")


def test_a_menu_says_which_file_holds_no_class_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import lissom.importance.l1 as module

    monkeypatch.delattr(module, "L1")
    with pytest.raises(
        LissomError, match=r"lissom/importance/l1\.py: holds no class called like the file"
    ):
        Menu("importance")["l1"]


def test_the_package_shows_its_public_names_alone() -> None:
    import lissom

    assert sorted(dir(lissom)) == sorted([*lissom.__all__, "__version__"])
    assert sorted(lissom.__all__) == sorted(lissom._HOMES)
    assert all(hasattr(lissom, name) for name in dir(lissom))


def test_the_nearest_name_is_offered_only_when_it_is_near() -> None:
    assert (
        nearest("PRUNE", ["train", "prune"]) == "prune"
        and nearest("xyz", ["train", "prune"]) is None
    )
    assert (
        str(unknown("w", "step", "xyz", ["b", "a"])) == "w: there is no step 'xyz'. There are: a, b"
    )
