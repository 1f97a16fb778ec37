"""lissom makes a trained PyTorch network small and fast, and proves it on the runtime that ships.

>>> import lissom
>>> len(lissom.Space("train(3) | prune({0.3, 0.5}) | quantize(8)"))
2
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .telemetry import switch_off

__version__ = "0.1.0"

# no name here is that of a module: importing the module would put it in the place of the function
_HOMES = {
    "LissomError": "errors", "LissomWarning": "errors",
    "Recipe": "recipe", "Space": "recipe", "Step": "step", "arg": "method",
    "Task": "task", "Data": "data.data", "run": "execute", "Store": "store", "apply": "alone",
    "save": "alone", "load": "alone", "export": "alone", "latency": "alone",
}
__all__ = list(_HOMES)
switch_off()

if TYPE_CHECKING:
    from .alone import apply, export, latency, load, save
    from .data.data import Data
    from .errors import LissomError, LissomWarning
    from .execute import run
    from .method import arg
    from .recipe import Recipe, Space
    from .step import Step
    from .store import Store
    from .task import Task


def __dir__() -> list[str]:
    """Return the public names alone."""
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import lissom` loads neither torch nor onnx."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lissom' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
