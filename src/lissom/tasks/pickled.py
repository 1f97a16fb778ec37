"""Check a file of torch.save before PyTorch reads it, to refuse endless use of time or memory.

PyTorch itself runs no code from a file. But it prints any class that it refuses, and searches the
printed text in a time that grows with the square of the length of a word; and it hashes, allocates
and unpacks whatever the file demands. Nothing is built here: only the stack of the pickle is
followed, without values, which takes as long as reading the file.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

# the first of the five pickles at the start of a file from PyTorch before 1.6
MAGIC = 0x1950A86A20F9469CFC6C
PICKLES = 5
NAME = 200  # letters in the name of a class
KEY = 100  # values in a key, which is hashed again at each use
CALL = 1_000  # values in the arguments of a function or the state of an object
SHARED = 10_000  # values in a tuple beyond those in the file, by repeated use of the same ones
# PyTorch refuses all other names
ALLOWED = ("torch", "collections.", "builtins.", "_codecs.", "argparse.")

NUMBERS = {"BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"}
TEXTS = {"BINUNICODE", "SHORT_BINSTRING"}
CONSTANTS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
HOLDERS = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}


class Unfit(ValueError):
    """The reason why a pickle is not that of a state dict."""


@dataclass(frozen=True, eq=False)
class Global:
    """A class or a function, by name."""

    name: str


@dataclass(frozen=True, eq=False)
class Tuple:
    """A tuple, and the number of values in it: itself included, values used twice counted twice."""

    parts: tuple[Any, ...]
    size: int


@dataclass(eq=False)
class Holder:
    """A list, dict, set or result of a call, and the size of the largest value put into it."""

    kind: str
    largest: int = 0


def check(path: str, allowed: Collection[str] = ()) -> None:
    """Raise ValueError if a file of torch.save does something that no state dict needs.

    `allowed` are names of further classes. Files that PyTorch refuses at once, with a short
    message, are left to PyTorch.
    """
    with Path(path).open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return _check_zip(path, allowed)
        file.seek(0)
        for number in range(PICKLES):
            end = Machine(allowed).run(file)
            if end is Machine.STRANGE or (number == 0 and end != MAGIC):
                return None
    return None


def _check_zip(path: str, allowed: Collection[str]) -> None:
    size = Path(path).stat().st_size
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if (whole := sum(part.file_size for part in parts)) > size:
            raise Unfit(
                f"expected parts that are stored as they are, got {whole:,} bytes in a "
                f"file of {size:,}"
            )
        for part in parts:
            if part.filename.lower().endswith("data.pkl"):
                with archive.open(part) as file:
                    Machine(allowed).run(file)


class Machine:
    """The stack and the memory of an unpickler, without values."""

    STRANGE = object()  # PyTorch stops here with a message of one line

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.allowed = allowed
        self.count = 0

    def run(self, file: IO[bytes]) -> Any:
        """Return the value of a pickle, as far as it is followed; STRANGE if PyTorch will stop."""
        try:
            for opcode, given, _ in pickletools.genops(file):
                self.count += 1
                if not (
                    self._value(opcode.name, given)
                    or self._moved(opcode.name, given)
                    or self._done(opcode.name)
                ):
                    return self.stack.pop() if opcode.name == "STOP" else self.STRANGE
        except (IndexError, KeyError):
            raise Unfit("its pickle is damaged") from None
        return self.STRANGE

    def _value(self, name: str, given: Any) -> bool:
        """Push a value if the opcode does that; return whether it does."""
        if name in NUMBERS or name in TEXTS:
            self.stack.append(given)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in HOLDERS:
            self.stack.append(Holder(name))
        elif name in TUPLES:
            count = TUPLES[name]
            self._tuple(tuple(self._pop() for _ in range(count))[::-1])
        elif name == "TUPLE":
            self._tuple(tuple(self._marked()))
        elif name == "GLOBAL":
            return self._named(".".join(given.split(" ", 1)))
        else:
            return False
        return True

    def _named(self, name: str) -> bool:
        if len(name) > NAME:
            raise Unfit(f"it names a class by {len(name):,} letters")
        self.stack.append(Global(name))
        return name.startswith(ALLOWED) or name in self.allowed

    def _tuple(self, parts: tuple[Any, ...]) -> None:
        size = 1 + sum(size_of(part) for part in parts)
        if size > SHARED + self.count:
            raise Unfit(f"a tuple holds {size:,} values, most of them again and again")
        self.stack.append(Tuple(parts, size))

    def _moved(self, name: str, given: Any) -> bool:
        """Move values if the opcode only does that; return whether it does."""
        if name in ("BINPUT", "LONG_BINPUT"):
            self.memo[given] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[given])
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name in ("APPEND", "APPENDS"):
            self._held([self._pop()] if name == "APPEND" else self._marked())
        elif name in ("SETITEM", "SETITEMS"):
            pairs = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._marked()
            for key in pairs[::2]:
                if isinstance(key, (Global, Holder)) or size_of(key) > KEY:
                    raise Unfit(f"a key is {description_of(key)}")
            self._held(pairs[1::2])
        else:
            return name == "PROTO"
        return True

    def _held(self, values: list[Any]) -> None:
        holder = self.stack[-1]
        if isinstance(holder, Holder):
            holder.largest = max([holder.largest, *map(size_of, values)])

    def _done(self, name: str) -> bool:
        """Make an object if the opcode does that; return whether it does.

        Raises Unfit if no state dict makes such an object.
        """
        if name not in ("REDUCE", "NEWOBJ", "BUILD", "BINPERSID"):
            return False
        given = self._pop()
        if name == "BINPERSID":
            if (
                not isinstance(given, Tuple)
                or given.size > KEY
                or any(isinstance(part, Holder) for part in given.parts)
            ):
                raise Unfit(f"it names a tensor by {description_of(given)}")
            self.stack.append(Holder("a tensor"))
            return True
        if size_of(given) > CALL or (
            name == "BUILD" and isinstance(given, Holder) and given.kind == "EMPTY_LIST"
        ):
            raise Unfit(f"an object is made of {description_of(given)}")
        if name != "BUILD":
            self._called(self._pop(), given)
        return True

    def _called(self, function: Any, given: Any) -> None:
        if not isinstance(function, Global) or not isinstance(given, Tuple):
            raise Unfit(f"it calls {description_of(function)}")
        first, second = (*given.parts, None, None)[:2]
        # set and Counter hash their values; bytearray(n) allocates n bytes; state dicts encode text
        # only as latin-1
        room = function.name == "builtins.bytearray" and isinstance(first, int)
        code = function.name in ("builtins.bytearray", "_codecs.encode") and second not in (
            None,
            "latin1",
            "latin-1",
        )
        many = (
            function.name in ("builtins.set", "collections.Counter")
            and (first.largest if isinstance(first, Holder) else size_of(first)) > KEY
        )
        if room or code or many:
            raise Unfit(f"it calls {function.name} in a way that no state dict does")
        self.stack.append(Holder("a result"))

    def _pop(self) -> Any:
        return self.stack.pop()

    def _marked(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items


def size_of(value: Any) -> int:
    """Return the number of values in a value, itself included."""
    return value.size if isinstance(value, Tuple) else 1


def description_of(value: Any) -> str:
    """Return a short description of a value."""
    if isinstance(value, Global):
        return value.name
    return (
        f"a tuple of {value.size:,} values"
        if isinstance(value, Tuple)
        else "no function, text or number"
        if isinstance(value, Holder)
        else f"a {type(value).__name__}"
    )
