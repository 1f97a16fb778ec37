"""A store: records, logs and manifests, read by every command that shows a store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from .family import Family, Mutant, Wrong, refused
from .mutate import bytes_of, json_of

SPACE = "train(1, batch=256) | {prune(0.5), quantize(8)}"


class Records(Family):
    """A store of four entries with changed files."""

    name = "records"

    def make(self, seed: Path) -> None:
        """Run a small space and add made-up measurements of runtimes."""
        import warnings

        import lissom
        from lissom.data.data import Data
        from lissom.store.store import Store
        from lissom.tasks.task import Task

        from .networks import Tiny

        store = Store(seed / "store")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lissom.LissomWarning)
            records = lissom.run(SPACE, Task(Tiny, Data.of("digits", size=(8, 8)), "tiny"), store)
        for number, record in enumerate(records):
            store.update(
                record["key"],
                {
                    "targets": {
                        "onnxruntime": target(record, 1.0 + number),
                        "openvino": target(record, 0.9),
                    }
                },
            )

    def begin(self, seed: Path) -> None:
        """Copy the store and check that it can be shown."""
        self.files = {
            path.relative_to(seed).as_posix(): path.read_bytes()
            for path in sorted((seed / "store").rglob("*"))
            if path.is_file() and path.suffix in (".json", ".jsonl") and ".locks" not in path.parts
        }
        self.keys = sorted(
            {Path(name).parts[1] for name in self.files if name.endswith("/record.json")}
        )
        for name, data in self.files.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_bytes(data)
        self.names = (
            *self.keys,
            "top1",
            "test",
            "valid",
            "float",
            "onnxruntime",
            "stem.0",
            "quantize(8)",
            "../" + self.keys[0],
            "x" * 12,
        )
        if self._shown():
            raise Wrong("the seed is refused")

    def mutant(self, rng: Random) -> Mutant:
        """Return one changed file of the store, or records with changed origins."""
        if rng.random() < 0.05:
            return self._cycle(rng)
        kinds = ("record.json",) * 8 + (
            "log.jsonl",
            *{Path(name).name for name in self.files}
            - {"record.json", "log.jsonl", "structure.json"},
        )
        kind = rng.choice(sorted(kinds))
        name = rng.choice([name for name in self.files if name.endswith("/" + kind)])
        data = self.files[name]
        if data and rng.random() < 0.7:
            lines = data.decode().splitlines() if kind.endswith("jsonl") else [data.decode()]
            at = rng.randrange(len(lines))
            lines[at] = json_of(rng, lines[at], self.names)
            return {name: "\n".join(lines).encode(errors="replace")}
        return {name: bytes_of(rng, data, self.files[rng.choice(list(self.files))])}

    def _cycle(self, rng: Random) -> Mutant:
        """Return records whose previous step is another entry, themselves, or missing."""
        mutant = {}
        for key in rng.sample(self.keys, rng.choice((1, 2, 3))):
            name = f"store/{key}/record.json"
            record = json.loads(self.files[name])
            record["before"] = rng.choice(
                (*self.keys, key, "", None, "missing", f"../store/{key}", f"./{key}")
            )
            if rng.random() < 0.5:
                record["float"]["key"] = rng.choice((*self.keys, key, "missing"))
            mutant[name] = json.dumps(record).encode()
        return mutant

    def read(self, mutant: Mutant) -> bool:
        """Show the store with the mutant in it, in a way that depends on the mutant."""
        for name, data in mutant.items():
            (self.work / name).write_bytes(data)
        try:
            return self._shown(mutant)
        finally:
            for name in mutant:
                (self.work / name).write_bytes(self.files[name])

    def _shown(self, mutant: Mutant | None = None) -> bool:
        from lissom.commands.store import store_rows, unreached, verify_store
        from lissom.report.comparison import compare_records, print_comparison
        from lissom.report.page import CachedStore, page_data
        from lissom.report.table import print_record, print_records, print_store
        from lissom.store.store import Store

        store = Store(self.work / "store")

        def records() -> list[dict[str, Any]]:
            return [store.record(store.find(key)) for key in self.keys]

        def alone() -> None:
            for record in records():
                print_record(record, store)

        def compare() -> None:
            for key in self.keys:
                print_comparison(
                    compare_records(
                        store.record(store.find(self.keys[0])), store.record(store.find(key)), store
                    )
                )

        def report() -> None:
            once = CachedStore(store.root)
            read = [record for _, record in once.records(told.append)]
            json.dumps(
                page_data([record for record in read if record["targets"]] or read, once),
                allow_nan=False,
            )

        def tables(form: str) -> Callable[[], None]:
            return lambda: print_records(store.records_by_prefix(self.keys), form)

        def entries() -> None:
            print_store(store_rows(store, told.append))

        told: list[str] = []
        ways: list[Callable[[], object]] = [
            alone,
            compare,
            report,
            entries,
            lambda: verify_store(store),
            lambda: unreached(store, []),  # which is refused if it is unknown what an entry needs
        ]
        ways += [tables(form) for form in ("table", "markdown", "csv")]
        chosen = ways
        no = False
        if mutant is not None:
            no = refused(lambda: [(store.record(key), store.log(key)) for key in self.keys])
            # a record that is refused on reading is refused by every command, so only one in five
            # is tested further; other mutants go through one command
            draw = Random(repr(sorted(mutant.items())))
            chosen = draw.sample(ways, 0 if no and draw.random() < 0.8 else 1)
        for way in chosen:
            said = refused(way)
            if said and way in (report, entries):
                raise Wrong("one entry keeps all others from being shown")
            no = no or said
        return no


def target(record: dict[str, Any], ms: float) -> dict[str, Any]:
    """Return made-up measurements of a file in a runtime, in the form of a record."""

    def took(median: float) -> dict[str, Any]:
        return {"median": median, "low": median * 0.98, "high": median * 1.03, "runs": 100}

    layers = {row["name"]: 0.1 for row in record["layers"]}
    return {
        "threads": 1,
        "batch": 1,
        "bake": False,
        "artefact": f"artefacts/{record['key']}/model.onnx",
        "size_bytes": 12_345,
        **record["scores"]["test"],
        "agreement": 0.99,
        "gates": [{"name": "artefact = simulated (rms)", "difference": 0.01, "tolerance": 0.1}],
        "latency_ms": took(ms),
        "float_latency_ms": took(2.5),
        "float_size_bytes": 54_321,
        "load_ms": 12.5,
        "peak_mib": 80.5,
        "resident_mib": 10.5,
        "fused": "3/4",
        "not_fused": ["last"],
        "layers_ms": layers,
        "float_layers_ms": layers,
    }
