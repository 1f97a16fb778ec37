"""A network built again from what an entry of the store says of it, which may be somebody else's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import LissomError, listed
from .builders import arguments, chosen_arguments, code_named
from .code import called
from .networks import factory_of
from .task import own_task

if TYPE_CHECKING:
    from torch import nn


def build_from(
    build: dict[str, Any],
    where: str,
    given: str | None = None,
    *,
    trusted: bool = False,
    cure: str = "give it again as `model`",
) -> nn.Module:
    """Build a network afresh from what an entry of the store says of it.

    Names of menus are data. Own code is imported where the entry is `trusted`, or where the user
    names it again as `given`.
    """
    code = code_named(build)
    more = chosen_arguments(build)
    if code is None and "model" not in build:
        raise LissomError(
            f"load: {where} does not say how its network is built; give the network as `model`"
        )
    if code and not trusted and given is None:
        raise LissomError(
            f"load: {where} would import {code:.80}, and nothing shows that your "
            f"lissom wrote it; {cure}"
        )
    if more and not trusted:
        raise LissomError(
            f"load: {where} would build its network with {listed(more)}, and nothing shows that "
            "your lissom wrote it; if it is yours, lissom store --trust signs all that is in its store"
        )
    if "task" in build:
        return own_task(given or str(build["task"])).fresh()
    named = given or str(build["model"])
    factory, _ = factory_of(named)
    build_network = partial(factory, **arguments(build, where))
    network: nn.Module = called(build_network, f"load: {where}: building {named:.80}")
    return network
