"""Measure how close prune(amount, of="latency") comes to the amount, with a new measurement
afterwards.

    python benchmarks/latency_budget.py [--models resnet20,vgg11] [--targets onnxruntime,openvino]

Random weights, 3x32x32, one thread. "again" is a new measurement of the pruned network beside the
unpruned one.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Literal

import torch

from lissom import LissomError
from lissom.bench.clock import clock_of
from lissom.language.context import SurgeryContext
from lissom.models import factory
from lissom.steps.prune import Prune

CUTS: tuple[tuple[float, int | Literal["auto"]], ...] = ((0.3, 4), (0.5, 4), (0.5, "auto"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="resnet20,vgg11,nin")
    parser.add_argument("--targets", default="onnxruntime,openvino")
    given = parser.parse_args()
    images, clock = torch.randn(64, 3, 32, 32), clock_of()
    print(
        "| model | runtime | asked | by the table | measured | again | networks measured | "
        "multiple | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in given.models.split(","):
        for target in given.targets.split(","):
            for amount, multiple in CUTS:
                torch.manual_seed(0)
                whole = factory(name)(num_classes=10).eval()
                ctx = SurgeryContext(
                    images[:1], lambda count: [images[:count]], where="prune", clock=clock
                )
                begin = time.time()
                try:
                    small = Prune(amount, of="latency", on=target, multiple=multiple)(
                        copy.deepcopy(whole), ctx
                    )
                except LissomError as error:
                    print(f"| {name} | {target} | {amount} | {error} |", flush=True)
                    continue
                spent, found = time.time() - begin, ctx.facts["amount"]
                before, after = clock(target).latencies([whole, small], images[:1])
                cells = (
                    name,
                    target,
                    amount,
                    f"{found['predicted']:.3f}",
                    f"{found['removed']:.3f}",
                    f"{1 - after / before:.3f}",
                    found["measured"],
                    ctx.facts["multiple"],
                    f"{spent:.0f}",
                )
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
