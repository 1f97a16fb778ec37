"""requirements.lock has a fitting version for every dependency in pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def test_the_lock_has_a_version_that_fits_for_each_requirement() -> None:
    text = (ROOT / "requirements.lock").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(
        re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines
    )  # no hosts, no paths
    versions = dict(line.split("==") for line in lines)
    missing = {name.strip(",") for name in text.partition("was made:")[2].splitlines()[0].split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needs = [Requirement(line) for line in sum(extras.values(), project["dependencies"])]
    for need in needs:
        name = canonicalize_name(need.name)
        if name != "lissom" and name not in missing:
            assert need.specifier.contains(versions[name]), str(need)
    assert not any("efficientnet" in name for name in versions)
