"""A whole run on a tiny data set: what is stored, shared, resumed after a kill, measured and
reported.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lissom
from lissom.bench.intervals import is_disturbed
from lissom.cli.main import main
from lissom.report.page import decompressed, write_report
from lissom.store.store import Store

RECIPE = 'train(2, batch=16) | prune(0.5, multiple=4) | distill("kd", 1, batch=16) | quantize(8, samples=32)'
# the command, with timings as short as in this process: see conftest.py
LISSOM = """
from lissom.bench import latency
from lissom.cli.main import main

latency.ROUND_S = 0.005
main()
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 16x16 images: bright above, bright below."""
    root, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 20)):
        for half, name in enumerate(("above", "below")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = draw.integers(0, 120, (16, 16, 3), dtype=np.uint8)
                pixels[half * 8 : half * 8 + 8] += 100
                Image.fromarray(pixels).save(folder / f"{k}.png")
    return root


def command(images: Path, store: Path, recipe: str, *more: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        LISSOM,
        "run",
        recipe,
        "--data",
        f"folder:{images}",
        "--model",
        "resnet8",
        "--store",
        str(store),
        "--json",
        *more,
    ]


def surroundings() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A store after one run of the recipe with both runtimes, and what --json printed."""
    store = tmp_path_factory.mktemp("finished") / "store"
    done = subprocess.run(
        command(images, store, RECIPE, "--to", "onnxruntime,openvino"),
        capture_output=True,
        text=True,
        env=surroundings(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    return store, record


def test_record_holds_what_the_docs_promise(finished: tuple[Path, dict]) -> None:
    store, record = finished
    text = (Path(__file__).parents[2] / "docs" / "record.md").read_text()
    top, _, of_target = text.partition("| field of a target |")
    named = {
        name
        for line in top.splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].split("`")[1::2]
    }
    assert set(record) == named
    assert record["learned_on"] in ("cpu, float32", "cpu, bfloat16")
    assert record == Store(store).record(record["key"])
    for found in record["targets"].values():
        assert all(f"`{name}`" in of_target for name in found)
        assert found["fused"].split("/")[0] == found["fused"].split("/")[1]
        assert found["not_fused"] == []
        assert found["agreement"] >= 0.995
        assert (
            found["latency_ms"]["low"]
            <= found["latency_ms"]["median"]
            <= found["latency_ms"]["high"]
        )
        assert (
            found["size_bytes"]
            == Path(found["artefact"]).stat().st_size
            < found["float_size_bytes"]
        )
        assert 0 < found["resident_mib"] < found["peak_mib"], (
            "the runtime itself is in the peak alone"
        )
        convolutions = [row["name"] for row in record["layers"] if row["kind"].endswith("Conv2d")]
        assert convolutions and set(convolutions) <= set(found["layers_ms"]) & set(
            found["float_layers_ms"]
        )
        assert 0 < sum(found["layers_ms"].values()) < 10 * found["latency_ms"]["high"]
    held = record["sizes"]
    assert record["weights_bytes"] / 4.5 < held["theory_bytes"] < record["weights_bytes"] / 3
    assert abs(held["packed_bytes"] - held["theory_bytes"]) < 0.02 * held["theory_bytes"]
    assert record["params"] < record["float"]["params"]
    assert record["macs"] < record["float"]["macs"]


def test_uncompressed_network_is_that_of_the_leading_train_steps(
    finished: tuple[Path, dict],
) -> None:
    store, record = finished
    reference = Store(store).record(record["float"]["key"])
    assert reference["recipe"] == "train(2, batch=16)"
    assert reference["scores"] == record["float"]["scores"]


def test_second_run_makes_nothing_again(
    images: Path, finished: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    store, record = finished
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*.safetensors")}
    words = command(images, store, RECIPE, "--to", "onnxruntime,openvino")[3:]
    status, out, err = said_by(words, capsys)
    assert status == 0, err
    assert err.count("in the store") == 4
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*.safetensors")} == before
    # the others are measured again
    well = [name for name, found in record["targets"].items() if not is_disturbed(found)]
    again = json.loads(out)[0]["targets"]
    assert {name: again[name] for name in well} == {name: record["targets"][name] for name in well}


def test_killed_run_continues_and_ends_bit_equal(
    images: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    whole, record = finished
    store = tmp_path / "store"
    first = subprocess.Popen(
        command(images, store, RECIPE),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=surroundings(),
    )
    limit = time.time() + 120
    while len(list(Store(store))) < 2 and time.time() < limit:  # killed in the middle of distill
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    found = list(Store(store))
    assert 2 <= len(found) < 4
    stamps = {key: (store / key / "model.safetensors").stat().st_mtime_ns for key in found}
    again = subprocess.run(
        command(images, store, RECIPE),
        capture_output=True,
        text=True,
        env=surroundings(),
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert all(
        (store / key / "model.safetensors").stat().st_mtime_ns == stamp
        for key, stamp in stamps.items()
    )
    key = record["key"]
    assert json.loads(again.stdout)[0]["key"] == key
    assert (store / key / "model.safetensors").read_bytes() == (
        whole / key / "model.safetensors"
    ).read_bytes()


def test_two_processes_share_one_store(images: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    recipe = "train(1, batch=16) | prune(0.5, multiple=4)"
    runs = [
        subprocess.Popen(
            command(images, store, recipe),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings(),
        )
        for _ in range(2)
    ]
    said = [run.communicate(timeout=180) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert len({json.loads(out)[0]["key"] for out, _ in said}) == 1
    assert len(list(Store(store))) == 2
    assert sum(err.count("in the store") for _, err in said) in (0, 1, 2)
    assert not list(store.glob(".new-*"))
    made = sum("epoch 1/1" in err for _, err in said)
    assert made == 1, "the step was trained twice"


def test_two_processes_measure_one_network_once(
    images: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished[0], store)
    key = finished[1]["key"]
    shutil.rmtree(store / key / "artefacts")
    record = json.loads((store / key / "record.json").read_text(encoding="utf-8"))
    record["targets"] = {}
    (store / key / "record.json").write_text(json.dumps(record), encoding="utf-8")
    runs = [
        subprocess.Popen(
            command(images, store, RECIPE, "--to", "onnxruntime"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings(),
        )
        for _ in range(2)
    ]
    said = [run.communicate(timeout=180) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    # which the second would measure again
    if not any("not measured well" in err for _, err in said):
        assert sum(f"{key}  onnxruntime: export" in err for _, err in said) == 1, (
            "it was measured twice"
        )
        one, two = (json.loads(out)[0]["targets"] for out, _ in said)
        assert one == two


def test_what_a_run_needs_is_not_pruned_beside_it(images: Path, tmp_path: Path) -> None:
    store, said, seen = tmp_path / "store", [""], list[str]()

    def watch(_: object) -> None:
        if "[3 of 3" in said[0] and not seen:
            pruned = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "lissom",
                    "store",
                    "--prune",
                    "--yes",
                    "--store",
                    str(store),
                ],
                env=surroundings(),
                check=True,
            )
            seen.append(str(pruned.returncode))

    (record,) = lissom.run(
        "train(1, batch=16) | prune(0.5, multiple=4) | train(1, batch=16)",
        lissom.Task.of("resnet8", lissom.Data.of(f"folder:{images}")),
        store,
        say=lambda text: said.__setitem__(0, text),
        watch=watch,
    )
    assert seen == ["0"]
    assert record["float"]["key"] != record["key"] and record["float"]["params"] > record["params"]
    assert {record["key"], record["before"], record["float"]["key"]} == set(Store(store))


def test_space_shares_prefixes_and_teacher_may_be_a_key(images: Path, tmp_path: Path) -> None:
    data = lissom.Data.of(f"folder:{images}")
    task = lissom.Task.of("resnet8", data)
    store = Store(tmp_path / "store")
    records = lissom.run("train(1, batch=16) | prune({0.3, 0.5}, multiple=4)", task, store)
    assert len(records) == 2
    assert len(list(store)) == 3
    (taught,) = lissom.run(
        'train(1, batch=16) | prune(0.5, multiple=4) | distill("kd", 1, batch=16)',
        task,
        store,
        teacher=records[0]["key"],
    )
    assert len(list(store)) == 4
    assert records[0]["key"] in taught["recipe"]
    model = lissom.load(taught["key"], store=store.root)
    assert sum(p.numel() for p in model.parameters()) == taught["params"]


def test_teacher_may_be_a_weight_file_of_another_network(images: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    data = lissom.Data.of(f"folder:{images}")
    other = lissom.Task.of("resnet14", data).fresh()
    save_file(other.state_dict(), tmp_path / "teacher.safetensors")
    task = lissom.Task.of("resnet8", data)
    recipe = 'train(1, batch=16) | distill("kd", 1, batch=16)'
    keys = [
        lissom.run(
            recipe, task, tmp_path / "store", teacher=f"resnet14={tmp_path}/teacher.safetensors"
        )[0]["key"]
    ]
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save_file(other.state_dict(), tmp_path / "teacher.safetensors")
    keys.append(
        lissom.run(
            recipe, task, tmp_path / "store", teacher=f"resnet14={tmp_path}/teacher.safetensors"
        )[0]["key"]
    )
    assert keys[0] != keys[1], "another teacher in the same file must make another network"


def said_by(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command in this process, which has imported PyTorch already; return its status and
    what it wrote.
    """
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_exported_file_says_what_it_takes_and_baked_one_takes_pixels(
    finished: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime as ort

    store, record = finished
    files = {}
    for name, more in (("plain", ()), ("baked", ("--bake",))):
        files[name] = tmp_path / f"{name}.onnx"
        words = ["export", record["key"][:6], "--to", "onnxruntime", "-o", str(files[name])]
        status, _, err = said_by([*words, "--store", str(store), *more], capsys)
        assert status == 0, err
    facts = ort.InferenceSession(str(files["plain"])).get_modelmeta().custom_metadata_map
    assert facts["key"] == record["key"]
    assert facts["recipe"] == record["recipe"]
    assert json.loads(facts["classes"]) == ["above", "below"]
    assert facts["order"] == "RGB" and facts["preprocess"].startswith(
        "resize(16, width=16) | normalize(mean=("
    )
    own = ort.InferenceSession(str(files["baked"])).get_modelmeta().custom_metadata_map
    # which it has in it already
    assert own["input"] == "pixels 0..255" and not {"mean", "std"} & own.keys()
    mean, std = (
        np.array(json.loads(facts[k]), np.float32).reshape(1, 3, 1, 1) for k in ("mean", "std")
    )
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 16, 16)).astype(np.float32)
    plain = ort.InferenceSession(str(files["plain"])).run(
        None, {"images": (pixels / 255 - mean) / std}
    )[0]
    baked = ort.InferenceSession(str(files["baked"])).run(None, {"images": pixels})[0]
    # a rounding tie may fall the other way
    assert np.abs(plain - baked).max() < 0.05 * np.abs(plain).max()


def test_show_has_the_four_sizes_also_of_records_that_lack_some(
    finished: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    from lissom.report.table import print_record, size_lines

    _, record = finished
    print_record(record)
    found = record["targets"]["onnxruntime"]
    lines = [
        f"{record['sizes']['theory_bytes']:,} in theory",
        f"{record['sizes']['packed_bytes']:,} packed",
        f"onnxruntime: {found['size_bytes']:,} bytes in the file, {found['resident_mib']} "
        "MiB when running",
    ]
    said = capsys.readouterr().out
    assert all(line in said for line in lines)
    older = {
        **record,
        "targets": {"onnxruntime": {k: v for k, v in found.items() if k != "resident_mib"}},
    }
    del older["sizes"]
    (line,) = size_lines(older)
    assert "not measured when running" in line


def test_report_is_one_page_without_a_network(finished: tuple[Path, dict], tmp_path: Path) -> None:
    store = finished[0]
    record = Store(store).record(finished[1]["key"])  # other tests may have measured since
    page = write_report([], Store(store), tmp_path / "report.html").read_text()
    assert 'src="http' not in page
    assert "<link" not in page
    data = json.loads(decompressed(page.split('id="data">')[1].split("</script>")[0]))
    assert record["key"] in data["runs"]
    assert {row["target"] for row in data["rows"]} == {"onnxruntime", "openvino"}
    sizes = data["runs"][record["key"]]["sizes"]
    assert (
        f"{record['sizes']['theory_bytes']:,} in theory, {record['sizes']['packed_bytes']:,} packed"
        in sizes[0]
    )
    assert (
        f"{record['targets']['openvino']['resident_mib']} MiB when running" in sizes[2]
        and len(sizes) == 3
    )
    steps = [
        data["steps"][key]["step"].split("(")[0] for key in data["runs"][record["key"]]["chain"]
    ]
    assert steps == ["train", "prune", "distill", "quantize"]


def test_a_packed_file_is_run_exported_and_timed_by_its_ending(
    images: Path,
    finished: tuple[Path, dict],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, record = finished
    store, file, target = tmp_path / "store", tmp_path / "small.onnxz", "onnxruntime(packed=True)"
    shutil.copytree(whole, store)
    status, out, err = said_by(command(images, store, RECIPE, "--to", target)[3:], capsys)
    assert status == 0, err
    (again,) = json.loads(out)
    packed, plain = (again["targets"][name] for name in (target, "onnxruntime"))
    assert packed["top1"] == plain["top1"] and packed["fused"] == plain["fused"]
    assert (
        again["sizes"]["packed_bytes"]
        < packed["size_bytes"]
        < again["sizes"]["packed_bytes"] + 12_000
    )
    assert (
        packed["size_bytes"] < 0.95 * plain["size_bytes"]
        and packed["float_size_bytes"] == plain["float_size_bytes"]
    )
    assert sorted(p.name for p in Path(packed["artefact"]).parent.iterdir()) == [
        "manifest.json",
        "model.onnxz",
    ], "one file"
    words = ["export", record["key"], "--to", target, "-o", str(file), "--store", str(store)]
    status, _, err = said_by(words, capsys)
    assert status == 0 and file.read_bytes() == Path(packed["artefact"]).read_bytes(), err
    words = ["bench", str(file), record["key"], "--store", str(store), "--json", "--no-baselines"]
    status, out, err = said_by(words, capsys)
    assert status == 0, err
    assert [row["size_bytes"] for row in json.loads(out)] == [
        packed["size_bytes"],
        plain["size_bytes"],
    ]
    file.write_bytes(file.read_bytes()[:-100])
    status, _, err = said_by(["bench", str(file), "--store", str(store)], capsys)
    assert status == 2 and str(file) in err and err.count("\n") == 1
