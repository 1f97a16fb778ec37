"""The command line: errors are one line before anything is written, and commands that only print
text load no torch.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lissom import LissomError
from lissom.cli.counts import seeds_of, size_of
from lissom.cli.main import main
from lissom.language.menu import WORDS, menu

OK = "prune(0.5)"

# what can be said of the words alone
AT_ONCE = {
    "unknown step": (["run", "prunne(0.5)"], "there is no step 'prunne'; did you mean 'prune'?"),
    "unknown setting": (
        ["run", "prune(0.5, byy=bn)"],
        "there is no setting 'byy'; did you mean 'by'?",
    ),
    "out of bounds": (["run", "prune(1.5)"], "prune(amount=...): expected a value < 1, got 1.5"),
    "no recipe": (["run", ""], "recipe: it is empty"),
    "cut off": (["run", "prune(0.5"], "cannot be read"),
    "two lines": (["run", "prune(0.5)\n| fold"], "cannot be read"),
    "order": (["run", "quantize(8) | prune(0.5)"], "step 2"),
    "unknown target": (
        ["run", OK, "--to", "onnxruntme"],
        "there is no target 'onnxruntme'; did you mean 'onnxruntime'?",
    ),
    "unknown setting of a target": (
        ["run", OK, "--to", "openvino(precison='f32')"],
        "no setting 'precison'",
    ),
    "no provider": (
        ["run", OK, "--to", 'onnxruntime(provider="cuda")'],
        "has no CUDAExecutionProvider: pip install",
    ),
    "target cut off": (["run", OK, "--to", "onnxruntime("], "target: cannot be read"),
    "unknown model": (
        ["run", OK, "--model", "resnett20"],
        "no built-in network 'resnett20'; did you mean 'resnet20'?",
    ),
    "unknown depth": (["run", OK, "--model", "resnet21"], "near 21 are 14, 20, 26"),
    "no file of the model": (
        ["run", OK, "--model", "gone.py:net"],
        "model: there is no file gone.py",
    ),
    "no name of the model": (["run", OK, "--model", "file.py:"], "model: 'file.py:'"),
    "unknown data": (
        ["run", OK, "--data", "digit"],
        "there is no data set 'digit'; did you mean 'digits'?",
    ),
    "table without its word": (["run", OK, "--data", "t.csv"], "csv:t.csv names such a file"),
    "program without its word": (["run", OK, "--model", "net.pt2"], "expected pt2:net.pt2"),
    "kind without a name": (["run", OK, "--kind", "file.py"], "expected file.py:NAME"),
    "folder without its word": (["run", OK, "--data", "images"], "folder:images names it"),
    "file without a name": (["run", OK, "--model", "file.py"], "wanted path/to/file.py:factory"),
    "no folder": (["run", OK, "--data", "folder:gone"], "'gone' is not a folder"),
    "word for a seed": (["run", OK, "--seeds", "one"], "at most 1000 seeds, got 'one'"),
    "seeds backwards": (["run", OK, "--seeds", "3-1"], "at most 1000 seeds, got '3-1'"),
    "negative seed": (["run", OK, "--seeds", "-1"], "at most 1000 seeds, got '-1'"),
    "no seed": (["run", OK, "--seeds", ""], "at most 1000 seeds, got ''"),
    "no digits": (["run", OK, "--seeds", "²"], "at most 1000 seeds, got '²'"),
    "too many seeds": (
        ["run", OK, "--seeds", "0-99999999999999999999"],
        "at most 1000 seeds, got '0-99999999999999999999'",
    ),
    "no size": (["run", OK, "--size", "0"], "--size: expected 32 or 32x48, at most 8192, got '0'"),
    "word for a size": (
        ["run", OK, "--size", "big"],
        "--size: expected 32 or 32x48, at most 8192, got 'big'",
    ),
    "three sizes": (
        ["run", OK, "--size", "1x2x3"],
        "--size: expected 32 or 32x48, at most 8192, got '1x2x3'",
    ),
    "size of no digits": (
        ["run", OK, "--size", "²"],
        "--size: expected 32 or 32x48, at most 8192, got '²'",
    ),
    "size too large": (["run", OK, "--size", "32x9000"], "at most 8192"),
    "two channels": (["run", OK, "--channels", "2"], "expected 1 or 3 channels, got 2"),
    "store below a file": (
        ["run", OK, "--store", "file.txt/store"],
        "file.txt/store cannot be written",
    ),
    "store that is a file": (["run", OK, "--store", "file.txt"], "file.txt cannot be written"),
    "no file of the task": (
        ["run", OK, "--task", "gone.py:task"],
        "task: there is no file gone.py",
    ),
    "no task": (["run", OK, "--task", "gone"], "expected file.py:name"),
    "teacher for none": (["run", OK, "--teacher", "abc"], "'prune(0.5)' has no distill step"),
    "plan": (["plan", "prunne(0.5)"], "did you mean 'prune'?"),
    "plan of a size": (
        ["plan", OK, "--size", "0"],
        "--size: expected 32 or 32x48, at most 8192, got '0'",
    ),
    "list": (["list", "stpes"], "there is no menu or method 'stpes'; did you mean 'steps'?"),
    "list of a menu": (
        ["list", "steps", "prunne"],
        "there is no step 'prunne'; did you mean 'prune'?",
    ),
    "show": (["show", "abc"], "no key begins with 'abc'"),
    "report": (["report"], "holds no finished network"),
    "report of a key": (["report", "abc"], "no key begins with 'abc'"),
    "store": (["store", "--prune", "--keep", "abc"], "no key begins with 'abc'"),
    "keys kept of no pruning": (
        ["store", "--keep", "abc"],
        "--keep: it does nothing without --prune; expected both or neither",
    ),
    "two operations": (
        ["store", "--verify", "--push", "s3://bucket/nets"],
        "store: expected one operation, got --push and --verify",
    ),
    "a page and a figure": (
        ["report", "-o", "page.html", "--figure", "front.svg"],
        "report: expected -o for a page or --figure for a figure, got both",
    ),
    "what no figure shows": (["report", "--against", "size"], "does nothing without --figure"),
    "threads of no runtime": (["inspect", "--threads", "2"], "does nothing without --on"),
    "normalisation of no file": (["run", OK, "--bake"], "does nothing without --to"),
    "device of no remedy": (["explain", "abc", "--device", "cpu"], "does nothing without --try"),
    "unknown command": (["runn", OK], "runn"),
    "unknown option": (["run", OK, "--sead", "3"], "--sead"),
    "no argument": (["run"], "recipe"),
    "many channels": (["run", OK, "--channels", "9"], "--channels"),
    "no threads": (["run", OK, "--threads", "0"], "--threads"),
    "word for threads": (["run", OK, "--threads", "two"], "--threads"),
}

# what is known only when torch, data and network are there
LATER = {
    "no such module": (
        ["run", OK, "--model", "no_such_module_here:net"],
        "raised ModuleNotFoundError",
    ),
    "no such function": (
        ["run", OK, "--model", "file.py:nett"],
        "file.py has no 'nett'; did you mean 'net'?",
    ),
    "network that raises": (
        ["run", OK, "--model", "file.py:raises"],
        "building it raised ValueError: two lines (file.py, line 8)",
    ),
    "network of other classes": (
        ["run", OK, "--model", "file.py:net"],
        "it returns (2, 3) for 2 images",
    ),
    "network of other classes, plan": (
        ["plan", OK, "--model", "file.py:net"],
        "it returns (2, 3) for 2 images",
    ),
    "unknown network of torchvision": (
        ["run", OK, "--model", "torchvision:resnet19"],
        "did you mean 'resnet18'?",
    ),
    "no file of weights": (["run", OK, "--weights", "gone.pt"], "weights: gone.pt cannot be read"),
    "no file of weights, plan": (
        ["plan", OK, "--weights", "gone.safetensors"],
        "weights: gone.safetensors cannot be read",
    ),
    "weights that run code": (
        ["run", OK, "--weights", "code.pt"],
        "weights: code.pt holds more than tensors and would run code",
    ),
    "weights of another network": (
        ["run", OK, "--weights", "other.pt"],
        "weights: other.pt does not fit; nothing was loaded",
    ),
    "weights of other names": (
        ["run", OK, "--weights", "other.pt"],
        "another network: --model names the one that was",
    ),
    "empty weights": (["run", OK, "--weights", "empty.pt"], "weights: empty.pt cannot be read"),
    "folder without images": (["run", OK, "--data", "folder:images"], "holds no folder of images"),
    "unknown device": (
        ["run", OK, "--device", "cudaa"],
        "device: 'cudaa' cannot be used; did you mean 'cuda'?",
    ),
    "device in short": (
        ["run", OK, "--device", "gpu"],
        "device: 'gpu' cannot be used; did you mean 'cuda'?",
    ),
    "no file to time": (["bench", "gone.onnx"], "bench: there is no file gone.onnx"),
    "images of other channels": (
        ["run", OK, "--model", "torchvision:resnet18"],
        "--size and --channels",
    ),
    "unknown teacher": (["run", "distill(kd, 1, teacher='gone')"], "gone"),
    "export": (["export", "abc"], "no key begins with 'abc'"),
    "bench": (["bench", "abc"], "no key begins with 'abc'"),
}

FILE = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 3))

def raises():
    raise ValueError("two\\nlines")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder that holds what the commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LISSOM_STORE", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("file.txt").write_text("no folder")
    Path("file.py").write_text(FILE)
    Path("images").mkdir()
    Path("empty.pt").write_bytes(b"")
    torch.save({"weight": torch.zeros(2)}, "other.pt")
    Path("code.pt").write_bytes(pickle.dumps(sys.exit, protocol=2))
    return tmp_path


def contents(place: Path) -> set[str]:
    return {str(p.relative_to(place)) for p in place.rglob("*") if "__pycache__" not in p.parts}


def lissom(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lissom", *words], capture_output=True, text=True, timeout=60
    )


def test_the_command_is_installed() -> None:
    child = subprocess.run(
        [Path(sys.executable).with_name("lissom"), "list", "prune", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(child.stdout)[0]["name"] == "prune"


def one_line(
    place: Path, before: set[str], status: int | str | None, out: str, err: str, said: str
) -> None:
    assert status == 2, err
    assert out == ""
    assert err.startswith("lissom: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert said in err
    assert contents(place) == before, "nothing may be written"


@pytest.mark.parametrize("case", [*AT_ONCE, *LATER])
def test_what_is_wrong_is_said_in_one_line(
    place: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words, said = {**AT_ONCE, **LATER}[case]
    before = contents(place)
    with pytest.raises(SystemExit) as caught:
        main(words)
    one_line(place, before, caught.value.code, *capfd.readouterr(), said)


@pytest.mark.parametrize(
    "case",
    ["unknown step", "unknown target", "no size", "store below a file", "weights that run code"],
)
def test_what_is_wrong_is_said_in_one_line_by_the_program_too(place: Path, case: str) -> None:
    words, said = {**AT_ONCE, **LATER}[case]
    before = contents(place)
    child = lissom(*words)
    one_line(place, before, child.returncode, child.stdout, child.stderr, said)


def test_debug_shows_where_it_comes_from() -> None:
    with pytest.raises(LissomError, match="there is no step 'prunne'"):
        main(["run", "prunne(0.5)", "--debug"])
    with pytest.raises(LissomError, match="there is no step 'prunne'"):
        main(["--debug", "run", "prunne(0.5)"])


# without torch


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["list"],
        ["list", "--json"],
        ["list", "prune"],
        ["run", "prunne(0.5)"],
        ["plan", "prune(1.5)"],
        ["run", OK, "--to", "onnxruntme"],
        ["run", OK, "--model", "resnet21"],
        ["run", OK, "--data", "digit"],
        ["run", OK, "--seeds", "x"],
        ["run", OK, "--size", "0"],
        ["run", OK, "--channels", "2"],
        ["show", "abc"],
        ["store"],
    ],
    ids=" ".join,
)
def test_text_alone_loads_neither_torch_nor_onnx(place: Path, words: list[str]) -> None:
    code = """
