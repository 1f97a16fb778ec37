"""The store: entries are complete or absent, processes take turns, and what is kept or deleted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lissom import LissomError, Store
from lissom.commands.store import run_operation, store_rows, unreached
from lissom.store.checks import write_json
from lissom.store.manifest import seal
from lissom.store.store import updated
from lissom.system.scratch import machine_mark, scratch, temporary, written

NUMBERS: dict[str, Any] = {
    "scores": {"valid": {"top1": 0.5}, "test": {"top1": 0.5}},
    "params": 10,
    "macs": 10,
    "weights_bytes": 40,
}


def record_of(
    key: str, before: str | None = None, source: str | None = None, **facts: Any
) -> dict[str, Any]:
    """Return the least that is a record; one that is its own uncompressed network was trained."""
    return {
        "key": key,
        "before": before,
        "float": {"key": source or key, **NUMBERS},
        "seed": 0,
        "created": time.time(),
        "recipe": "fold" if source not in (None, key) else "",
        "task": {"model": "net", "data": "digits"},
        **NUMBERS,
        **facts,
    }


def entry(
    store: Store, key: str, before: str | None = None, source: str | None = None, **facts: Any
) -> None:
    with store.entry(key) as folder:
        write_json(folder / "record.json", record_of(key, before, source, **facts))


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def process() -> Iterator[Start]:
    """Give what starts a Python that has `store` and `words`; whatever of it is left afterwards is ended."""
    begin = (
        "import sys, time, os\nfrom lissom.store.store import Store\n"
        "store, words = Store(sys.argv[1]), sys.argv[2:]\n"
    )
    children: list[subprocess.Popen[str]] = []

    def start(code: str, root: Path, *words: str) -> subprocess.Popen[str]:
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", begin + code, str(root), *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def finished(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    return out


def names(store: Store) -> set[str]:
    return {path.name for path in store.root.iterdir()}


# one entry


def test_nothing_is_written_until_the_first_entry(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b")
    assert list(store) == [] and "key" not in store and not (tmp_path / "a").exists()
    entry(store, "key")
    assert list(store) == ["key"] and "key" in store and store.record("key")["seed"] == 0
    assert names(store) == {"key", ".locks"}


def test_an_entry_is_not_there_before_its_block_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.entry("key") as folder:
        (folder / "record.json").write_text("{}")
        assert "key" not in store and list(store) == [] and not store.folder("key").exists()
        assert folder.parent == store.root  # of one file system, so that a rename is enough
    assert "key" in store and oct(store.folder("key").stat().st_mode)[-3:] == "755"


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, LissomError, FileNotFoundError])
def test_an_exception_inside_leaves_nothing(tmp_path: Path, problem: type[BaseException]) -> None:
    store = Store(tmp_path)
    with pytest.raises(problem), store.entry("key") as folder:  # noqa: PT012
        (folder / "record.json").write_text("{}")
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
        raise problem("stop")
    assert "key" not in store and names(store) == {".locks"}


def test_the_first_of_two_writers_of_an_entry_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key", note="first")
    entry(store, "key", note="second")
    assert store.record("key")["note"] == "first" and names(store) == {"key", ".locks"}


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(LissomError, match="is full"), scratch(tmp_path):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_an_artefact_becomes_part_of_its_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    with pytest.raises(ValueError, match="stop"), store.artefact("key", "onnx"):
        raise ValueError("stop")
    assert not (store.folder("key") / "artefacts" / "onnx").exists()
    with store.artefact("key", "onnx") as folder:
        (folder / "model.onnx").write_bytes(b"12345")
    assert (store.folder("key") / "artefacts" / "onnx" / "model.onnx").read_bytes() == b"12345"
    assert store.size_bytes("key") == sum(
        p.stat().st_size for p in store.folder("key").rglob("*") if p.is_file()
    )
    assert [path.name for path in store.artefacts("key")] == ["onnx"] and store.is_trusted_artefact(
        "key", "onnx"
    )
    (store.folder("key") / "artefacts" / "onnx" / "model.onnx").write_bytes(b"12x45")
    assert not store.is_trusted_artefact("key", "onnx")
    with pytest.raises(LissomError, match="cannot be written"), store.artefact("gone", "onnx"):
        pass


@pytest.mark.parametrize("text", ["", "{", "\x00\x01", "[1]", "3"])
def test_a_broken_record_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    (store.folder("key") / "record.json").write_text(text)
    with pytest.raises(LissomError, match="the record of key cannot be read"):
        store.record("key")


def test_a_log_has_one_row_for_each_line_and_none_without_a_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    assert store.log("key") == []
    (store.folder("key") / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    assert store.log("key") == [{"epoch": 1}, {"epoch": 2}]


# finding


def test_a_key_is_found_by_its_beginning_if_it_is_the_only_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in ("abc1", "abd2", "xyz3"):
        entry(store, key)
    assert store.find("x") == store.find("xyz3") == "xyz3" and store.find("abc") == "abc1"
    for start, said in (
        ("ab", "2 keys begin with 'ab'"),
        ("q", "no key begins with 'q'"),
        ("", "no key begins with ''"),
        ("xyz34", "no key"),
        ("bc1", "no key"),
    ):
        with pytest.raises(LissomError, match=said):
            store.find(start)


def test_no_beginnings_give_no_records(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    assert store.records_by_prefix([]) == []
    assert [record["key"] for record in store.records_by_prefix(["k", "key"])] == ["key"]


def test_scratch_and_lock_folders_are_no_entries(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    (tmp_path / ".new-1-x").mkdir()
    (tmp_path / ".new-1-x" / "record.json").write_text("{}")
    (tmp_path / "other").mkdir()
    assert list(store) == ["key"]


def test_keys_come_oldest_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for age, key in ((1, "b"), (3, "c"), (2, "a")):
        entry(store, key)
        os.utime(store.folder(key) / "record.json", (10**9 - age, 10**9 - age))
    assert list(store) == ["c", "a", "b"]


# a folder that cannot be written


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_store_below_a_file_cannot_be_written_and_says_so(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    store = Store(tmp_path / place)
    for use in (store.writable, lambda: entry(store, "key"), lambda: store.lock("key").__enter__()):
        with pytest.raises(
            LissomError, match=r"cannot be written .*; --store names another folder"
        ):
            use()
    assert list(store) == [] and (tmp_path / "file").read_text() == "x"


def test_a_json_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "goal").mkdir()
    with pytest.raises(LissomError, match="cannot be written"):
        write_json(tmp_path / "goal", {})
    with pytest.raises(LissomError, match="cannot be written"):
        write_json(tmp_path / "none" / "goal", {})
    assert [p.name for p in tmp_path.iterdir()] == ["goal"]


# processes


def test_two_processes_that_want_one_key_take_turns_and_make_one_copy(
    tmp_path: Path, process: Start
) -> None:
    code = """
