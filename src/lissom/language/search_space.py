"""The space of a search: a recipe in which some settings are left open.

    train(10) | prune(0..0.8, of="macs", by={fisher, l1}) | distill("kd", {2, 5}) | quantize({8, 4})

Every {set} and every range is one choice. A search makes all choices to get a recipe.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from ..errors import LissomError
from .grammar import finite, parsed, span_in, written_range
from .menu import menu
from .recipe import Recipe
from .settings import setting_fields, setting_types

# significant digits of a number chosen from a range, or of its place in a narrow one
RANGE_DIGITS = 3
STEP = "step "  # how names of choices between steps begin
GRID_DIGITS = 12  # significant digits of a number on a grid: 0.1 + 2 * 0.1 is written 0.3
# share of a step by which the last number of a grid may seem to exceed the range
STEP_TOLERANCE = 1e-9
LEFT_OUT_SHARE = 0.02  # share of a range that begins at amount 0; below it, the step is left out


@dataclass(frozen=True)
class Choice:
    """One choice: one of `options`, by its index, or a number from `low` to `high`.

    The number is an integer if `whole`, a multiple of `step` above `low` if that is given, and
    uniform on a logarithmic scale if `log`. If it is an `amount`, its lowest part leaves the step out.
    """

    name: str
    options: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    whole: bool = False
    log: bool = False
    amount: bool = False

    @property
    def label(self) -> str:
        """What a user calls the choice: its setting, or the steps to choose from.

        >>> Choice("prune.by", ("l1", "bn")).label
        'prune.by'
        >>> Choice("step 1", ("fold", "prune(0.5) | quantize(8)")).label
        'fold or prune'
        >>> Choice("step 2 #2", ("quantize(8)", "quantize(4)")).label
        'quantize(8) or quantize(4)'
        """
        if not self.name.startswith(STEP):
            return self.name
        steps = [re.split(r"\W", option, maxsplit=1)[0] for option in self.options]
        return " or ".join(steps if len({*steps}) == len(steps) else self.options)

    @property
    def numbers(self) -> list[float]:
        """The options as numbers if all of them are numbers, else []."""
        try:
            return [float(option) for option in self.options]
        except ValueError:
            return []

    def number(self, value: float) -> float:
        """Return a value clipped to the range and rounded as it is written in a recipe.

        >>> Choice("prune.amount", low=0, high=0.8).number(0.123456)
        0.123
        """
        value = min(max(value, self.low), self.high)
        if self.step is not None:
            most = math.floor((self.high - self.low) / self.step + STEP_TOLERANCE)
            value = self.low + min(round((value - self.low) / self.step), most) * self.step
        if self.whole:
            return round(value)
        if self.step is not None:
            return float(f"{value:.{GRID_DIGITS}g}")
        size = min(abs(value), self.high - self.low)  # digits of 0.9994 count from 0.999 to 0.9999
        if size:
            value = round(value, RANGE_DIGITS - 1 - math.floor(math.log10(size)))
        return min(max(value, self.low), self.high)


Choose = Callable[[Choice], float]  # returns the index of an option, or a number


class SearchSpace:
    """The recipes that a text with {sets} and ranges stands for, chosen one by one.

    >>> space = SearchSpace("prune(0..0.8) | distill('kd', 1..4) | {fold, quantize({8, 4})}")
    >>> [choice.name for choice in space.choices]
    ['prune.amount', 'distill.epochs', 'step 3', 'quantize.weights']
    >>> str(space.recipe(lambda choice: choice.high))
    'prune(0.8) | distill("kd", 4) | quantize(4)'
    >>> str(space.recipe(lambda choice: choice.low))
    'distill("kd", 1) | fold'
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if not text.strip():
            raise LissomError(
                'search: the space is empty; an example: prune(0..0.8, of="macs") | distill("kd", 5) | '
                "quantize(8)"
            )
        self.tree = parsed(text, "recipe")
        self.met: dict[ast.expr, Choice] = {}  # by the set or range in the tree
        self.choices = tuple(self._explored().values())
        self.example = self._some_recipe()

    def __str__(self) -> str:
        return self.text

    def _explored(self) -> dict[str, Choice]:
        """Return all choices by name. Choices inside an option are found by taking that option, and
        those that the option is inside of.
        """
        found: dict[str, Choice] = {}
        taken: dict[str, dict[str, int]] = {}  # the options that lead to each choice

        def look(options: dict[str, int]) -> None:
            def choose(choice: Choice) -> float:
                if choice.name not in found:
                    found[choice.name] = choice
                    taken[choice.name] = options
                return options.get(choice.name, choice.low)

            Picking(choose, self.met).expression(self.tree)

        look({})
        looked = set[str]()
        while left := [name for name in found if name not in looked]:
            name = left[0]
            looked.add(name)
            for place in range(1, len(found[name].options)):
                look({**taken[name], name: place})
        return found

    def _some_recipe(self) -> Recipe:
        """Return a recipe at the same share of all ranges, the upper ends first. Raises LissomError
        if none of several shares gives a valid recipe.
        """
        shares = [1.0, 0.5, *(k / 10 for k in range(1, 10))]
        refused: LissomError | None = None
        for share in shares:

            def choose(choice: Choice, share: float = share) -> float:
                return choice.number(choice.low + share * (choice.high - choice.low))

            try:
                return self.recipe(choose)
            except LissomError as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def recipe(self, choose: Choose) -> Recipe:
        """Return the recipe of the choices. Raises LissomError if its steps cannot be combined, or if
        none is left.
        """
        tree = Picking(choose, self.met).expression(self.tree)
        if tree is None:
            raise LissomError(f"recipe: with these amounts, no step of '{self.text}' is left")
        recipe = Recipe(ast.unparse(tree))
        recipe.check()
        return recipe

    def at(self, point: Mapping[str, float]) -> Recipe:
        """Return the recipe of a point: an index or a number for each choice, by name."""
        return self.recipe(lambda choice: point[choice.name])

    def varied(
        self, point: Mapping[str, float], choice: Choice, numbers: Iterable[float]
    ) -> Iterator[tuple[dict[str, float], Recipe]]:
        """Yield points that differ from `point` in one choice, with their recipes: each option of a
        set, or these `numbers` of a range. Points without a valid recipe are left out.

        >>> space = SearchSpace("prune(0..0.8) | {fold, quantize({8, 4})}")
        >>> point = {"prune.amount": 0.5, "step 2": 1, "quantize.weights": 0}
        >>> [str(recipe) for _, recipe in space.varied(point, space.choices[2], ())]
        ['prune(0.5) | quantize(8)', 'prune(0.5) | quantize(4)']
        """
        for value in range(len(choice.options)) or numbers:
            other = {**point, choice.name: float(value)}
            try:
                recipe = self.at(other)
            except (KeyError, LissomError):  # another option may need further choices
                continue
            yield other, recipe


