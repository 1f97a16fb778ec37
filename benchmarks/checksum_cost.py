"""Measure the time that checksums add to loading: python benchmarks/checksum_cost.py [--turns 9]

A network is saved and sealed like an entry of a store. In each turn it is loaded twice, with and
without comparing checksums, in alternating order and without cached hashes. Prints the medians and
the median of the ratios.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torchvision
from torch import nn

from lissom.models import factory
from lissom.store import manifest, snapshot

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: torchvision.models.resnet50(weights=None),
    "resnet20": lambda: factory("resnet20")(num_classes=10),
}


def seconds(build: Callable[[], nn.Module], folder: Path, compared: bool) -> float:
    """Load a network once and return the wall-clock seconds."""
    manifest.HASHED.clear()
    with patch.object(snapshot, "checked", manifest.checked if compared else nullcontext):
        begin = time.perf_counter()
        snapshot.restore(build, folder)
        return time.perf_counter() - begin


def main() -> None:
    """Print one line for each network."""
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    words.add_argument("--turns", type=int, default=9)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as root:
        os.environ["XDG_CONFIG_HOME"] = root  # the signing key goes there
        for name, build in NETWORKS.items():
            folder = Path(root) / name
            snapshot.save(build(), folder)
            (folder / "record.json").write_text("{}", encoding="utf-8")
            manifest.seal(folder, name)
            pairs = []
            for turn in range(given.turns + 1):
                order = (True, False) if turn % 2 else (False, True)
                took = {compared: seconds(build, folder, compared) for compared in order}
                pairs.append((took[True], took[False]))
            # the first turn is a warm-up
            with_it, without = (median(each) for each in zip(*pairs[1:], strict=True))
            ratio = median(one / two for one, two in pairs[1:])
            print(
                f"{name}: {with_it:.3f} s with checksums, {without:.3f} s without, ratio "
                f"{ratio:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
