"""Mutated inputs of lissom: each works or is refused in one line. `tools/fuzz.py` runs any number
of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
COUNTS = {
    "recipes": 200,
    "weights": 40,
    "images": 40,
    "packed": 60,
    "records": 40,
    "structures": 40,
    "safetensors": 30,
}
CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fuzzing.child import fault, family_of, guard, mutant_of
folder, counts, say = Path(sys.argv[2]).resolve(), json.loads(sys.argv[3]), sys.stdout
sys.stdout = open(folder / "shown", "w", encoding="utf-8")
families, escapes = [family_of(name, folder) for name in counts], []
sys.addaudithook(guard(folder, escapes))
for family in families:
    works = 0
    for number in range(counts[family.name]):
        said, no = fault(family, mutant_of(family, 0, number), escapes)
        works += not no and not said
        if said:
            print(f"{family.name}:{number}: {said}", file=say)
    print(f"{family.name}: {works} work", file=say)
"""


def test_mutants_work_or_are_refused_in_one_line(tmp_path: Path) -> None:
    """In one process for all families, since importing takes longest; only a hang of it all is
    noticed as one.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD, TOOLS, tmp_path, json.dumps(COUNTS)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line for line in lines if not line.endswith(" work")] == []
    works = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    assert all(0 < works[name] < count for name, count in COUNTS.items()), (
        "some are read, some are refused"
    )


def test_whatever_breaks_the_rule_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    from fuzzing import watch

    found = watch.run(
        "faulty",
        seed=1416,
        first=0,
        count=11,
        folder=tmp_path / "here",
        kept=tmp_path / "kept",
        say=lambda _: None,
    )
    by_number = {number: fault for fault, numbers in found.faults.items() for number in numbers}
    said = [by_number.get(number, "") for number in range(11)]
    expected = [
        "KeyError",
        "it runs code of ",
        "its process ended with 3",
        "it writes ",
        "Wrong: an error of 2000000 characters",
        "it took 7",
        "it calls subprocess.Popen",
        "it hangs",
        "",
        "",
        "Wrong: an error of several lines",
    ]
    assert all(
        one.startswith(other) and bool(one) == bool(other)
        for one, other in zip(said, expected, strict=True)
    ), said
    assert found.count == 11 and found.works == 1 and len(list((tmp_path / "kept").iterdir())) == 9
    assert not (tmp_path / "lissom-fuzz-written").exists()
