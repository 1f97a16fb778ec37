"""Find where a quantized network loses accuracy: by stage, by layer, by file."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch

from ..bench.capped import CAPS, capped
from ..bench.process import loaded
from ..data.own_splits import are_classes
from ..data.split import CPU, spread
from ..errors import LissomError, Unmeasured, silent
from ..language.recipe import Recipe
from ..language.target import Target
from ..learning.evaluate import file_answers, network_outputs, relative, scored, together
from ..report.explanation import LEARNED, best_tried, concluded
from ..report.rows import main_score
from ..running.execute import run
from ..running.measure import exported, inputs_in
from ..running.plan import ends
from ..steps.quantize import Quantize
from ..store.snapshot import restore
from ..store.store import Store
from ..surgery.coverage import told
from ..surgery.plain_layers import make_plain
from ..surgery.quantization.layers import QuantizedLayer
from ..surgery.quantization.network import QuantizedNetwork
from ..surgery.quantization.noise import Layers, layer_noise, layers_of, rounding_only, roundings
from ..surgery.quantization.prepare import prepare_layers, unrounded
from ..tasks.task import Task
from ..tasks.teachers import teacher_code, teachers_in
from ..trees import Tree, answer_in, answer_of, length, put_in, tensors_in
from .remedies import remedies

WORST = 3  # number of layers that are named
CAPPED = 1000  # images that are run with a capped instruction set


@dataclass
class Explained:
    """A quantized network of the store, and the comparisons that explain its loss of accuracy.

    Raises LissomError if the task does not fit the entry, or nothing in it is quantized.
    """

    task: Task
    store: Store
    key: str
    say: Callable[[str], None] = silent

    def __post_init__(self) -> None:
        self.record = self.store.record(self.key)
        made = self.record["task"]
        own = f"{made['data']}, seen as {tuple(made['shape'])}"
        data = f"{self.task.data.name}, seen as {self.task.data.shape}"
        if own != data:
            raise LissomError(
                f"explain: {self.key} learned on {own}; --data, --preprocess and --size say {data}"
            )
        try:
            whole = restore(self.task.fresh, self.store.folder(self.key))
        except LissomError as error:
            if made["model"] == self.task.name:
                raise
            raise LissomError(
                f"explain: {self.key} is a {made['model']}; --model says {self.task.name}"
            ) from error
        if not isinstance(whole, QuantizedNetwork):
            raise LissomError(
                f"explain: nothing of {self.key} is quantized "
                f"({self.record['recipe'] or 'as given'})"
            )
        self.whole = whole
        self.steps = Recipe(self.record["recipe"]).steps
        self.place = max(k for k, step in enumerate(self.steps) if isinstance(step, Quantize))
        self.trained = self.place < len(self.steps) - 1

    def source(self) -> str:
        """Return the key of the float network to compare with: the one that was quantized, or the
        uncompressed one if the network has learned since.
        """
        found: str = self.record["float"]["key"] if self.trained else self.record["before"]
        return found

    def floats(self) -> Layers | None:
        """Return the layers as they were before quantization; None if they have learned since."""
        if self.trained:
            return None
        step = self.steps[self.place]
        assert isinstance(step, Quantize)
        before = unrounded(restore(self.task.fresh, self.store.folder(self.source())))
        before = copy.deepcopy(before)
        make_plain(before, self.task.data.example())
        prepare_layers(before, self.task.data.example(), step.fold)
        return {
            name: layer
            for name, layer in before.named_modules()
            if isinstance(layer, QuantizedLayer) and name in layers_of(self.whole)
        }

    def all(self, targets: Sequence[Target], images: int = 1000) -> dict[str, Any]:
        """Return all findings; layers are examined on up to `images` validation images."""
        floats = self.floats()
        stages, simulated, labels = self.stages(floats)
        layers, ends = self.layers(images, floats)
        found: dict[str, Any] = {
            "images": {"stages": length(labels), "layers": min(images, len(self.task.data.valid))},
            "against": self.source(),
            "trained_since": self.trained,
            "stages": stages,
            "layers": layers,
            "worst": [
                row["name"] for row in sorted(layers, key=itemgetter("noise"))[: -WORST - 1 : -1]
            ],
            "ends": ends,
            "targets": {
                str(target): self.artefact(target, simulated, labels) for target in targets
            },
        }
        found["said"] = [
            *(f"{note}." for note in self.task.notes()),
            *self.left_float(),
            *concluded(found),
        ]
        return found

    def left_float(self) -> list[str]:
        """Return [a sentence on the layers that quantize left float, and why], or []."""
        step = str(self.steps[self.place])
        made_from = self.store.chain(self.record)  # one record for each step, the last step's first
        back = len(self.steps) - 1 - self.place
        facts = made_from[back]["facts"] if back < len(made_from) else {}
        return [
            f"{said}."
            for said in [
                told(step, facts.get("quantized", 0), facts.get("left_float", {}), "float")
            ]
            if said
        ]

    def stages(self, floats: Layers | None) -> tuple[list[dict[str, Any]], Tree, Tree]:
        """Return the score on the test images for each stage of rounding, and the outputs and
        labels with everything rounded.
        """
        test = self.task.data.test
        whole = self.whole
        layers = layers_of(whole).values()
        weights = [r for layer in layers for r in roundings(layer, "weights")]
        inputs = [whole.grid_of(site) for site in whole.grids]
        source = restore(self.task.fresh, self.store.folder(self.source()))
        self.say(f"{self.key}  float, folded, weights, inputs, both: {len(test)} images each")
        reference, labels = network_outputs(source, self.task.data, test)
        rows = [self.stage("float", reference, reference, labels)]
        simulated = reference
        for name, kept in (
            (LEARNED if self.trained else "folded", []),
            ("weights only", weights),
            ("inputs only", inputs),
            ("both, simulated", [*weights, *inputs]),
        ):
            with rounding_only(whole, kept, floats):
                simulated, _ = network_outputs(whole, self.task.data, test)
            # changes by learning are not counted as noise of rounding
            reference = simulated if name == LEARNED else reference
            rows.append(self.stage(name, simulated, reference, labels))
        return rows, simulated, labels

    def stage(self, name: str, outputs: Tree, reference: Tree, labels: Tree) -> dict[str, Any]:
        """Return the score of one stage, and how many answers became wrong or right."""
        row: dict[str, Any] = {
            "name": name,
            "score": self.metric(outputs, labels),
            "noise": relative(outputs, reference),
        }
        answer = answer_in(outputs)
        if answer is not None and answer.ndim - 1 == labels.ndim == 1 and are_classes(labels):
            now = answer.argmax(1) == labels
            then = answer_of(reference).argmax(1) == labels
            row.update(lost=int((then & ~now).sum()), won=int((now & ~then).sum()))
        return row

    def layers(
        self, images: int, floats: Layers | None
    ) -> tuple[list[dict[str, Any]], dict[str, float | None]]:
        """Return a row for each layer: its rounding noise, and the score with only this layer
        rounded and with all others rounded.

        Return as well the scores with nothing and with everything rounded, on the same images.
        """
        data = self.task.data
        whole = self.whole
        layers = layers_of(self.whole)
        some = spread(data.valid, images)
        rows = layer_noise(whole, data.calibration(min(256, images)), floats)
        inputs = [whole.grid_of(site) for site in whole.grids]
        every = [*(r for layer in layers.values() for r in roundings(layer, "weights")), *inputs]
        with rounding_only(whole, [], floats):
            reference, labels = network_outputs(whole, data, some)
        ends = {
            "float": self.metric(reference, labels),
            "rounded": self.metric(network_outputs(whole, data, some)[0], labels),
        }
        for row in rows:
            own = roundings(layers[row["name"]])
            self.say(f"{self.key}  {row['name']}: alone and left out, {len(some)} images")
            for word, kept in (
                ("alone", own),
                ("left_out", [r for r in every if not any(r is o for o in own)]),
            ):
                with rounding_only(whole, kept, floats):
                    outputs, _ = network_outputs(whole, data, some)
                row[word] = self.metric(outputs, labels)
                if word == "alone":
                    row["noise"] = relative(outputs, reference)
        return rows, ends

    def artefact(self, target: Target, simulated: Tree, labels: Tree) -> dict[str, Any]:
        """Return the score of a file on the test images, and its scores on older processors."""
        data = self.task.data
        self.say(f"{self.key}  {target}: {len(data.test)} images")
        path = exported(self.store, self.key, target, False, self.task.fresh, data.calibration)
        with loaded(str(target), path, inputs_in(self.record, 1)) as process:
            found = file_answers(process.run, self.task, data.test, False, simulated)
            outputs, _ = together(found)
        alike = self.task.agreement()
        alike.add(outputs, simulated)
        fused = target.fused(path)
        return {
            "score": self.metric(outputs, labels),
            "noise": relative(outputs, simulated),
            "agreement": alike.values().get("agreement"),
            "fused": str(fused) if fused else None,
            "not_fused": list(fused.rest) if fused else [],
            "capped": self.older(target, path, simulated) if target.name() == "openvino" else [],
        }

    def older(self, target: Target, path: Any, simulated: Tree) -> list[dict[str, Any]]:
        """Return score and latency of a file for each cap on the processor's instruction set. Its
        outputs have the form of `simulated`.
        """
        some = spread(self.task.data.test, CAPPED)
        see = self.task.data.normalised
        images, labels = together((see(x), y) for x, y in some.batches(250, CPU))
        samples = [t.numpy() for t in tensors_in(images)]
        rows = list[dict[str, Any]]()
        plain: Tree = None
        for cap in CAPS:
            found = capped(target, path, samples, cap)
            if found is None:
                continue
            outputs = put_in(simulated, [torch.from_numpy(part) for part in found[0]])
            plain = outputs if not rows else plain
            rows.append(
                {
                    "cap": cap or "as it is",
                    "score": self.metric(outputs, labels),
                    "noise": relative(outputs, plain),
                    "latency_ms": round(found[1], 4),
                }
            )
        return rows

    def tried(
        self, found: dict[str, Any], targets: Sequence[Target], device: torch.device
    ) -> list[dict[str, Any]]:
        """Run each remedy as a recipe and return the results, best on validation data first.

        Raises LissomError if the task cannot reproduce the network.
        """
        (end,) = ends([Recipe(self.steps)], [self.record["seed"]], self.task.root)
        if end.key != self.key:
            raise LissomError(
                f"explain: {self.key} was made of another network or other data "
                "than given here; --try needs "
                "the same --data, --model and --weights"
            )
        named = [
            text
            for step in self.steps
            for text in teachers_in(getattr(step, "teacher", None) or "")
        ]
        code = next(filter(teacher_code, named), None)
        if code and not self.store.own(self.key):
            raise LissomError(
                f"explain: the recipe of {self.key} would import {code:.80}, and "
                "nothing shows that your "
                f"lissom wrote it; lissom store --trust --store {self.store.root} signs it"
            )
        rows = list[dict[str, Any]]()
        main = self.task.metric_names[0]
        for what, recipe in [
            ("as it is", Recipe(self.steps)),
            *remedies(self.steps, self.place, found),
        ]:
            try:
                (record,) = run(
                    recipe,
                    self.task,
                    self.store,
                    targets=targets,
                    seeds=[self.record["seed"]],
                    device=str(device),
                    say=self.say,
                )
            except Unmeasured as error:  # some of its files failed
                (record,) = error.records
            except LissomError as error:
                rows.append({"what": what, "recipe": str(recipe), "failed": str(error)})
                continue
            rows.append(
                {
                    "what": what,
                    "recipe": str(recipe),
                    "key": record["key"],
                    "failed": None,
                    "valid": main_score(record["scores"]["valid"]),
                    "test": main_score(record["scores"]["test"]),
                    "targets": {
                        t: {
                            "score": f[main],
                            "size_bytes": f["size_bytes"],
                            "latency_ms": f["latency_ms"],
                        }
                        for t, f in record["targets"].items()
                        if t in map(str, targets)
                    },
                }
            )
        found["said"] += best_tried(rows, len(self.task.data.valid))
        return sorted(rows, key=lambda row: -(row.get("valid") or -math.inf))

    def metric(self, outputs: Tree, labels: Tree) -> float | None:
        """Return the task's first metric of outputs (n classes) against labels (n)."""
        return main_score(scored(self.task, [(outputs, labels)]))
