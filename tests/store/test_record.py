"""Any content of a record, log or structure is read as values of the right types, or refused in one
line.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lissom import LissomError, Store
from lissom.cli.main import main
from lissom.commands.store import store_rows
from lissom.report.comparison import compare_records, print_comparison
from lissom.report.page import write_report
from lissom.report.table import print_record, print_records, print_store
from lissom.report.zeros import zeros_of
from lissom.store.record import (
    SCHEMA,
    Measurement,
    Network,
    Record,
    TaskSummary,
    artefact,
    chain,
    read_log,
    read_record,
    write_record,
)
from lissom.store.structure import read_structure

KEY = "aaaaaaaaaaaa"
MS = {"median": 2.0, "low": 1.9, "high": 2.1, "p99": 3.0}
NETWORK = {
    "key": "bbbbbbbbbbbb",
    "scores": {"valid": {"top1": 0.9}, "test": {"top1": 0.9, "top5": None}},
    "params": 100,
    "macs": 1000,
    "weights_bytes": 400,
}
LAYER = {"name": "stem", "kind": "Conv2d", "outputs": 8, "params": 100, "macs": 1000}
RECORD: dict[str, Any] = {
    **NETWORK,
    "schema": SCHEMA,
    "key": KEY,
    "before": "bbbbbbbbbbbb",
    "recipe": "train(1) | quantize(8)",
    "seed": 0,
    "step": "quantize(8)",
    "created": 1.7e9,
    "task": {
        "model": "resnet8",
        "data": "digits",
        "shape": [1, 8, 8],
        "inputs": [{"shape": [7], "dtype": "int64", "low": 0, "high": 99}],
        "form": {"ids": 0},
        "kind": "regress(2.0)",
        "classes": 10,
        "train": 9,
        "valid": 3,
        "test": 4,
        "spec": {},
        "origin": {"model": "resnet8", "data": {"name": "digits"}},
        "preprocessing": {"preprocess": "scale(1)", "mean": [0.5], "std": [0.2]},
        "notes": [],
    },
    "sizes": {"theory_bytes": 90, "packed_bytes": 95},
    "float": NETWORK,
    "notes": ["a"],
    "layers": [LAYER],
    "seconds": 1.5,
    "facts": {
        "quantized": ["stem"],
        "layers": [{"name": "stem", "weights": {"bits": 8}, "inputs": None}],
    },
    "gates": [{"name": "reloaded = saved", "difference": 0.0, "tolerance": 0.0}],
    "machine": {
        "cpu": "some",
        "cores": 2,
        "libraries": {"torch": "2.14"},
        "gpu": {"name": "H200", "cuda": "13.0", "cudnn": "9.24.0"},
    },
    "targets": {
        "onnxruntime": {
            "artefact": "artefacts/onnx/model.onnx",
            "size_bytes": 100,
            "top1": 0.9,
            "float_size_bytes": 300,
            "latency_ms": MS,
            "float_latency_ms": MS,
            "agreement": 1.0,
            "fused": "1/1",
            "not_fused": [],
            "peak_mib": 50,
            "load_ms": 3.0,
            "resident_mib": 2.0,
            "gates": [],
            "threads": 1,
            "batch": 1,
            "bake": False,
            "macs_in_integers": 0.4,
            "layers_ms": {"stem": 0.1},
            "float_layers_ms": None,
            "notes": ["only 40% of the multiply-adds run in integers"],
        }
    },
}
STRUCTURE: dict[str, Any] = {
    "format": 1,
    "build": {"model": "resnet8"},
    "buffers": ["a"],
    "layers": {
        "stem": {
            "class": "QuantizedConv2d",
            "in_channels": 3,
            "quantized": {
                "site": "input0",
                "masked": False,
                "norm": None,
                "again": None,
                "rounding": {"grid": "uniform", "bits": 8, "of": "weights", "names": ["scale"]},
            },
        }
    },
    "quantized": {
        "sites": {"a": "a"},
        "calls": {"conv": 1},
        "skipped": [],
        "tied": [["a"]],
        "grids": {"a": {"grid": "uniform", "bits": 8, "of": "inputs", "names": ["scale"]}},
    },
}
STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    2**70,
    10**400,
    1.5,
    1e308,
    "",
    "x" * 10_000,
    "../..",
    "\ud800",
    [],
    {},
    [[]],
    {"a": {}},
    [None],
    {"": None},
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where something stands in nested lists and objects."""
    yield at
    for name, part in (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    ):
        yield from places(part, (*at, name))


