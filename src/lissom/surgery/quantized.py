"""Layers with rounded weights and a network with rounded activations: simulated in float, exported as integers.

The simulation and the exported file use the same numbers. In training a layer runs its rounded weights and then its
own batch-norm, whose statistics go on; in inference batch-norm is multiplied into the scales of the filters, which
changes no integer, and the bias is rounded to the int32 of a file.
Source: Jacob et al. 2017, https://arxiv.org/abs/1712.05877; Bengio et al. 2013, https://arxiv.org/abs/1308.3432.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LissomError
from ..grids._grid import by_filter
from ..grids._steps import clipped
from .fold import scale_and_shift
from .masks import held, hold_zeros
from .rounding import Rounding, product_at_run_time
from .sites import Sites, convolved, hidden, kind_of, projected

Norm = nn.modules.batchnorm._BatchNorm
FEW = 4  # bits of weights that some formats pack


class QuantizedLayer(nn.Module):
    """What a convolution and a linear layer with rounded weights share; made by changing a layer's class."""

    weight: Tensor
    bias: Any
    weight_q: Tensor  # int8 (out ...), or (in out); these five only in a network that is being exported
    weight_scale: Tensor  # (out)
    weight_zero: Tensor  # int8 (out), of zeros; none where the layer reads floats
    bias_q: Tensor  # int32 (out)
    bias_scale: Tensor  # (out)
    rounding: Rounding | None  # of the weights; None leaves them float
    norm: Norm | None  # the batch-norm that followed
    norm_name: str | None  # where in the network it was
    site: str | None  # whose values the layer reads; None where that differs from call to call
    again: str | None  # the rounding that the layer applies to them once more, among the network's
    feed: Rounding | None  # these two roundings; no submodules, since they belong to the network
    own: Rounding | None
    masked: bool  # whether zeros stay zero in training

    def prepare(self, norm: Norm | None = None, masked: bool = False, norm_name: str | None = None) -> None:
        """Set what the class of a layer that has just been changed expects; nothing is rounded yet."""
        self.rounding = self.site = self.again = None
        self.norm, self.norm_name, self.masked = norm, norm_name, masked
        self.follow(None)

    def follow(self, feed: Rounding | None, own: Rounding | None = None) -> None:
        """Take note of what rounds the values that the layer reads, and of what rounds them again for the layer."""
        self.__dict__.update(feed=feed, own=own)

    def settings(self) -> dict[str, Any]:
        """Return what a rebuilt layer must be told."""
        return {"site": self.site, "masked": self.masked, "norm": self.norm_name,
                "rounding": None if self.rounding is None else self.rounding.settings(), "again": self.again}

    def train(self, mode: bool = True) -> Any:
        """Go to training or inference; what training changed last counts in inference."""
        if self.training and not mode and self.rounding is not None:
            self.rounding.refresh(self.turned(self.weight.detach()))
        hold_zeros(self, mode and self.masked)
        return super().train(mode)

    def computed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's own operation with other weights."""
        raise NotImplementedError

    def whole(self, x: Tensor) -> Tensor:
        """Round the input, run the layer with rounded weights, and its batch-norm."""
        in_integers = torch.onnx.is_in_onnx_export() and hasattr(self, "weight_q")
        if in_integers and self.own is not None and self.own.grid.at_run_time:
            return product_at_run_time(x, self.weight_q, self.weight_scale, self._buffers.get("bias_float"))
        if self.own is not None:
            x = self.own(x)
        if in_integers:
            return self.computed(x, *self._exported())
        if not self.training:
            return self.computed(x, *self.in_inference())
        weight = held(self) if self.rounding is None else self.on_grid(held(self), self.rounding)
        y = self.computed(x, weight.to(x.dtype), self.bias)
        return y if self.norm is None else self.norm(y)

    def turn(self) -> Tensor | None:
        """Return by what each filter (out) is multiplied before it is rounded, never 0; None where that is 1.

        It is the sign of batch-norm's factor, since the integers of a weight may reach further down than up; for a grid
        with one scale for all filters the factor itself, since it is with batch-norm in them that weights share a scale.
        """
        if self.norm is None or self.rounding is None:
            return None
        sign = None if self.norm.weight is None else torch.where(self.norm.weight.detach() < 0, -1.0, 1.0)
        if not self.rounding.grid.one_scale:
            return sign
        size = scale_and_shift(self.norm)[0].abs().clamp_min(1e-12).float()
        return size if sign is None else sign * size

    def turned(self, weight: Tensor, back: bool = False) -> Tensor:
        """Return a weight (out ...) as the grid rounds it, or such a weight as the layer holds it."""
        turn = self.turn()
        if turn is None:
            return weight
        return weight / by_filter(turn, weight) if back else weight * by_filter(turn, weight)

    def on_grid(self, weight: Tensor, rounding: Rounding) -> Tensor:
        """Return a weight (out ...) rounded, as the layer holds it, with the gradient that training uses."""
        if (turn := self.turn()) is None:
            return rounding(weight)
        shaped = by_filter(turn, weight)
        return rounding(weight * shaped) / shaped

    def weight_codes(self) -> tuple[Tensor, Tensor]:
        """Return the weights as the grid rounds them: integers (out ...), in float, and the scale of each filter (out)."""
        assert self.rounding is not None
        return self.rounding.codes(self.turned(self.weight.detach()))

    def in_inference(self) -> tuple[Tensor, Tensor | None]:
        """Return weights (out ...) and bias (out) as inference runs them: on their grid, batch-norm multiplied in."""
        if self.rounding is None or self.rounding.off:
            factor, bias = self.normed()
            weight = self.weight if factor is None else (self.weight.double() * by_filter(factor, self.weight)).float()
            return weight, None if bias is None else bias.float()
        codes, scale, bias = self.integers()
        step = self.step()
        if bias is not None and step is not None:
            unit = scale * step
            bias = (bias / unit.double()).round().float() * unit
        return codes * by_filter(scale, codes), None if bias is None else bias.float()

    def step(self) -> Tensor | None:
        """Return the step of the integers that the layer reads, None where it reads floats or the step is found later."""
        source = next((r for r in (self.own, self.feed) if r is not None and not r.off), None)
        return None if source is None or source.grid.at_run_time else source.input_codes().step

    def integers(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the weights as integers (out ...), in float, the scale of each filter (out), and the bias in float64.

        A filter of tiny weights beside a real bias gets a scale at which that bias still fits int32.
        """
        codes, scale = self.weight_codes()
        factor, bias = self.normed()
        if factor is not None:
            turn = self.turn()
            scale = (scale * (factor if turn is None else factor / turn)).float()
            codes = codes * by_filter((factor != 0).float(), codes)
        step = self.step()
        if bias is not None and step is not None:
            least = (bias.abs() / (step.double() * 2.0**30)).float().clamp_min(1e-12)
            small = scale < least
            codes = torch.where(by_filter(small, codes), (codes * by_filter(scale / least, codes)).round(), codes)
            scale = torch.where(small, least, scale)
        return codes, scale.clamp_min(1e-12), bias

    def normed(self) -> tuple[Tensor | None, Tensor | None]:
        """Return by what batch-norm multiplies each filter, and the bias with what it adds, in float64."""
        bias = None if self.bias is None else self.bias.detach().double()
        if self.norm is None:
            return None, bias
        factor, shift = scale_and_shift(self.norm)
        return factor, shift if bias is None else shift + bias * factor

    def freeze_integers(self) -> None:
        """Hold weights as int8 and bias as int32, for the export that comes next."""
        if self.rounding is None:
            weight, bias = self.in_inference()
            self.make_plain(weight, bias)
            return
        codes, scale, bias = self.integers()
        turned = self.own is not None and self.own.grid.at_run_time  # as MatMulInteger reads it
        self.register_buffer("weight_q", (codes.t().contiguous() if turned else codes).to(torch.int8))
        self.register_buffer("weight_scale", scale)
        step = self.step()
        if step is not None:
            self.register_buffer("weight_zero", torch.zeros_like(scale, dtype=torch.int8))
        if bias is not None and step is not None:
            self.register_buffer("bias_scale", scale * step)
            self.register_buffer("bias_q", (bias / (scale * step).double()).round().to(torch.int32))
        elif bias is not None:
            self.register_buffer("bias_float", bias.float())

    def make_plain(self, weight: Tensor, bias: Tensor | None) -> None:
        """Become a layer of the original class with these weights; what rounded its input stays in front of it."""
        own = self.own
        self.__class__ = nn.Conv2d if isinstance(self, nn.Conv2d) else nn.Linear  # type: ignore[assignment]
        for name in ("rounding", "norm"):
            self._modules.pop(name, None)
        self.weight, self.bias = nn.Parameter(weight.detach()), None if bias is None else nn.Parameter(bias.detach())
        if own is not None:
            self.register_forward_pre_hook(lambda _, given: (hidden(given[0], own),))

    def _exported(self) -> tuple[Tensor, Tensor | None]:
        """Return weights and bias as DequantizeLinear nodes over their integers.

        That of weights which meet floats has no zero point: so the export knows it (targets/_widened.py).
        """
        def dequantized(*given: Tensor) -> Tensor:
            found: Tensor = torch.onnx.ops.symbolic("DequantizeLinear", list(given), attrs={"axis": 0}, dtype=torch.float32,
                                                    shape=given[0].shape, version=21)
            return found
        zero = [self.weight_zero] if hasattr(self, "weight_zero") else []
        weight = dequantized(self.weight_q, self.weight_scale, *zero)
        if hasattr(self, "bias_q"):
            return weight, dequantized(self.bias_q, self.bias_scale)
        return weight, self._buffers.get("bias_float")


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """A convolution whose weights are rounded."""

    def forward(self, x: Tensor) -> Tensor:
        return convolved(x, self.weight, self)

    def computed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """A linear layer whose weights are rounded."""

    def forward(self, x: Tensor) -> Tensor:
        return projected(x, self.weight, self)

    def computed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class Quantized(nn.Module):
    """A network whose activations are rounded where `sites` says: the user's own forward, untouched.

    `sites` maps a site to the site whose rounding it uses, usually itself; max-pooling uses that of its input. `grids`
    holds these and those which layers apply to what they read once more.
    `skipped` are the ReLUs left out: signs are taken of what comes before them. `clipped` are those that rounding itself
    does, its grid ending at 0; training leaves them out to save a pass over memory.
    `unrounded` are the sites of 8 bits, with the upper end of each, in a network whose layers round what they read again, to
    fewer bits: there the 8 bits change little, and training, to which they cost as much, does without.
    `tied` are the sites that additions tie together: their scale is the largest of theirs.
    `calls` says how often each kind of call is made; a forward that makes others is refused.
    """

    counts: Counter[str]  # calls made so far, while it runs

    def __init__(self, network: nn.Module, sites: dict[str, str], calls: dict[str, int],
                 grids: dict[str, dict[str, Any]] | None = None, skipped: Iterable[str] = (),
                 tied: Iterable[Iterable[str]] = ()) -> None:
        super().__init__()
        self.network = network
        self.shared, self.calls, self.skipped = dict(sites), dict(calls), frozenset(skipped)
        self.tied = [sorted(sites) for sites in tied]
        self.grids = nn.ModuleDict({site: Rounding.rebuilt(facts) for site, facts in (grids or {}).items()})

    def description(self) -> dict[str, Any]:
        """Return what a rebuilt wrapper must be told."""
        return {"sites": dict(self.shared), "calls": dict(self.calls), "skipped": sorted(self.skipped),
                "tied": self.tied, "grids": {site: self.grid_of(site).settings() for site in self.grids}}

    def grid_of(self, site: str) -> Rounding:
        """Return the rounding of a site that has its own."""
        found = self.grids[site]
        assert isinstance(found, Rounding)
        return found

    def grid(self, site: str | None) -> Rounding | None:
        """Return what rounds at a site, if there is anything."""
        own = self.shared.get(site) if site is not None else None
        return self.grid_of(own) if own is not None and own in self.grids else None

    def link(self) -> None:
        """Tell every layer what rounds the values that it reads."""
        for layer in self.layers():
            layer.follow(self.grid(layer.site), None if layer.again is None else self.grid_of(layer.again))
        self.clipped = frozenset(site for site in self.shared if kind_of(site) == "relu" and self.from_zero(site))
        twice = any(layer.own is not None and not layer.own.grid.at_run_time for layer in self.layers())
        fine = {site: grid.input_codes() for site in self.shared
                if twice and site != "input" and (grid := self.grid(site)) is not None and grid.bits == 8
                and not grid.grid.moves}
        self.unrounded = {site: (codes.top - codes.zero) * float(codes.step) for site, codes in fine.items()}

    def tie(self) -> None:
        """Give what an addition ties together one scale, the largest."""
        for tied in self.tied:
            scales = [grid.held["scale"] for grid in map(self.grid, tied) if grid is not None and "scale" in grid.names]
            for scale in scales:
                scale.fill_(max(float(other) for other in scales))

    def settle(self) -> None:
        """Put the grids whose ranges move on in training where a step has moved them."""
        moved = [grid for site in self.grids if (grid := self.grid_of(site)).grid.moves]
        for grid in moved:
            grid.grid.settle(grid.bits, grid.held)
        if moved:
            self.tie()
            self.link()

    def from_zero(self, site: str) -> bool:
        """Return whether what rounds at a site makes 0 of all that is below, and need not see it."""
        grid = self.grid(site)
        if grid is None or grid.grid.at_run_time or grid.grid.moves:
            return False
        codes = grid.input_codes()
        return codes.zero == 0 and not codes.sign

    def forward(self, x: Tensor) -> Tensor:
        first = self.grid("input")
        if first is not None:
            x = first(x)
        outputs, made = self.run(self.network, x, Counter())
        if made != self.calls:
            changed = sorted(k for k in made.keys() | self.calls if made[k] != self.calls.get(k, 0))
            raise LissomError(f"quantized network: it makes other calls than when it was quantized ({', '.join(changed)}), "
                              "so that activations would meet the wrong grids. Parts that only training runs, such as "
                              "stochastic depth, have to be switched off before quantize")
        if self.training:
            self.settle()
        return outputs

    def run(self, part: nn.Module, x: Tensor, before: Counter[str]) -> tuple[Any, Counter[str]]:
        """Run a part of the network with its activations rounded; return what it makes, and the calls made till then.

        `before` says how many calls of each kind the network makes before the part is run: sites are known by number.
        """
        def visit(name: str, _: tuple[Any, ...], out: Tensor) -> Tensor:
            grid = self.grid(name)
            if self.training and name in self.unrounded:
                return clipped(out, self.unrounded[name]) if name in self.clipped else out
            return out if grid is None else grid(out)

        with Sites(visit, skipped=self.skipped, clipped=self.clipped if self.training else ()) as made:
            made.counts.update(before)
            self.__dict__["counts"] = made.counts  # for those that ask while it runs
            return part(x), made.counts

    def layers(self) -> list[QuantizedLayer]:
        """Return the layers of which something is rounded, or could be."""
        return [m for m in self.modules() if isinstance(m, QuantizedLayer)]

    def few(self) -> bool:
        """Return whether there are weights of 4 bits or fewer, which some formats pack."""
        return any(layer.rounding is not None and layer.rounding.bits <= FEW for layer in self.layers())

    def freeze_weights(self) -> None:
        """Prepare an export in float: weights on their grid in layers of the original class.

        Activations of 8 bits are not rounded, since that changes little and costs time, but where others have fewer.
        """
        grids = [self.grid_of(site) for site in self.grids]
        for grid in grids:
            grid.freeze("floats" if any(other.bits < 8 for other in grids) else "none")
        for layer in self.layers():
            layer.make_plain(*layer.in_inference())

    def freeze_integers(self) -> None:
        """Prepare an export: integers in place of float weights. The network is for exporting alone then."""
        for site in self.grids:
            self.grid_of(site).freeze("integers")
        for layer in self.layers():
            layer.freeze_integers()