import sys
from lissom.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
slow = {"torch", "torchvision", "onnx", "onnxruntime", "openvino", "sklearn", "plotly", "numpy"}
slow &= set(sys.modules)
print(file=sys.stderr)
print(*sorted(slow), file=sys.stderr)
"""
    child = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=True
    )
    assert child.stderr.splitlines()[-1] == ""


def test_help_names_every_command() -> None:
    child = lissom("--help")
    assert child.returncode == 0 and child.stderr == ""
    assert all(
        f" {word} " in child.stdout
        for word in ("run", "plan", "list", "show", "report", "export", "bench", "store")
    )


# list and plan


def test_list_holds_every_method_of_every_menu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["list", "--json"])
    assert not caught.value.code
    found = json.loads(capsys.readouterr().out)
    root = Path(str(sys.modules["lissom"].__file__)).parent
    files = {
        (p.parent.name, p.stem)
        for folder in WORDS
        for p in (root / folder).glob("*.py")
        if not p.name.startswith("_")
    }
    assert {(row["menu"], row["name"]) for row in found} == files and len(found) == len(files)
    amount = next(
        s
        for row in found
        if row["name"] == "prune"
        for s in row["settings"]
        if s["name"] == "amount"
    )
    assert amount == {
        "name": "amount",
        "type": "float",
        "default": None,
        "required": True,
        "bounds": "> 0, < 1",
        "help": "fraction to remove, measured in `of`",
    }


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["importance"], set(menu("importance"))),
        (["prune"], {"prune"}),
        (["steps", "prune"], {"prune"}),
        (["targets"], set(menu("targets"))),
    ],
)
def test_list_holds_what_is_asked_for(
    words: list[str], names: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["list", *words, "--json"])
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == names


def test_list_prints_every_setting_with_its_bounds_and_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["list", "prune"])
    out = " ".join(capsys.readouterr().out.split())
    for word in (
        "Remove the least important channels",
        "amount",
        "required",
        "> 0, < 1",
        "fraction of",
        "multiple",
        "= 8",
        "scope",
        "Li et al. 2016",
    ):
        assert word in out, word


def test_plan_holds_every_step_once_in_order_and_writes_nothing(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "plan",
                "train(3) | {prune({0.3, 0.5}) | quantize(8), fold}",
                "--seeds",
                "0,1",
                "--size",
                "8",
                "--json",
            ]
        )
    out, err = capfd.readouterr()
    assert not caught.value.code and err == "" and contents(place) == before
    found = json.loads(out)
    steps = [
        ("train(3)", 0, False),
        ("prune(0.3)", 1, False),
        ("quantize(8)", 2, True),
        ("prune(0.5)", 1, False),
        ("quantize(8)", 2, True),
        ("fold", 1, True),
    ]
    for seed in (0, 1):
        assert [
            (r["step"], r["depth"], r["recipe_ends"]) for r in found if r["seed"] == seed
        ] == steps
    assert len({row["key"] for row in found}) == 12 and not any(row["done"] for row in found)


def test_plan_says_what_the_store_holds(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "train(3) | fold", "--size", "8", "--store", "store"]
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    first = json.loads(capfd.readouterr().out)[0]["key"]
    (place / "store" / first).mkdir(parents=True)
    (place / "store" / first / "record.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(words)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == [first, "done", "train(3)"] and lines[1].split()[1:] == [
        "to",
        "run",
        "fold",
    ]
    assert lines[2] == "recipes: 1, steps: 2, of which 1 done, 1 to run"


# the small grammars


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0", [0]), ("0,3", [0, 3]), ("2-4", [2, 3, 4]), ("1,0-2", [1, 0, 2]), ("5-5", [5])],
)
def test_seeds_are_a_number_several_or_a_range(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("32", (32, 32)), ("32x48", (32, 48)), ("1X8192", (1, 8192))]
)
def test_a_size_is_one_number_or_height_by_width(
    text: str | None, size: tuple[int, int] | None
) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "32x", "-32", "32x-1", "3.5", "1e2", "0x20", "8193", "32 x"]
)
def test_no_other_text_is_a_size(text: str) -> None:
    with pytest.raises(LissomError, match=r"^--size: "):
        size_of(text)


def test_inspect_says_what_can_be_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["inspect", "--model", "resnet8", "--multiple", "4", "--sensitivity", "--json"])
    assert not caught.value.code
    found = json.loads(capsys.readouterr().out)
    assert {g["name"]: g["units"] for g in found["groups"]}["stem"] == 16
    assert found["left_whole"] == {"head": "an output of the network"}
    assert found["removable"]["macs"]["least"] < 0.1 < 0.7 < found["removable"]["macs"]["most"]
    assert all(len(scores) == 3 for scores in found["sensitivity"]["groups"].values())
    (block,) = found["blocks"]
    assert block["name"] == "blocks.0" and 0 < block["params"] < block["macs"] < 1
    with pytest.raises(SystemExit):
        main(["inspect", "--model", "resnet8"])
    said = capsys.readouterr().out
    assert "left whole" in said and "can be removed, in multiples of 8 channels" in said
    assert "1 residual block can be dropped (drop)" in said


def test_inspect_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    for words, wanted in (
        (["--by", "l3"], "no importance 'l3'"),
        (["--on", "onnx"], "no target 'onnx'"),
        (["nokey"], "no key begins"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["inspect", *words])
        assert caught.value.code == 2 and wanted in capsys.readouterr().err
