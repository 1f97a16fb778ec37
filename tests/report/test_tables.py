"""Tables: a row per recipe and target over its seeds, sorted, in the terminal, as Markdown and as
CSV.
"""

from __future__ import annotations

import copy
import csv
import io
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from records import record

from lissom.bench.machine import machine, machine_text
from lissom.report.comparison import compare_records, print_comparison
from lissom.report.explanation import file_text
from lissom.report.page import with_references
from lissom.report.rows import csv_of, drift_notes, over_seeds, rows_of
from lissom.report.table import cell, code_cell, markdown, print_record, print_records
from lissom.running.measure import tell_elsewhere
from lissom.running.measurement_notes import medians
from lissom.store.store import Store


def test_seeds_of_a_recipe_become_one_row_with_mean_and_spread() -> None:
    scores = [0.5, 0.7, 0.9]
    rows = over_seeds(
        rows_of(
            [
                record("a | b", seed, 0.9, {"onnxruntime": s, "openvino": 0.1}, top5=s / 2)
                for seed, s in enumerate(scores)
            ]
            + [record("c", 0, 0.9, {"onnxruntime": 0.8}, top5=None)]
        )
    )
    assert [(r["recipe"], r["target"], r["seeds"]) for r in rows] == [
        ("c", "onnxruntime", [0]),
        ("a | b", "onnxruntime", [0, 1, 2]),
        ("a | b", "openvino", [0, 1, 2]),
    ]
    first = rows[1]
    assert first["metric"] == pytest.approx(0.7) and first["spread"] == pytest.approx(
        statistics.stdev(scores)
    )
    assert (
        first["more"] == {"top5": pytest.approx(0.35)}
        and first["ms"] == 3.0
        and first["macs"] == 2001
    )
    assert rows[0]["spread"] is None and rows[0]["more"] == {"top5": None}


def test_a_seed_without_a_score_leaves_no_mean() -> None:
    (row,) = over_seeds(
        rows_of([record("a", 0, None, {"torch": None}), record("a", 1, 0.5, {"torch": 0.5})])
    )
    assert row["metric"] is None and row["spread"] is None and row["ms"] == 2.5


def test_latencies_with_other_numbers_of_threads_are_not_one_row() -> None:
    one = record("a", 0, 0.9, {"onnxruntime": 0.5})
    eight = record("a", 1, 0.9, {"onnxruntime": 0.5})
    eight["targets"]["onnxruntime"]["threads"] = 8
    rows = over_seeds(rows_of([one, eight]))
    assert [row["seeds"] for row in rows] in ([[0], [1]], [[1], [0]])
    assert {row["machine"].endswith(", with 8 threads") for row in rows} == {True, False}


def test_measurements_of_another_machine_are_told() -> None:
    said: list[str] = []
    here = machine_text(machine())
    tell_elsewhere("k", [{"machine": "Z80, 1 cores"}, {"machine": here}, {}], said.append)
    assert len(said) == 1 and "kept as measured on Z80" in said[0] and here in said[0]


def test_markdown_has_a_row_for_each_and_keeps_its_columns() -> None:
    text = markdown(
        over_seeds(
            rows_of(
                [record("a | b", s, 0.9, {"torch": 0.5 + s / 10}, top5=0.75) for s in (0, 1, 3)]
            )
        )
    )
    head, line, row = text.splitlines()
    assert head.count("|") == line.count("|") == row.replace(r"\|", "").count("|")
    assert (
        "`a \\| b`" in row
        and "| 0-1,3 |" in row
        and "| 0.6333 ±0.1528 |" in row
        and "top-5" in head
        and "0.7500" in row
    )


def test_csv_has_every_number_of_every_network() -> None:
    records = [
        record('prune(by="bn") | train(1)', s, 0.9, {"torch": 1 / 3}, top5=0.75) for s in (0, 1)
    ]
    rows = list(csv.DictReader(io.StringIO(csv_of(rows_of(records)))))
    assert [r["seed"] for r in rows] == ["0", "1"] and rows[0][
        "recipe"
    ] == 'prune(by="bn") | train(1)'
    assert (
        float(rows[0]["metric"]) == 1 / 3
        and rows[0]["top5"] == "0.75"
        and rows[1]["macs"] == "2001"
    )
    assert csv_of([]) == ""


