"""The compiled torch target: the same outputs from machine code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from networks import images, residual

import lissom
from lissom.bench.inputs import images as shown
from lissom.bench.process import file_process
from lissom.targets.torch import Torch


@pytest.mark.skipif(Torch(compile=True).missing() is not None, reason="no C++ compiler")
def test_a_compiled_network_answers_like_an_eager_one(tmp_path: Path) -> None:
    seen = images(3, 16).numpy()
    path = lissom.export(residual(), "torch", tmp_path / "net.pt2", seen.shape[1:])
    found = {}
    for target in ("torch", "torch(compile=True)"):
        with file_process(target, path, shown(seen.shape)) as process:
            (found[target],) = process.run([seen])
            assert process.run([seen[:2]])[0].shape == (2, 4), "batches of another size"
    np.testing.assert_allclose(found["torch(compile=True)"], found["torch"], rtol=1e-3, atol=1e-4)
