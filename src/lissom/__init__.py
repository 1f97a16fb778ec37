"""lissom makes a trained PyTorch network small and fast, and measures it in the runtime you deploy.

>>> import lissom
>>> len(lissom.Space("train(3) | prune({0.3, 0.5}) | quantize(8)"))
2
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .system.telemetry import switch_off

__version__ = "0.1.0"

# no name here equals that of a module: importing the module would overwrite the function
_HOMES = {
    "LissomError": "errors",
    "LissomWarning": "errors",
    "Recipe": "language.recipe",
    "Space": "language.recipe",
    "Step": "language.step",
    "arg": "language.method",
    "Task": "tasks.task",
    "Data": "data.data",
    "run": "running.execute",
    "search": "running.search.run_search",
    "SearchSpace": "language.search_space",
    "Store": "store.store",
    "apply": "api",
    "from_onnx": "api",
    "save": "api",
    "load": "api",
    "export": "api",
    "latency": "api",
}
# type checkers read only a literal list
__all__ = [
    "Data",
    "LissomError",
    "LissomWarning",
    "Recipe",
    "SearchSpace",
    "Space",
    "Step",
    "Store",
    "Task",
    "apply",
    "arg",
    "export",
    "from_onnx",
    "latency",
    "load",
    "run",
    "save",
    "search",
]
switch_off()

if TYPE_CHECKING:
    from .api import apply, export, from_onnx, latency, load, save
    from .data.data import Data
    from .errors import LissomError, LissomWarning
    from .language.method import arg
    from .language.recipe import Recipe, Space
    from .language.search_space import SearchSpace
    from .language.step import Step
    from .running.execute import run
    from .running.search.run_search import search
    from .store.store import Store
    from .tasks.task import Task


def __dir__() -> list[str]:
    """Return the public names only."""
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import lissom` loads neither torch nor onnx."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lissom' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
