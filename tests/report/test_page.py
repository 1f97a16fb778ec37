"""The report in a real browser: it draws, filters, sorts, follows clicks and keys, and stays fast
with 500 runs.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lissom
from lissom.commands.explain import Explainer
from lissom.data.data import Data
from lissom.report.comparison import compare_records, layer_rows, print_comparison
from lissom.report.facets import NO_STEP, facets, settings_in
from lissom.report.page import decompressed, gzip_base64, write_report
from lissom.report.searches import search_data, searches_data
from lissom.store.pictures import read_answers
from lissom.store.store import Store
from lissom.surgery.quantization.bits import saturates
from lissom.tasks.task import Task

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
SPACE = "train(1, batch=64) | {prune(0.3), prune(0.5) | quantize(8), quantize(4, 4)}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    kept = Store(tmp_path_factory.mktemp("store"))
    task = Task.of("resnet8", Data.of("digits", size=(16, 16)))
    lissom.run(SPACE, task, kept, targets="onnxruntime,openvino")
    return kept


@pytest.fixture(scope="module")
def page(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no chromium or google-chrome to open the report in")
    from playwright.sync_api import sync_playwright

    path = write_report([], store, tmp_path_factory.mktemp("report") / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.wrong = []
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.on(
            "console", lambda said: tab.wrong.append(said.text) if said.type == "error" else None
        )
        tab.on(
            "request",
            lambda asked: None if asked.url.startswith("file:") else tab.wrong.append(asked.url),
        )
        tab.path = path
        yield tab
        browser.close()


@pytest.fixture
def fresh(page: Any) -> Any:
    page.set_viewport_size({"width": 1280, "height": 900})
    opened(page, page.path)
    return page


def opened(tab: Any, path: Path) -> float:
    """Open a report and return the seconds until it was drawn."""
    tab.goto(path.resolve().as_uri())
    tab.wait_for_selector("body[data-ready=yes]", timeout=20_000)
    assert tab.wrong == []
    return float(tab.evaluate("performance.now()")) / 1000


def rows(tab: Any) -> list[str]:
    return [line.strip() for line in tab.locator("#table tbody tr").all_inner_texts()]


def test_it_draws_every_network_and_asks_for_nothing(fresh: Any) -> None:
    assert fresh.title() == "lissom report" and len(rows(fresh)) == 6
    assert "3 networks, resnet8 on digits (360 test images)" in fresh.inner_text("#lead")
    assert re.fullmatch(
        r"In \w+, the (fastest network is \d+\.\d× faster and|smallest network is) \d+\.\d× smaller than the "
        r"uncompressed one, (with the same test top-1|\d+\.\d\d points (less|more) accurate)\.",
        fresh.inner_text("#achieved"),
    )
    for plot in ("plot1", "plot2", "channels"):
        assert fresh.locator(f"#{plot} svg").count() and fresh.get_attribute(
            f"#{plot}", "aria-label"
        )
    assert re.fullmatch(
        r"One epoch: loss \d\.\d{4}, training top-1 0\.\d{4}\.", fresh.inner_text("#curves")
    )
    assert len(fresh.screenshot()) > 20_000


def test_epochs_are_drawn_as_curves_within_0_and_1(
    page: Any, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = Store.log
    monkeypatch.setattr(Store, "log", lambda self, key: 3 * real(self, key))
    opened(page, write_report([], store, tmp_path / "report.html"))
    assert page.locator("#curves svg").count() and page.get_attribute("#curves", "aria-label")
    plot = "document.getElementById('curves')"
    assert page.evaluate(f"{plot}.data.map(t => t.x.length)") == [3, 3]
    assert page.evaluate(f"{plot}._fullLayout.yaxis.range") == [0, 1.02]


def test_times_of_layers_stand_beside_those_of_the_uncompressed_network(fresh: Any) -> None:
    fresh.locator("#table tbody tr", has_text="quantize(8").first.click()
    plot = "document.getElementById('times')"
    assert fresh.evaluate(f"{plot}.data.map(t => t.name)") == ["uncompressed", "now"]
    for runtime in ("openvino", "onnxruntime"):
        fresh.select_option("#timed", runtime)
        names, was, now = fresh.evaluate(f"[{plot}.data[0].x, {plot}.data[0].y, {plot}.data[1].y]")
        assert {"stem", "head"} <= set(names) and len(names) == len(set(names))
        assert was[names.index("stem")] > 0 and now[names.index("stem")] > 0
        assert runtime in fresh.get_attribute(
            "#times", "aria-label"
        ) and "Most time: " in fresh.inner_text("#timesum")
    before = now
    fresh.locator("#table tbody tr", has_text="prune(0.3)").first.click()
    assert fresh.evaluate(f"{plot}.data[1].y") != before


def test_the_same_samples_are_shown_beside_the_truth(fresh: Any, store: Store) -> None:
    fresh.locator("#table tbody tr", has_text="quantize(4").first.click()
    heads = fresh.locator("#samples th").all_inner_texts()
    assert [" ".join(head.split()) for head in heads] == [
        "Truth",
        "Uncompressed in PyTorch",
        "This run in onnxruntime",
        "This run in openvino",
    ]
    drawn = "[...document.querySelectorAll('#samples img')].map(i => [i.complete, i.naturalWidth])"
    assert fresh.evaluate(drawn) == [[True, 128]] * 6
    key = fresh.input_value("#pick")
    found = read_answers(store.folder(key) / "artefacts" / "pictures-openvino")
    assert found is not None
    said = fresh.locator("#samples tr").nth(3).locator("td").all_inner_texts()
    assert said == [("✗ " if a.wrong else "✓ ") + a.caption for a in found.rows["file"]]
    assert fresh.locator("#samples .worst").count() == sum(
        text.startswith("✗") for text in fresh.locator("#samples td").all_inner_texts()
    )
    assert "✗ not as the truth" in fresh.inner_text("#samplessaid")
    assert fresh.get_attribute("#samples img >> nth=2", "alt").startswith("Sample 3, Truth")
    before = said
    fresh.locator("#table tbody tr", has_text="prune(0.3)").first.click()
    assert fresh.locator("#samples tr").nth(3).locator("td").all_inner_texts() != before


def test_the_same_samples_scroll_within_their_box_on_a_telephone(fresh: Any) -> None:
    fresh.set_viewport_size({"width": 400, "height": 800})
    assert fresh.evaluate("document.documentElement.scrollWidth") <= 400
    box = "document.getElementById('samplesscroll')"
    wide, seen = fresh.evaluate(f"[{box}.scrollWidth, {box}.clientWidth]")
    assert wide > 2 * seen
    fresh.evaluate(f"{box}.scrollLeft = 300")
    left = "document.querySelector('#samples th').getBoundingClientRect().left"
    assert fresh.evaluate(left) >= 0  # whose row it is stays in sight


def test_what_an_entry_of_anybody_says_of_samples_is_text(
    page: Any, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Store(shutil.copytree(store.root, tmp_path / "store"))
    keys = [key for key in other if other.record(key)["targets"]]
    folder = other.folder(keys[0]) / "artefacts"
    path = folder / "pictures-openvino" / "captions.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["rows"]["file"][0]["caption"] = "<img src=x onerror=alert(1)></script><b>cat</b>"
    told["colours"] = {"</style><b>dog</b>": "#e69f00"}
    path.write_text(json.dumps(told), encoding="utf-8")
    (folder / "pictures-onnxruntime" / "captions.json").write_text("[")
    opened(page, write_report(keys, other, tmp_path / "report.html"))
    assert capsys.readouterr().err.count("\n") == 1
    page.select_option("#pick", keys[0])
    heads = page.locator("#samples th").all_inner_texts()
    assert [head.split()[-1] for head in heads] == ["Truth", "PyTorch", "openvino"]
    assert "<b>cat</b>" in page.locator("#samples tr").nth(2).locator("td").first.inner_text()
    assert page.inner_text("#samplescolours") == "</style><b>dog</b>"
    assert page.locator("#samples b, #samplescolours b").count() == 0


def test_a_store_of_an_earlier_version_has_no_samples(
    page: Any, store: Store, tmp_path: Path
) -> None:
    other = Store(shutil.copytree(store.root, tmp_path / "store"))
    for folder in other.root.glob("*/artefacts/pictures*"):
        shutil.rmtree(folder)
    opened(page, write_report([], other, tmp_path / "report.html"))
    assert not page.locator("#samplesbox").is_visible() and page.locator("#steps tr").count() > 1


def altered(store: Store, root: Path, runs: list[dict[str, Any]]) -> Store:
    """Return a copy of a store with one network for each of `runs`: its metric, the interval of its
    latency in ms, and the size of its file; all in onnxruntime, of a network with mIoU 0.9532 that
    takes 1 ms.
    """
    other = Store(shutil.copytree(store.root, root))
    keys = [key for key in other if other.record(key)["targets"]]
    for key, run in zip(keys, runs, strict=True):
        path = other.folder(key) / "record.json"
        made = json.loads(path.read_text())
        found = made["targets"]["onnxruntime"]
        low, high = run["ms"]
        found |= {"mIoU": run["mIoU"], "size_bytes": run["bytes"], "float_size_bytes": 1_000_000}
        found["latency_ms"] = {"median": (low + high) / 2, "low": low, "high": high}
        found["float_latency_ms"] = {"median": 1, "low": 0.99, "high": 1.01}
        made["targets"] = {"onnxruntime": found}
        for one, value in ((made, run["mIoU"]), (made["float"], 0.9532)):
            one["scores"] = {split: {"mIoU": value} for split in ("valid", "test")}
        path.write_text(json.dumps(made))
    return other


def test_the_headline_names_what_any_metric_lost_and_ties_go_to_the_most_accurate(
    page: Any, store: Store, tmp_path: Path
) -> None:
    runs = [
        {"mIoU": 0.3, "ms": (0.40, 0.42), "bytes": 50_010},
        {"mIoU": 0.5182, "ms": (0.41, 0.43), "bytes": 90_000},
        {"mIoU": 0.9532, "ms": (0.80, 0.82), "bytes": 50_040},
    ]
    opened(page, write_report([], altered(store, tmp_path / "one", runs), tmp_path / "report.html"))
    assert page.inner_text("#achieved") == (
        "In onnxruntime, the fastest network is 2.4× faster and 11.1× smaller than the "
        "uncompressed one, with a test mIoU of 0.5182 instead of 0.9532."
    )
    cards = page.locator(".card").all_inner_texts()
    assert "fastest: 0.420 ms in onnxruntime, mIoU 0.5182" in cards[1]
    assert "smallest: 50.0 kB, mIoU 0.9532" in cards[2], "all of the same size as it is shown"
    for run in runs:
        run["ms"] = (0.99, 1.01)
    opened(page, write_report([], altered(store, tmp_path / "two", runs), tmp_path / "report.html"))
    assert page.inner_text("#achieved") == (
        "In onnxruntime, the smallest network is 20.0× smaller than the uncompressed one, "
        "with the same test mIoU."
    )


def test_networks_of_another_kind_are_told_apart(page: Any, store: Store, tmp_path: Path) -> None:
    run = {"mIoU": 0.5, "ms": (0.40, 0.42), "bytes": 50_000}
    other = altered(store, tmp_path / "store", [run, run, run])
    made = [other.record(key) for key in other if other.record(key)["targets"]]
    for number, one in enumerate(made):
        one["recipe"] = "fold"
        one["seed"] = 0
        one["task"]["kind"] = ["segment", "segment(ignore=200)", "segment"][number]
        (other.folder(one["key"]) / "record.json").write_text(json.dumps(one))
    opened(page, write_report([], other, tmp_path / "report.html"))
    assert [row.split("\t")[1] for row in rows(page)] == [one["task"]["kind"] for one in made]
    assert "test images, segment(ignore=200))" in page.inner_text("#lead")
    assert not page.is_visible("#achieved"), "which metric would it be of"
    assert not page.locator(".card").count()


def test_the_key_is_in_sight_however_many_columns_a_table_has(
    page: Any, store: Store, tmp_path: Path
) -> None:
    run = {"mIoU": 0.5, "ms": (0.40, 0.42), "bytes": 50_000}
    other = altered(store, tmp_path / "store", [run, run, run])
    keys = [key for key in other if other.record(key)["targets"]]
    for number, key in enumerate(keys):
        made = other.record(key)
        made["recipe"] = f'distill("kd", {number}, alpha=0.9) | prune(0.5, of="macs", multiple=8)'
        made["scores"]["test"]["pixels"] = 0.9
        made["targets"]["onnxruntime"] |= {"fused": "11/113", "macs_in_integers": 0.03}
        (other.folder(key) / "record.json").write_text(json.dumps(made))
    around = "document.getElementById('table').parentElement"

    def hidden() -> float:
        right = "document.querySelector('#table tbody td:last-child').getBoundingClientRect().right"
        return float(page.evaluate(f"{right} - {around}.getBoundingClientRect().right"))

    page.set_viewport_size({"width": 1280, "height": 900})
    opened(page, write_report([], other, tmp_path / "report.html"))
    assert page.evaluate(f"{around}.scrollWidth <= {around}.clientWidth") and hidden() <= 0
    made["task"]["kind"] = "file_with_a_long_name.py:one_class_for_each_pixel(ignore=200)"
    made["task"]["model"] = "onnx:another/folder/with/a/long/name/segmenter.onnx"
    (other.folder(key) / "record.json").write_text(json.dumps(made))
    opened(page, write_report([], other, tmp_path / "report.html"))
    assert page.evaluate(f"{around}.scrollWidth > {around}.clientWidth") and hidden() <= 0


def test_axes_and_filters_choose_what_is_shown(fresh: Any) -> None:
    fresh.select_option("#x1", "macs")
    assert "multiply-adds" in fresh.text_content("#plot1 .xtitle")
    assert "multiply-adds" in fresh.get_attribute("#plot1", "aria-label")
    fresh.select_option("#y", "top5")
    assert fresh.text_content("#plot2 .ytitle") == "test top-5"
    fresh.locator("#filters").get_by_label("runtime").select_option("openvino")
    assert len(rows(fresh)) == 3 and all("openvino" in row for row in rows(fresh))
    assert fresh.inner_text("#shown") == "3 of 6 rows"
    fresh.get_by_label("prune amount").select_option("0.5")
    assert len(rows(fresh)) == 1 and "prune(0.5) | quantize(8)" in rows(fresh)[0]
    fresh.get_by_label("recipe holds").fill("no such step")
    assert rows(fresh) == []
    fresh.get_by_label("prune amount").select_option("")
    fresh.get_by_label("recipe holds").fill("Quantize")
    assert len(rows(fresh)) == 2


def test_of_an_error_less_is_better(page: Any, store: Store, tmp_path: Path) -> None:
    runs = [{"mIoU": 0.5, "ms": (0.4, 0.42), "bytes": size} for size in (50_000, 60_000, 70_000)]
    other = altered(store, tmp_path / "store", runs)
    keys = [key for key in other if other.record(key)["targets"]]
    for key, error in zip(keys, (0.3, 0.2, 0.4), strict=True):
        made = other.record(key)
        for one in (made, made["float"]):
            for split in ("valid", "test"):
                one["scores"][split]["mae"] = error
        made["targets"]["onnxruntime"]["mae"] = error
        (other.folder(key) / "record.json").write_text(json.dumps(made))
    opened(page, write_report([], other, tmp_path / "report.html"))
    page.select_option("#y", "mae")
    marked = page.locator("#table tbody tr:has(td.front:has-text('kB'))").all_inner_texts()
    assert len(marked) == 2 and not any("70.0 kB" in row for row in marked)


def test_a_record_of_no_known_machine_is_drawn(page: Any, store: Store, tmp_path: Path) -> None:
    other = Store(shutil.copytree(store.root, tmp_path / "store"))
    for key in other:
        made = other.record(key)
        made["machine"] = {}
        (other.folder(key) / "record.json").write_text(json.dumps(made))
    opened(page, write_report([], other, tmp_path / "report.html"))
    assert page.inner_text("#machine") == "Not known"


def test_clicks_and_keys_lead_to_the_run(fresh: Any) -> None:
    row = fresh.locator("#table tbody tr", has_text="quantize(4").first
    row.focus()
    fresh.keyboard.press("Enter")
    assert "quantize(4, inputs=4)" in fresh.inner_text("#recipe")
    assert {"4/4", f"{7 if saturates() else 8}/8"} <= set(
        fresh.locator("#layers tbody td").all_inner_texts()
    )
    assert fresh.locator("#steps tbody tr").count() == 2 and "bytes:" in fresh.inner_text("#said")
    fresh.locator("#table tbody tr", has_text="prune(0.3)").first.click()
    assert fresh.inner_text("#recipe").endswith("prune(0.3)")
    box = fresh.locator("#plot2 .scatterlayer .points path").first.bounding_box()
    wanted = fresh.evaluate(
        "document.getElementById('plot2').data.find(t => t.customdata).customdata[0]"
    )
    fresh.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    fresh.wait_for_function(
        f"document.getElementById('pick').value === {json.dumps(wanted)}", timeout=3000
    )


def test_columns_sort_both_ways(fresh: Any) -> None:
    def sizes() -> list[float]:
        return [float(row.split("\t")[8].split()[0]) for row in rows(fresh)]

    head = fresh.locator("#table th button", has_text="file")
    assert fresh.locator("#table th").nth(8).inner_text().startswith("file"), fresh.inner_text(
        "#table thead"
    )
    head.click()
    once = sizes()
    head.click()
    assert once == sorted(once, reverse=True) and sizes() == once[::-1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_paper_has_no_controls(
    fresh: Any, scheme: Any
) -> None:
    fresh.emulate_media(color_scheme=scheme)
    fresh.set_viewport_size({"width": 390, "height": 800})
    fresh.wait_for_timeout(300)
    assert fresh.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = (
        fresh.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("color", "backgroundColor")
    )
    assert (sum(map(int, ink[4:-1].split(","))) < sum(map(int, paper[4:-1].split(",")))) == (
        scheme == "light"
    )
    fresh.emulate_media(media="print", color_scheme="light")
    assert not fresh.is_visible("#filters") and fresh.is_visible("#table")
    fresh.emulate_media(media="screen")


def test_500_runs_open_in_two_seconds_and_take_six_megabytes(
    store: Store, page: Any, tmp_path: Path
) -> None:
    many, keys = Store(tmp_path / "many"), [key for key in store if store.record(key)["targets"]]
    for key in store:
        shutil.copytree(store.folder(key), many.folder(key))
    for number in range(500):
        record = store.record(keys[number % len(keys)])
        record |= {"key": f"{number:012x}", "seed": number, "created": number}
        for found in record["targets"].values():
            found["top1"] = round(found["top1"] + number / 5000, 4)
            found["latency_ms"]["median"] *= 1 + number / 500
        shutil.copytree(store.folder(keys[number % len(keys)]), many.folder(record["key"]))
        (many.folder(record["key"]) / "record.json").write_text(json.dumps(record))
    path = write_report([f"{number:012x}" for number in range(500)], many, tmp_path / "report.html")
    assert path.stat().st_size < 6_000_000
    seconds = [opened(page, path) for _ in range(3)]
    assert min(seconds) < 2, seconds
    assert len(rows(page)) == 6, "one row for all seeds of a recipe and runtime"
    page.uncheck("#means")
    assert len(rows(page)) == 1000


def test_what_rounding_costs_each_layer_is_drawn_and_told(
    store: Store, page: Any, tmp_path: Path
) -> None:
    shutil.copytree(store.root, tmp_path / "store")
    kept = Store(tmp_path / "store")
    key = next(key for key in kept if kept.record(key)["recipe"].endswith("quantize(4, inputs=4)"))
    found = Explainer(Task.of("resnet8", Data.of("digits", size=(16, 16))), kept, key).findings(
        [], 50
    )
    kept.update(key, {"explanation": found})
    opened(page, write_report([key], kept, tmp_path / "report.html"))
    layers, names = found["layers"], [row["name"] for row in found["layers"]]
    drawn = {
        trace["name"]: trace
        for trace in page.evaluate(
            "document.getElementById('bylayer').data.map(t => ({name: t.name, x: t.x, y: t.y}))"
        )
    }
    assert drawn["this layer alone"] == {
        "name": "this layer alone",
        "x": [row["alone"] for row in layers],
        "y": names,
    }
    assert drawn["all but this layer"]["x"] == [row["left_out"] for row in layers]
    assert drawn["inputs"]["x"] == [row["inputs"]["sqnr_db"] for row in layers]
    assert {
        f"nothing rounded {found['ends']['float']:.4f}",
        f"all rounded {found['ends']['rounded']:.4f}",
    } <= set(drawn)
    assert page.text_content("#stages .ytitle") == "test top-1, 360 images"
    assert page.text_content("#bylayer .xtitle") == "validation top-1, 50 images"
    assert page.locator("#bylayer .ytick").count() == len(layers), "a name for each"
    told = [row.split("\t") for row in page.locator("#rounded tbody tr").all_inner_texts()]
    assert [row[0] for row in told] == names
    shares = [
        [
            f"{100 * row[of][what]:.1f} %"
            for what in ("use", "saturated")
            for of in ("weights", "inputs")
        ]
        for row in layers
    ]
    assert [row[4:8] for row in told] == shares
    assert sorted(page.locator("#rounded tr.worst td:first-child").all_inner_texts()) == sorted(
        found["worst"]
    )
    assert all(sentence in page.inner_text("#explained") for sentence in found["said"])


def test_what_is_packed_comes_back() -> None:
    text = "</script> – ünïcode \\ " * 50
    small = gzip_base64(text.encode())
    assert (
        decompressed(small) == text
        and small == gzip_base64(text.encode())
        and len(small) < len(text)
    )


def test_facets_are_the_settings_that_differ() -> None:
    found = facets(["prune(0.3) | train(1)", 'prune(0.5, by="bn") | train(1)', "fold"])
    assert [(f["name"], f["values"]) for f in found] == [
        ("prune amount", ["0.3", "0.5", NO_STEP]),
        ("prune of", ["channels", "channels", NO_STEP]),
    ]
    assert facets(["fold", "fold"]) == [] and facets(["", "a recipe of another (version"]) == []
    found = settings_in('prune(0.3, keep="a | b") | prune(0.5)')  # a text that looks like two steps
    assert (found["prune keep"], found["prune 2 amount"]) == ("a | b", "0.5")


def test_networks_are_compared_layer_by_layer(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [store.record(key) for key in store]
    by = {record["recipe"].split(" | ", 1)[-1]: record for record in records if record["targets"]}
    whole, cut = by["quantize(4, inputs=4)"], by["prune(0.5) | quantize(8)"]
    found = compare_records(whole, cut, store)
    assert found["steps"] == [["quantize(4, inputs=4)"], ["prune(0.5)", "quantize(8)"]]
    assert found["params"] == [whole["params"], cut["params"]] and set(found["targets"]) == {
        "onnxruntime",
        "openvino",
    }
    layer = next(row for row in found["layers"] if row["name"] == "blocks.0.conv1")
    top = f"{7 if saturates() else 8}/8"
    assert layer["bits"] == ["4/4", top] and layer["outputs"][1] < layer["outputs"][0]
    assert {row["name"]: row["bits"] for row in layer_rows(whole, store)}["stem"] == top
    print_comparison(found)
    said = capsys.readouterr().out
    assert "only here: prune(0.5) | quantize(8)" in said and f"4/4 > {top}" in said
    assert "layers in both: 19, of which 19 differ:" in said
    assert "valid top-1, PyTorch" in said and "onnxruntime top-1" in said
    print_comparison(compare_records(whole, whole, store))
    said = capsys.readouterr().out
    assert "only here: nothing" in said and "differ:" not in said
    assert "layers in both: 19, of which none differs" in said


def searched() -> dict[str, Any]:
    """Return a search as a store has it, with one recipe that was only measured and one stopped."""
    outcomes = [
        {"recipe": f"prune({k})", "ms@ort": ms, "top1": top1, "probe": probe}
        for k, (ms, top1, probe) in enumerate(
            [(0.1, 0.2, True), (0.5, 0.9, False), (0.2, 0.7, False), (0.4, 0.88, False)]
        )
    ]
    return {
        "want": "fastest, top1 >= 0.85",
        "space": "prune(0..0.8)",
        "by": "model",
        "met": True,
        "seconds": 90.0,
        "reference": {"top1": 0.91, "ms@ort": 1.0},
        "aims": ["ms@ort"],
        "bounds": ["top1 >= 0.85"],
        "chosen": ["prune(3)"],
        "outcomes": [
            {
                "point": {},
                "recipe": each["recipe"],
                "key": "",
                "values": {"top1": each["top1"], "ms@ort": each["ms@ort"]},
                "seconds": 30.0,
                "probe": each["probe"],
            }
            for each in outcomes
        ]
        + [
            {
                "point": {},
                "recipe": "prune(9)",
                "key": "",
                "values": {"top1": 0.99, "ms@ort": 0.01},
                "seconds": 6.0,
                "probe": False,
                "midway": 0.3,
                "stopped": True,
            }
        ],
        "why_not": {"prune(2)": "top1 0.7, wanted >= 0.85"},
        "importances": {"prune.amount": 1.0},
    }


def test_a_search_is_drawn_with_its_limits(tmp_path: Path) -> None:
    """What the page is given of a search: points in order, what fits, how the best came about."""
    found = searched()
    data = search_data(found)
    assert [point["fits"] for point in data["points"]] == [True, False, True]
    assert data["best"] == [[1.0, 0.5], [2.0, 0.4]] and data["probes"] == 1
    assert data["stopped"] == 1 and not any(p["recipe"] == "prune(9)" for p in data["points"])
    assert data["limits"] == {"top1": 0.85} and data["reference"] == [1.0, 0.91]
    (tmp_path / ".searches").mkdir()
    (tmp_path / ".searches" / "a.json").write_text(json.dumps(found))
    (tmp_path / ".searches" / "b.json").write_text("{")
    assert searches_data(Store(tmp_path)) == [data]


def test_what_is_no_file_of_a_search_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".searches" / "folder.json").mkdir(parents=True)
    (tmp_path / ".searches" / "link.json").symlink_to(tmp_path / "gone")
    (tmp_path / ".searches" / "deep.json").write_text("[" * 100_000)
    (tmp_path / ".searches" / "good.json").write_text(json.dumps(searched()))
    assert len(searches_data(Store(tmp_path))) == 1
    said = capsys.readouterr().err.splitlines()
    for name in ("folder", "link", "deep"):
        assert any(f"{name}.json is no search that can be read (" in line for line in said)


def test_a_limit_of_a_runtime_with_settings_is_read() -> None:
    name = 'ms@mnn(8, activations="kl")'
    found = searched()
    found["bounds"] = [f"{name} <= 0.4"]
    for each in (found["reference"], *(one["values"] for one in found["outcomes"])):
        each[name] = each["ms@ort"]
    assert search_data(found)["limits"] == {name: 0.4}


def test_a_best_that_never_changed_has_an_axis_from_zero(
    page: Any, store: Store, tmp_path: Path
) -> None:
    other = Store(shutil.copytree(store.root, tmp_path / "store"))
    found = searched()
    path = other.root / ".searches" / "a.json"
    path.parent.mkdir()
    spans = []
    for count in (2, 5):
        path.write_text(json.dumps(found | {"outcomes": found["outcomes"][:count]}))
        opened(page, write_report([], other, tmp_path / "report.html"))
        spans.append(page.evaluate("document.getElementById('bettered')._fullLayout.yaxis.range"))
    (low, high), (least, _) = spans
    assert low == 0 and 0.5 < high < 0.6 and least > 0.3
