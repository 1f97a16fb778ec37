"""The page has the captions of all runs, and as many images as fit, those of the best runs first."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lissom.report import answers
from lissom.report.answers import answers_data
from lissom.store.pictures import Answer, Answers, pictures_name, write_answers
from lissom.store.store import Store

NETWORK = "f" * 12


def jpeg(gray: int) -> bytes:
    file = BytesIO()
    Image.new("L", (40, 30), gray).save(file, "JPEG")
    return file.getvalue()


def put(store: Store, key: str, target: str, rows: dict[str, list[Answer]]) -> None:
    folder = store.root / key / "artefacts" / pictures_name(target)
    folder.mkdir(parents=True)
    write_answers(folder, Answers(rows, {"road": "#e69f00"}))


def record(key: str, top1: float | None) -> dict[str, Any]:
    return {
        "key": key,
        "float": {"key": NETWORK},
        "scores": {"test": {"top1": 0.5}},
        "targets": {"openvino": {"top1": top1}, "onnxruntime": {"top1": 0.1}},
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    truth = [Answer("cat", None, jpeg(0))]
    put(store, NETWORK, "", {"truth": truth, "network": [Answer("cat 90 %", False)]})
    for place in (1, 2, 3):
        said = [Answer(f"run {place}", None, jpeg(60 * place))]
        put(store, f"{place}" * 12, "openvino", {"file": said})
    return store


RECORDS = [record("1" * 12, 0.3), record("2" * 12, None), record("3" * 12, 0.9)]


def test_rows_of_a_page_name_pictures_that_it_holds_once(store: Store) -> None:
    put(store, "1" * 12, "onnxruntime", {"file": [Answer("the same", None, jpeg(60))]})
    found = answers_data(RECORDS, store)
    assert len(found["pictures"]) == 4
    (truth,) = found["networks"][NETWORK]["rows"]["truth"]
    assert truth == {"caption": "cat", "wrong": None, "picture": 0, "drawn": True}
    (own,) = found["networks"][NETWORK]["rows"]["network"]
    assert own == {"caption": "cat 90 %", "wrong": False, "picture": None, "drawn": False}
    files = found["files"]["1" * 12]
    assert files["openvino"]["row"][0]["picture"] == files["onnxruntime"]["row"][0]["picture"]
    assert files["openvino"]["colours"] == {"road": "#e69f00"}
    assert [found["pictures"][0][side] for side in ("width", "height")] == [40, 30]


def test_where_there_are_too_many_the_best_runs_have_their_pictures(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_JPEG_BYTES", 2 * len(jpeg(180)) + 10)
    found = answers_data(RECORDS, store)
    (best,) = found["files"]["3" * 12]["openvino"]["row"]
    (other,) = found["files"]["1" * 12]["openvino"]["row"]
    assert best["picture"] == 1 and len(found["pictures"]) == 2
    assert other == {"caption": "run 1", "wrong": None, "picture": None, "drawn": True}


def test_a_row_has_all_of_its_pictures_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    row = [Answer("a", None, jpeg(9)), Answer("b", None, jpeg(99)), Answer("c", None, jpeg(9))]
    for room, wanted in ((1.5, [None, None, None]), (2.1, [0, 1, 0])):
        monkeypatch.setattr(answers, "MAX_JPEG_BYTES", int(room * len(jpeg(9))))
        jpegs = answers.PageImages()
        assert [cell["picture"] for cell in jpegs.row(row)] == wanted


def test_what_is_damaged_is_one_line_and_the_rest_stands(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.folder("1" * 12) / "artefacts" / "pictures-openvino"
    (folder / "captions.json").write_text("{")
    found = answers_data(RECORDS, store)
    assert "1" * 12 not in found["files"] and "3" * 12 in found["files"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and str(folder) in told[0]


def test_entries_without_pictures_have_no_answers(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in store.root.iterdir():
        shutil.rmtree(key / "artefacts")
    assert answers_data(RECORDS, store) == {"networks": {}, "files": {}, "pictures": []}
    assert capsys.readouterr().err == ""
