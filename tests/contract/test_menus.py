"""The contract of all methods: class, names, settings, text, and fast import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass, replace
from inspect import getdoc, isabstract
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from lissom import LissomError
from lissom.language.augmentation import Augmentation
from lissom.language.describe import settings_of
from lissom.language.grid import Grid, InputGrid, WeightGrid
from lissom.language.importance import Importance
from lissom.language.kind import Kind
from lissom.language.loss import FeatureLoss, LogitLoss
from lissom.language.menu import WORDS, menu
from lissom.language.method import Method
from lissom.language.parse_methods import method_of
from lissom.language.preprocess import NumberOperation, PictureOperation
from lissom.language.range import Range
from lissom.language.settings import BOUNDS, setting_fields, type_text
from lissom.language.step import Step
from lissom.language.target import Target
from lissom.surgery.transform import WeightTransform, transform_named, transforms

EVERY = [
    pytest.param(folder, name, id=f"{folder}/{name}") for folder in WORDS for name in menu(folder)
]
each = pytest.mark.parametrize(("folder", "name"), EVERY)
CONTRACTS: dict[str, tuple[type[Any], ...]] = {
    "steps": (Step,),
    "importance": (Importance,),
    "losses": (LogitLoss, FeatureLoss),
    "grids": (Grid,),
    "ranges": (Range,),
    "targets": (Target,),
    "preprocess": (PictureOperation, NumberOperation),
    "kinds": (Kind,),
    "augmentations": (Augmentation,),
}
DUTIES = [
    (Step, {"__call__"}),
    (Importance, {"__call__"}),
    (LogitLoss, {"__call__"}),
    (FeatureLoss, {"__call__"}),
    (Grid, {"codes", "inputs", "input_codes"}),
    (WeightGrid, {"codes"}),
    (InputGrid, {"inputs", "input_codes"}),
    (Range, {"__call__"}),
    (Target, {"missing", "export", "load"}),
    (PictureOperation, {"__call__", "code", "placement"}),
    (NumberOperation, {"__call__"}),
    (Augmentation, {"__call__"}),
    (
        Kind,
        set(
            "suits misfit loss classes compared tally agreement answers shifted mirrored "
            "put_together drawn colours words sureness".split()
        ),
    ),
    (WeightTransform, {"settings", "hold", "transformed", "stored"}),
]


def plausible(kind: Any, facts: Any) -> Any:
    """Return a value that a required setting allows."""
    if facts["menu"]:
        return next(iter(menu(facts["menu"])))
    choices = [k for k in get_args(kind) if k is not NoneType] or [kind]
    if get_origin(kind) is Literal:
        return choices[0]
    bounds = {key: facts[key] for key in BOUNDS if facts[key] is not None}
    tries = [1, 2, 8, 0.5, 0.9, 0.01, "text", True]
    fits = [
        v
        for v in tries
        if type(v) is choices[0] and all(BOUNDS[k][1](v, edge) for k, edge in bounds.items())
    ]
    assert fits, f"no value is known for {type_text(kind)} within {bounds}"
    return fits[0]


def sample(kind: type[Method]) -> Method:
    """Return a method with its defaults, and plausible values where there is none."""
    hints = get_type_hints(kind)
    return kind(
        **{
            f.name: plausible(hints[f.name], f.metadata)
            for f in fields(kind)
            if f.default is MISSING
        }
    )


def test_every_menu_holds_something() -> None:
    assert all(len(list(menu(folder))) > 0 for folder in WORDS)
    assert set(CONTRACTS) == set(WORDS)


@each
def test_the_file_holds_a_frozen_dataclass_called_like_it(folder: str, name: str) -> None:
    kind = menu(folder)[name]
    assert issubclass(kind, Method) and is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.__module__ == f"lissom.{folder}.{name}" and kind.name() == name
    assert issubclass(kind, Step) == (folder == "steps")
    assert isinstance(kind.version, int) and kind.version >= 1


@each
def test_its_first_sentence_is_said_in_the_imperative_and_ends_with_a_period(
    folder: str, name: str
) -> None:
    kind = menu(folder)[name]
    own = vars(kind).get("__doc__")
    assert own and not own.startswith(f"{kind.__name__}("), "a docstring of its own"
    lines = (getdoc(kind) or "").splitlines()
    assert re.fullmatch(r"[A-Z][a-z]+ .+\.", lines[0]) and len(lines[0]) <= 125
    assert not lines[0].split()[0].endswith("s"), "Cut, not cuts"
    assert len(lines) == 1 or lines[1] == ""


@each
def test_every_setting_is_declared_with_arg_and_a_help(folder: str, name: str) -> None:
    kind = menu(folder)[name]
    for setting in fields(kind):
        assert set(setting.metadata) == {"help", "menu", "sum", "late", *BOUNDS}, (
            f"{setting.name} is not declared with arg"
        )
        help = setting.metadata["help"]
        assert help and not help.endswith(".") and "\n" not in help, setting.name
        assert setting.name.isidentifier() and not setting.name.startswith("_")
        assert not hasattr(Step, setting.name), (
            f"a setting cannot be called {setting.name}, which a step has already"
        )
        assert setting.default_factory is MISSING
    described = settings_of(kind)
    assert [s.name for s in described] == [f.name for f in setting_fields(kind)]
    assert all(s.kind and "typing" not in s.kind and "class" not in s.kind for s in described)
    json.dumps([vars(s) for s in described])


@each
def test_no_setting_by_place_is_required_after_one_that_is_not(folder: str, name: str) -> None:
    placed = [f.default is MISSING for f in setting_fields(menu(folder)[name]) if not f.kw_only]
    assert placed == sorted(placed, reverse=True)


@each
def test_every_default_lies_within_its_own_bounds(folder: str, name: str) -> None:
    kind = menu(folder)[name]
    method = sample(kind)  # a default out of bounds is refused here
    for setting in fields(kind):
        if setting.default is not MISSING:
            value = getattr(method, setting.name)
            assert value == setting.default and type(value) is type(setting.default), setting.name


@each
def test_its_text_reads_back_as_the_same_method(folder: str, name: str) -> None:
    method = sample(menu(folder)[name])
    again = method_of(folder, str(method))
    assert again == method and again.identity() == method.identity() and str(again) == str(method)
    required = any(f.default is MISSING for f in fields(method))
    assert str(method).startswith(f"{name}(") if required else str(method) == name


@each
def test_every_bound_holds_what_lies_beyond_it_off(folder: str, name: str) -> None:
    kind = menu(folder)[name]
    given = sample(kind).settings()
    for setting in fields(kind):
        for bound, beyond in (("low", -1), ("above", 0), ("high", 1), ("below", 0)):
            edge = setting.metadata[bound]
            if edge is not None:
                with pytest.raises(LissomError, match=re.escape(f"{name}({setting.name}=...)")):
                    kind(**{**given, setting.name: edge + beyond})


def body(*_: Any) -> None:
    """Stand for the body of a method."""


@each
def test_a_class_of_a_menu_keeps_its_contract_and_can_be_built(folder: str, name: str) -> None:
    kind = menu(folder)[name]
    assert sum(issubclass(kind, contract) for contract in CONTRACTS[folder]) == 1
    assert isinstance(sample(kind), kind) and not isabstract(kind)


@pytest.mark.parametrize("name", transforms())
def test_a_transform_of_weights_keeps_its_contract(name: str) -> None:
    assert not isabstract(transform_named(name))


@pytest.mark.parametrize(("contract", "duties"), DUTIES)
def test_a_class_that_leaves_out_a_method_of_its_contract_is_refused(
    contract: type[Any], duties: set[str]
) -> None:
    assert contract.__abstractmethods__ == duties
    bodies = dict.fromkeys(duties, body)
    assert isinstance(type("Whole", (contract,), bodies)(), contract)
    for missing in duties:
        others = dict.fromkeys(duties - {missing}, body)
        with pytest.raises(TypeError, match=f"abstract.*{missing}"):
            type("Part", (contract,), others)()


@pytest.mark.parametrize("name", list(menu("grids")))
def test_a_grid_says_which_bits_it_has_for_what_it_rounds(name: str) -> None:
    kind = menu("grids")[name]
    assert bool(kind.of_weights) == (not issubclass(kind, InputGrid))
    assert bool(kind.of_inputs) == (not issubclass(kind, WeightGrid))


@pytest.mark.parametrize("name", list(menu("targets")))
def test_a_target_says_how_its_files_end_and_what_runs_them(name: str) -> None:
    kind = menu("targets")[name]
    assert kind.ending and kind.module


SLOW = {
    "torch",
    "numpy",
    "scipy",
    "onnx",
    "onnxruntime",
    "openvino",
    "MNN",
    "ncnn",
    "sklearn",
    "PIL",
}


def test_reading_every_method_loads_no_library_that_is_slow() -> None:
    code = f"""
