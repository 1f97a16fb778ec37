"""The tree of networks that a set of recipes makes."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lissom.language.recipe import Recipe, Space
from lissom.running.plan import Node, ends, tree


def root(seed: int) -> str:
    return f"given{seed}"


def end_of(text: str) -> Node:
    (end,) = ends([Recipe(text)], [0], root)
    return end


def test_each_prefix_is_one_network_however_wide_or_long_a_space_is() -> None:
    numbers = ", ".join(f"{k / 4000:.5f}" for k in range(1, 3001))
    wide = Space(f"train(1) | prune({{{numbers}}}) | fold").recipes
    begin = time.process_time()
    assert [node.depth for node in tree([end_of("1000 * fold")])] == list(range(1001))
    nodes = tree(ends(wide, [0], root))
    assert time.process_time() - begin < 4
    assert [node.depth for node in nodes] == [0, 1, *[2, 3] * 3000]
    assert [node.key for node in nodes[1:4]] == wide[0].keys("given0")


def test_networks_run_in_the_order_of_the_recipes_and_are_planned_depth_first() -> None:
    recipes = [Recipe(text) for text in ("fold | train(1)", "prune(0.5)", "fold | train(2)")]
    last = ends(recipes, [0, 1], root)
    assert [(node.recipe, node.seed) for node in last] == [
        (recipe, seed) for seed in (0, 1) for recipe in recipes
    ]
    assert last[0].before is last[2].before
    planned = [str(node.step) for node in tree(last)]
    assert planned == ["None", "fold", "train(1)", "train(2)", "prune(0.5)"] * 2
    for node, recipe in zip(last, recipes, strict=False):
        assert [step.key for step in node.path[1:]] == recipe.keys("given0")


@pytest.mark.parametrize(
    ("text", "uncompressed"),
    [
        ("fold | train(1) | quantize(8)", [0, 0, 0, 0]),
        ("train(1) | fold | train(1)", [0, 1, 1, 1]),
        ("train(1) | train(2) | prune(0.5) | train(1)", [0, 1, 2, 2, 2]),
        ("train(1) | sparsify(0.5, 1) | prune(0.5)", [0, 1, 1, 1]),
    ],
)
def test_a_network_is_compared_with_what_training_alone_made(
    text: str, uncompressed: list[int]
) -> None:
    path = end_of(text).path
    assert [node.reference for node in path] == [path[place].key for place in uncompressed]


def test_a_tree_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from lissom.language.recipe import Recipe\n"
        "from lissom.running.plan import ends, tree\n"
        "tree(ends([Recipe('train(1) | prune(0.5) | quantize(8)')], [0], str))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
