"""Find where a quantized network loses accuracy: by stage, by layer, and in each file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..data.own_splits import are_classes
from ..data.split import evenly_spaced
from ..errors import LissomError, silent
from ..language.recipe import Recipe
from ..language.target import Target
from ..learning.evaluate import network_outputs, relative
from ..report.explanation import LEARNED_STAGE, conclusions
from ..running.measure import export_if_missing
from ..steps.quantize import Quantize
from ..store.snapshot import restore
from ..store.store import Store
from ..surgery.coverage import coverage_sentence
from ..surgery.plain_layers import make_plain
from ..surgery.quantization.layers import QuantizedLayer
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.noise import Layers, layer_noise, layers_of, rounding_only, roundings
from ..surgery.quantization.prepare import prepare_layers, unrounded
from ..tasks.task import Task
from ..trees import Tree, answer_in, answer_of, length
from .explain_files import file_row, main_metric

WORST_LAYERS = 3  # number of layers that are named


@dataclass
class Explainer:
    """Compare a quantized network of the store, rounded in part, with its float reference.

    `network` is the quantized network, `steps` those of its recipe, and `quantize_at` the index of
    the last step quantize. `learned_since`: learning steps came after it.

    Raises LissomError if the task does not fit the entry, or nothing in it is quantized.
    """

    task: Task
    store: Store
    key: str
    say: Callable[[str], None] = silent

    def __post_init__(self) -> None:
        self.record = self.store.record(self.key)
        task = self.record["task"]
        entry_data = f"{task['data']}, seen as {tuple(task['shape'])}"
        data = f"{self.task.data.name}, seen as {self.task.data.shape}"
        if entry_data != data:
            raise LissomError(
                f"explain: {self.key} learned on {entry_data}; --data, --preprocess and --size "
                f"say {data}"
            )
        try:
            network = restore(self.task.fresh, self.store.folder(self.key))
        except LissomError as error:
            if task["model"] == self.task.name:
                raise
            raise LissomError(
                f"explain: {self.key} is a {task['model']}; --model says {self.task.name}"
            ) from error
        if not isinstance(network, QuantizedNetwork):
            raise LissomError(
                f"explain: nothing of {self.key} is quantized "
                f"({self.record['recipe'] or 'as given'})"
            )
        self.network = network
        self.steps = Recipe(self.record["recipe"]).steps
        self.quantize_at = max(k for k, step in enumerate(self.steps) if isinstance(step, Quantize))
        self.learned_since = self.quantize_at < len(self.steps) - 1

    def reference_key(self) -> str:
        """Return the key of the float network to compare with: the one that was quantized, or the
        uncompressed one if the network has learned since.
        """
        found: str = self.record["float"]["key"] if self.learned_since else self.record["before"]
        return found

    def float_layers(self) -> Layers | None:
        """Return the layers as they were before quantization; None if they have learned since."""
        if self.learned_since:
            return None
        step = self.steps[self.quantize_at]
        assert isinstance(step, Quantize)
        before = unrounded(restore(self.task.fresh, self.store.folder(self.reference_key())))
        before = copy.deepcopy(before)
        make_plain(before, self.task.data.example())
        prepare_layers(before, self.task.data.example(), step.fold)
        return {
            name: layer
            for name, layer in before.named_modules()
            if isinstance(layer, QuantizedLayer) and name in layers_of(self.network)
        }

    def findings(self, targets: Sequence[Target], images: int = 1000) -> dict[str, Any]:
        """Return all findings; layers are examined on up to `images` validation images."""
        paths = {target: self.file(target) for target in targets}  # fails early if it must fail
        floats = self.float_layers()
        stages, simulated, labels = self.stages(floats)
        layers, ends = self.layers(images, floats)
        files = {
            str(target): self.measured_file(target, path, simulated, labels)
            for target, path in paths.items()
        }
        findings: dict[str, Any] = {
            "images": {"stages": length(labels), "layers": min(images, len(self.task.data.valid))},
            "against": self.reference_key(),
            "trained_since": self.learned_since,
            "stages": stages,
            "layers": layers,
            "worst": [
                row["name"]
                for row in sorted(layers, key=itemgetter("noise"))[: -WORST_LAYERS - 1 : -1]
            ],
            "ends": ends,
            "targets": files,
        }
        findings["said"] = [
            *(f"{note}." for note in self.task.notes()),
            *self.float_layers_note(),
            *conclusions(findings),
        ]
        return findings

    def float_layers_note(self) -> list[str]:
        """Return [a sentence on the layers that quantize left float, and why], or []."""
        step = str(self.steps[self.quantize_at])
        records = self.store.chain(self.record)  # one record for each step, the last step's first
        index = len(self.steps) - 1 - self.quantize_at
        facts = records[index]["facts"] if index < len(records) else {}
        count = facts.get("quantized", 0)
        sentence = coverage_sentence(step, count, facts.get("left_float", {}), "float")
        return [f"{sentence}."] if sentence else []

    def stages(self, floats: Layers | None) -> tuple[list[dict[str, Any]], Tree, Tree]:
        """Return the score on the test images for each stage of rounding, and the outputs and
        labels with everything rounded.
        """
        test = self.task.data.test
        network = self.network
        layers = layers_of(network).values()
        weights = [r for layer in layers for r in roundings(layer, "weights")]
        inputs = [network.grid_of(site) for site in network.grids]
        source = restore(self.task.fresh, self.store.folder(self.reference_key()))
        self.say(f"{self.key}  float, folded, weights, inputs, both: {len(test)} images each")
        reference, labels = network_outputs(source, self.task.data, test)
        rows = [self.stage_row("float", reference, reference, labels)]
        simulated = reference
        for name, kept in (
            (LEARNED_STAGE if self.learned_since else "folded", []),
            ("weights only", weights),
            ("inputs only", inputs),
            ("both, simulated", [*weights, *inputs]),
        ):
            with rounding_only(network, kept, floats):
                simulated, _ = network_outputs(network, self.task.data, test)
            # changes by learning are not counted as noise of rounding
            reference = simulated if name == LEARNED_STAGE else reference
            rows.append(self.stage_row(name, simulated, reference, labels))
        return rows, simulated, labels

    def stage_row(self, name: str, outputs: Tree, reference: Tree, labels: Tree) -> dict[str, Any]:
        """Return the score of one stage, and how many answers became wrong or right."""
        row: dict[str, Any] = {
            "name": name,
            "score": main_metric(self.task, outputs, labels),
            "noise": relative(outputs, reference),
        }
        answer = answer_in(outputs)
        if answer is not None and answer.ndim - 1 == labels.ndim == 1 and are_classes(labels):
            correct = answer.argmax(1) == labels
            was_correct = answer_of(reference).argmax(1) == labels
            row.update(
                lost=int((was_correct & ~correct).sum()), won=int((correct & ~was_correct).sum())
            )
        return row

    def layers(
        self, images: int, floats: Layers | None
    ) -> tuple[list[dict[str, Any]], dict[str, float | None]]:
        """Return a row for each layer: its rounding noise, and the score with only this layer
        rounded and with all others rounded.

        Return as well the scores with nothing and with everything rounded, on the same images.
        """
        data = self.task.data
        network = self.network
        layers = layers_of(self.network)
        part = evenly_spaced(data.valid, images)
        rows = layer_noise(network, data.calibration(min(256, images)), floats)
        inputs = [network.grid_of(site) for site in network.grids]
        all_roundings = [
            *(r for layer in layers.values() for r in roundings(layer, "weights")),
            *inputs,
        ]
        with rounding_only(network, [], floats):
            reference, labels = network_outputs(network, data, part)
        ends = {
            "float": main_metric(self.task, reference, labels),
            "rounded": main_metric(self.task, network_outputs(network, data, part)[0], labels),
        }
        for row in rows:
            own = roundings(layers[row["name"]])
            self.say(f"{self.key}  {row['name']}: alone and left out, {len(part)} images")
            for column, kept in (
                ("alone", own),
                ("left_out", [r for r in all_roundings if not any(r is o for o in own)]),
            ):
                with rounding_only(network, kept, floats):
                    outputs, _ = network_outputs(network, data, part)
                row[column] = main_metric(self.task, outputs, labels)
                if column == "alone":
                    row["noise"] = relative(outputs, reference)
        return rows, ends

    def file(self, target: Target) -> Path:
        """Return the network's file for a target; export it if the store has none."""
        return export_if_missing(
            self.store,
            self.key,
            target,
            False,
            self.task.fresh,
            self.task.data.calibration,
            say=self.say,
        )

    def measured_file(
        self, target: Target, path: Path, simulated: Tree, labels: Tree
    ) -> dict[str, Any]:
        """Return the metric of a file in its runtime, and on older processors."""
        self.say(f"{self.key}  {target}: {len(self.task.data.test)} images")
        return file_row(self.task, self.record, target, path, simulated, labels)
