"""Run recipes: each prefix once, or from the store if it is there, with a record for each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..bench.clock import clock_of
from ..bench.machine import machine
from ..data.inputs import form_of, inputs_of, is_plain
from ..data.split import CPU
from ..distillation.ensemble import Ensemble
from ..errors import LissomError, Unmeasured, silent
from ..language.context import Clock
from ..language.recipe import Recipe, Space
from ..language.step import Step
from ..language.target import Target
from ..language.training import Progress
from ..learning.augmentation import check_augmentation
from ..learning.checkpoint import EVERY_MIN, Checkpoints, every_s
from ..learning.evaluate import network_answers, scored
from ..learning.moments import OptimizerState
from ..learning.ranks import Ranks
from ..learning.rung import Rung
from ..learning.step import Learning
from ..store.manifest import code_in
from ..store.record import Network, Record, TaskSummary, write_record
from ..store.snapshot import restore, save
from ..store.store import Store
from ..surgery.count import layer_table, macs, parameters
from ..surgery.sizes import sizes
from ..tasks.builders import code_named
from ..tasks.task import Task
from ..tasks.teachers import teacher_from, teachers_in
from ..trees import concatenated, first, largest_difference, run_on_copied_inputs
from .checks import check_run, tell_untrained
from .context import TaskContext, finite, learned_on
from .device import device_of
from .entries import load_key
from .eta import Eta
from .expected import chance_note, check_expected, expected_in
from .launch.crew import Setting, crew_of, make_networks
from .launch.workers import Workers
from .loggers import Logs
from .measure import measure
from .plan import Node, ends, targets_of, tree
from .teachers import taught, teachers
from .team import Team

RANGE_SAMPLES = 256  # that give the ranges of integer inputs


@dataclass
class Run:
    """The settings of a run: the task, the store, the device to learn on, and callbacks."""

    task: Task
    store: Store
    device: torch.device = CPU
    say: Callable[[str], None] = silent
    watch: Callable[[Progress], None] | None = None
    clock: Callable[[str], Clock] = field(default_factory=clock_of)
    eta: Eta = field(default_factory=lambda: Eta(()))
    checkpoint_s: float | None = every_s(EVERY_MIN)  # None for no checkpoints
    expected: dict[str, float] = field(default_factory=dict)  # metrics of uncompressed networks
    logs: Logs = field(default_factory=lambda: Logs("", silent))
    team: Team | None = None  # the processes that learn together

    def is_there(self, node: Node) -> bool:
        """Return whether the store holds a network; report it if so."""
        if node.key not in self.store:
            return False
        self.eta.skip(node.key)
        self.say(f"{node.key}  {node.step or 'the network as given'}: in the store")
        return True

    def begin(self, node: Node) -> None:
        """Report that work on a network begins."""
        self.say(f"{node.key}  {node.step or 'the network as given'}{self.eta.status(node.key)}")

    def make(self, node: Node, rung: Rung | None = None) -> None:
        """Make a network from the one before it, unless another process has made it meanwhile.

        Raises Stopped if its learning fails the `rung`.
        """
        with self.store.lock(node.key):  # a second process that wants the same waits
            if node.key not in self.store:
                self._make(node, rung)

    def finish(self, node: Node) -> None:
        """Count a finished network; raise LissomError if an uncompressed one is not as expected."""
        self.eta.finish(node.key)
        if node.key != node.reference:
            return
        check_expected(self.store, node.key, self.expected)
        if self.task.trained and (note := chance_note(self.store, node.key)):
            self.say(f"{node.key}  note: {note}")

    def rehearse(self, end: Node) -> None:
        """Try the recipe on an untrained network and two samples, to find its errors.

        This happens before the first epoch, so that surgery that cannot work is refused early.
        """
        if all(node.key in self.store for node in end.path if node.step):
            return
        task = self.task
        model = task.fresh(end.seed)
        few = task.data.example(2)
        with torch.no_grad():
            for step in end.recipe.steps:
                ctx = TaskContext(
                    first(few, 1),
                    lambda _: [few],
                    task=task,
                    where=str(step),
                    teacher=self._teacher(end.reference),
                    clock=self.clock,
                )
                model = step.rehearse(model, ctx)
                if isinstance(step, Learning):
                    check_augmentation(step.train_settings(1), task.data, task.kind)

    def load(self, key: str) -> nn.Module:
        """Load a finished network of this task."""
        return restore(self.task.fresh, self.store.folder(key))

    def prepared(self, node: Node) -> tuple[nn.Module, TaskContext]:
        """Return the network that a step begins with, and the context of the step."""
        task = self.task
        key = node.key
        step = node.step
        # The step starts from the files of the step before, even if that step has just run. So an
        # interrupted run gives the same bits as an uninterrupted one.
        before = node.before
        model = self.load(before.key) if before and before.step else task.fresh(node.seed)
        ctx = TaskContext(
            task.data.example(),
            lambda count: task.data.calibration(count, node.seed),
            device=self.device,
            seed=int(key, 16) % 2**31,
            task=task,
            teacher=self._teacher(node.reference),
            watch=self.watch,
            where=str(step),
            clock=self.clock,
            checkpoints=self._checkpoints(step, key),
            tell=partial(self.logs.row, key),
            optimizer_state=OptimizerState(
                self.store.folder(before.key) if before and before.step else None
            ),
        )
        torch.manual_seed(ctx.seed)
        return model, ctx

    def _make(self, node: Node, rung: Rung | None) -> None:
        begin = time.monotonic()  # the system may set its clock back
        task = self.task
        key = node.key
        model, ctx = self.prepared(node)
        ctx.rung = rung
        if node.step is not None:
            with self._together(node.step, key) as ctx.ranks:
                model = node.step(model, ctx).to(CPU).eval()
        with self.store.entry(key) as folder:
            save(model, folder, task.spec)
            ctx.optimizer_state.write(folder)
            (folder / "log.jsonl").write_text(
                "".join(json.dumps(finite(row)) + "\n" for row in ctx.log), encoding="utf-8"
            )
            reloaded = restore(task.fresh, folder)
            images = task.data.example(4)
            with torch.no_grad():
                difference = largest_difference(
                    run_on_copied_inputs(reloaded, images), run_on_copied_inputs(model, images)
                )
            ctx.gate("reloaded = saved", difference, 0.0)
            write_record(folder, self._record(node, reloaded, ctx, begin).json())
        self.logs.network(self.store.record(key))
        for note in ctx.notes:
            self.say(f"{key}  note: {note}")

    def log(self, key: str) -> None:
        """Log a network that a worker made: its epochs and its record."""
        for row in self.store.log(key):
            self.logs.row(key, row)
        self.logs.network(self.store.record(key))

    def _together(self, step: Step, key: str) -> AbstractContextManager[Ranks | None]:
        if self.team is None or not step.learning:
            return nullcontext()
        return self.team.learning(key, self.device)

    def _checkpoints(self, step: Step | None, key: str) -> Checkpoints | None:
        if step is None or not step.learning or self.checkpoint_s is None:
            return None
        return Checkpoints(
            self.store.unfinished(key), self.checkpoint_s, lambda text: self.say(f"{key}  {text}")
        )

    def _teacher(self, reference: str) -> Callable[[str | None], nn.Module]:
        def one(spec: str) -> nn.Module:
            if os.path.isfile(spec.rpartition("=")[2]):
                return teacher_from(spec, self.task)
            key = self.store.find(spec)
            own = code_named(self.task.spec)
            # code that the user named for this run is trusted
            same = own is not None and own == code_in(self.store.folder(key))
            return load_key(key, self.store, own if same else None)

        def teacher(spec: str | None) -> nn.Module:
            if spec is not None:
                several = [one(name) for name in teachers_in(spec)]
                return several[0] if len(several) == 1 else Ensemble(several).eval()
            if self.task.teacher is not None:
                return self.task.teacher()
            return self.load(reference)

        return teacher

    def _record(self, node: Node, model: nn.Module, ctx: TaskContext, begin: float) -> Record:
        task = self.task
        data = task.data
        seen = data.example()
        if not is_plain(seen):  # the record needs the ranges of such inputs
            seen = concatenated(data.calibration(RANGE_SAMPLES))
        network = Network(
            key=node.key,
            scores={
                name: scored(task, network_answers(model, data, split, self.device))
                for name, split in (("valid", data.valid), ("test", data.test))
            },
            params=parameters(model),
            macs=macs(model, ctx.example),
            weights_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        )
        # the time that killed runs spent on this network
        before_s = ctx.checkpoints.before_s if ctx.checkpoints else 0
        return Record(
            network=network,
            before=node.before.key if node.before else None,
            recipe=str(node.recipe),
            step=str(node.step or ""),
            seed=node.seed,
            task=TaskSummary(
                model=task.name,
                data=data.name,
                kind=task.kind_text,
                shape=list(data.shape),
                inputs=[] if is_plain(seen) else inputs_of(seen),
                form=None if is_plain(seen) else form_of(seen),
                classes=len(data.classes),
                train=len(data.train),
                valid=len(data.valid),
                test=len(data.test),
                spec=task.spec,
                origin=task.origin,
                preprocessing=data.preprocessing(),
                notes=[*data.notes, *task.notes()],
            ),
            sizes=sizes(model),
            float=network if node.key == node.reference else self._uncompressed(node),
            facts=ctx.facts,
            notes=ctx.notes,
            gates=ctx.gates,
            layers=layer_table(model, ctx.example),
            targets={},
            machine=machine(),
            learned_on=learned_on(node.step, self.device, ctx.ranks),
            learned_threads=torch.get_num_threads(),
            created=round(time.time()),
            seconds=round(before_s + time.monotonic() - begin, 1),
        )

    def _uncompressed(self, node: Node) -> Network:
        if node.reference not in self.store:
            raise LissomError(
                f"store: {node.reference}, the uncompressed network that {node.key} is to be "
                "compared with, was deleted "
                "meanwhile; run it again"
            )
        return Network.of(self.store.record(node.reference))


def run(
    space: str | Space | Recipe,
    task: Task,
    store: str | Path | Store = ".lissom",
    *,
    targets: str | Iterable[Target] = (),
    seeds: Sequence[int] = (0,),
    threads: int = 1,
    device: str = "",
    bake: bool = False,
    teacher: str | None = None,
    checkpoint: float = EVERY_MIN,
    expect: str = "",
    log: str = "",
    workers: int | str = 0,
    worker_threads: int = 0,
    team: Team | None = None,
    say: Callable[[str], None] = silent,
    watch: Callable[[Progress], None] | None = None,
) -> list[dict[str, Any]]:
    """Run every recipe of a space for every seed; return the record of each finished recipe.

    Networks in the store are not made again. Each finished network is exported to every target and
    measured there next to the uncompressed one.

    `teacher`, a key of the store or a weight file, is used by every `distill` step that names none.
    `device` is where learning runs, by default a GPU if there is one. Learning writes a checkpoint
    every `checkpoint` minutes (0: never), and a run that was killed resumes from it. `expect`, such
    as top1=0.888, is what the uncompressed network must reach on the test set to within 0.005
    before it is compressed. `log` names further loggers: tensorboard, tensorboard:FOLDER,
    mlflow:URI (loggers.py). `team` is the group of processes that learn together.

    `workers` makes networks in parallel: a number of processes on this machine, "ray" or
    "ray://HOST:PORT" for a cluster, 0 for this process only. Each computes with `worker_threads`,
    by default its share of the cores. Files are then measured when all networks are made.

    Raises LissomError before the first epoch for every error that can be found by then. A step that
    fails later ends only the recipes that contain it. When the other recipes are done, Unmeasured
    reports the failure together with their records; so does a file that cannot be exported or run.
    """
    recipes = taught(space, teacher)
    wanted = targets_of(targets)
    store = store if isinstance(store, Store) else Store(store)
    check_run(task, store, recipes, bake=bake, say=say)
    last = ends(recipes, seeds, task.root)
    nodes = tree(last)
    runner = Run(
        task,
        store,
        device_of(device),
        say,
        watch,
        clock_of(threads, store.tables),
        Eta(node for node in nodes if node.key not in store),
        every_s(checkpoint),
        expected_in(expect, task.metric_names),
        Logs(log, say),
        team,
    )
    crew = crew_of(
        workers, worker_threads, runner, Setting(task, store, device, runner.checkpoint_s), say
    )
    for end in last:
        runner.rehearse(end)
    records = dict[str, dict[str, Any]]()

    def measure_end(end: Node) -> list[LissomError]:
        # if several processes want the same network measured, one measures and the others read
        with store.lock(end.key):
            failed = measure(
                task, store, end.key, end.reference, wanted, threads=threads, bake=bake, say=say
            )
            records[end.key] = mark_finished(store, end.key)
            runner.logs.network(records[end.key])
        return failed

    with store.protect([*(node.key for node in nodes), *teachers(recipes, store)]):
        failed = make_and_measure(runner, last, crew, measure_end)
    in_order = [records[end.key] for end in last if end.key in records]
    if failed:
        raise Unmeasured(failed, in_order) if in_order else failed[0]
    return in_order


def make_and_measure(
    runner: Run,
    ends: Sequence[Node],
    workers: Workers,
    measure_end: Callable[[Node], list[LissomError]],
) -> list[LissomError]:
    """Make and measure networks; return the errors, each once. If workers make them, all are made
    first, since nothing else may run during a latency measurement.
    """
    tell_untrained(runner.task, ends, runner.say)
    failed = list[LissomError]()
    later = list[Node]()
    networks = make_networks(ends, workers, runner, runner.store, runner.say, runner.log)
    with closing(networks) as ended:
        for end, error in ended:
            if error is None and workers.beside:
                later.append(end)
            elif error is None:
                failed += measure_end(end)
            elif error not in failed:
                failed.append(error)
                if len(ends) > 1:
                    runner.say(str(error))
    for end in later:
        failed += measure_end(end)
    return failed


def mark_finished(store: Store, key: str) -> dict[str, Any]:
    """Mark an entry as the end of a recipe, if it is not marked yet; return its record."""
    record = store.record(key)  # needless writes would take most of the time if all is in the store
    return record if record["finished"] else store.update(key, {"finished": True})
