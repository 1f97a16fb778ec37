"""Figures for papers: their content, their files, and what is refused."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from records import record

from lissom import LissomError
from lissom.report.figure import pareto_front, write_figure
from lissom.store.store import Store


class Held(Store):
    """A store of records that are not on disk."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.held = records
        self.root = Path("nowhere")

    def records(self, *_: Any, **__: Any) -> Any:
        return ((record["key"], record) for record in self.held)


def records() -> list[dict[str, Any]]:
    scores = [0.90, 0.91, 0.92]
    return [
        *(
            record("prune(0.5)", k, s, {"onnxruntime": s, "openvino": s})
            for k, s in enumerate(scores)
        ),
        record("quantize(8)", 0, 0.95, {"onnxruntime": 0.95}),
    ]


@pytest.mark.parametrize("against", ["latency", "size", "macs"])
def test_a_front_says_what_is_on_its_axes_and_names_each_runtime(
    against: str, tmp_path: Path
) -> None:
    path = write_figure([], Held(records()), tmp_path / "front.svg", against)
    text = path.read_text(encoding="utf-8")
    label = {
        "latency": "latency of one sample in ms",
        "size": "size of the file",
        "macs": "multiply",
    }
    assert label[against] in text and "test top-1" in text
    assert all(name in text for name in ("onnxruntime", "openvino", "uncompressed"))


def test_bars_have_a_row_for_all_seeds_of_a_recipe(tmp_path: Path) -> None:
    text = write_figure([], Held(records()), tmp_path / "bars.svg", "seeds").read_text()
    assert text.count("prune(0.5), onnxruntime") == 1 and text.count("prune(0.5), openvino") == 1
    assert "mean of 1 to 3 seeds" in text and "times smaller" in text


@pytest.mark.parametrize(
    ("ending", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?")]
)
def test_the_ending_says_what_kind_of_file(ending: str, begins: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{ending}"
    assert write_figure([], Held(records()), path).read_bytes().startswith(begins)


def test_equal_numbers_give_equal_files(tmp_path: Path) -> None:
    one, two = (write_figure([], Held(records()), tmp_path / f"{k}.svg").read_bytes() for k in "ab")
    assert one == two


def test_the_front_is_what_no_other_beats() -> None:
    rows = [
        {"ms": ms, "metric": metric, "wide": wide}
        for ms, metric, wide in [(1, 0.5, 0), (2, 0.4, 0), (3, 0.7, 0), (0.1, 0.9, 1), (3, 0.6, 0)]
    ]
    assert [(row["ms"], row["metric"]) for row in pareto_front(rows, "ms")] == [(1, 0.5), (3, 0.7)]


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {
        **record("b", 0, 0.9, {"onnxruntime": 0.9}),
        "task": {"model": "net2", "data": "digits"},
    }
    for held, name, says in [
        (records(), "figure.gif", r"ends in \.svg, \.png, \.pdf, got .*figure\.gif"),
        ([], "figure.svg", "no network in nowhere was measured"),
        ([record("a", 0, 0.9, {})], "figure.svg", "no network in nowhere was measured"),
        ([*records(), other], "figure.svg", "of 2 tasks"),
    ]:
        with pytest.raises(LissomError, match=says):
            write_figure([], Held(held), tmp_path / name)
    real = builtins.__import__

    def without(name: str, *more: Any, **named: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LissomError, match=r"pip install 'lissom\[figures\]'"):
        write_figure([], Held(records()), tmp_path / "figure.svg")


def test_latencies_of_two_machines_are_on_no_axis(tmp_path: Path) -> None:
    some = records()
    some[0]["targets"]["openvino"]["machine"] = "another, 4 cores"
    with pytest.raises(LissomError, match=r"measured on another, 4 cores, some, 2 cores, which"):
        write_figure([], Held(some), tmp_path / "front.svg", "latency")
    write_figure([], Held(some), tmp_path / "front.svg", "size")
