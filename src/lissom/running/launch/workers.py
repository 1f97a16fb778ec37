"""The interface of workers, which make networks in this process, in others or on other machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ...errors import LissomError
from ...learning.rung import Rung, Stopped
from ..plan import Node


@dataclass(frozen=True)
class Ended:
    """How the making of a node ended: well, with an `error`, or because its worker was `lost`."""

    key: str
    error: str = ""  # the text for the user
    midway: float | None = None  # the metric with which its learning was stopped
    lost: str = ""  # how the worker ended, as in "was killed by SIGKILL"


class Workers(ABC):
    """Make networks; `wait` returns each submitted node once."""

    beside: ClassVar[bool] = True  # whether they work while this process does something else

    @abstractmethod
    def room(self) -> int:
        """Return how many nodes can be made at the same time, at least 1."""

    @abstractmethod
    def free(self) -> int:
        """Return how many nodes can be submitted now."""

    @abstractmethod
    def submit(self, node: Node, rung: Rung | None = None) -> None:
        """Begin to make a network; the network before it is in the store. Its learning ends early if
        it fails the `rung`.
        """

    @abstractmethod
    def wait(self) -> list[Ended]:
        """Wait until a node has ended, a worker is free, or for a while; return the ended nodes."""

    @abstractmethod
    def close(self) -> None:
        """End all workers, even busy ones."""


class Here(Workers):
    """Make networks in this process, one by one, inside `wait`."""

    beside: ClassVar[bool] = False

    def __init__(self, make: Callable[[Node, Rung | None], None]) -> None:
        self.make = make
        self.order: tuple[Node, Rung | None] | None = None

    def room(self) -> int:
        return 1

    def free(self) -> int:
        return 0 if self.order else 1

    def submit(self, node: Node, rung: Rung | None = None) -> None:
        self.order = node, rung

    def wait(self) -> list[Ended]:
        assert self.order is not None
        node, rung = self.order
        self.order = None
        try:
            self.make(node, rung)
        except Stopped as stopped:
            return [Ended(node.key, str(stopped), stopped.midway)]
        except LissomError as error:
            return [Ended(node.key, str(error))]
        return [Ended(node.key)]

    def close(self) -> None:
        self.order = None