def test_the_terminal_gets_recipes_by_number_and_scores_of_one_s_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_records(
        [record("a | b", 0, 0.9, {"torch": 0.5}, auc=0.125), record("c", 0, 0.9, {}, auc=None)]
    )
    text = capsys.readouterr().out
    assert "1  c" in text and "2  a | b" in text and "auc" in text and "0.1250" in text
    assert "PyTorch" in text and "±" not in text
    print_records([])


def test_a_table_names_the_versions_that_it_was_measured_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = record("a", 0, 0.9, {"mnn(precision='low')": 0.5, "onnxruntime": 0.5})
    made["machine"]["libraries"] = {
        "torch": "2.14.1+cu130",
        "torchvision": "0.29",
        "onnxruntime": "1.32.0",
        "MNN": "3.6.1",
        "ncnn": "1.0",
    }
    print_records([made])
    assert capsys.readouterr().out.splitlines()[-1] == (
        "torch 2.14.1+cu130, onnxruntime 1.32.0, MNN 3.6.1"
    )
    made["machine"]["gpu"] = {"name": "H200", "cuda": "13.0"}
    print_records([made])
    assert capsys.readouterr().out.splitlines()[-1].endswith("MNN 3.6.1, H200 with CUDA 13.0")
    del made["machine"]["libraries"], made["machine"]["gpu"]  # as earlier versions wrote it
    print_records([made])
    assert capsys.readouterr().out.splitlines()[-1].endswith("2 cores")


def test_other_networks_data_and_versions_are_no_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    records = [record("a", 0, 0.5, {"torch": 0.5}) for _ in range(4)]
    records[1]["task"], records[2]["task"] = (
        {"model": "wide", "data": "digits"},
        {"model": "net", "data": "photos"},
    )
    rows = over_seeds(rows_of(records))
    assert [row["seeds"] for row in rows] == [[0]] * 4 and all(
        row["spread"] is None for row in rows
    )
    print_records(records)
    said = capsys.readouterr().out
    assert "model" in said and "wide" in said and "photos" in said
    assert "model" not in markdown(over_seeds(rows_of(records[:1])))


def test_networks_of_another_kind_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [record("fold", 0, 0.9, {"torch": 0.5}) for _ in range(2)]
    for one, kind in zip(made, ("segment", "segment(ignore=200)"), strict=True):
        one["task"]["kind"] = kind
        one |= {"facts": {}, "layers": [], "before": None}
        one["scores"] = {"valid": {"mIoU": 0.9}, "test": {"mIoU": 0.9}}
    rows = over_seeds(rows_of(made))
    assert [row["kind"] for row in rows] == ["segment", "segment(ignore=200)"]
    print_records(made)
    head, *cells = capsys.readouterr().out.splitlines()[1:4]
    assert "kind" in head and "segment(ignore=200)" in cells[1]
    assert len([row for row in with_references(rows) if row.get("reference")]) == 2
    found = compare_records(*made, Store(tmp_path))
    assert found["task"] == {"kind": ["segment", "segment(ignore=200)"]}
    print_comparison(found)
    said = capsys.readouterr().out.splitlines()
    assert said[1:3] == ["    kind: segment", "    only here: nothing"]
    assert said[4] == "    kind: segment(ignore=200)"
    made[1]["task"] = {
        "model": "net",
        "data": "digits",
        "kind": "segment",
        "spec": {"model": "net", "width": 2},
        "preprocessing": {"preprocess": "scale(255)"},
    }
    assert compare_records(*made, Store(tmp_path))["task"] == {
        "arguments": ["", "width=2"],
        "preprocessing": ["", "scale(255)"],
    }
    made[1]["scores"] = {"valid": {"pixels": 0.9}, "test": {"pixels": 0.9}}
    print_comparison(compare_records(*made, Store(tmp_path)))
    rows = [line for line in capsys.readouterr().out.splitlines() if "mIoU and pixels" in line]
    assert len(rows) == 3 and all(line.rstrip().endswith("another metric") for line in rows[:2])


