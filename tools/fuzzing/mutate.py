"""Mutators of bytes, JSON trees, safetensors headers and texts. All draw from a given `Random`."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

# JSON that Python's own writer cannot write; names stand for it in the text until the end
RAW = {
    "@deep-list": "[" * 50_000 + "]" * 50_000,
    "@deep-dict": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "@some-depth": "[" * 300 + "]" * 300,
    "@long-number": "9" * 6_000,
    "@large-float": "1e999",
    "@nan": "NaN",
    "@infinity": "-Infinity",
    "@surrogate": '"\\ud800"',
    "@escape": '"\\u001b[31mred\\u0000"',
    "@megabyte": '"' + "a" * 1_000_000 + '"',
    "@many": "[" + "0," * 100_000 + "0]",
}
RARE = {"@megabyte", "@many", "@deep-list", "@deep-dict"}  # slow to write, so drawn less often
STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
    0.0,
    -0.5,
    1e-300,
    1e300,
    "",
    " ",
    "a",
    "\n\n\n",
    "../../outside",
    "/etc/passwd",
    "..",
    ".",
    "C:\\outside",
    "evil:build",
    "evil.py:build",
    "os:system",
    "[/red]",
    "=1+1",
    "é\u202e",
    "nan",
    [],
    [[]],
    [None],
    [1, 2, 3],
    {},
    {"a": 1},
    {"": None},
    [{}],
    ["a"],
)
BYTES = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"\n",
    b"\r\n",
    b'"',
    b"\\",
    b"{",
    b"[",
    b"]" * 9,
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\0" * 64,
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"PK\x03\x04",
    b"../",
    b"NaN",
    b"1e999",
    b"-1",
)


def bytes_of(rng: Random, data: bytes, other: bytes = b"") -> bytes:
    """Return `data` with one to four changes: flipped bits, changed bytes, pieces removed,
    inserted, doubled or taken from `other`.
    """
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, size = rng.randrange(len(out) + 1), rng.choice((1, 1, 2, 4, 8, 30, 200))
        kind = rng.randrange(9)
        if kind == 0 and out:
            out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[min(at, len(out) - 1)] = rng.randrange(256)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + size]
        elif kind == 4:
            out[at:at] = rng.choice(BYTES)
        elif kind == 5:
            piece = rng.choice(BYTES)
            out[at : at + len(piece)] = piece
        elif kind == 6:
            begin = rng.randrange(len(out) + 1)
            out[at:at] = out[begin : begin + size]
        elif kind == 7:
            source = other or data
            begin = rng.randrange(len(source) + 1)
            out[at : at + size] = source[begin : begin + size]
        else:
            out[at : at + size] = rng.randbytes(size)
    return bytes(out)


def json_of(rng: Random, text: str, names: Sequence[str] = ()) -> str:
    """Return a JSON text with one to three changed values, keys or lists. `names` are texts that
    are valid somewhere.
    """
    tree = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tree = _changed(rng, tree, names)
    out = json.dumps(tree, ensure_ascii=False)
    for name, raw in RAW.items():
        out = out.replace(f'"{name}"', raw)
    if rng.random() < 0.02:  # a duplicate key
        out = out.replace("{", '{"key": 1, "key": 2, ', 1)
    return out


def _changed(rng: Random, tree: Any, names: Sequence[str]) -> Any:
    places = list(_places(tree))
    if not places or rng.random() < 0.02:
        return strange(rng, names)
    holder, key = rng.choice(places)
    kind = rng.randrange(10)
    if kind < 5:
        holder[key] = strange(rng, names)
    elif kind == 5:
        del holder[key]
    elif kind == 6:
        other, at = rng.choice(places)
        holder[key] = json.loads(
            json.dumps(
                other.get(at) if isinstance(other, dict) else other[at] if at < len(other) else 0
            )
        )
    elif kind == 7 and isinstance(holder, dict):
        holder[rng.choice(("", "x", str(key).upper(), "__class__", *names))] = holder.pop(key)
    elif kind == 8 and isinstance(holder, list):
        holder[key:key] = [holder[key]] * rng.choice((1, 2, 50))
    else:
        holder[key] = _near(rng, holder[key])
    return tree


def _near(rng: Random, value: Any) -> Any:
    """Return a value of the same type, or of one easily confused with it."""
    if isinstance(value, bool):
        return rng.choice((not value, int(value), str(value)))
    if isinstance(value, (int, float)):
        return rng.choice(
            (
                -value,
                value + 1,
                value * 1000,
                value * 10**18,
                str(value),
                float(value),
                value // 2 if value else 1,
                [value],
            )
        )
    if isinstance(value, str):
        return rng.choice(
            (
                value[:-1],
                value + "x",
                value.upper(),
                value * 2,
                [value],
                value + "\n",
                {"name": value},
                "../" + value,
            )
        )
    if isinstance(value, list):
        return rng.choice(
            (value[:-1], value * 2, value[::-1], dict(enumerate(map(str, value))), None)
        )
    if isinstance(value, dict):
        return rng.choice(
            (list(value), list(value.values()), {**value, "more": value.copy()}, None, {})
        )
    return 0


def strange(rng: Random, names: Sequence[str] = ()) -> Any:
    """Return a value that is valid nowhere, or one of `names`."""
    if names and rng.random() < 0.2:
        return rng.choice(names)
    if rng.random() < 0.25:
        name = rng.choice(tuple(RAW))
        return name if name not in RARE or rng.random() < 0.1 else "@nan"
    # a copy, since later changes of the tree must not change STRANGE
    return deepcopy(rng.choice(STRANGE))


def _places(tree: Any) -> Any:
    left = [tree]
    while left:
        holder = left.pop()
        for key, value in (
            [*holder.items()]
            if isinstance(holder, dict)
            else enumerate(holder)
            if isinstance(holder, list)
            else ()
        ):
            yield holder, key
            left.append(value)


def safetensors_of(rng: Random, data: bytes, names: Sequence[str] = ()) -> bytes:
    """Return a safetensors file with a changed header, header length or bytes."""
    size = int.from_bytes(data[:8], "little")
    head, rest = data[8 : 8 + size], data[8 + size :]
    kind = rng.randrange(6)
    if kind < 3:
        head = json_of(
            rng,
            head.decode(),
            (*names, "F64", "BF16", "I64", "BOOL", "F8_E4M3", "U8", "F4", "__metadata__"),
        ).encode(errors="replace")
        return struct.pack("<Q", len(head)) + head + rest
    if kind == 3:
        length = rng.choice((0, 1, size - 1, size + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", length) + head + rest
    if kind == 4:
        return data[: 8 + size] + bytes_of(rng, rest)
    return bytes_of(rng, data)


def text_of(rng: Random, text: str, words: Sequence[str]) -> str:
    """Return a text with words changed, doubled, exchanged, inserted or removed."""
    parts = re.findall(r"\w+|\s+|.", text, re.S)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at, kind = rng.randrange(len(parts) + 1), rng.randrange(6)
        if kind == 0:
            parts[at : at + 1] = []
        elif kind == 1:
            parts[at : at + 1] = [rng.choice(words)]
        elif kind == 2:
            parts[at:at] = [rng.choice(words)]
        elif kind == 3:
            begin = rng.randrange(len(parts) + 1)
            parts[at:at] = parts[begin : begin + rng.randrange(1, 12)]
        elif kind == 4 and parts:
            other = rng.randrange(len(parts))
            at = min(at, len(parts) - 1)
            parts[at], parts[other] = parts[other], parts[at]
        else:
            begin, end = sorted((at, rng.randrange(len(parts) + 1)))
            opened, closed = rng.choice(
                (("(", ")"), ("{", "}"), ("[", "]"), ("prune(", ")"), ("2 * (", ")"), ('"', '"'))
            )
            parts[begin:end] = [opened, *parts[begin:end], closed]
    return "".join(parts)