with store.lock("key"):
    if "key" not in store:
        with store.entry("key") as folder:
            time.sleep(0.3)
            (folder / "record.json").write_text("{}")
        print("made")
"""
    children = [process(code, tmp_path / "store") for _ in range(3)]
    assert sorted(finished(child) for child in children) == ["", "", "made\n"]
    assert names(Store(tmp_path / "store")) == {"key", ".locks"}


def test_a_lock_is_held_until_its_block_ends_and_for_one_key_alone(
    tmp_path: Path, process: Start
) -> None:
    store = Store(tmp_path)
    with store.lock("key"):
        other, same = (
            process('with store.lock("other"): print("got it")', tmp_path),
            process('with store.lock("key"): print("got it")', tmp_path),
        )
        assert finished(other) == "got it\n"
        with pytest.raises(subprocess.TimeoutExpired):
            same.wait(0.5)
    assert finished(same) == "got it\n"


def test_a_process_that_is_killed_lets_go_of_its_lock_and_leaves_no_entry(
    tmp_path: Path, process: Start
) -> None:
    holder = process(
        """
with store.lock("key"), store.entry("key") as folder:
    (folder / "record.json").write_text("{}")
    print("held", flush=True)
    time.sleep(60)
""",
        tmp_path,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    waiter = process('with store.lock("key"): print("key" in store)', tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        waiter.wait(0.3)
    holder.send_signal(signal.SIGKILL)
    assert finished(waiter) == "False\n"
    holder.communicate(timeout=30)
    store = Store(tmp_path)
    (left,) = tmp_path.glob(".new-*")
    foreign = tmp_path / ".new-000000-1-abc"  # of another machine, where that process may live
    foreign.mkdir()
    assert list(store) == []
    store.sweep()
    assert not left.exists() and foreign.is_dir()
    os.utime(foreign, (time.time() - 2 * 86_400,) * 2)
    store.sweep()
    assert names(store) == {".locks"}


def test_a_sweep_spares_a_living_process_of_which_psutil_knows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)  # as it does where /proc is hidden

    monkeypatch.setattr(psutil, "Process", unknown)
    living = tmp_path / f".new-{machine_mark()}-{os.getppid()}-one"
    living.mkdir()
    Store(tmp_path).sweep()
    assert living.is_dir()


def test_a_sweep_spares_what_a_living_process_writes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.entry("key") as folder:
        (folder / "record.json").write_text("{}")
        os.utime(folder, (1, 1))
        store.sweep()
        assert (folder / "record.json").is_file()
    assert "key" in store


def test_measurements_of_processes_that_write_together_are_all_kept(
    tmp_path: Path, process: Start
) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    code = """
while not (store.root / "go").exists():
    time.sleep(0.001)
