"""Find out what pruning could do to a network, before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..bench.clock import clock_of
from ..errors import LissomError
from ..language.context import Context
from ..running.context import TaskContext
from ..running.entries import load_key
from ..steps.prune import Prune
from ..store.store import Store
from ..surgery.channels.budget import WidthSearch, cost_of
from ..surgery.channels.slice import slice_channels, zero_channels
from ..surgery.depth import droppable_blocks
from ..surgery.depth_search import shares
from ..tasks.builders import code_named
from ..tasks.task import Task

AMOUNTS = (0.25, 0.5, 0.75)


def inspect_network(
    model: nn.Module,
    task: Task,
    step: Prune,
    *,
    sensitivity: bool = False,
    latency: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """Return the groups of channels, the layers left whole and why, the share of channels, params
    and macs that `step` could remove, and the blocks that `drop` could.

    `latency` measures the narrowest network next to the whole one on the target `step.on`.
    `sensitivity` measures the accuracy on validation images when a single group is pruned by 25 %,
    50 % and 75 %, without retraining.
    """
    ctx = TaskContext(
        task.data.example(),
        task.data.calibration,
        task=task,
        where="inspect",
        clock=clock_of(threads),
    )
    search = step.width_search(model, ctx, ctx.labelled(step.samples))
    costs = {
        of: cost_of(of, model, search.groups, ctx.example) for of in ("channels", "params", "macs")
    }
    findings: dict[str, Any] = {
        "by": step.by,
        "multiple": ctx.facts["multiple"],
        "floor": step.floor,
        "groups": [group_facts(search, k, costs) for k in range(len(search.groups))],
        "left_whole": ctx.facts["left_whole"],
        "notes": task.notes(),
        "removable": {
            of: removable_range(
                WidthSearch(search.groups, search.scores, search.widths, search.steps, cost)
            )
            for of, cost in costs.items()
        },
    }
    findings["blocks"] = blocks_facts(model, ctx)
    narrowest = [allowed[-1] for allowed in search.widths]
    if latency:
        small = copy.deepcopy(model)
        slice_channels(small, search.cut(narrowest))
        whole_ms, least_ms = ctx.clock_on(step.on).latencies([model, small], ctx.example)
        findings["latency"] = {
            "on": step.on,
            "whole_ms": round(whole_ms, 4),
            "narrowest_ms": round(least_ms, 4),
            "most": round(1 - least_ms / whole_ms, 4),
        }
    if sensitivity:
        findings["sensitivity"] = {
            "score": ctx.accuracy(model),
            "amounts": list(AMOUNTS),
            "groups": sensitivities(model, ctx, search),
        }
    return findings


def network_of(key: str, store: Store, task: Task) -> nn.Module:
    """Return the network of an entry, or the task's own if there is no key. Raises LissomError if
    the entry learned on other data than the task's.
    """
    if not key:
        return task.fresh()
    if (learned := store.record(key)["task"]["data"]) != task.data.name:
        raise LissomError(f"inspect: {key} learned on {learned}; --data says {task.data.name}")
    return load_key(key, store, code_named(task.spec))


def group_facts(search: WidthSearch, k: int, costs: dict[str, Any]) -> dict[str, Any]:
    """Return the description of group `k`."""
    group = search.groups[k]
    start = search.full
    narrowed = [*start[:k], search.widths[k][-1], *start[k + 1 :]]
    return {
        "name": group.name,
        "units": group.size,
        "least": search.widths[k][-1],
        "step": step_of(search.widths[k]),
        "made_by": group.layers("out"),
        "read_by": group.layers("in"),
        "normalised_by": group.layers("scale"),
        "even_over": [int(blocks.max()) + 1 for blocks in group.blocks],
        "removable": {of: round(1 - cost(narrowed) / cost(start), 4) for of, cost in costs.items()},
    }


def blocks_facts(model: nn.Module, ctx: Context) -> list[dict[str, Any]]:
    """Return the residual blocks that can be dropped, with their share of params and macs."""
    names = droppable_blocks(model, ctx.example)
    saved = {of: shares(model, names, of, ctx.example) for of in ("params", "macs")}
    return [
        {"name": name, **{of: round(share[name], 4) for of, share in saved.items()}}
        for name in names
    ]


def step_of(widths: Sequence[int]) -> int | None:
    """Return how many units pruning removes from a group at a time, None if it cannot be pruned.

    >>> step_of([20, 16, 8]), step_of([6])
    (8, None)
    """
    return widths[-2] - widths[-1] if len(widths) > 1 else None


def removable_range(search: WidthSearch) -> dict[str, float]:
    """Return the least and the largest fraction that can be removed."""
    return {"least": round(search.min_removed, 4), "most": round(search.max_removed, 4)}


def sensitivities(
    model: nn.Module, ctx: Context, search: WidthSearch
) -> dict[str, list[float | None]]:
    """Return for each group the scores with only that group pruned by each of AMOUNTS."""
    scores: dict[str, list[float | None]] = {}
    for k, group in enumerate(search.groups):
        step = group.step(1)
        scores[group.name] = []
        for amount in AMOUNTS:
            kept = search.full
            kept[k] = max(step, round((1 - amount) * group.size / step) * step)
            trial = copy.deepcopy(model)
            zero_channels(trial, search.cut(kept))
            scores[group.name].append(ctx.accuracy(trial))
    return scores
