"""Recipes, spaces, lists of runtimes and the small texts of options."""

from __future__ import annotations

from pathlib import Path
from random import Random

from .family import Family, Mutant, Wrong, refused
from .mutate import bytes_of, text_of

SEEDS = (
    "train(30) | prune(0.5) | quantize(8)",
    'train(3) | sparsify(1e-4, 4) | prune(0.5, of="macs", by="bn", multiple=8) | distill("kd", '
    "10) | quantize(8)",
    "fold | 3 * (prune(0.1, by=l1) | train(1, lr={0.1, 0.01})) | {quantize(8), quantize(4, inputs=4)}",
    "{(prune(.3) | train(2)), mask(0.8), cast('fp16')} | quantize({'binary', 'ternary'}, 8)",
    'train(2) | distill("kd(temperature=4) + 0.5*gram", 10, teacher="resnet56=big.safetensors")',
    'quantize(4, inputs=4, grid="lsq", inputs_grid="pact", range="percentile(0.999)", '
    'keep="stem,head", rounding="learned")',
    "{2, 3} * {prune({0.1, 0.2}), mask(0.5)} | train({1, 2, 3})",
)
WORDS = (
    "|",
    "*",
    "+",
    "-",
    "~",
    "not",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    ",",
    "=",
    ":",
    ".",
    "**",
    "lambda",
    "if",
    "for",
    "await",
    "yield",
    "train",
    "prune",
    "quantize",
    "mask",
    "fold",
    "cast",
    "distill",
    "sparsify",
    "equalize",
    "kd",
    "gram",
    "l1",
    "bn",
    "lsq",
    "uniform",
    "by",
    "of",
    "inputs",
    "teacher",
    "range",
    "lr",
    "batch",
    "None",
    "True",
    "False",
    "0",
    "1",
    "-1",
    "8",
    "1000",
    "9" * 40,
    "9" * 5_000,
    "1e999",
    "1e-999",
    "0x10",
    "0b1",
    "1_0",
    "1j",
    "nan",
    "inf",
    '"',
    "'",
    '"""',
    "f'{1}'",
    "b'1'",
    "u'a'",
    r"'\ud800'",
    r"'\x00'",
    "\\",
    "\n",
    "\t",
    "\0",
    "#",
    ";",
    "é",
    "\u202e",
    "\ud800",
    "\x1b[31m",
    "𝔭𝔯𝔲𝔫𝔢",
    "...",
    "__import__",
    "os.system",
    "a" * 3_000,
)
TARGETS = (
    'onnxruntime,openvino(precision="bf16")',
    "torch",
    'mnn(8, activations="kl")',
    "ncnn, executorch",
    "onnxruntime(packed=True)",
)
OPTIONS = ("0", "0,3", "0-4", "1,16", "32", "32x48", "0-2,7")


class Recipes(Family):
    """Texts changed by words and by bytes, read by every parser of texts."""

    name = "recipes"

    def make(self, seed: Path) -> None:
        """Do nothing: the seeds are texts in this file."""

    def begin(self, seed: Path) -> None:  # noqa: ARG002
        """Check that the seeds are valid."""
        from lissom.language.recipe import Space

        for text in SEEDS:
            Space(text)

    def mutant(self, rng: Random) -> Mutant:
        """Return a text for a recipe, for runtimes or for options."""
        kind = rng.choice(("recipe",) * 8 + ("target", "option"))
        text = rng.choice({"recipe": SEEDS, "target": TARGETS, "option": OPTIONS}[kind])
        if rng.random() < 0.02:
            text = large(rng)
        elif rng.random() < 0.8:
            text = text_of(rng, text, WORDS)
        else:
            text = bytes_of(rng, text.encode()).decode(errors="surrogateescape")
        return {kind: text.encode(errors="surrogatepass")}

    def read(self, mutant: Mutant) -> bool:
        """Read the text as the command line does. A valid recipe is also written and read again."""
        from lissom.cli.counts import numbers_of, seeds_of, size_of
        from lissom.running.plan import targets_of

        ((kind, data),) = mutant.items()
        text = data.decode(errors="surrogatepass")
        if kind == "recipe":
            return refused(lambda: _again(text))
        if kind == "target":
            return refused(lambda: targets_of(text))
        return any(
            [
                refused(lambda: seeds_of(text)),
                refused(lambda: numbers_of(text, "--batch", 1024)),
                refused(lambda: size_of(text)),
            ]
        )


def _again(text: str) -> None:
    from lissom.language.recipe import Recipe, Space

    for recipe in list(Space(text))[:3]:
        if Recipe(str(recipe)) != recipe or not all(recipe.keys("root")):
            raise Wrong(f"'{recipe}' is read back as another recipe")


def large(rng: Random) -> str:
    """Return a text that is absurdly large in one of many ways."""
    count = rng.choice((100, 1_000, 5_000, 30_000))
    return rng.choice(
        (
            " | ".join(["fold"] * count),
            f"prune({{{', '.join(str(n / count / 2 + 0.1) for n in range(count))}}})",
            "(" * count + "fold" + ")" * count,
            "{" * count + "fold" + "}" * count,
            f"{count} * fold",
            f"{count} * ({count} * fold)",
            "2 * " * count + "fold",
            "-" * count + "1",
            f"prune({'-' * count}1)",
            f"fold(x={'[' * count})",
            f"prune(0.5, by={'a' * count})",
            " | ".join(["{fold, prune(0.1)}"] * min(count, 1000)),
            f"{{{', '.join(['fold'] * count)}}}",
            f"{{{', '.join(str(n + 1) for n in range(count))}}} * fold",
            "fold" * count,
            f"'{'x' * count}'",
            "\n" * count,
            f"distill('{' + '.join(['kd'] * count)}', 3)",
            f"prune({', '.join(f'a{n}=1' for n in range(count))})",
            "kd(" * count,
            f"prune({'9' * count})",
            f"quantize({{{', '.join(str(n) for n in range(count))}}}, "
            f"{{{', '.join(str(n) for n in range(count))}}})",
            f"prune({{{', '.join(['0.5'] * count)}}}, by={{l1, l2}})",
            f"train({count}, lr={{{', '.join(f'0.{n + 1}' for n in range(count))}}})",
        )
    )