class Picking:
    """A walk through the tree of a space that makes every choice and gives the tree of a recipe.

    `met` has the choices from all sets and ranges met so far, in this walk or earlier ones.
    """

    def __init__(self, choose: Choose, met: dict[ast.expr, Choice]) -> None:
        self.choose = choose
        self.met = met
        self.step = 0
        self.left_out = False  # whether the amount of the current step is too small to keep it

    def named(self, name: str) -> str:
        """Return the name of a choice that is met first; equal names are numbered from 2."""
        count = sum(each.name.partition(" #")[0] == name for each in self.met.values())
        return f"{name} #{count + 1}" if count else name

    def expression(self, node: ast.expr) -> ast.expr | None:
        """Return the tree of the steps with everything chosen; None if no step is left."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            left = self.expression(node.left)
            right = self.expression(node.right)
            return ast.BinOp(left, node.op, right) if left and right else left or right
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            times = self.value(node.left, "times", whole=True)
            repeated = self.expression(node.right)
            return repeated and ast.BinOp(times, node.op, repeated)
        if isinstance(node, ast.Set):
            return self.expression(self.one_of(node, f"{STEP}{self.step + 1}"))
        self.step += 1
        self.left_out = False
        method = self.method(node, "steps")
        return None if self.left_out else method

    def method(self, node: ast.expr, folder: str) -> ast.expr:
        """Return a method with all its settings chosen."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return node
        known = menu(folder)
        if node.func.id not in known:
            return node  # unknown: reading the recipe will raise the error
        method = known[node.func.id]
        fields = setting_fields(method)
        placed = [each.name for each in fields if not each.kw_only]
        facts = {each.name: each.metadata for each in fields}
        types = setting_types(method)

        def chosen(name: str, value: ast.expr) -> ast.expr:
            declared = types.get(name)
            options = get_args(declared)
            whole = declared is int or (int in options and float not in options)
            own: Mapping[str, Any] = facts.get(name, {})
            full = f"{method.name()}.{name}"
            # other settings, such as lr=0..0.1, are checked by the step
            above = own.get("above") if name == "amount" else None
            picked = self.value(value, full, whole=whole, above=above)
            return self.method(picked, own["menu"]) if own.get("menu") else picked

        names = [*placed, *["?"] * len(node.args)]
        args = [chosen(name, value) for name, value in zip(names, node.args, strict=False)]
        keywords = [
            ast.keyword(each.arg, chosen(str(each.arg), each.value)) for each in node.keywords
        ]
        return ast.Call(node.func, args, keywords)

    def value(
        self, node: ast.expr, name: str, *, whole: bool, above: float | None = None
    ) -> ast.expr:
        """Return the value of a setting: unchanged, one of a set, or a number from a range. Items of
        a set may be sets and ranges. If a range begins at the excluded bound `above`, its lowest part
        leaves the step out.
        """
        if isinstance(node, ast.Set):
            return self.value(self.one_of(node, name), name, whole=whole, above=above)
        choice = self.ranged(node, name, whole=whole, above=above)
        if choice is None:
            return node
        number = choice.number(self.choose(choice))
        if choice.amount:
            self.left_out = number <= choice.low + LEFT_OUT_SHARE * (choice.high - choice.low)
        return ast.Constant(number)

    def ranged(
        self, node: ast.expr, name: str, *, whole: bool, above: float | None
    ) -> Choice | None:
        """Return the choice from a range; None if the node is none."""
        if node not in self.met:
            inner = logarithm_of(node)
            numbers = span_in(inner or node)
            if numbers is None:
                return None
            choice = choice_from(self.named(name), numbers, whole=whole, log=inner is not None)
            self.met[node] = replace(choice, amount=choice.low == above)  # as in prune(0..0.8)
        return self.met[node]

    def one_of(self, node: ast.Set, name: str) -> ast.expr:
        """Return the chosen item of a set."""
        if node not in self.met:
            texts = tuple(written_range(ast.unparse(item)) for item in node.elts)
            self.met[node] = Choice(self.named(name), texts, high=len(texts) - 1, whole=True)
        return node.elts[int(self.choose(self.met[node]))]


