"""Inputs for timing a file: noise of the shape, type and range of each of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Input:
    """One input of a file: its shape with the batch, its NumPy type, and its range.

    Without a range, floats are normal noise and integers 0 or 1.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Input:
        """Return the input that `json` described. Inverse of `json`."""
        return cls(**{**settings, "shape": tuple(settings["shape"])})

    @classmethod
    def like(cls, array: np.ndarray) -> Input:
        """Return the input, for one sample, that takes an array (n ...); one without axes has none."""
        return cls(tuple(array.shape), str(array.dtype)).in_batches_of(1)

    def json(self) -> dict[str, Any]:
        """Return the fields as a dict that JSON can hold."""
        return {**asdict(self), "shape": list(self.shape)}

    def in_batches_of(self, count: int) -> Input:
        """Return the input with a batch of `count` samples; one without axes stays as it is."""
        return self if not self.shape else replace(self, shape=(count, *self.shape[1:]))

    def noise(self, rng: np.random.Generator) -> np.ndarray:
        """Return random values of the input's shape, type and range."""
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            if self.low is None or self.high is None:
                return rng.standard_normal(self.shape, dtype=np.float32).astype(dtype)
            return rng.uniform(self.low, self.high, self.shape).astype(dtype)
        low = int(self.low or 0)
        high = int(1 if self.high is None else self.high)
        return rng.integers(low, high + 1, self.shape).astype(dtype)


def images(shape: Sequence[int], *, pixels: bool = False) -> list[Input]:
    """Return the single input (n c h w) of a file of images: normal noise, or pixels of 0..255."""
    low, high = (0.0, 255.0) if pixels else (None, None)
    return [Input(tuple(shape), "float32", low, high)]


def noise(inputs: Sequence[Input]) -> list[np.ndarray]:
    """Return noise for all inputs, the same at every call."""
    rng = np.random.default_rng(0)
    return [each.noise(rng) for each in inputs]
