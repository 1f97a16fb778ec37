"""What the dependency engine can cut of known networks, each proved by dead channels; writes docs/results/coverage.md.

    python benchmarks/coverage.py [--only GLOB] [-o docs/results/coverage.md]

For each network, with random weights and batch-norms that matter: units chosen at random are made exactly dead where
they are made (what reads them stays as it is), then cut out. The outputs, in float64, must be the same to rounding.
Multiply-adds are those of prune(0.5, by="random", multiple=8) at the size given. Needs timm.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import gc
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision.models as known
from torch import Tensor, nn

from lissom import LissomError, apply
from lissom.bench.machine import machine
from lissom.models import factory
from lissom.surgery.choose import lowest
from lissom.surgery.compare import apart
from lissom.surgery.count import macs
from lissom.surgery.probe import cuttable
from lissom.surgery.slim import Cut, sliced
from lissom.surgery.trace import tensors_in

EXACT = 1e-9
TIMM = """
convnextv2_nano convnext_atto coatnet_nano_rw_224 cspdarknet53 cspresnet50 cs3darknet_m darknet53
deit_tiny_patch16_224 densenet121 dla34 dpn68 edgenext_xx_small efficientformer_l1 efficientnetv2_rw_t efficientvit_b0
ese_vovnet19b_dw fastvit_t8 fbnetc_100 gernet_s ghostnet_100 gmlp_s16_224 hardcorenas_a hgnet_tiny hrnet_w18_small
inception_next_atto inception_resnet_v2 inception_v4 lcnet_050 levit_128s mixer_s32_224 mixnet_s mnasnet_050
mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 mobilevit_xxs nf_resnet26 pit_ti_224 poolformer_s12
pvt_v2_b0 regnetx_002 regnety_002 repvgg_a0 repvit_m0_9 res2net50_14w_8s resmlp_12_224 resnest14d resnet26d
resnetblur50 resnetv2_50 rexnet_100 selecsls42 semnasnet_075 seresnet50 skresnet18 spnasnet_100
swin_tiny_patch4_window7_224 tf_efficientnet_lite0 tiny_vit_5m_224 tinynet_e tresnet_m vgg11_bn vit_tiny_patch16_224
vovnet39a xception41 xcit_nano_12_p16_224
"""


def networks() -> Iterator[tuple[str, str, Callable[[], nn.Module], int]]:
    """Yield (family, name, how to build it, size of its images)."""
    for name in ("nin", "nin_gc", "resnet56", "preresnet38", "vgg19", "densenet40"):
        yield "lissom", name, lambda name=name: factory(name)(num_classes=10), 32
    for name in known.list_models(module=known):
        size = 299 if name == "inception_v3" else 224
        yield "torchvision", name, lambda name=name: known.get_model(name, weights=None), size
    for name in known.list_models(module=known.segmentation):
        yield "torchvision segmentation", name, lambda name=name: known.get_model(
            name, weights=None, weights_backbone=None), 224
    for name in known.list_models(module=known.detection):
        yield "torchvision detection (backbone)", name, lambda name=name: known.get_model(
            name, weights=None, weights_backbone=None).backbone, 300 if "ssd" in name else 224
    try:
        import timm
    except ImportError:
        return
    for name in TIMM.split():
        if name in timm.list_models():
            size = timm.get_pretrained_cfg(name, allow_unregistered=True).input_size[-1] or 224
            yield "timm", name, lambda name=name: timm.create_model(name, pretrained=False), size


def lively(model: nn.Module) -> nn.Module:
    """Give normalisations and one-dimensional parameters numbers that matter."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None:
                layer.running_mean.copy_(0.3 * torch.randn(layer.running_mean.shape, generator=draw))
                layer.running_var.copy_(0.5 + torch.rand(layer.running_var.shape, generator=draw))
        for p in model.parameters():
            if p.numel() < 65_536 and (p.ndim < 2 or p.min() == p.max()):
                p.add_(0.3 * torch.randn(p.shape, generator=draw))
    return model.eval()


