"""The contract of ranges: the interval of an activation's values that a grid covers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from .method import Method


@dataclass(frozen=True)
class Range(Method, ABC):
    """Choose the ends of a grid from the values seen in calibration."""

    @abstractmethod
    def __call__(self, seen: Any, top: int = 255) -> tuple[float, float]:
        """Return the smallest and largest value that a grid of the integers 0..top covers.

        `seen` is the RangeStats of an activation (surgery/quantization/calibrate.py).
        """
