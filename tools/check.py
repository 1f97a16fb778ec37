"""Check that the package stays small enough to read and that its imports point one way; exit 1 if not."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "lissom"
# In code tokens, without comments and docstrings: a limit in lines only packs them.
MOST_FILE, MOST_FUNCTION = 3_000, 500
# What was larger when the limits were set; these numbers only go down.
LARGER = {
    "surgery/channels/rules.py": 4_504, "cli/main.py": 3_540, "exporting/openvino_bits.py": 3_177,
    "exporting/openvino_bits.py: replace": 735,
    "steps/mask.py: __call__": 609, "steps/quantize.py: __call__": 555, "surgery/channels/rules.py: convolution": 515,
    "exporting/onnx/export.py: export_onnx": 510, "surgery/channels/windows.py: forward": 504,
}
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
# Rooms from the ground up: each imports from itself and from those below it. A file at the root is a room of its own.
ROOMS = (
    "errors", "trees", "system", "language", "models", "data", "surgery", "grids", "ranges", "importance", "losses", "tasks",
    "learning", "distillation", "steps", "store", "exporting", "targets", "bench", "running", "report", "commands", "api",
    "cli",
)


def room_of(module: str) -> int:
    """Return how high the room of `surgery.fold` and the like lies."""
    room = module.split(".")[0]
    if room not in ROOMS:
        raise SystemExit(f"tools/check.py: no room for {module}")
    return ROOMS.index(room)


def modules() -> dict[str, Path]:
    """Return every module of the package by its name within it, `surgery.fold` and the like, but the package itself."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            names[name] = path
    return names


def imports(path: Path, known: Collection[str]) -> Iterator[str]:
    """Yield each module of the package that a file imports, for type checkers and inside functions too."""
    package = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = package[: len(package) - node.level + 1]
            base = ".".join([*place, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                if full in known or base:  # of the package itself, names are taken and not modules
                    yield full if full in known else base


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Yield sets of modules that import each other, however far round."""
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        yield error.args[1]


def code_tokens(text: str, tree: ast.Module) -> list[int]:
    """Return the line of every token of code: comments, docstrings and layout do not count."""
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node)
    }
    return [
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in NO_CODE and not (token.type == tokenize.STRING and token.start[0] in docstrings)
    ]


def problems() -> Iterator[str]:
    """Yield every breach, a line each."""
    total = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        name, text = path.relative_to(PACKAGE), path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines = code_tokens(text, tree)
        total += len(lines)
        if len(lines) > (most := LARGER.get(name.as_posix(), MOST_FILE)):
            yield f"{name}: {len(lines)} tokens, at most {most}"
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                size = sum(node.lineno <= line <= (node.end_lineno or 0) for line in lines)
                if size > (most := LARGER.get(f"{name.as_posix()}: {node.name}", MOST_FUNCTION)):
                    yield f"{name}: {node.name} has {size} tokens, at most {most}"
    known = modules()
    graph = {name: set(imports(path, known)) for name, path in known.items()}
    for name, path in known.items():
        if path.name.startswith("_") and path.name not in ("__init__.py", "__main__.py"):
            yield f"{name}: its name begins with an underscore; say what it holds, in the room where it belongs"
        for other in sorted(graph[name]):
            if room_of(other) > room_of(name):
                yield f"{name}: imports {other}, which lies above it"
    for circle in circles(graph):
        yield "a circle of imports: " + " -> ".join(circle)
    print(f"{total} tokens of code")


if __name__ == "__main__":
    found = list(problems())
    print("\n".join(found) or "sizes and imports are in order")
    sys.exit(bool(found))
