"""Check that the package stays small enough to read and that its imports point one way; exit 1 if not."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "lissom"
# Lines with something on them. The first is a little above what there is: whoever adds much more says why here.
# 12,500 became 12,800 for layers kept float in ONNX files, why a layer is not in integers, and ranges that move in training.
MOST_LINES, MOST_FILE, MOST_FUNCTION = 12_800, 400, 60
# each layer imports from itself and from those before it
LAYERS = (
    ("errors", "menu", "method", "step", "recipe", "sums"),
    ("grids",),
    ("data", "models", "surgery"),
    ("norms", "fit", "task", "context", "snapshot", "store", "evaluate"),
    ("steps", "scores", "losses", "ranges"),
    ("targets", "bench", "report", "measure", "plan", "ahead", "execute", "alone", "preflight", "explain"),
    ("cli",),
)


def layer_of(module: str) -> int:
    """Return the layer of `surgery.fold` and the like."""
    first = module.split(".")[0]
    for number, names in enumerate(LAYERS):
        if first in names:
            return number
    raise SystemExit(f"tools/check.py: no layer for {module}")


def imports(tree: ast.Module, package: list[str]) -> Iterator[str]:
    """Yield what a module imports of lissom, when it runs; imports for type checkers do not count."""
    hidden = {id(n) for block in ast.walk(tree) if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
              for n in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in hidden:
            place = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                if name != "__version__":
                    yield ".".join([*place, name])


def problems() -> Iterator[str]:
    """Yield every breach, a line each."""
    total = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        name, text = path.relative_to(PACKAGE), path.read_text()
        lines = sum(1 for line in text.splitlines() if line.strip())
        total += lines
        if lines > MOST_FILE:
            yield f"{name}: {lines} lines, at most {MOST_FILE}"
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MOST_FUNCTION:
                    yield f"{name}: {node.name} has {length} lines, at most {MOST_FUNCTION}"
        module = ".".join(name.with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__":
            continue
        package = list(name.parent.parts)
        for other in imports(tree, package):
            if layer_of(other) > layer_of(module):
                yield f"{name}: imports {other}, which lies above it"
    if total > MOST_LINES:
        yield f"the package has {total} lines, at most {MOST_LINES}"
    print(f"{total} of {MOST_LINES} lines")


if __name__ == "__main__":
    found = list(problems())
    print("\n".join(found) or "sizes and imports are in order")
    sys.exit(bool(found))
