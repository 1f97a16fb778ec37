"""Names of layers: from the weight's name, otherwise the node's, otherwise operator and number.

The forward is generated Python code, so names contain only letters, digits and _.
"""

from __future__ import annotations

import ast
import keyword
import re
from functools import cache

MOST_PARTS = 24
MAX_PART_LENGTH = 60  # characters of a part
LONGEST_SCOPES = 20_000
# metadata key under which PyTorch's exporter stores the modules around a node
SCOPES = "pkg.torch.onnx.name_scopes"
WEIGHT = re.compile(
    r"[._/](weight|bias|kernel|gamma|scale|running_mean|W|w)(_Transposed)?(_quantized|:0)?$"
)
# names that exporters generate for unnamed tensors
NAMELESS = re.compile(r"^(onnx::|val_|_val|t\d|tensor|const|/|\d+$)", re.I)


def module_name(text: str) -> str:
    """Return a text as a valid dotted module name.

    >>> module_name("features.0"), module_name("block/conv-1"), module_name("a..b; import os")
    ('features.0', 'block.conv_1', 'a.b__import_os')
    >>> module_name("net.forward"), module_name("")
    ('net.forward_', '')
    """
    parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) for part in re.split(r"[./]+", text[:2_000])]
    kept = [part[:MAX_PART_LENGTH] for part in parts if part][:MOST_PARTS]
    return ".".join(f"{part}_" if part in names_of_modules() else part for part in kept)


@cache
def names_of_modules() -> frozenset[str]:
    """Return the attribute names of every module."""
    from torch import nn

    return frozenset(dir(nn.Module()))


def argument_name(text: str) -> str:
    """Return a text as a valid argument name of a forward.

    >>> argument_name("pixel values"), argument_name("1"), argument_name("class"), argument_name("self")
    ('pixel_values', 'input_1', 'class_', 'self_')
    """
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)[:MAX_PART_LENGTH]
    if not name or not name[0].isalpha():
        name = f"input_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name in ("self", "torch") else name


def name_of_weight(tensor: str) -> str:
    """Return the layer named by the name of its weight, "" if the name has no layer in it.

    >>> name_of_weight("features.0.weight"), name_of_weight("conv0_weight"), name_of_weight("W1")
    ('features.0', 'conv0', '')
    >>> name_of_weight("onnx::Conv_12"), name_of_weight("attn.in_proj_weight")
    ('', 'attn.in_proj')
    """
    if NAMELESS.match(tensor):
        return ""
    layer = WEIGHT.sub("", tensor)
    return "" if layer == tensor else module_name(layer)


def scopes_in(text: str) -> list[str]:
    """Return the modules around a node, then its call, from the text of PyTorch's exporter.

    >>> scopes_in("['', 'blocks', 'blocks.0', 'linear']"), scopes_in("no list")
    (['', 'blocks', 'blocks.0', 'linear'], [])
    """
    try:
        return [str(scope) for scope in ast.literal_eval(text[:LONGEST_SCOPES])]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []


def name_of_scope(text: str) -> str:
    """Return the innermost module around a node, from the text of PyTorch's exporter.

    >>> name_of_scope("['', 'blocks', 'blocks.0', 'linear']")
    'blocks.0'
    """
    return module_name(next((scope for scope in scopes_in(text)[-2::-1] if scope), ""))


def name_of_node(node: str, op: str) -> str:
    """Return the layer named by the name of a node, "" if the name has no layer in it.

    >>> name_of_node("/layer1/layer1.0/conv1/Conv", "Conv"), name_of_node("Conv_12", "Conv")
    ('layer1.0.conv1', '')
    >>> name_of_node("head/dense", "Gemm"), name_of_node("node_conv2d", "Conv")
    ('head.dense', '')
    """
    parts = [part for part in node.split("/") if part]
    if parts and re.fullmatch(rf"{re.escape(op)}(_\d+)?", parts[-1]):
        parts.pop()
    if not parts or re.match(r"node_|n\d+$|\d+$", parts[-1], re.I):
        return ""
    kept = [
        p for p, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{p}.")
    ]
    return module_name(".".join(kept))