def mutants(whole: dict[str, Any]) -> Iterator[Any]:
    """Yield a value with each of its parts replaced by each strange one, and left out."""
    for at in places(whole):
        for strange in [*STRANGE, "left out"]:
            if not at:
                yield strange
                continue
            found = copy.deepcopy(whole)
            home: Any = found
            for name in at[:-1]:
                home = home[name]
            if strange == "left out":
                del home[at[-1]]
            else:
                home[at[-1]] = strange
            yield found


def one_line(error: Exception) -> bool:
    return "\n" not in str(error) and len(str(error)) < 600


def put(store: Store, key: str, record: Any) -> None:
    store.folder(key).mkdir(parents=True, exist_ok=True)
    text = record if isinstance(record, (str, bytes)) else json.dumps(record)
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (store.folder(key) / "record.json").write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    kept = Store(tmp_path / "store")
    put(kept, KEY, RECORD)
    put(
        kept,
        "bbbbbbbbbbbb",
        {**RECORD, **NETWORK, "before": None, "recipe": "train(1)", "facts": {}},
    )
    return kept


def test_a_record_is_read_as_it_was_written_and_its_artefact_is_in_its_entry(store: Store) -> None:
    found = store.record(KEY)
    assert found["targets"]["onnxruntime"]["artefact"] == str(
        store.folder(KEY) / "artefacts" / "onnx" / "model.onnx"
    )
    found["targets"]["onnxruntime"]["artefact"] = "artefacts/onnx/model.onnx"
    assert {name: found[name] for name in RECORD} == RECORD and found["finished"] is False


@pytest.mark.parametrize("more", [{}, {"top1": {}}, {"top1": 0.5}])
def test_splits_that_nobody_knows_are_not_shown(
    store: Store, more: object, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, KEY, {**RECORD, "scores": {**RECORD["scores"], "other": more}})
    print_record(store.record(KEY))
    said = capsys.readouterr().out
    assert "test top1" in said and "other" not in said