def busy(name: str = "latency_ms", seed: int = 0) -> dict[str, Any]:
    """Return a record of which one latency was taken on a busy machine."""
    made = record("a", seed, 0.9, {"torch": 0.5})
    made["targets"]["torch"][name] = {"median": 8.0, "low": 1.93, "high": 32.0}
    made["targets"]["torch"]["notes"] = ["not measured well, the machine was busy"]
    return made


@pytest.mark.parametrize("name", ["latency_ms", "float_latency_ms"])
def test_a_disturbed_measurement_makes_nothing_faster(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = over_seeds(
        rows_of(
            [busy(name), record("a", 1, 0.9, {"torch": 0.5}), record("b", 0, 0.9, {"torch": 0.5})]
        )
    )
    assert {row["recipe"]: row["disturbed"] for row in rows} == {"a": True, "b": False}
    # b's, and how much smaller both are
    assert "not measured well" in markdown(rows) and markdown(rows).count("x |") == 3
    print_records([busy(name)])
    said = capsys.readouterr().out
    assert (
        "not measured well" in said
        and "more than 1.5x apart" in said
        and "4.00x" in said
        and "level" not in said
    )
    assert said.count("4.00x") == 1, "how much smaller it is, not how much faster"
    assert "disturbed" in csv_of(rows_of([busy(name)])).splitlines()[0]


def test_the_uncompressed_network_stands_as_it_was_measured_best() -> None:
    rows = with_references(rows_of([busy("float_latency_ms"), record("a", 0, 0.9, {"torch": 0.5})]))
    assert [(row["ms"], row["wide"], row["disturbed"]) for row in rows if row.get("reference")] == [
        (8.0, False, False)
    ]
    rows = with_references(rows_of([busy("float_latency_ms")]))
    assert [row["wide"] for row in rows] == [False, True] and rows[0]["disturbed"]


def test_a_record_and_a_comparison_say_that_the_machine_was_busy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    scores = {"valid": {}, "test": {"top1": 0.9}}
    rest = {"scores": scores, "gates": [], "notes": [], "before": None, "facts": {}, "layers": []}
    made, whole = [
        {
            **one,
            **rest,
            "float": {**one["float"], "scores": scores},
            "task": {**one["task"], "kind": "classify", "train": 1, "valid": 1, "test": 1},
        }
        for one in (busy(), record("fold", 1, 0.9, {"torch": 0.5}))
    ]
    made["recipe"] = "fold"
    print_record(made)
    said = capsys.readouterr().out
    assert "note: torch: not measured well, the machine was busy" in said
    assert "net on digits (1 train, 1 valid, 1 test), classify\n" in said
    del made["targets"]["torch"]["notes"]  # as records of earlier versions are
    print_record(made)
    assert "note: torch: not measured well" in capsys.readouterr().out
    print_comparison(compare_records(made, whole, Store(tmp_path)))
    said = capsys.readouterr().out
    assert "not measured well" in said and "more than 1.5x apart" in said and "0.38x" not in said
    assert file_text(made["targets"]["torch"]) == "0.5000, 1 kB, 8.000 ms (not measured well)"


def of_machines() -> list[dict[str, Any]]:
    """Return two networks that one machine made and two others measured."""
    scores = {"valid": {"top1": 0.9}, "test": {"top1": 0.9}}
    rest = {"facts": {}, "layers": [], "notes": [], "gates": [], "before": None}
    made = [record("fold", seed, 0.9, {"torch": 0.5}) | rest for seed in (0, 1)]
    for one, cpu in zip(made, ("fast", "slow"), strict=True):
        one["scores"] = scores
        one["targets"]["torch"]["machine"] = f"{cpu}, 2 cores"
    return made


def test_latencies_of_two_machines_are_in_no_ratio_and_no_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = of_machines()
    rows = over_seeds(rows_of(made))
    assert [(row["machine"], row["seeds"], row["ms"]) for row in rows] == [
        ("fast, 2 cores", [0], 2.0),
        ("slow, 2 cores", [1], 3.0),
    ]
    print_records(made)
    said = capsys.readouterr().out
    assert "fast, 2 cores, or slow, 2 cores" in said and "some" not in said
    references = [row for row in with_references(rows_of(made)) if row.get("reference")]
    assert sorted(row["machine"] for row in references) == ["fast, 2 cores", "slow, 2 cores"]
    print_comparison(compare_records(*made, Store(tmp_path)))
    said = capsys.readouterr().out
    assert "another machine: fast, 2 cores and slow, 2 cores" in said
    assert "1.50x" not in said
    made[1]["targets"]["torch"]["machine"] = "fast, 2 cores"
    print_comparison(compare_records(*made, Store(tmp_path)))
    said = capsys.readouterr().out
    assert "1.50x" in said and "another machine" not in said
    assert len(over_seeds(rows_of(made))) == 1


def test_a_faster_way_is_one_on_the_same_machine() -> None:
    made = record("fold", 0, 0.9, {"torch": 0.5, "onnxruntime": 0.5, "mnn": 0.5})
    made["targets"]["mnn"]["machine"] = "another, 2 cores"
    assert medians(made, "torch", "some, 2 cores") == {"onnxruntime": 2.0}
    assert medians(made, "torch", "another, 2 cores") == {"mnn": 2.0}


def test_the_count_of_integers_is_explained_where_runtimes_differ(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = record("a", 0, 0.9, {"onnxruntime": 0.5, "openvino": 0.5})
    print_records([made])
    assert "int8:" not in capsys.readouterr().out
    made["targets"]["openvino"]["fused"] = "2/2"
    print_records([made])
    assert (
        "OpenVINO computes an addition within the convolution before it" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "name", ["=HYPERLINK(1)", "+1", "-1+1", "@sum", "\tx", "a,b", 'a"b', "a\nb"]
)
def test_names_are_no_formulas_in_csv(name: str) -> None:
    made = record("a", 0, 0.9, {"torch": -0.5}, **{name: 0.25})
    made["task"] = {"model": name, "data": "digits"}
    (row,) = csv.DictReader(io.StringIO(csv_of(rows_of([made]))))
    guarded = f"'{name}" if name[0] in "=+-@\t" else name
    assert row["model"] == guarded and row[guarded] == "0.25" and row["metric"] == "-0.5"


@pytest.mark.parametrize("name", ["a|b", "`a`", "a\nb", "*a*", "[a](b)", "<script>", "a\\|b", "``"])
def test_names_stay_in_their_cells_of_markdown(name: str) -> None:
    """Read back by the rules of GitHub: cells end at a bar without a backslash; code ends at as
    many backticks.
    """
    made = [record(name, 0, 0.9, {"torch": 0.5}), record("c", 0, 0.9, {"torch": 0.5})]
    made[0]["task"] = {"model": name, "data": "digits"}
    lines = markdown(over_seeds(rows_of(made))).splitlines()
    assert len(lines) == 4
    cells = [
        re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]
        for line in lines
        if "key" not in line and "---" not in line
    ]
    assert len({len(row) for row in (*cells, lines[0].split("|")[1:-1])}) == 1
    plain = re.sub(r"\\([\\|`*_<>\[\]])", r"\1", cell(name))
    assert plain == " ".join(name.split()) and "<script>" not in cell(name)
    code = code_cell(name)
    fence = re.match("`+", code)[0]  # type: ignore[index]
    assert code.endswith(fence) and fence not in re.sub(f"^{fence}|{fence}$", "", code).split()


def test_latencies_of_a_machine_that_was_slower_meanwhile_come_with_a_note(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The uncompressed network is timed beside each file: its own latency shows such changes."""
    records = [
        record(recipe, 0, 0.9, {"onnxruntime": 0.9, "openvino": 0.9}) for recipe in ("a", "b")
    ]
    slow = records[1]["targets"]["openvino"] = copy.deepcopy(records[1]["targets"]["openvino"])
    for part in ("float_latency_ms", "latency_ms"):
        slow[part] = {name: 1.3 * value for name, value in slow[part].items()}
    (note,) = drift_notes(rows_of(records))
    times = [each["targets"]["openvino"]["float_latency_ms"]["median"] for each in records]
    assert note.startswith(
        f"openvino: the uncompressed network took {times[0]:.3g} to {times[1]:.3g} ms when these files"
    )
    print_records(records)
    assert note in " ".join(capsys.readouterr().out.split())
    records[1]["task"]["model"] = "another"
    assert drift_notes(rows_of(records)) == []
