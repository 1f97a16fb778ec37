"""Files for --weights: .safetensors, and .pt in PyTorch's zip format and in its older format."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from random import Random
from typing import Any

from .family import Family, Mutant, Wrong, refused
from .mutate import bytes_of, safetensors_of


class Evil:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call that must never be made."""
        import os

        return os.system, ("touch evil-ran",)


OPCODES = b".0123456789BCFGIJKLMNPQRSTUVX]abcdeghijlopqrstu}" + bytes(range(0x80, 0x96))
STRANGE = (
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"c__main__\nx\n",
    b"ctorch\nload\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"J\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\x7f",
    b"\x8a\xff" + b"\x7f" * 255,
    b"X\xff\xff\xff\x7f",
    b"r\xff\xff\xff\x7f",
    b"(" * 50_000,
    b"2" * 50_000,
    b"]" * 20_000,
)


NAMES = (
    b"collections\nOrderedDict", b"collections\nCounter", b"builtins\nset", b"builtins\nbytearray",
    b"_codecs\nencode", b"torch\nSize", b"torch\nTensor", b"torch\nFloatStorage", b"torch\ndevice",
    b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_parameter", b"argparse\nNamespace",
    b"posix\nsystem", b"b" * 30_000 + b"\nx",
)  # fmt: skip


class Weights(Family):
    """State dicts, plain and in the checkpoints of common trainers."""

    name = "weights"

    def make(self, seed: Path) -> None:
        """Save one state dict in every format."""
        import torch
        from safetensors.torch import save_file

        from .networks import Tiny

        torch.manual_seed(0)
        state = Tiny().state_dict()
        save_file(state, seed / "plain.safetensors")
        wrapped = {
            "epoch": 3,
            "state_dict": {f"module.{k}": v for k, v in state.items()},
            "optimizer": {"lr": 0.1, "momentum": [1, 2.5, None]},
        }
        for name, value in (
            ("plain", state),
            ("wrapped", wrapped),
            ("list", [1, state]),
            ("half", {k: v.half() for k, v in state.items()}),
        ):
            torch.save(value, seed / f"{name}.pt")
            torch.save(value, seed / f"{name}-old.pth", _use_new_zipfile_serialization=False)
        (seed / "evil.pt").write_bytes(pickle.dumps({"head.weight": Evil()}))

    def begin(self, seed: Path) -> None:
        """Read all seeds and check that the plain ones can be loaded."""
        self.files = {
            path.name: path.read_bytes() for path in sorted(seed.iterdir()) if path.suffix
        }
        for name in ("plain.safetensors", "plain.pt", "plain-old.pth"):
            if self.read({name: self.files[name]}):
                raise Wrong(f"the seed {name} is refused")

    def mutant(self, rng: Random) -> Mutant:
        """Return a file with changed bytes, pickle, parts of the zip file, or header."""
        name = rng.choice([*self.files, "plain.safetensors", "plain.safetensors"])
        data = self.files[name]
        if rng.random() < 0.1:
            name = rng.choice(("plain.pt", "plain-old.pth"))
            data = _file(drawn(rng), old=name.endswith("pth"))
        elif name.endswith(".safetensors"):
            data = safetensors_of(rng, data, ("head.weight", "head.bias", "x"))
        elif name.endswith(".pt") and name != "evil.pt" and rng.random() < 0.6:
            data = zip_of(rng, data, pickle_of)
        elif rng.random() < 0.5:
            data = pickle_of(rng, data)
        else:
            data = bytes_of(rng, data, self.files[rng.choice(list(self.files))])
        if rng.random() < 0.05:
            name = rng.choice(("x.safetensors", "x.pt", "x.pth", "x.bin", "x"))
        return {name: data}

    def read(self, mutant: Mutant) -> bool:
        """Load the file into a fresh network."""
        from lissom.tasks.weights import load_weights

        from .networks import Tiny

        ((name, data),) = mutant.items()
        path = self.work / name
        path.write_bytes(data)
        try:
            return refused(lambda: load_weights(Tiny(), str(path)))
        finally:
            path.unlink()


