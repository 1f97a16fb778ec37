"""Cut a network until it runs as fast as was asked, as measured where it will run."""

from __future__ import annotations

import copy

from torch import nn

from ..context import Clock, Context
from ..errors import LissomError
from ..surgery.budget import Options
from ..surgery.slim import sliced
from .prune import carried_out

NEAR = 0.02  # of the latency: nearer than two measurements agree is chance
TURNS = 8


def reachable(ctx: Context, options: Options, amount: float) -> None:
    """Refuse what the table of layers says is far out of reach."""
    if amount > options.most + 0.1:
        raise LissomError(f"{ctx.where}: {amount:.3g} of the latency cannot be removed; by the times of its layers this "
                          f"network can lose at most {options.most:.3g}")


def cut_to_latency(model: nn.Module, ctx: Context, options: Options, amount: float, clock: Clock) -> float:
    """Cut `model` in place so that the measured latency falls by the fraction `amount`; return by how much it did.

    The table of layers proposes the widths; the whole network is then measured beside the uncut one, and what the
    table was wrong by is made up for in the next proposal.
    """
    reachable(ctx, options, amount)
    tried: dict[tuple[int, ...], tuple[float, float, float]] = {}
    below, above, goal = (0.0, 0.0), (options.most, 1.0), amount  # (by the table, as measured) of what was tried
    for _ in range(TURNS):
        kept = options.nearest(min(goal, options.most))
        if tuple(kept) in tried:
            break
        trial = copy.deepcopy(model)
        sliced(trial, options.cut(kept))
        before, after = clock.latencies([model, trial], ctx.example)
        found, said = 1 - after / before, options.removed(kept)
        tried[tuple(kept)] = (found, before, after)
        if abs(found - amount) <= NEAR:
            break
        below, above = ((said, found), above) if found < amount else (below, (said, found))
        share = (amount - below[1]) / max(above[1] - below[1], 1e-6)
        goal = below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])
    best = min(tried, key=lambda kept: abs(tried[kept][0] - amount))
    found, before, after = tried[best]
    if abs(found - amount) > 0.1:
        ranges = sorted(f for f, _, _ in tried.values())
        raise LissomError(f"{ctx.where}: {amount:.3g} of the latency cannot be removed; measured were {ranges[0]:.3g} to "
                          f"{ranges[-1]:.3g}")
    first = ctx.facts.get("amount", {}).get("before_ms", round(before, 4))  # of the first round
    ctx.facts["amount"] = {"of": "latency", "asked": round(amount, 6), "removed": round(found, 4),
                           "predicted": round(options.removed(best), 4), "before_ms": first,
                           "after_ms": round(after, 4), "measured": len(tried)}
    if abs(found - amount) > NEAR:
        ctx.notes.append(f"{ctx.where}: the latency fell by {found:.3f}, the nearest that was found to {amount:.3g}")
    carried_out(model, ctx, options, list(best))
    return found
