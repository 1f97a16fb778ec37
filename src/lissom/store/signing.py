"""The user's own key: an entry that it signed was written by this user's lissom, and by nobody
else.

It is the only file outside the store: `signing.key` in the user's configuration folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from ..errors import LissomError

KEY_BYTES = 32


def key_path() -> Path:
    """Return the path of the user's key, which may not exist yet."""
    return user_config_path("lissom", appauthor=False) / "signing.key"


def user_key(*, make: bool = True) -> bytes | None:
    """Return the user's key (32 bytes), made if there is none yet; None if it cannot be written.

    If two processes make it at the same time, both return the key of the first. Raises LissomError
    if the file holds something else.
    """
    path = key_path()
    try:
        if make and not path.exists():
            _make(path)
        found = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    if len(found) != 2 * KEY_BYTES or not all(digit in "0123456789abcdef" for digit in found):
        raise LissomError(
            f"{path}: expected {2 * KEY_BYTES} hexadecimal digits, got something else; "
            "delete it, and "
            "`lissom store --trust` signs what you have with a new key"
        )
    return bytes.fromhex(found)


def _make(path: Path) -> None:
    """Write a new key beside `path`, and link it to `path` unless another process was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii"
        ) as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            if os.name == "nt":
                new.rename(path)  # on Windows, this never replaces a file
            else:
                os.link(new, path)
    finally:
        new.unlink(missing_ok=True)


def signature(facts: dict[str, Any], key: bytes) -> str:
    """Return the HMAC-SHA256 of facts under a key, independent of their order."""
    return hmac.new(key, canonical(facts), hashlib.sha256).hexdigest()


def canonical(facts: Any) -> bytes:
    """Return facts as bytes: equal facts give equal bytes.

    >>> canonical({"b": 1, "a": [2.0]})
    b'{"a":[2.0],"b":1}'
    """
    return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()


def same(first: str, second: str) -> bool:
    """Return whether two signatures are equal, in constant time."""
    return hmac.compare_digest(first.encode(), second.encode())
