"""What PyTorch's exporter keeps of every network that it has seen, about a MiB of each, is given back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Let PyTorch remember nothing of what is exported in the block.

    The environment of the symbols that stand for sizes lists tensors whose sizes are such symbols,
    which name the environment. The sizes are held in C++, where Python does not look for circles.
    Caches hold the symbols, too.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    environments = list[Any]()
    begin = ShapeEnv.__init__

    def noted(self: Any, *args: Any, **named: Any) -> None:
        environments.append(self)
        begin(self, *args, **named)

    ShapeEnv.__init__ = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        ShapeEnv.__init__ = begin  # type: ignore[method-assign]
        for environment in environments:
            if getattr(environment, "tracked_fakes", None):
                environment.tracked_fakes.clear()
        # without it while it works, an export would take half as long again
        FakeTensorMode.cache_clear()
        for method in vars(ShapeEnv).values():
            if callable(clear := getattr(method, "cache_clear", None)):
                clear()
