"""A process that makes networks: it reads orders, one JSON object a line, and answers in kind.

The first line is the setup: {task, store, device, checkpoint_s, threads}. Each line after it is a
node: {key, recipe, seed}, answered by {"error": text} when it is made, with "" if all is well.
{"said": text} is a line for the user. When the input ends, so does the process, whatever it does:
that is how it is told to, and what a parent that was killed leaves behind. What was not finished is
as after a kill: checkpoints stay, and the next run sweeps the rest.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any


def listen(hear: Callable[[dict[str, Any]], None]) -> None:
    """Hand on what comes in; end the process when nothing more will."""
    for line in sys.stdin:
        hear(json.loads(line))
    os._exit(0)


def main() -> None:
    """Serve orders from standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the user's code prints must not mix with the answers

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    orders = SimpleQueue[dict[str, Any]]()
    Thread(target=listen, args=(orders.put,), daemon=True).start()
    setup = orders.get()
    from ...errors import LissomError, cause_of

    make: Callable[[dict[str, Any]], None] | None = None
    while True:
        order = orders.get()
        try:
            make = make or maker(setup, lambda text: answer({"said": text}))
            make(order)
        except LissomError as error:
            answer({"error": str(error)})
        except Exception as error:  # our bug, or the user's own code: other nodes go on
            traceback.print_exc()
            answer({"error": f"{order['key']}  {order['recipe']}: {cause_of(error)}"})
        else:
            answer({"error": ""})


def maker(setup: dict[str, Any], say: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """Return what makes the network that an order names."""
    import torch

    from ...errors import LissomError
    from ...store.store import Store
    from ...tasks.task import Task
    from ..device import device_of
    from ..execute import Run
    from ..plan import node_at

    torch.set_num_threads(setup["threads"])
    task = Task.from_origin(setup["task"])
    run = Run(
        task,
        Store(setup["store"]),
        device_of(setup["device"]),
        say,
        checkpoint_s=setup["checkpoint_s"],
    )

    def make(order: dict[str, Any]) -> None:
        node = node_at(order["recipe"], order["seed"], task.root)
        if node.key != order["key"]:
            raise LissomError(
                f"worker: it names {order['key']} otherwise ({node.key}): expected the same data, "
                f"model and versions as where the run began; {task.name} or {task.data.name} differs"
            )
        run.make(node)

    return make


if __name__ == "__main__":
    main()