import sys
import lissom
from lissom.language.augmentation import Augmentation
from lissom.language.describe import settings_of
from lissom.language.menu import WORDS, menu
found = [settings_of(menu(folder)[name]) for folder in WORDS for name in menu(folder)]
print(len(found), *sorted({SLOW} & set(sys.modules)))
"""
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert child.stdout.split() == [str(len(EVERY))]


def variants(kind: type[Method]) -> list[str]:
    """Return the text of a method with its defaults, and with each setting at each of its choices,
    as far as they go.
    """
    hints, usual = get_type_hints(kind), sample(kind)
    found = [str(usual)]
    for setting in fields(kind):
        types = get_args(hints[setting.name]) or (hints[setting.name],)
        choices = [c for c in types if not isinstance(c, type)]  # of a Literal
        choices += (
            [True, False]
            if bool in types
            else [*menu(setting.metadata["menu"])]
            if setting.metadata["menu"]
            else []
        )
        for choice in choices:
            with suppress(LissomError):  # it goes with other settings only
                found.append(str(replace(usual, **{setting.name: choice})))
    return found


def test_a_method_is_read_from_any_text_and_named_without_a_library_that_is_slow() -> None:
    texts = [
        (folder, text)
        for folder in WORDS
        for name in menu(folder)
        for text in variants(menu(folder)[name])
    ]
    code = f"""
import json, sys
from lissom import Recipe, Space
from lissom.language.parse_methods import method_of
for folder, text in json.load(sys.stdin):
    made = method_of(folder, text)
    assert str(made) == text and made.identity(), text
    slow = sorted({SLOW} & set(sys.modules))
    if slow:
        sys.exit(f"{{folder}} {{text}} imports {{slow}}")
spaces = ["train(1) | quantize({{8, 4}}, {{8, 4}}) | distill('kd + 0.5*gram', 2)",
          "mask(0.5) | quantize(8, 'dynamic')"]
keys = [recipe.keys("0" * 12) for text in spaces for recipe in Space(text)]
print(len(keys), *sorted({SLOW} & set(sys.modules)))
"""
    child = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (child.returncode, child.stdout.split()) == (0, ["5"]), child.stderr
    assert len(texts) > 2 * len(EVERY)
