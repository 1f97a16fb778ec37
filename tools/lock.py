"""Print requirements.lock: the installed version of every package that lissom and its extras need.

python tools/lock.py > requirements.lock

Only packages reached from the requirements in pyproject.toml are printed, so other packages in the
environment are left out. Versions have no local tags (+cpu), files or index addresses.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("all", "test", "dev", "compare", "ray", "tensorboard", "mlflow")
HEAD = """\
# The versions that the results in docs/results were made with last, on {system}, Python {python}.
# To install them, and lissom without looking for others:
#     pip install -r requirements.lock
#     pip install --no-deps -e .
# On another system, leave out the lines that pip does not find (nvidia-*, cuda-*, triton).
# Made by: python tools/lock.py > requirements.lock{missing}
"""


def locked(root: str, extras: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """Return the installed packages that `root` with `extras` needs, name -> version, and the names
    of needed packages that are not installed.
    """
    versions: dict[str, str] = {}
    missing: list[str] = []
    seen = set[tuple[str, str]]()
    waiting = [(root, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        versions[canonicalize_name(name)] = package.version.partition("+")[0]
        for line in package.requires or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting += [(need.name, more) for more in ("", *need.extras)]
    del versions[canonicalize_name(root)]
    return versions, sorted(set(missing))


def main() -> None:
    """Print the lock file."""
    versions, missing = locked("lissom", EXTRAS)
    left_out = f"\n# Not installed when it was made: {', '.join(missing)}" if missing else ""
    system = f"{platform.system()} {platform.machine()}"
    sys.stdout.write(HEAD.format(system=system, python=platform.python_version(), missing=left_out))
    for name, version in sorted(versions.items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