def logarithm_of(node: ast.expr) -> ast.expr | None:
    """Return the argument of log(...), None for any other tree."""
    is_log = isinstance(node, ast.Call) and ast.unparse(node.func) == "log" and len(node.args) == 1
    return node.args[0] if is_log else None  # type: ignore[attr-defined]


def choice_from(name: str, numbers: list[int | float], *, whole: bool, log: bool) -> Choice:
    """Return the choice from a range. Raises LissomError if its numbers do not fit."""
    low, high, *rest = numbers
    step = rest[0] if rest else None
    said = "..".join(map(str, numbers))
    if not all(map(finite, numbers)):
        raise LissomError(f"{name}: expected a range of numbers below 1e308, got {said:.40}")
    if low >= high:
        raise LissomError(f"{name}: expected a range from less to more, got {said}")
    if step is not None and not 0 < step <= high - low:
        raise LissomError(f"{name}: expected a step above 0 and within the range, got {said}")
    if log and step is not None:
        raise LissomError(f"{name}: log(low..high) takes no step, got log({said})")
    if log and low <= 0:
        raise LissomError(f"{name}: expected log(low..high) with low above 0, got {said}")
    if whole and not all(float(number).is_integer() for number in numbers):
        raise LissomError(f"{name}: expected whole numbers, got {said}")
    return Choice(name, (), low, high, step, whole, log)
