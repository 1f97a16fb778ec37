"""Goals are read from text, and anything else is refused in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom import LissomError
from lissom.language.grammar import parsed
from lissom.language.want import OBJECTIVES, Limit, Want, line_in


@pytest.mark.parametrize(
    ("text", "objective", "limits"),
    [
        ("front", "front", []),
        ("most accurate, ms <= 2", "accurate", [("ms", None, False, 2.0, 0.0)]),
        ("fastest, top1 >= float - 0.01", "fastest", [("top1", None, True, -0.01, 1.0)]),
        ("smallest, ms@openvino <= float/2", "smallest", [("ms", "openvino", False, 0.0, 0.5)]),
        ("bytes <= 2*(float - 100), fastest", "fastest", [("bytes", None, False, -200.0, 2.0)]),
        ("fastest, params < 1e5", "fastest", [("params", None, False, 1e5, 0.0)]),
        ("accurate, bytes <= 20 kB", "accurate", [("bytes", None, False, 2e4, 0.0)]),
        ("accurate, bytes <= 1.5MiB", "accurate", [("bytes", None, False, 1.5 * 2**20, 0.0)]),
        ("front, bytes <= float - 2 kB", "front", [("bytes", None, False, -2e3, 1.0)]),
        ("front, ms@openvino <= 500us", "front", [("ms", "openvino", False, 0.5, 0.0)]),
        ("front, macs <= 1.2e1 M", "front", [("macs", None, False, 1.2e7, 0.0)]),
        ("front, resident <= 1 GiB", "front", [("resident", None, False, 1024.0, 0.0)]),
        ("fastest, top1 >= float - 1 %", "fastest", [("top1", None, True, -0.01, 1.0)]),
        ("fastest, 'mAP@50' >= 60%", "fastest", [("mAP@50", None, True, 0.6, 0.0)]),
    ],
)
def test_wants_are_read(text: str, objective: str, limits: list[tuple]) -> None:
    want = Want.of(text)
    assert want.objective == objective
    assert list(want.limits) == [Limit(*limit) for limit in limits]
    assert Want.of(str(want)) == want


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("fasted", "did you mean 'fastest'"),
        ("top1 >= 0.9", "expected one of fastest, smallest, accurate, front, got 0 of them"),
        ("fastest, smallest", "got 2 of them"),
        ("fastest, top1 == 0.9", "expected <= or >="),
        ("fastest, top1 >= float * float", "expected a number, or one with float in it"),
        ("fastest, ms <= 20 kB", r"got 'kB'; units here: us, ms, s"),
        ("fastest, top1 >= 3 ms", r"got 'ms'; units here: %"),
        ("fastest, 3 >= top1", "expected an objective, or a limit as in"),
        (
            "fastest, params@openvino <= 3",
            "params is the same in every runtime; leave @openvino out",
        ),
        ("accurate@openvino", "accurate is the same in every runtime"),
        ("fastest, ms <=", "cannot be read at column"),
        ("fastest, 0.1 <= ms <= 2", "expected <= or >="),
        (f"fastest, top1 >= {'9' * 400}", "expected a number below 1e308, got '999"),
        ("fastest, top1 >= 1e999", "expected a number below 1e308"),
    ],
)
def test_what_cannot_be_wanted_says_so(text: str, said: str) -> None:
    with pytest.raises(LissomError, match=said):
        Want.of(text)


@given(
    objective=st.sampled_from(OBJECTIVES),
    value=st.floats(-1e6, 1e6).map(lambda v: float(f"{v:g}")),
    factor=st.sampled_from([0.0, 1.0, 0.5, 2.0]),
    least=st.booleans(),
)
def test_a_want_reads_back_as_itself(
    objective: str, value: float, factor: float, least: bool
) -> None:
    want = Want(objective, None, (Limit("top1", None, least, value, factor),))
    again = Want.of(str(want))
    assert again.objective == objective
    assert again.limits[0].of(7.0) == pytest.approx(want.limits[0].of(7.0), rel=1e-5, abs=1e-9)


def test_a_bound_is_linear_in_the_uncompressed_network() -> None:
    for text in (
        "float",
        "-float",
        "2*float - 3",
        "(float + 1)/4",
        "5 - 2",
        "float*0.5 + 0.25*float",
    ):
        factor, value = line_in(parsed(text, "here"), {})
        for reference in (0.0, 1.0, 10.0):
            assert value + factor * reference == pytest.approx(eval(text, {"float": reference}))


@pytest.mark.parametrize("quote", ["'", '"'])
def test_settings_of_a_runtime_are_read_as_targets_are_written(quote: str) -> None:
    target = 'openvino(precision="bf16")'
    want = Want.of(f"fastest@{target}, bytes@{target} <= 2".replace('"', quote))
    assert want.at == target and [limit.at for limit in want.limits] == [target]
