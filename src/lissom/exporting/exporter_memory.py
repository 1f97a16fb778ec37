"""Free the memory that PyTorch's exporter keeps of every exported network, about 1 MiB each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def forget_exported_networks() -> Iterator[None]:
    """Make PyTorch forget every network exported in the block.

    The environment of symbolic sizes (ShapeEnv) lists tensors whose sizes refer back to it. The
    sizes live in C++, where Python's garbage collector finds no cycles. Caches hold the symbols
    too.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    environments = list[Any]()
    original = ShapeEnv.__init__

    def init(self: Any, *args: Any, **named: Any) -> None:
        environments.append(self)
        original(self, *args, **named)

    ShapeEnv.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        ShapeEnv.__init__ = original  # type: ignore[method-assign]
        for environment in environments:
            if getattr(environment, "tracked_fakes", None):
                environment.tracked_fakes.clear()
        # cleared only now: without this cache during the export it would take half as long again
        FakeTensorMode.cache_clear()
        for method in vars(ShapeEnv).values():
            if callable(clear := getattr(method, "cache_clear", None)):
                clear()