def test_what_earlier_steps_noted_is_shown_once_and_first(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = {
        **RECORD,
        **NETWORK,
        "before": None,
        "recipe": "train(1)",
        "facts": {},
        "notes": ["train: one", "both: of it"],
    }
    put(store, "bbbbbbbbbbbb", first)
    put(store, KEY, {**RECORD, "before": "bbbbbbbbbbbb", "notes": ["prune: two", "both: of it"]})
    print_record(store.record(KEY), store)
    noted = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert noted[:3] == ["note: train: one", "note: both: of it", "note: prune: two"]


def test_names_with_brackets_are_shown_as_they_are(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "[/red] [bold]x"
    put(store, KEY, {**RECORD, "layers": [{**row, "name": odd} for row in RECORD["layers"]]})
    found = store.record(KEY)
    other = {**found, "layers": [{**row, "params": row["params"] + 1} for row in found["layers"]]}
    print_comparison(compare_records(found, other, store))
    assert odd in capsys.readouterr().out


def test_whatever_stands_in_a_record_is_shown_or_told_in_one_line(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = refused = 0
    for mutant in mutants(RECORD):
        put(store, KEY, mutant)
        try:
            found = store.record(KEY)
        except LissomError as error:
            assert one_line(error) and f"lissom store --remove {KEY}" in str(error)  # noqa: PT017
            refused += 1
            continue
        print_record(found)
        print_records([found], "markdown")
        print_records([found], "csv")
        print_comparison(compare_records(found, store.record("bbbbbbbbbbbb"), store))
        json.dumps(found, allow_nan=False)
        shown += 1
        capsys.readouterr()
    assert shown > 100 and refused > 500


def test_whatever_stands_in_a_structure_is_read_or_told_in_one_line(tmp_path: Path) -> None:
    begin, read = time.monotonic(), 0
    for mutant in mutants(STRUCTURE):
        (tmp_path / "structure.json").write_bytes(
            json.dumps(mutant).encode("utf-8", "surrogatepass")
        )
        try:
            read += bool(read_structure(tmp_path, ("QuantizedConv2d",), ("in_channels",)))
        except LissomError as error:
            assert one_line(error)  # noqa: PT017
    assert read and time.monotonic() - begin < 20


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"\x00\x01",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"NaN",
        b'{"params": Infinity}',
        b"1" * 5_000,
        b'"' + b"x" * 100,
        json.dumps({**RECORD, "facts": {"a": 1e308}}).replace("1e+308", "1e999").encode(),
        json.dumps({**RECORD, "seconds": float("nan")}).encode(),
        b" " * (17 << 20),
    ],
    ids=range(13),
)
def test_what_is_no_json_is_told_at_once(store: Store, text: bytes) -> None:
    put(store, KEY, text)
    begin = time.monotonic()
    for use in (read_record, read_structure):
        (store.folder(KEY) / "structure.json").write_bytes(text)
        with pytest.raises(LissomError) as found:
            use(store.folder(KEY))
        assert "\n" not in str(found.value) and len(str(found.value)) < 600
    assert time.monotonic() - begin < 2


@settings(deadline=None, max_examples=200)
@given(some.binary(max_size=200))
def test_any_log_is_rows_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("log")
    (folder / "log.jsonl").write_bytes(data)
    try:
        assert all(isinstance(row, dict) for row in read_log(folder))
    except LissomError as error:
        assert one_line(error)  # noqa: PT017


def test_a_log_of_a_training_that_failed_has_none_where_there_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"epoch": 1, "loss": NaN}\n')
    assert read_log(tmp_path) == [{"epoch": 1, "loss": None}]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "artefacts",
        "artefacts/onnx",
        "artefacts/../../x",
        "../artefacts/../x/y",
        "",
        "C:/x",
        "artefacts/onnx/..",
        "artefacts/C:/x",
        "artefacts/a/b\0",
        "artefacts//x",
        "artefacts/onnx/m|x",
    ],
)
def test_an_artefact_leads_nowhere_else(store: Store, path: str) -> None:
    put(
        store,
        KEY,
        {**RECORD, "targets": {"torch": {**RECORD["targets"]["onnxruntime"], "artefact": path}}},
    )
    with pytest.raises(LissomError, match="a path below artefacts/"):
        store.record(KEY)


@pytest.mark.parametrize(
    "path",
    [
        "/old/place/aaaaaaaaaaaa/artefacts/onnx/m.onnx",
        "artefacts/onnx/m.onnx",
        "C:\\old\\aaaaaaaaaaaa\\artefacts\\onnx\\m.onnx",
    ],
)
def test_an_artefact_is_found_where_the_store_was_moved_to(tmp_path: Path, path: str) -> None:
    assert artefact(path, tmp_path / KEY, "") == tmp_path / KEY / "artefacts" / "onnx" / "m.onnx"


def test_a_record_of_a_newer_lissom_is_refused_in_one_line_and_left_as_it_is(store: Store) -> None:
    newer = {"schema": SCHEMA + 1, "key": KEY, "scores": "of another kind"}
    put(store, KEY, newer)
    with pytest.raises(LissomError, match=f"newer lissom .schema {SCHEMA + 1}, .*update lissom"):
        store.record(KEY)
    with pytest.raises(LissomError, match="update lissom"):
        store.update(KEY, {"finished": True})
    assert json.loads((store.folder(KEY) / "record.json").read_text()) == newer