def drawn(rng: Random) -> bytes:
    """Return a pickle with reused values and with calls that PyTorch allows and forbids."""
    out, held = [b"\x80\x02"], 0

    def value() -> bytes:
        if held and rng.random() < 0.6:
            return b"j" + struct.pack("<I", rng.randrange(max(0, held - 3), held))
        text = rng.choice(
            (
                b"storage",
                b"cpu",
                b"latin1",
                b"a" * 20_000 if rng.random() < 0.3 else b"a",
                b"head.weight",
            )
        )
        return rng.choice(
            (
                b"N",
                b"K\x07",
                b"J\xff\xff\xff\x7f",
                b"]",
                b"}",
                b")",
                b"X" + struct.pack("<I", len(text)) + text,
                b"c" + rng.choice(NAMES) + b"\n",
            )
        )

    for _ in range(rng.choice((3, 10, 40, 100))):
        kind = rng.randrange(8)
        if kind < 4:
            out.append(value() + value() + b"\x86")
        elif kind == 4:
            out.append(
                b"c"
                + rng.choice(NAMES)
                + b"\n"
                + value()
                + rng.choice((b"", b"\x85"))
                + rng.choice((b"R", b"\x81"))
            )
        elif kind == 5:
            out.append(value() + value() + rng.choice((b"R", b"b", b"a", b"\x81")))
        elif kind == 6:
            out.append(rng.choice((b"}", value())) + value() + value() + b"s")
        else:
            out.append(
                b"("
                + value() * rng.choice((1, 2, 5))
                + value()
                + b"t"
                + rng.choice((b"", b"", b"Q"))
            )
        out.append(b"r" + struct.pack("<I", held))
        held += 1
    return b"".join(out) + b"."


def _file(pickled: bytes, *, old: bool) -> bytes:
    """Return a file as torch.save writes it, with the given pickle."""
    if old:
        heads: tuple[object, ...] = (0x1950A86A20F9469CFC6C, 1001, {})
        return b"".join(pickle.dumps(head, 2) for head in heads) + pickled
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, part in (
            ("data.pkl", pickled),
            ("byteorder", b"little"),
            ("data/0", bytes(64)),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), part)
    return out.getvalue()


def pickle_of(rng: Random, data: bytes) -> bytes:
    """Return a pickle with a changed opcode, or an added one that asks for a forbidden object."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(min(len(out), 4_000) or 1)
        if rng.random() < 0.5 and out:
            out[at] = rng.choice(OPCODES)
        else:
            piece = rng.choice(STRANGE)
            out[at:at] = piece if len(piece) < 1_000 or rng.random() < 0.2 else piece[:100]
    return bytes(out)


def zip_of(rng: Random, data: bytes, change: Any) -> bytes:
    """Return a zip file with a part changed, renamed, removed, doubled, enlarged or repacked."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at, kind, how = rng.randrange(len(parts)), rng.randrange(7), zipfile.ZIP_STORED
    name, part = parts[at]
    if kind < 3:
        parts[at] = (name, change(rng, part))
    elif kind == 3:
        parts[at] = (
            rng.choice(
                (
                    "../" + name,
                    "/" + name,
                    name.upper(),
                    name + "x",
                    "",
                    "a/b/data.pkl",
                    "archive/constants.pkl",
                )
            ),
            part,
        )
    elif kind == 4:
        del parts[at]
    elif kind == 5:
        parts.append((name, bytes_of(rng, part)))
    else:
        how = zipfile.ZIP_DEFLATED
        parts[at] = (
            name,
            part
            + bytes(rng.choice((1, 100, 10**6, 10**6, 3 * 10**8 if rng.random() < 0.02 else 1))),
        )
    out = io.BytesIO()
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", how) as archive:
        warnings.simplefilter("ignore")  # about duplicate names
        for name, part in parts:
            archive.writestr(zipfile.ZipInfo(name), part, how, 1)
    return out.getvalue()
