"""The digits equal scikit-learn's, with the same split, without the slow import of scikit-learn."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lissom.data import digits
from lissom.data.digits import read_digits, stratified_split


def test_the_images_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    bunch = load_digits()
    for _ in range(2):  # the second time by scikit-learn itself
        images, labels = read_digits()
        np.testing.assert_array_equal(images, bunch.images)
        np.testing.assert_array_equal(labels, bunch.target)
        monkeypatch.setattr(digits, "find_spec", lambda _: None)


@given(
    st.lists(st.integers(2, 40), min_size=2, max_size=12),
    st.floats(0.1, 0.9),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_the_split_is_scikit_learns(counts: list[int], share: float, seed: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    try:
        wanted = train_test_split(
            np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels
        )
    except ValueError:  # fewer images than classes in one part
        return
    for ours, theirs in zip(stratified_split(labels, share, seed), wanted, strict=True):
        np.testing.assert_array_equal(ours, np.sort(theirs))


def test_scikit_learn_is_not_imported() -> None:
    code = "import sys, lissom.data.source as s; s.load('digits'); print('sklearn' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
