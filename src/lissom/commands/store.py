"""Operations on a whole store: list it, delete unused entries, verify its checksums, sign it, copy
it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import LissomError, counted
from ..report.table import print_store
from ..store.checks import many_read
from ..store.elsewhere import pull, push
from ..store.manifest import (
    code_in,
    first_changed_file,
    manifest,
    record_in,
    record_unchanged,
    seal,
)
from ..store.pictures import PICTURES
from ..store.record import remedy
from ..store.signing import key_path, user_key
from ..store.store import Store

Say = Callable[[str], None]
Rows = list[dict[str, Any]]


def run_store_command(store: Store, *, quiet: bool, **options: Any) -> None:
    """Run `lissom store` and print the result, as JSON if `quiet`. Raises LissomError if files
    differ from their checksums.
    """
    rows = run_operation(store, quiet=quiet, **options)
    if quiet:
        print(json.dumps(rows, indent=1))
    if isinstance(rows, dict) and rows.get("wrong"):
        raise LissomError(
            f"store: {len(rows['wrong'])} of {rows['entries'] + rows['artefacts']} "
            f"folders in {store.root} "
            "are not what was written"
        )


def run_operation(
    store: Store,
    *,
    prune: bool,
    yes: bool,
    keep: Sequence[str],
    remove: Sequence[str],
    verify: bool,
    trust: bool,
    push_to: str,
    pull_from: str,
    quiet: bool,
    ask: Callable[[str], bool],
    say: Say,
) -> Rows | dict[str, Any]:
    """Run the operation that the options of `lissom store` ask for; print the result unless
    `quiet`, and return it.
    """
    if remove:
        deleted = remove_entries(store, [store.find(key) for key in remove])
        print_lines([f"removed {key}" for key in deleted], quiet)
        return {"removed": deleted}
    if push_to:
        pushed = push(store, push_to, say)
        print_lines([f"copied {counted(len(pushed), 'entry')} to {push_to}"], quiet)
        return {"pushed": pushed}
    if pull_from:
        pulled = pull(store, pull_from, say)
        print_lines([f"copied {counted(len(pulled), 'entry')} from {pull_from}"], quiet)
        return {"pulled": pulled}
    if trust:
        signatures = sign_store(store, say)
        named = (
            ", ".join(f"{code} ({count})" for code, count in signatures["code"].items())
            or "no code"
        )
        verb = "names" if signatures["signed"] == 1 else "name"
        signed = counted(signatures["signed"], "entry")
        print_lines([f"signed {signed}, which {verb} {named}"], quiet)
        return signatures
    if verify:
        result = verify_store(store)
        for line in result["wrong"]:
            say(line)
        read = f"{counted(result['entries'], 'entry')} and {counted(result['artefacts'], 'folder')}"
        print_lines([*result["notes"], f"{read} of exported files read"], quiet)
        return result
    rows = store_rows(store, say)
    if prune:
        keep = [store.find(key) for key in keep]
        deleted = unreached(store, keep)
        if deleted and not yes and not quiet:
            print_store([row for row in rows if row["key"] in deleted])
            yes = ask(f"Delete these {len(deleted)}?")
        if deleted and yes:
            deleted = delete_unreached(store, deleted, keep)
            rows = [row for row in rows if row["key"] not in deleted]
        elif not deleted:  # nothing needs asking
            store.sweep(parts=0)
    if not quiet:
        print_store(rows)
    return rows


def print_lines(lines: Iterable[str], quiet: bool) -> None:
    """Print lines unless `quiet`."""
    for line in () if quiet else lines:
        print(line)


def store_rows(store: Store, say: Say) -> Rows:
    """Return one row for each entry that can be read: key, recipe, seed, size_bytes, age_s,
    finished; report the others.
    """
    with many_read():
        return [
            {
                "key": key,
                "recipe": record["recipe"],
                "seed": record["seed"],
                "size_bytes": store.size_bytes(key),
                "age_s": round(time.time() - record["created"]),
                "finished": record["finished"],
            }
            for key, record in store.records(say)
        ]


def unreached(store: Store, keep: Sequence[str]) -> list[str]:
    """Return the keys that no finished recipe depends on; with `keep`, that none of those keys
    does.

    Entries that running processes need are never returned. Entries that cannot be read are left to
    `--remove`, with all that they were made from. Raises LissomError if that is unknown.
    """
    with many_read():
        records = {
            key: (record["before"], record["float"]["key"], record["finished"])
            for key, record in store.records(lambda _: None)
        }
    unreadable = {key: made_from_raw(store, key) for key in store if key not in records}
    made_from = {key: (before, source) for key, (before, source, _) in records.items()} | unreadable
    reached: set[str] = set()
    pending = [*keep] or [
        *unreadable,
        *(key for key, (_, _, finished) in records.items() if finished),
    ]
    pending += store.running()
    while pending:
        key = pending.pop()
        if key in made_from and key not in reached:
            reached.add(key)
            pending += [other for other in made_from[key] if other is not None]
    return [key for key in records if key not in reached]


def made_from_raw(store: Store, key: str) -> tuple[str | None, str | None]:
    """Return the entries that one was made from if its record is damaged or of a newer lissom.
    Raises LissomError if the record does not say so.
    """
    folder = store.root / key  # which may be a link
    record = record_in(folder)
    before, float_of = record.get("before", 0), record.get("float")
    source = float_of.get("key") if isinstance(float_of, dict) else None
    if not isinstance(before, str | None) or not isinstance(source, str):
        if key not in store:  # removed meanwhile
            return None, None
        cure = f"delete the link {folder}" if folder.is_symlink() else remedy(folder)
        raise LissomError(
            f"store: nothing was deleted, since the record of {key} does not say what it was made "
            f"from; {cure}"
        )
    return before, source


def delete_unreached(store: Store, keys: Iterable[str], keep: Sequence[str]) -> list[str]:
    """Delete the entries among `keys` that are still unreached, and the leftovers of killed
    processes; return the deleted keys.

    Entries stay if a running process needs them or their descendants, or is making or measuring
    them.
    """
    deleted = []
    with store.lock(".prune"):  # a run that begins now waits until entries are deleted
        deletable = set(unreached(store, list(keep)))
        for key in keys:
            if key in deletable:
                with store.try_lock(key) as locked:
                    if locked:
                        store.remove(key)
                        deleted.append(key)
    store.sweep(parts=0)
    return deleted


def remove_entries(store: Store, keys: Iterable[str]) -> list[str]:
    """Delete entries, readable or not. Raises LissomError for one that a running process needs."""
    keys = list(keys)
    with store.lock(".prune"):
        needed = store.running()
        for key in keys:
            with store.try_lock(key) as locked:
                if key in needed or not locked:
                    raise LissomError(
                        f"store: {key} is needed by a run that goes on; remove it "
                        "when that has ended"
                    )
                store.remove(key)
    return keys


def verify_store(store: Store) -> dict[str, Any]:
    """Compare every file of a store with its checksum.

    Return the numbers of `entries` and `artefacts` that were read, a line for each that is `wrong`,
    and `notes` on those that have no checksums or are not signed by this user.
    """
    errors = []
    notes: list[str] = []
    artefacts = 0
    for key, folder in store.folders(notes.append):
        exported = store.artefacts(key)
        artefacts += len(exported)
        places = [
            (folder, key),
            *((path, f"{key}/artefacts/{path.name}") for path in (*exported, *store.pictures(key))),
        ]
        for place, name in places:
            sealed = manifest(place, name)
            if sealed is None:
                notes.append(
                    f"{name}: it has no checksums that can be read; `lissom store "
                    "--trust` makes new ones"
                )
            elif (changed := first_changed_file(place, sealed)) is not None:
                cure = "it is made anew when it is needed"
                if place == folder:
                    cure = remedy(folder)
                elif place.name.startswith(PICTURES):
                    cure = f"delete {place}, which holds images for the report alone"
                errors.append(
                    f"{name}: {changed} is not what was written (its SHA-256 differs); {cure}"
                )
            elif place == folder:
                try:
                    store.record(key)
                except LissomError as error:
                    errors.append(str(error).removeprefix("store: "))
                    continue
                if not record_unchanged(sealed, folder):
                    errors.append(f"{name}: record.json is not what was written; {remedy(folder)}")
        if (code := code_in(folder)) and not store.is_trusted(key):
            notes.append(f"{key}: it names {code}, and is not signed by you")
    return {"entries": len(list(store)), "artefacts": artefacts, "wrong": errors, "notes": notes}


def sign_store(store: Store, say: Say) -> dict[str, Any]:
    """Sign every entry with this user's key; return the number signed, and entries per named code.

    An entry whose files differ from their checksums is not signed, and reported.
    """
    if user_key() is None:
        raise LissomError(f"store: {key_path()} cannot be written, so nothing can be signed")
    code_counts = Counter[str]()
    signed = 0
    for key, folder in store.folders(say):
        sealed = manifest(folder, key)
        try:
            with store.lock(f"{key}.record"):
                store.record(key)  # raises if it cannot be read
                if sealed is not None and not record_unchanged(sealed, folder):
                    raise LissomError("record.json is not what was written")
                if (
                    sealed is not None
                    and (changed := first_changed_file(folder, sealed)) is not None
                ):
                    raise LissomError(f"{changed} is not what was written (its SHA-256 differs)")
                seal(folder, key)
                code = code_in(folder)
        except LissomError as error:
            say(f"{key}: not signed: {error}")
            continue
        signed += 1
        code_counts.update([code] if code else [])
    return {"signed": signed, "code": dict(code_counts)}
