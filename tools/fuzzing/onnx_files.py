"""Files for --model onnx:FILE: small networks of convolutions, of attention, and in integers."""

from __future__ import annotations

import warnings
from pathlib import Path
from random import Random

from .family import Family, Mutant, Wrong, refused
from .mutate import bytes_of


class Onnx(Family):
    """ONNX files that lissom and PyTorch exported."""

    name = "onnx"

    def make(self, seed: Path) -> None:
        """Export a network in float and in integers, and one with attention."""
        import torch
        from torch import nn

        import lissom

        torch.manual_seed(0)
        convolutions = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ).eval()
        images = torch.randn(4, 2, 6, 6)
        whole = lissom.apply("quantize(8)", convolutions, images, images, notes=True)[0]
        lissom.export(convolutions, "onnxruntime", str(seed / "float.onnx"), shape=(2, 6, 6))
        lissom.export(whole, "onnxruntime", str(seed / "integers.onnx"), shape=(2, 6, 6))

        class Attention(nn.Module):
            """Attention with two heads."""

            def __init__(self) -> None:
                super().__init__()
                self.qkv = nn.Linear(8, 24)
                self.norm = nn.LayerNorm(8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
                weights = (q @ k.transpose(-2, -1)).softmax(-1)
                return nn.functional.gelu(self.norm(x + (weights @ v).transpose(1, 2).flatten(2)))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Attention().eval(),
                (torch.randn(2, 5, 8),),
                str(seed / "attention.onnx"),
                dynamo=False,
                input_names=["x"],
                dynamic_axes={"x": {0: "batch"}},
            )

    def begin(self, seed: Path) -> None:
        """Read all seeds."""
        self.files = {path.name: path.read_bytes() for path in sorted(seed.glob("*.onnx"))}
        for name, data in self.files.items():
            if self.read({name: data}):
                raise Wrong(f"the seed {name} is refused")

    def mutant(self, rng: Random) -> Mutant:
        """Return a file with changed bytes, or with a part of another file."""
        name = rng.choice([*self.files])
        return {name: bytes_of(rng, self.files[name], self.files[rng.choice([*self.files])])}

    def read(self, mutant: Mutant) -> bool:
        """Import the file as a network and check it against ONNX Runtime."""
        from lissom import from_onnx

        ((name, data),) = mutant.items()
        path = self.work / name
        path.write_bytes(data)
        return refused(lambda: from_onnx(path))