for n in range(50):
    ms = {"median": n + 1, "low": 1, "high": 2}
    found = {"artefact": "artefacts/a/b", "latency_ms": ms, "float_latency_ms": ms}
    found |= {"size_bytes": 1, "float_size_bytes": 1}
    store.update("key", {"targets": {f"{words[0]}{n}": found}, "last": words[0]})
"""
    children = [process(code, tmp_path, name) for name in ("a", "b", "c")]
    time.sleep(0.5)
    (tmp_path / "go").touch()
    for child in children:
        finished(child)
    record = store.record("key")
    assert set(record["targets"]) == {f"{name}{n}" for name in "abc" for n in range(50)}
    assert record["last"] in ("a", "b", "c") and record["seed"] == 0
    assert {p.name for p in store.folder("key").iterdir()} == {"record.json", "manifest.json"}


def test_a_record_read_while_it_is_written_is_whole(tmp_path: Path, process: Start) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    child = process(
        'for n in range(200): store.update("key", {"long": "x" * 20_000 + str(n)})', tmp_path
    )
    seen = set()
    while child.poll() is None:
        seen.add(len(store.record("key")))  # raises if it is torn
    finished(child)
    assert len(seen) <= 2 and len(store.record("key")) == max(seen)


def test_update_returns_what_it_wrote_and_needs_an_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key", inspection={"groups": 3})
    found = store.update("key", {"inspection": {"torch": {"ms": 2}}})
    assert found == store.record("key") and found["inspection"] == {"torch": {"ms": 2}}
    with pytest.raises(LissomError, match="the record of gone cannot be read"):
        store.update("gone", {})


def test_what_is_measured_again_replaces_all_of_what_was_measured_before() -> None:
    old = {
        "targets": {"torch": {"ms": 1, "layers_ms": {"a": 1}}, "mnn": {"ms": 2}},
        "explanation": {"stages": 1},
        "seed": 1,
    }
    new = {"targets": {"torch": {"ms": 3}, "ncnn": {}}, "explanation": {"ends": 2}, "last": 5}
    assert updated(old, new) == {
        "targets": {"torch": {"ms": 3}, "mnn": {"ms": 2}, "ncnn": {}},
        "explanation": {"ends": 2},
        "seed": 1,
        "last": 5,
    }
    assert old["targets"]["torch"] == {"ms": 1, "layers_ms": {"a": 1}} and "last" not in old
    assert updated({}, {"targets": {"torch": {}}}) == {"targets": {"torch": {}}}


# what is kept


def family(store: Store) -> None:
    """Two recipes that share `root - trained`; one of them ends, the other broke off."""
    entry(store, "root")
    entry(store, "trained", "root")
    entry(store, "pruned", "trained", "trained")
    entry(store, "done", "pruned", "trained", finished=True)
    entry(store, "other", "trained", "trained")
    entry(store, "lost", "other", "trained")
    entry(store, "alone", "gone", "trained")


def test_what_lies_on_the_way_to_no_finished_recipe_is_unreached(tmp_path: Path) -> None:
    store = Store(tmp_path)
    family(store)
    assert set(unreached(store, [])) == {"other", "lost", "alone"}
    assert set(unreached(store, ["lost"])) == {"pruned", "done", "alone"}
    assert set(unreached(store, ["lost", "done"])) == {"alone"}
    lost = set(unreached(store, ["alone"]))
    assert "trained" not in lost, "its float network is kept"
    assert {"pruned", "done", "other", "lost"} <= lost


def test_nothing_is_unreached_in_an_empty_store(tmp_path: Path) -> None:
    assert (
        unreached(Store(tmp_path / "none"), []) == []
        and store_rows(Store(tmp_path / "none"), print) == []
    )


def test_removing_deletes_one_entry_and_leaves_no_trace(tmp_path: Path) -> None:
    store = Store(tmp_path)
    family(store)
    store.remove("lost")
    assert "lost" not in store and "other" in store
    assert names(store) == {"root", "trained", "pruned", "done", "other", "alone", ".locks"}
    entry(store, "lost", note="again")
    assert store.record("lost")["note"] == "again"


def test_removing_what_another_process_has_removed_is_no_crash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    store.remove("key")
    try:
        store.remove("key")
    except LissomError as error:
        assert "key" in str(error)  # noqa: PT017
    assert names(store) == {".locks"}


def test_rows_say_key_recipe_seed_size_and_age(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key", finished=True, created=time.time() - 100, seed=3)
    entry(store, "other")
    rows = {row["key"]: row for row in store_rows(store, print)}
    assert rows["key"]["finished"] is True and rows["other"]["finished"] is False
    assert (
        rows["key"]["seed"] == 3
        and 99 <= rows["key"]["age_s"] <= 102
        and rows["other"]["age_s"] <= 2
    )
    assert rows["key"]["size_bytes"] == sum(
        len(p.read_bytes()) for p in store.folder("key").iterdir()
    )
    assert json.dumps(list(rows.values()))


# what outlives a process


def test_what_is_unfinished_survives_a_kill_and_goes_when_the_entry_is_placed(
    tmp_path: Path, process: Start
) -> None:
    killed = process(
        """