def test_a_record_of_an_older_lissom_is_read_with_what_it_lacks(store: Store) -> None:
    later = ("schema", "step", "sizes", "seconds", "gates", "notes", "layers", "machine", "created")
    old = {name: value for name, value in RECORD.items() if name not in later}
    target = RECORD["targets"]["onnxruntime"]
    needed = [name for name in target if "size_bytes" in name or "latency_ms" in name]
    old["targets"] = {"torch": {name: target[name] for name in ("artefact", *needed)}}
    put(store, KEY, old)
    found = store.record(KEY)
    assert (found["schema"], found["step"], found["layers"]) == (SCHEMA, "", [])
    assert "sizes" not in found and "notes" not in found["targets"]["torch"]


def test_a_record_is_written_field_by_field_and_read_again(tmp_path: Path) -> None:
    network = Network(**NETWORK)
    summary = TaskSummary(**RECORD["task"])
    given = ("schema", "task", "float", "targets", *NETWORK)
    others = {name: value for name, value in RECORD.items() if name not in given}
    record = Record(
        network=network,
        task=summary,
        float=network,
        targets={},
        learned_on="cpu, float32",
        learned_threads=1,
        **{**others, "before": "cccccccccccc", "recipe": "train(1)", "facts": {}},
    )
    folder = tmp_path / network.key
    folder.mkdir()
    write_record(folder, record.json())
    written = {**record.json(), "finished": False}
    assert read_record(folder) == written and written["schema"] == SCHEMA
    assert written["float"] == NETWORK and written["params"] == NETWORK["params"]


@pytest.mark.parametrize("kind", [Record, Network, Measurement])
def test_every_field_is_explained(kind: type) -> None:
    page = (Path(__file__).parents[2] / "docs" / "record.md").read_text(encoding="utf-8")
    names = {field.name for field in dataclasses.fields(kind)} - {"network"}
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_a_record_without_its_uncompressed_network_is_no_record(store: Store) -> None:
    put(store, KEY, {**RECORD, "float": {**NETWORK, "key": KEY}})
    with pytest.raises(LissomError, match="float: expected the uncompressed network, got"):
        store.record(KEY)


@pytest.mark.parametrize("before", [{KEY: KEY}, {KEY: "bbbbbbbbbbbb", "bbbbbbbbbbbb": KEY}])
def test_what_was_made_from_itself_is_told_and_does_not_hang(
    store: Store, before: dict[str, str], tmp_path: Path
) -> None:
    for key, other in before.items():
        put(store, key, {**store.record(key), "before": other, "facts": {}})
    put(store, "cccccccccccc", {**RECORD, "key": "cccccccccccc", "before": None, "facts": {}})
    for words in (
        ["compare", KEY, "cccccccccccc"],
        ["show", KEY],
        ["store"],
        ["report", "-o", str(tmp_path / "r.html")],
        ["store", "--prune", "--yes"],
    ):
        with pytest.raises(SystemExit):
            main([*words, "--store", str(store.root)])
    assert (tmp_path / "r.html").is_file() and list(chain("a", {"a": "b"}.get)) == ["a", "b"]


