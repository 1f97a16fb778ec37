"""Files are timed on idle cores, and stay on them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lissom.bench import cores, threads
from lissom.bench.cores import choose_processors, cores_of, quiet_cores, used_s
from lissom.bench.inputs import images
from lissom.bench.process import file_process
from lissom.cli.options import wait_asleep
from lissom.targets.onnxruntime import Onnxruntime

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process choose")


def running(pid: int) -> bool:
    """Return whether a thread of a process, but for its first, runs, or would if a core were free."""
    return any(
        (thread / "stat").read_text().rpartition(")")[2].split()[0] == "R"
        for thread in Path(f"/proc/{pid}/task").iterdir()
        if thread.name != str(pid)
    )


@linux
def test_a_loaded_file_stays_on_the_cores_it_was_given(tmp_path: Path) -> None:
    Onnxruntime().export(nn.Conv2d(3, 4, 1), tmp_path / "f.onnx", (3, 8, 8), {})
    wanted = quiet_cores(1)
    assert wanted is not None
    with file_process(
        "onnxruntime", tmp_path / "f.onnx", images((1, 3, 8, 8)), cpus=wanted
    ) as process:
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        assert f"Cpus_allowed_list:\t{wanted[0]}\n" in status
        assert process.ms(0.01) > 0


@linux
def test_a_file_does_not_run_beside_threads_of_the_last_one_that_spin(tmp_path: Path) -> None:
    """ONNX Runtime's second thread spins on after a run, and took half of the next file's time."""
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))
    Onnxruntime().export(net, tmp_path / "f.onnx", (3, 32, 32), {})
    with file_process(
        "onnxruntime", tmp_path / "f.onnx", images((8, 3, 32, 32)), threads=2
    ) as process:
        for _ in range(3):
            process.times(0.1)
            assert not running(process.process.pid)


@pytest.mark.parametrize("told", [True, False], ids=["threads are seen", "only time is seen"])
def test_settling_waits_for_threads_that_spin(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not told:
        monkeypatch.setattr(threads, "THREADS_FOLDER", Path("/there/is/none"))
    begin = time.monotonic()
    spins = threading.Thread(
        target=lambda: sum(k for k in iter(lambda: time.monotonic() - begin < 0.3, False))
    )
    spins.start()
    threads.wait_for_threads()
    assert not spins.is_alive() and time.monotonic() - begin < threads.MAX_WAIT_S
    spins.join()


def test_threads_wait_as_the_runtime_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # as on a busy machine, for training
    Onnxruntime().export(nn.Conv2d(3, 4, 1), tmp_path / "f.onnx", (3, 8, 8), {})
    with file_process("onnxruntime", tmp_path / "f.onnx", images((1, 3, 8, 8))) as process:
        assert b"OMP_WAIT_POLICY" not in Path(f"/proc/{process.process.pid}/environ").read_bytes()


@pytest.mark.parametrize(
    ("busy", "given", "wanted"),
    [(True, None, "PASSIVE"), (False, None, None), (True, "ACTIVE", "ACTIVE")],
)
def test_threads_that_train_wait_asleep_where_others_run(
    busy: bool, given: str | None, wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "others_run", lambda: busy)
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "-")  # which puts back afterwards what there was
    if not given:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    wait_asleep()
    assert os.environ.get("OMP_WAIT_POLICY") == wanted


def test_others_run_if_they_do_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "LOAD_WATCH_S", 0)
    for counts, wanted in (("1", False), ("2", True), ("221", False), ("222223", True)):
        looks = iter(counts + counts[-1] * cores.THREAD_CHECKS)
        monkeypatch.setattr(
            Path, "read_text", lambda *_, looks=looks, **__: f"0.5 0.5 0.5 {next(looks)}/300 77"
        )
        assert cores.others_run() is wanted, counts
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "macOS")
    assert cores.others_run() is False


@linux
def test_a_busy_processor_is_seen() -> None:
    cpu = cores_of(set(range(64)))[0][0]
    spin = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen(
        [sys.executable, "-c", spin, str(cpu)], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            before = used_s()[cpu]
            time.sleep(0.3)
            assert used_s()[cpu] - before > 0.2
        finally:
            process.kill()


def test_more_threads_than_cores_or_another_system_choose_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert quiet_cores(100_000) is None
    monkeypatch.setattr(cores, "used_s", dict)
    assert quiet_cores(1) is None
    monkeypatch.setattr(cores, "allowed_cpus", lambda: None)
    assert quiet_cores(1) is None


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.integers(1, 6), st.data())
def test_the_choice_is_a_processor_of_each_of_the_best_cores(
    sizes: list[int], count: int, data: st.DataObject
) -> None:
    numbers = iter(range(99))
    every = [[next(numbers) for _ in range(size)] for size in sizes]
    share = {
        cpu: data.draw(st.sampled_from([0.0, 0.2, 0.4, 1.0])) for core in every for cpu in core
    }
    khz = {
        cpu: speed
        for core in every
        for speed in [data.draw(st.sampled_from([2, 4]))]
        for cpu in core
    }
    found = choose_processors(every, share, khz, count)
    if count > len(every):
        assert found is None
        return
    assert found is not None
    used = [next(core for core in every if cpu in core) for cpu in found]
    assert len(used) == count and len({core[0] for core in used}) == count
    for cpu, core in zip(found, used, strict=True):
        assert share[cpu] == min(share[other] for other in core)
    for core in every:
        # none that was passed over is free where a chosen one is busy, nor faster and as free
        if core not in used:
            for other in used:
                mine, its = (
                    sum(share[cpu] for cpu in one) > cores.BUSY_SHARE for one in (core, other)
                )
                assert (mine, -khz[core[0]]) >= (its, -khz[other[0]])