with store.lock("key"):
    (store.unfinished("key") / "checkpoint").write_text("half")
    print("held", flush=True)
    time.sleep(60)
""",
        tmp_path,
    )
    assert killed.stdout is not None and killed.stdout.readline() == "held\n"
    store = Store(tmp_path)
    store.sweep(parts=0)
    assert (tmp_path / ".part-key" / "checkpoint").is_file(), "a living process holds the lock"
    killed.kill()
    killed.communicate(timeout=30)
    store.sweep()
    with store.lock("key"):
        assert (store.unfinished("key") / "checkpoint").read_text() == "half"
        entry(store, "key")
    assert names(store) == {"key", ".locks"} and list(store) == ["key"]


def test_what_is_unfinished_is_swept_when_nobody_holds_the_lock_for_a_day(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key, age in (("new", 0), ("old", 90_000)):
        os.utime(store.unfinished(key), (time.time() - age,) * 2)
    store.sweep()
    assert names(store) == {".part-new", ".locks"}
    store.sweep(parts=0)
    assert names(store) == {".locks"}


def test_what_a_living_run_needs_is_known_and_that_of_a_killed_one_forgotten(
    tmp_path: Path, process: Start
) -> None:
    store = Store(tmp_path)
    runner = process(
        'with store.protect(["b", "a"]): print("on", flush=True); time.sleep(60)', tmp_path
    )
    assert runner.stdout is not None and runner.stdout.readline() == "on\n"
    with store.protect(["c"]) as protect:
        assert store.running() == {"a", "b", "c"}
        protect(["d", "e"])  # a search begins with nothing
        assert store.running() == {"a", "b", "c", "d", "e"}
    assert store.running() == {"a", "b"}
    runner.kill()
    runner.communicate(timeout=30)
    assert store.running() == set() and not list((tmp_path / ".locks").glob(".run-*"))


@pytest.mark.parametrize("place", ["out.txt", "deep/out.txt"])
def test_a_file_is_written_whole_or_the_one_before_stays(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    with written(path, "report") as new:
        new.write_text("first")
        (new.parent / "beside.bin").write_text("weights")
        assert not path.exists()
    assert path.read_text() == "first" and path.with_name("beside.bin").read_text() == "weights"
    for problem, said in (
        (OSError(28, "No space left on device"), "report: .* cannot be written .*No space left"),
        (ValueError("stop"), "stop"),
    ):
        with pytest.raises((LissomError, ValueError), match=said), written(path, "report") as new:  # noqa: PT012
            new.write_text("half")
            raise problem
    assert path.read_text() == "first" and {p.name for p in path.parent.iterdir()} == {
        "out.txt",
        "beside.bin",
    }
    with pytest.raises(LissomError, match="cannot be written"), written(path / "below", "report"):
        pass


def test_temporary_folders_of_killed_processes_are_known_by_their_names(
    tmp_path: Path, process: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    killed = process(
        """
