"""The digits that come with scikit-learn, read without importing it.

The import alone takes longer than the rest of `plan`.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the images (n 8 8), in 0..16, and their labels (n)."""
    found = find_spec("sklearn")
    folder = (found.submodule_search_locations if found is not None else None) or [""]
    file = Path(folder[0]) / "datasets" / "data" / "digits.csv.gz"
    if not file.exists():  # another version may store it elsewhere
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target
    with gzip.open(file, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def stratified_split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted training and test indices, drawn with the same share of each class.

    `labels` (n) are classes from 0 on. The split is that of scikit-learn's train_test_split with
    `stratify`, drawn from the same generator in the same order.
    """
    draw = np.random.RandomState(seed)
    counts = np.bincount(labels)
    tests = int(np.ceil(share * len(labels)))
    to_train = apportion(counts, len(labels) - tests, draw)
    to_test = apportion(counts - to_train, tests, draw)
    train = list[int]()
    test = list[int]()
    for label, (first, more) in enumerate(zip(to_train, to_test, strict=True)):
        places = np.flatnonzero(labels == label)[draw.permutation(counts[label])]
        train += places[:first].tolist()
        test += places[first : first + more].tolist()
    return np.sort(train), np.sort(test)


def apportion(counts: np.ndarray, total: int, draw: np.random.RandomState) -> np.ndarray:
    """Return how many samples of each class make up `total`, in proportion to `counts`.

    Uses the largest-remainder method; ties are drawn at random.
    """
    quotas = counts / counts.sum() * total
    counts_drawn = np.floor(quotas).astype(int)
    remainder = quotas - counts_drawn
    missing = total - counts_drawn.sum()
    for value in np.unique(remainder)[::-1]:
        if not missing:
            break
        equal = np.flatnonzero(remainder == value)
        chosen = draw.choice(equal, size=min(len(equal), missing), replace=False)
        counts_drawn[chosen] += 1
        missing -= len(chosen)
    return counts_drawn
