"""scikit-learn's digits from its file: importing scikit-learn for them takes longer than all else that a small command does.

Source: E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import LissomError

TEST = 0.2


def pixels_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Return 1,797 images (n 8 8) of whole numbers 0..16 and their labels (n), as `sklearn.datasets.load_digits` does."""
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise LissomError("data digits: it is a file of scikit-learn, which is not installed: pip install scikit-learn")
    file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(file, "rt", encoding="ascii") as lines:
            rows = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    except (OSError, ValueError):  # of another version, it may lie elsewhere
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]


def test_places(labels: np.ndarray) -> np.ndarray:
    """Return the places of the test split, a fifth of each class, in order.

    They are those of `train_test_split(..., test_size=0.2, random_state=0, stratify=labels)`, which stores go by.
    """
    draw = np.random.RandomState(0)
    counts = np.bincount(labels)
    tested = int(np.ceil(TEST * len(labels)))
    trained = shares(counts, len(labels) - tested, draw)
    left = shares(counts - trained, tested, draw)
    found = []
    for label, (first, second) in enumerate(zip(trained, left, strict=True)):
        order = np.flatnonzero(labels == label)[draw.permutation(counts[label])]
        found.append(order[first:first + second])
    return np.sort(np.concatenate(found))


def shares(counts: np.ndarray, total: int, draw: np.random.RandomState) -> np.ndarray:
    """Return whole numbers in proportion to `counts` that add up to `total`; of equal remainders chance rounds some up."""
    exact = counts / counts.sum() * total
    found = np.floor(exact)
    rest, left = exact - found, int(total - found.sum())
    for value in np.unique(rest)[::-1] if left else ():
        places = np.flatnonzero(rest == value)
        up = draw.choice(places, size=min(len(places), left), replace=False)
        found[up] += 1
        left -= len(up)
        if left == 0:
            break
    return found.astype(int)
