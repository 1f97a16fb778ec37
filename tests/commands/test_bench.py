"""`lissom bench`: rows with baselines, ranks by confidence intervals, layers by name, energy if the
processor reports it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from networks import images, seasoned
from torch import nn

import lissom
from lissom import LissomError
from lissom.bench import child
from lissom.bench.energy import Meter
from lissom.bench.inputs import images as shown
from lissom.bench.latency import Timing, timing
from lissom.bench.process import file_process
from lissom.cli.counts import numbers_of
from lissom.cli.main import main
from lissom.commands import bench as files
from lissom.commands.bench import bench, size_bytes, speedup_over
from lissom.data.data import Data
from lissom.exporting.onnx.names import layer_of_node
from lissom.language.parse_methods import method_of
from lissom.report.benchmark import merge_names, print_bench
from lissom.store.store import Store
from lissom.surgery.count import layer_table
from lissom.tasks.task import Task


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    store = Store(tmp_path_factory.mktemp("store"))
    (record,) = lissom.run(
        "quantize(8, samples=16)", Task.of("resnet8", Data.of("digits", size=(8, 8))), store
    )
    return store, record["key"]


def test_a_key_stands_beside_its_uncompressed_network_in_every_runtime_for_floats(
    kept: tuple[Store, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, key = kept
    rows = bench([key[:6]], store, "onnxruntime", None, [1, 3], [1], layers=True)
    for batch in (1, 3):
        found = [row for row in rows if row["batch"] == batch]
        assert [row["baseline"] for row in found] == [False] + [True] * (len(found) - 1)
        assert {row["target"] for row in found[1:]} >= {"torch", "onnxruntime", "openvino"}
        fastest = min(row["latency_ms"]["median"] for row in found[1:])
        for row in found:
            ms = row["latency_ms"]
            assert ms["low"] <= ms["median"] <= ms["high"] and ms["low"] <= ms["p99"]
            assert row["faster"] == (
                None
                if row["disturbed"]
                else pytest.approx(fastest / ms["median"], rel=0.01, abs=0.0006)
            )
            assert row["rank"] == 1 + sum(
                other["latency_ms"]["high"] < ms["low"] for other in found
            )
    assert rows[0]["layers"] and rows[1]["layers"] is None, "PyTorch does not say"
    print_bench(rows)
    said = capsys.readouterr().out
    assert (
        "batch 3, 1 thread" in said
        and "uncompressed" in said
        and "blocks.0.conv1" in said
        and "rank: one more" in said
    )


def test_files_stand_alone_and_keys_may(
    kept: tuple[Store, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = kept
    exact = Timing(1.0, 1.0, 1.0, 1.5, None, 1.0, 1.0, 1.0)
    monkeypatch.setattr(
        files, "latencies", lambda pairs, size, threads, profiled: [exact for _ in pairs]
    )
    (row,) = bench([key], store, "onnxruntime", None, [1], [2], baselines=False)
    assert (
        row["threads"] == 2 and row["faster"] is None and row["rank"] == 1 and "layers" not in row
    )
    (alone,) = bench([row["artefact"]], store, "onnxruntime", None, [1], [1])
    assert alone["name"] == row["artefact"] and alone["size_bytes"] == row["size_bytes"]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "mnn"])
@pytest.mark.parametrize("recipe", ["", "fold", "quantize(8)"])
def test_a_runtime_says_the_time_of_each_layer_by_its_name(
    target: str, recipe: str, tmp_path: Path
) -> None:
    model, seen = seasoned(), images(16, 16)
    small = lissom.apply(recipe, model, seen[:1], seen) if recipe else model
    path = lissom.export(small, target, tmp_path / "net.onnx", tuple(seen.shape[1:]))
    with file_process(target, path, shown((1, *seen.shape[1:]))) as process:
        found = process.layers(20)
        assert found is not None
        whole = process.ms(0.1)
    names = [name for name, _ in found]
    wanted = {row["name"] for row in layer_table(model, seen[:1]) if row["macs"]}
    if target == "mnn":  # which names the last operation after the output
        wanted = wanted - {"head"} | {"outputs__matmul_converted"}
    assert wanted <= set(names) and len(names) == len(set(names)), "each layer once"
    assert all(ms >= 0 for _, ms in found) and 0.2 * whole < sum(ms for _, ms in found) < 10 * whole


def test_a_baseline_is_that_of_its_own_network_and_one_that_fails_is_told(
    kept: tuple[Store, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = kept
    ms = iter([1.0, 2.0, 8.0, 9.0, 4.0, 5.0] * 2)
    monkeypatch.setattr(
        files,
        "latencies",
        lambda pairs, size, threads, profiled: [
            Timing(next(ms), 1.0, 1.0, 1.5, None, 1.0, 1.0, 1.0) for _ in pairs
        ],
    )
    real, said = files.export_if_missing, list[str]()

    def fails(store: Store, key: str, target: Any, *rest: Any) -> Path:
        if str(target) == "torch":
            raise LissomError("export: no")
        return real(store, key, target, *rest)

    monkeypatch.setattr(files, "export_if_missing", fails)
    (other,) = lissom.run(
        "quantize(8, samples=8)",
        Task.of("resnet8", Data.of("digits", size=(8, 8))),
        store,
        seeds=(1,),
    )
    monkeypatch.setattr(files, "FLOAT_TARGETS", ("torch", "onnxruntime"))
    rows = bench([key, other["key"]], store, "onnxruntime", None, [1], [1], say=said.append)
    assert [row["baseline"] for row in rows] == [False, False, True] or [
        row["baseline"] for row in rows
    ] == [False, False, True, True]
    for row in rows[:2]:
        source = store.record(store.find(row["name"]))["float"]["key"]
        own = next(r for r in rows[2:] if r["name"] in ("uncompressed", f"uncompressed {source}"))
        share = own["latency_ms"]["median"] / row["latency_ms"]["median"]
        assert row["faster"] == (None if row["disturbed"] else pytest.approx(share, rel=0.01))
    assert said and all("in torch: export: no" in line for line in said)
    with pytest.raises(LissomError, match="names no target"):
        bench([key], store, "", None, [1], [1])


def test_networks_with_branches_keep_their_names_whole(tmp_path: Path) -> None:
    import torch
    from torch import Tensor, nn

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x).mean((2, 3))
            return self.head(torch.cond(y.sum() > 0, lambda v: v * 2, lambda v: v - 1, (y,)))

    net, seen = Branches().eval(), torch.randn(4, 3, 8, 8)
    path = lissom.export(net, "onnxruntime", tmp_path / "net.onnx", (3, 8, 8))
    found = method_of("targets", "onnxruntime").load(path, 1)(seen.numpy())  # type: ignore[attr-defined]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), net(seen), rtol=1e-4, atol=1e-5)


def test_nodes_are_named_by_layer_under_every_wrapper(tmp_path: Path) -> None:
    import onnx

    seen = images(16, 16)
    for k, recipe in enumerate(
        ("quantize(8)", "quantize(4)", 'quantize("ternary", 32)', 'cast("fp16")')
    ):
        small = lissom.apply(recipe, seasoned(), seen[:1], seen)
        path = lissom.export(small, "onnxruntime", tmp_path / f"{k}.onnx", tuple(seen.shape[1:]))
        nodes = onnx.load(str(path)).graph.node
        layers = {layer_of_node(node.name) for node in nodes if node.op_type in ("Conv", "Gemm")}
        assert {"stem", "blocks.1.shortcut.0", "head"} <= layers, recipe
        named = [node for node in nodes if node.name]
        assert len({node.name for node in named}) == len(named)
        assert all(node.op_type == "DequantizeLinear" for node in nodes if not node.name)
        made = [name for node in nodes for name in node.output]
        assert len(set(made)) == len(made)
        assert not any(
            tensor.name.startswith("network.") for tensor in onnx.load(str(path)).graph.initializer
        )


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("stem/Conv", "stem"),
        ("blocks.0/Add", "blocks.0"),
        ("blocks.0.conv1/Conv_token_23", "blocks.0.conv1"),
        ("QuantizeLinear_abcd_acdb_stem/Conv/WithoutBiases", "stem"),
        ("ReduceMean_acdb_abcd_Reshape", "ReduceMean"),
        ("QuantizeLinear_12", "QuantizeLinear"),
        ("node_Conv_306", "node_Conv_306"),
        ("Transpose_token_42", "Transpose"),
        ("outputs", "outputs"),
        ("blocks.0.conv1/Conv_raster_0", "blocks.0.conv1"),
        ("ReduceMean_raster_1", "ReduceMean"),
    ],
)
def test_names_that_runtimes_give_lead_back_to_layers(node: str, layer: str) -> None:
    assert layer_of_node(node) == layer


def test_targets_that_cannot_tell_layers_apart_say_none() -> None:
    assert method_of("targets", "torch").profile(Path("x"), np.zeros(1), 1, 1) is None  # type: ignore[attr-defined]


def test_energy_is_that_of_all_packages_and_a_counter_may_begin_again(tmp_path: Path) -> None:
    def told(zone: str, used: int) -> None:
        (tmp_path / zone).mkdir(exist_ok=True)
        (tmp_path / zone / "energy_uj").write_text(f"{used}\n")
        name = {"intel-rapl:0:0": "core", "intel-rapl:2": "psys"}.get(zone, "package-0")
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("10000000\n")

    told("intel-rapl:0", 1_000_000), told("intel-rapl:1", 9_000_000), told("intel-rapl:0:0", 5)
    told("intel-rapl:2", 0)
    meter = Meter(tmp_path)
    told("intel-rapl:0", 3_000_000), told("intel-rapl:1", 1_000_000)
    told("intel-rapl:2", 8_000_000)
    assert meter.joules() == pytest.approx(4.0)
    assert meter.joules() == 0
    assert Meter(tmp_path / "none").joules() is None
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert Meter(tmp_path).joules() is None


def test_timings_hold_the_slowest_calls_and_energy_by_call() -> None:
    class Still:
        load_ms = peak_mib = resident_mib = 1.0

    calls = [[1.0] * 50, [1.0] * 49 + [9.0], [2.0] * 50]
    found: Any = timing(Still(), calls, [0.5, 0.1, 0.25])  # type: ignore[arg-type]
    assert (found.median, found.p99, found.energy_mj) == (1.0, 2.0, 5.0)
    assert found.latency_ms() == {"median": 1.0, "low": 1.0, "high": 2.0, "p99": 2.0}
    assert timing(Still(), calls, [None] * 3).energy_mj is None  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "0", "1,", "-1", "a", "1;2", "70000"])
def test_counts_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(LissomError, match=r"--batch: expected 1 or 1,16, from 1 to 65536, got "):
        numbers_of(text, "--batch", 65536)


def test_names_of_several_lists_are_merged_in_their_order() -> None:
    assert merge_names([["a", "c"], ["a", "b", "c"], ["c", "d"]]) == ["a", "b", "c", "d"]
    assert merge_names([[], ["x"]]) == ["x"]


def test_settings_that_fail_leave_the_others_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.xml").write_bytes(b"12")
    (tmp_path / "a.bin").write_bytes(b"345")

    def only_one(pairs: Any, inputs: Any, threads: int, profiled: int) -> list[Timing]:
        if inputs[0].shape[0] > 1:
            raise LissomError("openvino: out of memory")
        return [Timing(1.0, 1.0, 1.0, 1.5, None, 1.0, 1.0, 1.0) for _ in pairs]

    monkeypatch.setattr(files, "latencies", only_one)
    said = list[str]()
    store, file = Store(tmp_path / "s"), str(tmp_path / "a.xml")
    (row,) = bench([file], store, "openvino", (3, 8, 8), [1, 64], [1], say=said.append)
    assert row["batch"] == 1 and row["size_bytes"] == 5, "weights beside the file count"
    assert said == ["batches of 64, threads 1: openvino: out of memory"]
    with pytest.raises(LissomError, match="nothing could be timed"):
        bench([file], store, "openvino", (3, 8, 8), [32, 64], [1])
    with pytest.raises(LissomError, match="out of memory"):
        bench([file], store, "openvino", (3, 8, 8), [64], [1])


def test_a_file_that_is_not_there_is_said_to_be_none_and_one_file_needs_no_list(
    tmp_path: Path,
) -> None:
    with pytest.raises(LissomError, match=r"^bench: there is no file .*nope\.onnx$"):
        bench([str(tmp_path / "nope.onnx")], Store(tmp_path), "onnxruntime", None, [1], [1])
    with pytest.raises(LissomError, match=r"^latency: there is no file .*nope\.onnx$"):
        lissom.latency(str(tmp_path / "nope.onnx"), "onnxruntime", (1, 3, 8, 8))
    with pytest.raises(
        LissomError, match=r"target: expected text such as \"onnxruntime\", got an int"
    ):
        lissom.latency(str(tmp_path / "nope.onnx"), (1, 3, 8, 8), (1, 3, 8, 8))  # type: ignore[arg-type]


def test_nothing_is_faster_by_a_disturbed_timing() -> None:
    def taken(median: float, low: float, high: float) -> Timing:
        return Timing(median, low, high, high, None, 1.0, 1.0, 1.0)

    good, quick, torn = taken(2.0, 1.9, 2.1), taken(1.0, 0.9, 1.1), taken(3.0, 1.93, 32.0)
    assert speedup_over(quick, [good, torn]) == {"faster": 2.0, "level": False, "disturbed": False}
    assert (
        speedup_over(quick, [torn])
        == speedup_over(torn, [good])
        == {"faster": None, "level": False, "disturbed": True}
    )
    assert speedup_over(quick, []) == {"faster": None, "level": False, "disturbed": False}
    assert speedup_over(good, [good])["level"] and not speedup_over(quick, [good])["level"]


def test_inputs_without_axes_stay_as_they_are(tmp_path: Path) -> None:
    values = [
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4]),
        onnx.helper.make_tensor_value_info("rate", onnx.TensorProto.FLOAT, []),
    ]
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4])
    node = onnx.helper.make_node("Mul", ["x", "rate"], ["y"])
    graph = onnx.helper.make_graph([node], "g", values, [out])
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "m.onnx"
    )
    assert [each.shape for each in files.inputs_of_file(tmp_path / "m.onnx")] == [(1, 4), ()]
    store = Store(tmp_path / "store")
    rows = bench([str(tmp_path / "m.onnx")], store, "onnxruntime", None, [1, 3], [1])
    assert [row["batch"] for row in rows] == [1, 3]


def test_the_energy_of_a_round_is_that_of_its_calls_alone() -> None:
    said = list[str]()

    class Counts:
        def joules(self) -> float:
            said.append("meter")
            return float(len(said))

    def run() -> None:
        said.append("run")

    answer = child.time_calls(run, 0.0, Counts(), lambda: said.append("settle"))  # type: ignore[arg-type]
    assert said == ["meter", "run", "meter", "settle"]
    assert answer["joules"] == 3.0 and len(answer["times_ms"]) == 1


def test_the_size_of_a_file_in_two_parts_is_that_of_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "store")
    task = Task.of("resnet8", Data.of("digits", size=(8, 8)))
    (record,) = lissom.run("quantize(4)", task, store)
    path = tmp_path / "m.xml"
    words = ["export", record["key"], "--to", "openvino", "-o", str(path), "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--store", str(store.root)])
    assert ended.value.code == 0
    both = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    assert json.loads(capsys.readouterr().out)["size_bytes"] == both
    (row,) = lissom.latency(path, "openvino", (1, *record["task"]["shape"]))
    assert row["size_bytes"] == both


def test_external_weights_of_onnx_count_as_size(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    lissom.export(nn.Linear(64, 64), "onnxruntime", path, shape=(64,))
    whole = size_bytes(path)
    assert whole == path.stat().st_size
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="w.data", size_threshold=0
    )
    assert path.stat().st_size < whole / 4 and size_bytes(path) >= whole
    assert size_bytes(path) == sum(file.stat().st_size for file in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["missing.data", "a\0b", "x" * 5000])
def test_external_weights_that_are_not_there_are_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    lissom.export(nn.Linear(64, 64), "onnxruntime", path, shape=(64,))
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="w.data", size_threshold=0
    )
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    path.write_bytes(model.SerializeToString())
    with pytest.raises(LissomError, match=r"bench: .*net\.onnx: its weights lie in"):
        size_bytes(path)
