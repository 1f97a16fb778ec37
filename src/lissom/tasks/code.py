"""Import and call the user's own code, and describe its errors in one line."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import LissomError, nearest, place_of
from ..language.method import USER_MODULE

ORDER = "order:"  # before a file of weights: match tensors by order instead of name


def describe_error(error: BaseException, said: str, on: str = "") -> str:
    """Return a line on an error of the user's code: type, input, message and place."""
    place = (
        ""
        if isinstance(error, SyntaxError)
        else place_of(traceback.extract_tb(error.__traceback__))
    )
    said = f": {said}" if str(error).strip() else ""
    return f"{type(error).__name__}{on}{said}{f' ({place})' if place else ''}"


def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a factory; none for a module class without its own `__init__`."""
    from torch import nn

    own = [c for c in getattr(factory, "__mro__", ()) if c not in (nn.Module, object)]
    if own and not any("__init__" in vars(c) for c in own):
        return {}
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # written in C, or not callable: the call will show it
        return {}


def loaded(place: str, name: str, what: str) -> tuple[Any, str]:
    """Import `name` from a module or a .py file; return it with a text that changes with the file.

    Raises LissomError if the import fails or the name is missing.
    """
    try:
        if place.endswith(".py"):
            path = Path(place).resolve()
            if str(path.parent) not in sys.path:
                sys.path.insert(0, str(path.parent))
            found = importlib.util.spec_from_file_location(f"{USER_MODULE}{path.stem}", path)
            assert found is not None and found.loader is not None
            module = importlib.util.module_from_spec(found)
            sys.modules[found.name] = module
            found.loader.exec_module(module)
        else:
            if "" not in sys.path:
                sys.path.insert(0, "")
            module = importlib.import_module(place)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        hint = ""
        if "relative import" in str(error) and place.endswith(".py") and what != "task":
            folder = Path(place).resolve().parent.name
            hint = (
                f"; a file of a package is named as {folder}.{Path(place).stem}:{name}, from the "
                "folder that holds the package"
            )
        raise LissomError(
            f"{what}: importing {place} raised {describe_error(error, str(error))}{hint}"
        ) from error
    if not hasattr(module, name):
        close = nearest(name, dir(module))
        raise LissomError(
            f"{what}: {place} has no '{name}'" + (f"; did you mean '{close}'?" if close else "")
        )
    file = Path(getattr(module, "__file__", None) or "")
    mark = file_mark(str(file)) if file.is_file() else ""
    return getattr(module, name), f"{place}:{name} {mark}"


def weights_file(text: str) -> str:
    """Return the file that --weights names.

    >>> weights_file("net.pth"), weights_file("order:net.pth")
    ('net.pth', 'net.pth')
    """
    return text.removeprefix(ORDER)


def file_mark(path: str) -> str:
    """Return a hash of a file's content."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise LissomError(f"weights: {path} cannot be read ({error.strerror})") from None


def call_user_code(
    function: Callable[[], Any], where: str, text_of: Callable[[BaseException], str] = str
) -> Any:
    """Return the result of a user's function. Raises LissomError with the text of its error."""
    try:
        return function()
    except LissomError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise LissomError(f"{where} raised {describe_error(error, text_of(error))}") from error
