"""Check that the package stays small enough to read and that its imports point one way; exit 1 if not."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "lissom"
# In code tokens, without comments and docstrings: a limit in lines only packs them.
MOST_FILE, MOST_FUNCTION = 3_000, 500
# What was larger when the limits were set; these numbers only go down.
LARGER = {
    "surgery/rules.py": 4_504, "cli.py": 3_540, "targets/_binary.py": 3_177,
    "targets/_binary.py: replace": 735,
    "steps/mask.py: __call__": 609, "steps/quantize.py: __call__": 555, "surgery/rules.py: convolution": 515,
    "targets/_onnx.py: export_onnx": 510, "surgery/windows.py: forward": 504,
}
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
# each layer imports from itself and from those before it
LAYERS = (
    ("errors", "scratch", "telemetry", "processes", "counts", "menu", "method", "step", "recipe", "sums"),
    ("grids",),
    ("trees", "data", "models", "surgery"),
    ("norms", "checkpoint", "pickled", "weights", "fastest", "fit", "builders", "task", "context", "signing", "checks",
     "record", "structure", "manifest", "widths", "snapshot", "store", "evaluate", "examine"),
    ("steps", "scores", "losses", "ranges"),
    ("targets", "bench", "report", "proof", "measure", "plan", "ahead", "execute", "given", "samples", "alone", "preflight",
     "explain", "upkeep"),
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
        module = ".".join(name.with_suffix("").parts).removesuffix(".__init__")
        if module == "__init__":
            continue
        package = list(name.parent.parts)
        for other in imports(tree, package):
            if layer_of(other) > layer_of(module):
                yield f"{name}: imports {other}, which lies above it"
    print(f"{total} tokens of code")


if __name__ == "__main__":
    found = list(problems())
    print("\n".join(found) or "sizes and imports are in order")
    sys.exit(bool(found))
