"""A process that makes networks. It reads orders, one JSON object per line, and answers in kind.

The first line is the setup: {task, store, device, checkpoint_s, threads}. Each further line is a
node: {key, recipe, seed, rung}. When it is made, the answer is {"error": text}, with "" for success,
and with the metric as "midway" if its learning was stopped at the rung.
{"said": text} is a line for the user. The process ends when its input ends, even if it is busy: so
it stops when it is told to, and when its parent is killed. Unfinished work is left as after a kill:
checkpoints stay, and the next run deletes the rest.
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
    """Pass each line of the input to `hear`; end the process when the input ends."""
    for line in sys.stdin:
        hear(json.loads(line))
    os._exit(0)


def main() -> None:
    """Serve orders from standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # prints of the user's code must not mix with the answers

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    orders = SimpleQueue[dict[str, Any]]()
    Thread(target=listen, args=(orders.put,), daemon=True).start()
    setup = orders.get()
    from ...errors import LissomError, cause_of
    from ...learning.rung import Stopped

    make: Callable[[dict[str, Any]], None] | None = None
    while True:
        order = orders.get()
        try:
            make = make or maker(setup, lambda text: answer({"said": text}))
            make(order)
        except Stopped as stopped:
            answer({"error": str(stopped), "midway": stopped.midway})
        except LissomError as error:
            answer({"error": str(error)})
        except Exception as error:  # our bug, or an error in the user's code: other nodes continue
            traceback.print_exc()
            answer({"error": f"{order['key']}  {order['recipe']}: {cause_of(error)}"})
        else:
            answer({"error": ""})


def maker(setup: dict[str, Any], say: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """Return a function that makes the network of an order."""
    import torch

    from ...errors import LissomError
    from ...learning.rung import Rung
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
        run.make(node, Rung(**order["rung"]) if order["rung"] else None)

    return make


if __name__ == "__main__":
    main()
