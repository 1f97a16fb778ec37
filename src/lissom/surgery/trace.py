"""Record the operations of one real forward pass, whatever Python code runs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from ..trees import Tree, copied, first, run_network, tensors_in
from .by_tensor import ByTensor
from .modes import in_mode
from .small import SizesRead


@dataclass(frozen=True)
class Op:
    """One aten operation: its arguments and its result."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]
    result: Any

    @cached_property
    def name(self) -> str:
        """The name without namespace and overload: `convolution`, `native_batch_norm`."""
        return str(self.func.overloadpacket.__name__)

    @property
    def flips(self) -> bool:
        """Whether it transposes a matrix."""
        if self.name in ("transpose", "permute"):
            x = self.args[0]
            return x.ndim == 2 and 1 not in x.shape and self.outputs[0].stride() == x.stride()[::-1]
        return self.name == "t"

    def inputs(self) -> tuple[Tensor, ...]:
        """Return every tensor among the arguments."""
        return self._inputs

    @cached_property
    def _inputs(self) -> tuple[Tensor, ...]:
        return tuple(tensors_in((self.args, self.kwargs) if self.kwargs else self.args))


@dataclass
class Trace:
    """The operations of a forward pass, in order. Tensors are kept alive, so no id is used twice."""

    inputs: tuple[Tensor, ...]
    ops: list[Op] = field(default_factory=list)
    outputs: tuple[Tensor, ...] = ()
    names: ByTensor[str] = field(default_factory=ByTensor)  # a parameter or buffer -> its name
    buffers: set[str] = field(default_factory=set)  # the names of the buffers
    # module -> its last output, if that is a tensor
    returned: dict[str, Tensor] = field(default_factory=dict)
    # whether the network's code may behave differently for an image of another size
    depends_on_size: bool = False

    def uses(self) -> Counter[Tensor]:
        """Return how often each tensor is read. Being returned counts as a read."""
        return Counter(chain(*(op.inputs() for op in self.ops), self.outputs))

    def makes_decisions(self) -> bool:
        """Return whether an integer, boolean or Python number that is used later is computed from
        floats.
        """
        read = self.uses()
        return any(
            any(t.is_floating_point() for t in op.inputs())
            for op in self.ops
            if isinstance(op.result, (bool, int, float))
            or any(not t.is_floating_point() and read[t] for t in op.outputs)
        )

    def products(self) -> Iterator[tuple[str, Tensor, Op]]:
        """Yield (name of the weight, weight, operation) of each convolution and linear layer."""
        transposed = ByTensor((op.outputs[0], op.args[0]) for op in self.ops if op.flips)
        for op in self.ops:
            if op.name in ("convolution", "linear"):
                weight = op.args[1]
            elif op.name in ("addmm", "mm"):
                weight = transposed.get(op.args[-1], op.args[-1])
            else:
                continue
            if weight in self.names:
                yield self.names[weight], weight, op

    def live(self) -> list[Op]:
        """Return the operations that the outputs depend on, and all that change a tensor in place."""
        wanted = set(self.outputs)
        operations = []
        for op in reversed(self.ops):
            if op.name.endswith("_") or not wanted.isdisjoint(op.outputs):
                operations.append(op)
                wanted.update(op.inputs())
        return operations[::-1]


class _Recorder(TorchDispatchMode):
    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled():  # which does not decompose convolutions and the like
            with self:
                if (result := func.decompose(*args, **(kwargs or {}))) is not NotImplemented:
                    return result
        result = func(*args, **(kwargs or {}))
        self.trace.ops.append(Op(func, args, kwargs or {}, tuple(tensors_in(result)), result))
        return result


def traced(model: nn.Module, example: Tree, training: bool = False) -> Trace:
    """Run `model` in eval mode on the first item of `example` (n ...) and record its operations.

    With `training`, run it in training mode on the first two items, because batch statistics need
    more than one. This changes running statistics.
    """
    inputs = copied(first(example, 1 + training))
    trace = Trace(tuple(tensors_in(inputs)))
    modules = {module: name for name, module in model.named_modules()}
    buffers = dict(model.named_buffers())
    for name, value in [*model.named_parameters(), *buffers.items()]:
        trace.names[value] = name
    trace.buffers = set(buffers)
    modes = {module: module.training for module in modules}
    with ExitStack() as after:
        after.callback(_restored, modes)
        after.enter_context(decomposed(model))
        # TorchScript modules take no hooks and hide their code
        seen = {m: n for m, n in modules.items() if not isinstance(m, torch.jit.ScriptModule)}
        trace.depends_on_size = len(seen) < len(modules)
        note = _note(trace, seen)
        after.callback(register_module_forward_hook(note).remove)
        for module in seen:
            if module._forward_hooks:  # they run after global hooks and may replace the output
                after.callback(module.register_forward_hook(note).remove)
        in_mode(model, training)
        with torch.no_grad(), _Recorder(trace), SizesRead() as sizes:
            trace.outputs = tuple(tensors_in(run_network(model, inputs)))
    trace.depends_on_size |= sizes.found
    return trace


@contextmanager
def decomposed(model: nn.Module) -> Iterator[None]:
    """Make PyTorch run attention and LSTMs as separate matrix products instead of one fused
    operation.
    """
    attention = torch.backends.mha.get_fastpath_enabled()
    recurrent = torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    if any(isinstance(m, nn.RNNBase) for m in model.modules()):
        torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
        torch._C._set_mkldnn_enabled(recurrent)


def _restored(modes: dict[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        if module.training != mode:
            module.training = mode


def _note(trace: Trace, names: dict[nn.Module, str]) -> Any:
    def note(module: nn.Module, _: Any, out: Any) -> None:
        if isinstance(out, Tensor) and module in names:
            trace.returned[names[module]] = out

    return note
