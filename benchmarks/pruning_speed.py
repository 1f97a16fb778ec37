"""Compare the time of prune, with all its checks, with Torch-Pruning 1.6.1, in turns in one run.

    python benchmarks/pruning_speed.py [--only resnet50,densenet201] [--turns 5] [-o speed.json]

Both do the same job: a copy of a torchvision network with random weights loses half of the channels
of every layer except the classifier, ranked by the L2 norm of filters, with one example image of
the network's size. For each network they take turns. The result is the median processor time on one
thread, which equals wall-clock time on an idle machine. lissom's time includes its trial cut, its
count of multiply-adds and its gate.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn

import lissom
from lissom.bench.machine import machine

NETWORKS = ("resnet50", "resnet152", "mobilenet_v3_large", "convnext_tiny", "densenet201")


def by_lissom(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a network with half of its channels. `apply` copies it."""
    return lissom.apply('prune(0.5, by="l2", scope="local")', model, example)


def by_torch_pruning(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of a network with half of its channels."""
    model = copy.deepcopy(model)
    outputs = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        round_to=8,
        ignored_layers=outputs,
    ).step()
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    here, rows = machine(), []
    arms: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
        "lissom": by_lissom,
        "torch-pruning": by_torch_pruning,
    }
    print(
        f"{here['cpu']}, one thread, torch {here['libraries']['torch']}; median seconds of {given.turns}"
    )
    for name in given.only.split(","):
        model = torchvision.models.get_model(name, weights=None).eval()
        example = torch.randn(1, 3, 224, 224)
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        left = {}
        for turn in range(given.turns + 1):
            for arm, cut in arms.items():
                begin = time.process_time()
                small = cut(model, example)
                if turn:  # the first turn loads modules lazily
                    seconds[arm].append(time.process_time() - begin)
                left[arm] = sum(p.numel() for p in small.parameters()) / sum(
                    p.numel() for p in model.parameters()
                )
        ours, theirs = (median(seconds[arm]) for arm in arms)
        rows.append({"network": name, "seconds": seconds, "parameters_left": left})
        print(
            f"{name:20} lissom {ours:6.2f}  torch-pruning {theirs:6.2f}  ratio {ours / theirs:5.2f}  "
            f"parameters left {left['lissom']:.2f}, {left['torch-pruning']:.2f}",
            flush=True,
        )
        if given.output:
            given.output.write_text(json.dumps({"machine": here, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
