"""Saved networks: mutated structure.json, and mutated model.safetensors."""

from __future__ import annotations

from pathlib import Path
from random import Random

from .family import Family, Mutant, refused
from .mutate import bytes_of, json_of, safetensors_of

NAMES = (
    "stem.0",
    "stem.1",
    "body.0",
    "last",
    "head",
    "head.weight",
    "Identity",
    "QuantizedConv2d",
    "QuantizedLinear",
    "CompressedConv2d",
    "CompressedLinear",
    "WindowAttention",
    "mask",
    "cast",
    "cluster",
    "0.cluster.codes",
    "",
    "forward",
    "__class__",
    "uniform",
    "lsq",
    "binary",
    "ternary",
    "percentile(0.999)",
    "act",
    "add",
    "attention",
    "up",
    "HeadAttention",
    "MultiheadAttention",
)


class Structures(Family):
    """Saved networks with a changed structure, loaded into a fresh network and run."""

    name = "structures"
    file = "structure.json"

    def make(self, seed: Path) -> None:
        """Save small networks after each of many recipes."""
        import warnings

        import torch

        import lissom

        from .networks import NETWORKS, SAVED

        torch.manual_seed(0)
        for number, (name, recipe) in enumerate(SAVED):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", lissom.LissomWarning)
                network = lissom.apply(recipe, NETWORKS[name](), torch.rand(8, 1, 8, 8))
                lissom.save(network, seed / f"{name}-{number}")

    def begin(self, seed: Path) -> None:
        """Read all seeds."""
        import torch

        self.files = {
            path.parent.name: {p.name: p.read_bytes() for p in path.parent.iterdir()}
            for path in sorted(seed.glob("*/structure.json"))
        }
        self.example = torch.rand(1, 1, 8, 8)
        for name, files in self.files.items():
            (self.work / name).mkdir(exist_ok=True)
            for file, data in files.items():
                (self.work / name / file).write_bytes(data)
            self.load(self.work / name)

    def mutant(self, rng: Random) -> Mutant:
        """Return structure.json of one network with a changed tree or changed bytes."""
        name = rng.choice(list(self.files))
        data = self.files[name][self.file]
        if rng.random() < 0.75:
            return {
                f"{name}/{self.file}": json_of(rng, data.decode(), NAMES).encode(errors="replace")
            }
        return {
            f"{name}/{self.file}": bytes_of(
                rng, data, self.files[rng.choice(list(self.files))][self.file]
            )
        }

    def read(self, mutant: Mutant) -> bool:
        """Load the network and run it on an image."""
        ((name, data),) = mutant.items()
        path = self.work / name
        path.write_bytes(data)
        try:
            return refused(lambda: self.load(path.parent))
        finally:
            path.write_bytes(self.files[path.parent.name][path.name])

    def load(self, folder: Path) -> None:
        """Call every function that reads a structure."""
        from lissom.store.snapshot import has_packable_weights, rounded_activations

        has_packable_weights(folder)
        rounded_activations(folder)
        self.run(folder)

    def run(self, folder: Path) -> None:
        """Load the network and run it on an example."""
        import torch

        import lissom

        from .networks import NETWORKS

        model = lissom.load(folder, NETWORKS[folder.name.partition("-")[0]]())
        with torch.no_grad():
            model(self.example)


class Safetensors(Structures):
    """Saved networks with changed weights: header, header length or tensors."""

    name = "safetensors"
    seeds = "structures"
    file = "model.safetensors"

    def load(self, folder: Path) -> None:
        """Only load and run the network, since the structure is unchanged."""
        self.run(folder)

    def mutant(self, rng: Random) -> Mutant:
        """Return a changed model.safetensors of one network, or sometimes that of another network."""
        name = rng.choice(list(self.files))
        if rng.random() < 0.05:
            return {f"{name}/{self.file}": self.files[rng.choice(list(self.files))][self.file]}
        return {f"{name}/{self.file}": safetensors_of(rng, self.files[name][self.file], NAMES)}
