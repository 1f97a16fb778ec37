"""The goal of a search as text: one objective, and limits to meet.

    fastest, top1 >= float - 0.01
    smallest, ms@openvino <= 2, bytes <= 200 kB, top1 >= 90 %
    front

A limit is on a metric of the task, or on a cost: ms, bytes, params, macs, resident (MiB). `float`
is the uncompressed network's value. Limits on files apply to every runtime, or to the one after @.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import LissomError, unknown
from .grammar import finite, parsed

OBJECTIVES = ("fastest", "smallest", "accurate", "front")
COSTS = ("ms", "bytes", "params", "macs", "resident")
OF_FILES = ("ms", "bytes", "resident")  # costs of files differ between runtimes
BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
COUNTS = {"k": 1e3, "M": 1e6, "G": 1e9}
UNITS: dict[str, dict[str, float]] = {  # of costs; the defaults are B, ms and MiB
    "bytes": BYTES,
    "ms": {"us": 1e-3, "ms": 1, "s": 1e3},
    "resident": {name: size / BYTES["MiB"] for name, size in BYTES.items()},
    "params": COUNTS,
    "macs": COUNTS,
}
OF_METRICS = {"percent": 0.01}  # written %
NAMES = sorted({"%"}.union(*UNITS.values()), key=len, reverse=True)
WITH_UNIT = re.compile(
    rf"(?<![\w.])(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*({'|'.join(NAMES)})(?!\w)", re.ASCII
)
EXAMPLE = "'fastest, top1 >= float - 0.01'"


@dataclass(frozen=True)
class Limit:
    """A limit: `quantity` (`at` a runtime) must be at most the bound, or at least it if `least`.

    The bound is `value` plus `factor` times the uncompressed network's quantity.
    """

    quantity: str
    at: str | None
    least: bool
    value: float
    factor: float = 0.0

    def __str__(self) -> str:
        name = self.quantity if self.quantity.isidentifier() else repr(self.quantity)
        name = f"{name}@{self.at}" if self.at else name
        return f"{name} {'>=' if self.least else '<='} {self.bound()}"

    def bound(self) -> str:
        """Return the bound as text.

        >>> Limit("top1", None, True, -0.01, 1.0).bound(), Limit("bytes", None, False, 0.0, 0.5).bound()
        ('float - 0.01', 'float / 2')
        """
        if not self.factor:
            return f"{self.value:.12g}"
        part = 1 / self.factor
        if self.factor == 1:
            head = "float"
        elif part > 1 and abs(part - round(part)) < 1e-9:
            head = f"float / {round(part)}"
        else:
            head = f"{self.factor:.12g} * float"
        if not self.value:
            return head
        return f"{head} {'-' if self.value < 0 else '+'} {abs(self.value):.12g}"

    def of(self, reference: float) -> float:
        """Return the bound as a number, given the uncompressed network's quantity."""
        return self.value + self.factor * reference


@dataclass(frozen=True)
class Want:
    """An objective, `at` a runtime if one is named, and limits.

    >>> str(Want.of("most accurate, ms@openvino<=2, bytes <= float/4"))
    'accurate, ms@openvino <= 2, bytes <= float / 4'
    """

    objective: str
    at: str | None
    limits: tuple[Limit, ...]

    @classmethod
    def of(cls, text: str) -> Want:
        """Read a goal from text. Raises LissomError if it cannot be read."""
        plain = text.replace("most accurate", "accurate")
        if not plain.strip():
            raise LissomError(f"--want: it is empty; an example: {EXAMPLE}")
        with_units = WITH_UNIT.sub(r"\1*\2", plain.strip()).replace("*%", "*percent")
        tree = parsed(f"({with_units},)", "--want")
        objectives = list[tuple[str, str | None]]()
        limits = list[Limit]()
        for item in getattr(tree, "elts", [tree]):
            if isinstance(item, ast.Compare):
                limits.append(limit_in(item))
            else:
                objectives.append(name_in(item))
        if len(objectives) != 1:
            raise LissomError(
                f"--want: expected one of {', '.join(OBJECTIVES)}, got {len(objectives)} of them; an "
                f"example: {EXAMPLE}"
            )
        ((objective, at),) = objectives
        if objective not in OBJECTIVES:
            raise unknown("--want", "objective", objective, OBJECTIVES)
        if at is not None and objective not in ("fastest", "smallest"):
            raise LissomError(f"--want: {objective} is the same in every runtime; leave @{at} out")
        return cls(objective, at, tuple(limits))

    def __str__(self) -> str:
        first = f"{self.objective}@{self.at}" if self.at else self.objective
        return ", ".join([first, *map(str, self.limits)])


def name_in(node: ast.expr) -> tuple[str, str | None]:
    """Return a name and the runtime after its @, or None. Raises LissomError if there is no name."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        name, _ = name_in(node.left)
        return name, ast.unparse(node.right).replace("'", '"')  # as a target is written
    if isinstance(node, ast.Name):
        return node.id, None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value, None  # a metric whose name is not an identifier, as 'mAP@50'
    raise LissomError(
        f"--want: expected an objective, or a limit as in top1 >= 0.9, got '{ast.unparse(node)}'; an "
        f"example: {EXAMPLE}"
    )


def limit_in(node: ast.Compare) -> Limit:
    """Return the limit of one comparison. Raises LissomError if it cannot be read."""
    if len(node.ops) != 1 or not isinstance(node.ops[0], (ast.LtE, ast.GtE, ast.Lt, ast.Gt)):
        raise LissomError(f"--want: expected <= or >=, got '{ast.unparse(node)}'")
    quantity, at = name_in(node.left)
    least = isinstance(node.ops[0], (ast.GtE, ast.Gt))
    if at is not None and quantity not in OF_FILES:
        raise LissomError(f"--want: {quantity} is the same in every runtime; leave @{at} out")
    factor, value = line_in(node.comparators[0], UNITS.get(quantity, OF_METRICS))
    return Limit(quantity, at, least, value, factor)


def line_in(node: ast.expr, units: Mapping[str, float]) -> tuple[float, float]:
    """Return factor and summand of an expression that is linear in `float`; numbers may have units.

    Raises LissomError for other expressions.
    """
    if isinstance(node, ast.Name) and node.id == "float":
        return 1.0, 0.0
    if isinstance(node, ast.Name) and node.id in units:
        return 0.0, units[node.id]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        if not finite(node.value):  # type: ignore[arg-type]
            raise LissomError(
                f"--want: expected a number below 1e308, got '{ast.unparse(node):.40}'"
            )
        return 0.0, float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        factor, value = line_in(node.operand, units)
        return -factor, -value
    if isinstance(node, ast.BinOp):
        left = line_in(node.left, units)
        right = line_in(node.right, units)
        if isinstance(node.op, ast.Add):
            return left[0] + right[0], left[1] + right[1]
        if isinstance(node.op, ast.Sub):
            return left[0] - right[0], left[1] - right[1]
        if isinstance(node.op, ast.Mult) and not (left[0] and right[0]):
            number, line = (left[1], right) if not left[0] else (right[1], left)
            return number * line[0], number * line[1]
        if isinstance(node.op, ast.Div) and not right[0] and right[1]:
            return left[0] / right[1], left[1] / right[1]
    known = ", ".join(units).replace("percent", "%")
    raise LissomError(
        f"--want: expected a number, or one with float in it, as float - 0.01 or float/4, got "
        f"'{ast.unparse(node)}'; units here: {known}"
    )
