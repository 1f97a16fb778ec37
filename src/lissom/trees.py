"""Inputs and outputs as trees: a tensor, or a tuple, list, dict or dataclass of them.

A network is called with a tree: a tuple or list gives positional arguments, a dict keyword
arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .errors import LissomError

# a tensor, or a tuple, list, dict or dataclass of trees; anything else is passed on unchanged
Tree: TypeAlias = Any

ANSWER_NAMES = ("logits", "out")  # the names of the answer among several outputs

# If a network picks the best k rows of many, this output of integers (n k) says which rows the
# other outputs contain, since their order may differ between runtimes.
ROW_IDS = "row_ids"
SOME_SAMPLES = 64  # what `some_of` returns

TYPES_WITHOUT_TENSORS = (
    int,
    float,
    str,
    type(None),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


def tensors_in(tree: Tree) -> Iterator[Tensor]:
    """Yield every tensor of a tree, in order.

    >>> [len(t) for t in tensors_in({"one": torch.zeros(2), "rest": [torch.zeros(3), "text"]})]
    [2, 3]
    """
    if isinstance(tree, Tensor):
        yield tree
    else:
        for part in tree if isinstance(tree, (list, tuple)) else parts_of(tree):
            if isinstance(part, Tensor):
                yield part
            elif not isinstance(
                part, TYPES_WITHOUT_TENSORS
            ):  # most arguments of an operation are plain, and parts_of is slow for them
                yield from tensors_in(part)


def parts_of(tree: Tree) -> Sequence[Tree]:
    """Return the parts of a tuple, list, dict or dataclass, in order; () for anything else."""
    if isinstance(tree, (list, tuple)):
        return tree
    if isinstance(tree, Mapping):
        return list(tree.values())
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [getattr(tree, field.name, None) for field in dataclasses.fields(tree)]
    return ()


def mapped(call: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Return a tree of the same form with `call` applied to each tensor.

    >>> mapped(torch.neg, (torch.ones(1), {"b": torch.ones(1)}))
    (tensor([-1.]), {'b': tensor([-1.])})
    """
    if isinstance(tree, Tensor):
        return call(tree)
    if isinstance(tree, Mapping):
        return {key: mapped(call, part) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [mapped(call, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = [field.name for field in dataclasses.fields(tree) if field.init]
        return dataclasses.replace(
            tree, **{name: mapped(call, getattr(tree, name)) for name in fields}
        )
    return tree


def output_named(outputs: Tree, name: str) -> Tensor | None:
    """Return the tensor among outputs with a name, as a key or field; None if there is none."""
    part = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    return part if isinstance(part, Tensor) else None


def answer_in(outputs: Tree) -> Tensor | None:
    """Return the tensor among a network's outputs that is its answer: the one called `logits` or
    `out`, as in transformers and torchvision, or the only one; None if there is no such.

    >>> answer_in({"out": torch.zeros(2), "aux": torch.ones(1)})
    tensor([0., 0.])
    """
    if isinstance(outputs, Tensor):
        return outputs
    for name in ANSWER_NAMES:
        if (part := output_named(outputs, name)) is not None:
            return part
    tensors = list(tensors_in(outputs))
    return tensors[0] if len(tensors) == 1 else None


def answer_of(outputs: Tree) -> Tensor:
    """Return the tensor that is a network's answer. Raises LissomError if it is not known."""
    answer = answer_in(outputs)
    if answer is None:
        raise LissomError(
            f"outputs: expected one tensor, or several of which one is called {' or '.join(ANSWER_NAMES)}, "
            f"got {shapes(outputs)}; which of others is the answer, a kind of your own says, as in "
            "--kind file.py:name"
        )
    return answer


def rows_of(outputs: Tree) -> Tensor:
    """Return a network's answer (n classes ...) as rows (m classes), such as one per pixel."""
    answer = answer_of(outputs)
    return answer if answer.ndim <= 2 else answer.movedim(1, -1).flatten(0, -2)


def rows_of_both(outputs: Tree, teacher: Tree) -> tuple[Tensor, Tensor]:
    """Return the answers of a student and a teacher as rows (m classes)."""
    return rows_of(outputs), rows_of(teacher)


def either_or(logits: Tensor) -> Tensor:
    """Return logits of sigmoids, of any shape, as rows (m 2) whose softmax gives the same."""
    flat = logits.flatten()
    return torch.stack([torch.zeros_like(flat), flat], 1)


def copied(tree: Tree) -> Tree:
    """Return a tree with copies of its tensors, for a network that may change what it reads."""
    return mapped(lambda t: t.detach().clone(), tree)


def length(tree: Tree) -> int:
    """Return the number of samples in a tree: the length of its first tensor, 0 if it has none."""
    return next((len(t) if t.ndim else 1 for t in tensors_in(tree)), 0)


def first(tree: Tree, count: int) -> Tree:
    """Return the first `count` samples of a tree. A tensor without a batch axis of the same length
    does not change.
    """
    whole = length(tree)
    return mapped(lambda t: t[:count] if t.ndim and len(t) == whole else t, tree)


def sample(tree: Tree, place: int) -> Tree:
    """Return one sample of a tree, with the batch axis; a tensor without one does not change."""
    whole = length(tree)
    return mapped(lambda t: t[place : place + 1] if t.ndim and len(t) == whole else t, tree)


def at(tree: Tree, places: Tensor) -> Tree:
    """Return the samples of a tree at these indices."""
    return mapped(lambda t: t[places.to(t.device)], tree)


def concatenated(trees: Sequence[Tree]) -> Tree:
    """Return the samples of several trees of the same form as one tree."""
    if len(trees) == 1:
        return trees[0]
    columns = zip(*(list(tensors_in(tree)) for tree in trees), strict=True)
    return put_in(
        trees[0], [torch.cat(column) if column[0].ndim else column[0] for column in columns]
    )


def alike(trees: Sequence[Tree]) -> list[Tree]:
    """Return the trees whose samples have the same shapes as those of the first tree."""
    wanted = [t.shape[1:] for t in tensors_in(trees[0])]
    return [tree for tree in trees if [t.shape[1:] for t in tensors_in(tree)] == wanted]


def some_of(trees: Sequence[Tree]) -> Tree:
    """Return about SOME_SAMPLES samples as one tree, evenly from all trees shaped like the first."""
    fitting = alike(trees)
    return concatenated([first(tree, max(1, SOME_SAMPLES // len(fitting))) for tree in fitting])


def put_in(tree: Tree, tensors: Sequence[Tensor]) -> Tree:
    """Return a tree of the same form with other tensors."""
    left = iter(tensors)
    return mapped(lambda _: next(left), tree)


def shapes(tree: Tree) -> str:
    """Return the shapes of a tree's tensors as text.

    >>> shapes((torch.zeros(1, 2), torch.zeros(1)))
    '(1, 2), (1,)'
    """
    return (
        ", ".join(str(tuple(t.shape)) for t in tensors_in(tree))
        or f"{type(tree).__name__} without a tensor"
    )


def values_in(tree: Tree) -> Tensor:
    """Return the floats of a tree as one vector in float64."""
    return torch.cat(
        [t.detach().double().flatten() for t in tensors_in(tree) if t.is_floating_point()]
    )


def in_float(tree: Tree, dtype: torch.dtype = torch.float32) -> Tree:
    """Return a tree with its floating-point tensors converted to `dtype`; others do not change."""
    return mapped(lambda t: t.to(dtype) if t.is_floating_point() else t, tree)


def run_on_copied_inputs(model: nn.Module, inputs: Tree) -> Tree:
    """Run a network on copies of a tree of inputs, since a forward may change its inputs."""
    return run_network(model, copied(inputs))


def run_network(model: Callable[..., Tree], inputs: Tree) -> Tree:
    """Run a network on a tree of inputs without copying them."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (list, tuple)) else model(inputs)


def largest_difference(outputs: Tree, others: Tree) -> float:
    """Return the largest difference between two sets of outputs."""
    return float((values_in(outputs) - values_in(others)).abs().max())
