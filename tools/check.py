"""Check the sizes of files and functions and the direction of imports; exit 1 if wrong."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "lissom"
# In code tokens, without comments and docstrings: a limit in lines would only make lines fuller.
MOST_FILE = 3_000
MOST_FUNCTION = 500
MOST_PER_LINE = 8  # tokens, on average over non-blank lines
MOST_LOOPS = 32  # comprehensions with more than one `for`; only ever lower this
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
# Rooms from the lowest up: each imports only from itself and from rooms before it in this list. A
# file at the root is a room of its own.
ROOMS = (
    "errors",
    "trees",
    "drawing",
    "system",
    "language",
    "models",
    "preprocess",
    "detection",
    "data",
    "kinds",
    "augmentations",
    "surgery",
    "grids",
    "ranges",
    "importance",
    "losses",
    "importing",
    "tasks",
    "learning",
    "distillation",
    "steps",
    "store",
    "exporting",
    "targets",
    "bench",
    "running",
    "report",
    "commands",
    "api",
    "cli",
    "__main__",  # python -m lissom
)


def room_of(module: str) -> int:
    """Return the index in ROOMS of the room of a module, such as `surgery.fold`."""
    room = module.split(".")[0]
    if room not in ROOMS:
        raise SystemExit(f"tools/check.py: no room for {module}")
    return ROOMS.index(room)


def modules() -> dict[str, Path]:
    """Return the path of every module except the package itself, by its name within the package,
    such as `surgery.fold`.
    """
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            names[name] = path
    return names


def imports(path: Path, known: Collection[str]) -> Iterator[str]:
    """Yield each module of the package that a file imports, also for types and in functions."""
    package = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = package[: len(package) - node.level + 1]
            base = ".".join([*place, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                if (
                    full in known or base
                ):  # an import from the package itself may take a name instead of a module
                    yield full if full in known else base


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Yield a list of modules that import each other in a circle, if there is one."""
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        yield error.args[1]


def code_tokens(text: str, tree: ast.Module) -> list[int]:
    """Return the line number of every token of code, without comments, docstrings and layout."""
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and ast.get_docstring(node)
    }
    return [
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in NO_CODE
        and not (token.type == tokenize.STRING and token.start[0] in docstrings)
    ]


def size_problems(name: str, tree: ast.AST, lines: list[int]) -> Iterator[str]:
    """Yield the file and functions that are too large; `lines` are the lines of its tokens."""
    if len(lines) > MOST_FILE:
        yield f"{name}: {len(lines)} tokens, at most {MOST_FILE}"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            size = sum(node.lineno <= line <= (node.end_lineno or 0) for line in lines)
            if size > MOST_FUNCTION:
                yield f"{name}: {node.name} has {size} tokens, at most {MOST_FUNCTION}"


def import_problems() -> Iterator[str]:
    """Yield imports that point upwards, circular imports, and file names with a leading underscore."""
    known = modules()
    graph = {name: set(imports(path, known)) for name, path in known.items()}
    for name, path in known.items():
        if path.name.startswith("_") and path.name not in ("__init__.py", "__main__.py"):
            yield f"{name}: its name begins with an underscore; name it after what it holds"
        for other in sorted(graph[name]):
            if room_of(other) > room_of(name):
                yield f"{name}: imports {other}, which lies above it"
    for circle in circles(graph):
        yield "a circle of imports: " + " -> ".join(circle)


def joins(node: ast.AST) -> bool:
    """Return whether a statement assigns several independent values at once.

    >>> [joins(ast.parse(text).body[0]) for text in ("a, b = 1, 2", "a, b = b, a", "a, b = c")]
    [True, False, False]
    """
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)):
        return False
    target = node.targets[0]
    if not isinstance(target, ast.Tuple) or any(isinstance(e, ast.Starred) for e in target.elts):
        return False
    values = ast.unparse(node.value)
    return not any(ast.unparse(element) in values for element in target.elts)


def problems() -> Iterator[str]:
    """Yield every violation as one line."""
    total = written = long = loops = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        tokens = code_tokens(text, tree)
        yield from size_problems(name, tree, tokens)
        yield from (
            f"{name}, line {node.lineno}: one assignment a line"
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and joins(node)
        )
        total += len(tokens)
        lines = [line for line in text.splitlines() if line.strip()]
        written += len(lines)
        long += sum(len(line) > 100 for line in lines)
        loops += sum(len(getattr(node, "generators", ())) > 1 for node in ast.walk(tree))
    yield from import_problems()
    if total > MOST_PER_LINE * written:
        yield f"{total / written:.1f} tokens a line, at most {MOST_PER_LINE}"
    if long > 0.02 * written:
        yield f"{long} of {written} lines are longer than 100 columns, at most 2 %"
    if loops > MOST_LOOPS:
        yield f"{loops} comprehensions with several loops, at most {MOST_LOOPS}"
    print(f"{total} tokens of code, {total / written:.1f} a line")


if __name__ == "__main__":
    found = list(problems())
    print("\n".join(found) or "sizes and imports are in order")
    sys.exit(bool(found))