def test_one_entry_that_cannot_be_read_is_one_line_and_the_others_go_on(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "cccccccccccc", b"\x00")
    for words, status in (
        (["store"], 0),
        (["show", KEY, "cccccccccccc", "bbbbbbbbbbbb"], 0),
        (["report", "-o", str(tmp_path / "r.html")], 0),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--store", str(store.root)])
        said = capsys.readouterr()
        assert (
            said.err.count("\n") == 1 and "the record of cccccccccccc cannot be read" in said.err
        ), words
        assert "--remove cccccccccccc" in said.err and said.out and ended.value.code == status, (
            words
        )
    assert (tmp_path / "r.html").is_file()


def test_2000_entries_are_listed_in_a_second_or_two(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    layers = [{**LAYER, "name": f"layer{number}"} for number in range(60)]
    for number in range(2000):
        put(store, f"{number:012x}", {**RECORD, "key": f"{number:012x}", "layers": layers})
    begin = time.process_time()
    found = dict(store.records(print))
    assert len(found) == 2000 and time.process_time() - begin < 4
    begin = time.process_time()
    assert sum(store.size_bytes(key) for key in store) > 0 and time.process_time() - begin < 1
    begin = time.process_time()
    assert store.find("0000000007cf") == "0000000007cf" and store.find("0000000007cf"[:12]) in store
    assert time.process_time() - begin < 1


def test_a_report_that_fails_leaves_the_one_that_was_there(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")
    with pytest.raises(LissomError):
        write_report(["no such key"], store, path)
    assert (
        path.read_text() == "before"
        and [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    )


@pytest.mark.parametrize(
    "words",
    [
        ["store"],
        ["show", KEY],
        ["show", KEY, "bbbbbbbbbbbb"],
        ["compare", KEY, "bbbbbbbbbbbb"],
        ["report", "-o", "r.html"],
        ["store", "--prune", "--yes"],
    ],
    ids=" ".join,
)
def test_what_is_finished_is_shown_without_torch(
    store: Store, tmp_path: Path, words: list[str]
) -> None:
    code = (
        "import sys\nfrom lissom.cli.main import main\ntry:\n    main(sys.argv[1:])\nexcept "
        "SystemExit as ended:\n"
        "    assert not ended.code\n"
        "print(sorted({'torch', 'onnx', 'scipy', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, *words, "--store", str(store.root)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (child.returncode, child.stderr.strip()) == (0, "[]")


def test_samples_may_be_as_long_as_sound_is(store: Store) -> None:
    seconds = {"shape": [1, 160_000], "dtype": "float32", "low": -1, "high": 1}
    task = {**RECORD["task"], "shape": [1, 160_000], "inputs": [seconds]}
    put(store, KEY, {**RECORD, "task": task})
    assert store.record(KEY)["task"]["shape"] == [1, 160_000]
    put(store, KEY, {**RECORD, "task": {**task, "shape": [1, 2**31 + 1]}})
    with pytest.raises(LissomError, match=r"task\.shape"):
        store.record(KEY)


@pytest.mark.parametrize("form", ["table", "markdown", "csv"])
def test_codes_of_a_terminal_are_shown_and_not_obeyed(
    store: Store, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "x\x1b]0;title\x07\x1b[2Jy"
    task = {**RECORD["task"], "model": odd, "data": odd, "kind": odd, "notes": [odd]}
    target = {**RECORD["targets"]["onnxruntime"], "machine": odd, "fused": odd, "notes": [odd]}
    gates = [{**RECORD["gates"][0], "name": odd}]
    more = {"recipe": odd, "task": task, "notes": [odd, "one\nnote: two"], "gates": gates}
    put(store, KEY, {**RECORD, **more, "targets": {odd: target}, "facts": {}})
    found = store.record(KEY)
    print_record(found, store)
    print_records([found, store.record("bbbbbbbbbbbb")], form)
    print_store([{**row, "recipe": odd} for row in store_rows(store, print)])
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x07" not in said
    assert said.count("x\\x1b]0;title\\x07\\x1b[2Jy") >= 8
    assert "note: one note: two" in said


@pytest.mark.parametrize(
    "facts",
    [
        {"masked": [{"name": "a", "weights": 4, "zeros": 2, "sparsity": 0.5}]},
        {"masked": 3},
        {"masked": [{}], "sparsity": {}},
    ],
)
def test_a_mask_of_which_facts_are_missing_is_not_shown(
    store: Store, facts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, KEY, {**RECORD, "facts": facts})
    print_record(store.record(KEY), store)
    assert "are zero" not in capsys.readouterr().out
    assert zeros_of(store.record(KEY), store) is None
