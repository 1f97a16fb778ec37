"""Prune one trained network to half its multiply-adds with lissom, with Torch-Pruning 1.6.1 and at
random, then train each for the same epochs.

    python benchmarks/pruning_rivals.py --data folder:PATH --store STORE KEY [--seeds 0,1,2]
    [--epochs 5] [-o rivals.json]

KEY is a trained network in the store, for example from `lissom run 'train(15)' --data folder:PATH
--model resnet20`. lissom: prune(0.5, of="macs", by="fisher", per="cost", multiple=4) |
distill("kd + fmse", 5, alpha=0.3). random: the same with channels ranked at random. torch-pruning:
its group norm (GroupMagnitudeImportance, until 1.5 GroupNormImportance), ranked globally, in small
steps to half the multiply-adds, then train(5): plain fine-tuning with the same optimiser, schedule,
peak learning rate and augmentation. The result is that of the last epoch on the test set.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from lissom.data.data import Data
from lissom.language.recipe import Recipe
from lissom.learning.evaluate import network_answers, scored
from lissom.running.context import TaskContext
from lissom.store.snapshot import restore
from lissom.store.store import Store
from lissom.surgery.count import macs, parameters
from lissom.tasks.task import Task


def by_torch_pruning(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """Prune a network to half its multiply-adds without its classifier, in place."""
    model.eval()
    goal = macs(model, example) / 2
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=0.9,
        iterative_steps=400,
        max_pruning_ratio=0.9,
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear)],
    )
    while macs(model, example) > goal:
        pruner.step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("key")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--store", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("-o", "--output", type=Path, default=Path("rivals.json"))
    given = parser.parse_args()
    data = Data.of(given.data)
    task, store = Task.of(given.model, data), Store(given.store)
    teacher = restore(task.fresh(), store.folder(given.key))
    tail = f"({given.epochs}, lr={given.lr})"
    taught = f'distill("kd + fmse", {given.epochs}, lr={given.lr}, alpha=0.3)'
    arms = {
        "lissom": f'prune(0.5, of="macs", by="fisher", per="cost", multiple=4) | {taught}',
        "torch-pruning": f"train{tail}",
        "random": f'prune(0.5, of="macs", by="random", multiple=4) | {taught}',
    }
    rows: list[dict[str, Any]] = (
        json.loads(given.output.read_text()) if given.output.exists() else []
    )
    for seed in map(int, given.seeds.split(",")):
        for arm, recipe in arms.items():
            if any(r["arm"] == arm and r["seed"] == seed for r in rows):
                continue
            begin, model = time.time(), copy.deepcopy(teacher)
            if arm == "torch-pruning":
                model = by_torch_pruning(model, data.example())
            for step in Recipe(recipe).steps:
                ctx = TaskContext(
                    data.example(),
                    partial(data.calibration, seed=seed),
                    task=task,
                    seed=seed,
                    teacher=lambda _: copy.deepcopy(teacher),
                    where=str(step),
                )
                model = step(model, ctx)
            top1 = scored(task, network_answers(model, data, data.test))["top1"]
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "top1": top1,
                    "macs": macs(model, data.example()) / macs(teacher, data.example()),
                    "params": parameters(model) / parameters(teacher),
                    "seconds": round(time.time() - begin),
                }
            )
            print(rows[-1], flush=True)
            given.output.write_text(json.dumps(rows, indent=1))
    for arm in arms:
        found = [r["top1"] for r in rows if r["arm"] == arm]
        spread = f" +- {stdev(found):.4f}" if len(found) > 1 else ""
        print(
            f"{arm:14} {mean(found):.4f}{spread} top-1 of {len(found)} seeds, "
            f"{mean(r['macs'] for r in rows if r['arm'] == arm):.3f} of the MACs, "
            f"{mean(r['params'] for r in rows if r['arm'] == arm):.3f} of the parameters"
        )


if __name__ == "__main__":
    main()
