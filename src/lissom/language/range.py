"""What every range is: the part of the values of an activation that a grid covers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from .method import Method


@dataclass(frozen=True)
class Range(Method, ABC):
    """Choose the ends of a grid from the values that calibration has shown."""

    @abstractmethod
    def __call__(self, seen: Any, top: int = 255) -> tuple[float, float]:
        """Return the smallest and the largest value to cover by a grid of the integers 0..top.

        `seen` is the RangeStats of an activation (surgery/quantization/calibrate.py).
        """