from lissom.system.scratch import temporary
with temporary():
    print("held", flush=True)
    time.sleep(60)
""",
        tmp_path,
    )
    assert killed.stdout is not None and killed.stdout.readline() == "held\n"
    killed.kill()
    killed.communicate(timeout=30)
    assert len(list((tmp_path / "temp").iterdir())) == 1
    with temporary() as own:
        Store(tmp_path).sweep()
        assert list((tmp_path / "temp").iterdir()) == [own]


# full disks, locks of others, records that cannot be read


def test_a_manifest_is_written_whole_or_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    before = (store.folder("key") / "manifest.json").read_bytes()
    real = Path.write_text

    def full(path: Path, text: str, encoding: str | None = None) -> int:
        real(path, text[:3], encoding=encoding)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LissomError, match=r"manifest\.json cannot be written .*No space left"):
        seal(store.folder("key"), "key")
    assert (store.folder("key") / "manifest.json").read_bytes() == before
    assert len(list(store.folder("key").iterdir())) == 2


def test_a_lock_that_cannot_be_taken_is_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key")
    for name in ("key", ".prune", "left"):
        (tmp_path / ".locks" / name).mkdir()  # as a file of another user, which root could open
    store.unfinished("left")
    said = r"lock .*key cannot be taken .*--store names another folder"
    for use in (store.lock, store.try_lock):
        with pytest.raises(LissomError, match=said), use("key"):
            pass
    with pytest.raises(LissomError, match="cannot be taken"), store.protect(["key"]):
        pass
    store.sweep(parts=0)
    assert (tmp_path / ".part-left").is_dir()


def broken(store: Store, key: str, **change: Any) -> None:
    path = store.folder(key) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.parametrize("change", [{"schema": 99}, {"params": "many"}, {"scores": None}])
def test_what_a_finished_recipe_needs_stays_if_a_record_on_the_way_cannot_be_read(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    store = Store(tmp_path)
    family(store)
    broken(store, "pruned", **change)
    assert set(unreached(store, [])) == {"other", "lost", "alone"}
    assert set(unreached(store, ["done"])) == {"other", "lost", "alone"}
    broken(store, "done", **change)
    assert set(unreached(store, [])) == {"other", "lost", "alone"}


@pytest.mark.parametrize("text", ["{", "[]", '{"before": null}', '{"before": 3, "float": {}}'])
def test_nothing_is_deleted_if_nobody_knows_what_a_network_was_made_from(
    tmp_path: Path, text: str
) -> None:
    store = Store(tmp_path)
    family(store)
    (store.folder("pruned") / "record.json").write_text(text)
    with pytest.raises(LissomError, match=r"nothing was deleted.* lissom store --remove pruned"):
        unreached(store, [])


def prune(store: Store, *, yes: bool = False, answer: bool = False) -> None:
    nothing: dict[str, Any] = {"keep": [], "remove": [], "push_to": "", "pull_from": ""}
    words = {**nothing, "prune": True, "verify": False, "trust": False, "quiet": False}
    run_operation(store, yes=yes, ask=lambda _: answer, say=lambda _: None, **words)


def test_what_killed_processes_left_goes_if_there_is_nothing_else_to_delete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry(store, "key", finished=True)
    store.unfinished("left")
    prune(store)
    assert names(store) == {"key", ".locks"}
    entry(store, "lost")
    store.unfinished("left")
    prune(store)
    assert names(store) == {"key", "lost", ".part-left", ".locks"}, "the user said no"
    prune(store, answer=True)
    assert names(store) == {"key", ".locks"}
    prune(Store(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