def dead_difference(model: nn.Module, example: Tensor) -> tuple[float, float, dict[str, str]]:
    """Kill random units where they are made and cut them out; return the difference, the share reachable, the rest."""
    groups = cuttable(model, example)
    free = sum(int((m.unit >= 0).sum()) for g in groups for m in g.members if m.role == "out")
    every = sum(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels for layer in model.modules()
                if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)))
    every += sum(len(m.in_proj_weight) for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    draw = torch.Generator().manual_seed(1)
    cut: Cut = []
    for group in groups:
        step = group.step(1)
        count = int(torch.randint(1, max(2, group.size // step), (1,), generator=draw)) * step
        cut.append((group, lowest(torch.rand(group.size, generator=draw), min(count, group.size - step), group.blocks)))
    model = copy.deepcopy(model).double()
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    with torch.no_grad():
        for group, units in cut:
            for m in group.members:
                if m.role != "in" and "running" not in m.tensor:
                    dead = (m.unit >= 0) & units[m.unit.clamp_min(0)]
                    parts = tensors[m.tensor].chunk(len(dead)) if dead.ndim == 2 else [tensors[m.tensor]]
                    for part, gone in zip(parts, dead if dead.ndim == 2 else [dead], strict=True):
                        part.index_fill_(m.axis, gone.nonzero().flatten(), 0)
    x = torch.randn(1, *example.shape[1:], generator=draw, dtype=torch.float64)
    with torch.no_grad():
        before = [t.clone() for t in tensors_in(model(x))]
        sliced(model, cut)
        after = list(tensors_in(model(x)))
    return apart(before, after), free / max(every, 1), groups.left


def examined(build: Callable[[], nn.Module], size: int) -> dict[str, Any]:
    """Return one row of the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lively(build())
        example = torch.zeros(1, 3, size, size)
        small = torch.zeros(1, 3, min(size, 64), min(size, 64))
        try:
            with torch.no_grad():
                model(small)
        except Exception:
            small = example
        begin = time.process_time()
        cuttable(model, example)
        seconds = time.process_time() - begin
        difference, share, left = dead_difference(model, small)
        row = {"params": sum(p.numel() for p in model.parameters()), "seconds": seconds, "difference": difference,
               "reachable": share, "left": left, "before": macs(model, example)}
        if share:
            images = torch.randn(2, *example.shape[1:])
            try:
                cut = apply('prune(0.5, by="random", recalibrate=False)', model, example, images)
            except LissomError:  # grouped convolutions that multiples of 8 leave no room
                cut = apply('prune(0.5, by="random", multiple=1, recalibrate=False)', model, example, images)
            row["after"] = macs(cut, example)
        return row


def line(name: str, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {name} | | | | | | {row['error']} |"
    reasons: dict[str, list[str]] = {}
    for layer, why in row["left"].items():
        if why not in ("an output of the network", "the input of the network"):
            reasons.setdefault(why.removeprefix(f"{layer}: "), []).append(layer)
    most = sorted(reasons.items(), key=lambda r: -len(r[1]))[:2]
    said = "; ".join(f"{why} ({len(layers)} layers)" for why, layers in most)
    proof = f"{row['difference']:.0e}" if row["difference"] <= EXACT else f"**WRONG {row['difference']:.2g}**"
    after = f"{row['after'] / row['before']:.2f}" if "after" in row else "-"
    cells = (name, f"{row['reachable']:.0%}", f"{row['before'] / 1e6:.0f} M", after, proof, f"{row['seconds']:.2f}", said)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="*")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--rows", type=Path, help="keep rows in this file and do not measure those there again")
    given = parser.parse_args()
    torch.set_num_threads(1)  # seconds are those of one core
    done: dict[str, dict[str, Any]] = json.loads(given.rows.read_text()) if given.rows and given.rows.exists() else {}
    rows: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for family, name, build, size in networks():
        if not any(fnmatch.fnmatch(f"{family}/{name}", p) or fnmatch.fnmatch(name, p) for p in given.only.split(",")):
            continue
        key = f"{family}/{name}"
        if key not in done:
            try:
                done[key] = examined(build, size)
            except Exception as error:  # a row that says so
                done[key] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]}
            if given.rows:
                given.rows.write_text(json.dumps(done))
        row = done[key]
        rows.setdefault(family, []).append((name, row))
        print(family, line(name, row), flush=True)
        gc.collect()
        if given.output:
            given.output.write_text(page(rows))


def page(rows: dict[str, list[tuple[str, dict[str, Any]]]]) -> str:
    """Return the table as Markdown."""
    here = machine()
    out = ["# What can be cut", "",
           "Made by `python benchmarks/coverage.py -o docs/results/coverage.md`: how is said there. Seconds: one core.",
           f"{here['cpu']}, {here['cores']} cores, torch {here['libraries']['torch']}.", ""]
    for family, found in rows.items():
        fine = sum(bool(r.get("reachable")) and r["difference"] <= EXACT for _, r in found)
        wrong = sum("difference" in r and r["difference"] > EXACT for _, r in found)
        out += [f"## {family}: {fine} of {len(found)} can be cut, {wrong} wrong", "",
                "| network | channels that can be cut | MACs | left at 0.5 | difference | s | left whole |",
                "|---|---|---|---|---|---|---|", *(line(name, row) for name, row in found), ""]
    return "\n".join(out)


if __name__ == "__main__":
    main()
