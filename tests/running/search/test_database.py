"""Several searches share their outcomes in a database."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from landscape import SPACE, Landscape

from lissom import LissomError
from lissom.language.search_space import SearchSpace
from lissom.language.want import Want
from lissom.running.search.search import Budget, Search


def begun(root: Path, storage: str, trials: int) -> tuple[Search, Landscape]:
    land = Landscape(root)
    search = Search(
        SearchSpace(SPACE),
        Want.of("fastest, top1 >= float - 0.03"),
        land,  # type: ignore[arg-type]
        Budget(1e6, trials),
        storage,
        "random",
        clock=land.clock,
    )
    return search, land


def go_on(root: Path, storage: str, trials: int) -> tuple[Search, Landscape]:
    search, land = begun(root, storage, trials)
    search.search()
    return search, land


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URL of a fresh PostgreSQL server that ends with the test."""
    programs = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), shutil.which("initdb")]
    found = next((Path(program) for program in programs if program), None)
    if found is None or find_spec("psycopg") is None:
        pytest.skip("no PostgreSQL here: apt install postgresql, pip install 'psycopg[binary]'")
    # the server refuses to run as root
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"

    def run(program: str, *words: str) -> None:
        as_user = {"user": user} if os.geteuid() == 0 else {}
        done = subprocess.run(
            [found.resolve().with_name(program), *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            **as_user,  # type: ignore[arg-type]
        )
        if done.returncode:
            pytest.skip(f"PostgreSQL does not start here: {done.stderr.strip()[-200:]}")

    run("initdb", "-D", str(data), "-U", "lissom", "-A", "trust", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://lissom@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_two_searches_share_a_postgresql_database(postgresql: str, tmp_path: Path) -> None:
    first, _ = go_on(tmp_path / "one", postgresql, 4)
    second, land = go_on(tmp_path / "two", postgresql, 6)
    assert [each.recipe for each in second.outcomes[:4]] == [each.recipe for each in first.outcomes]
    assert len(second.trained) == 6 and len(land.calls) == 2


def test_searches_at_the_same_time_see_each_other(postgresql: str, tmp_path: Path) -> None:
    """What one finds out the other knows in its next round, and they do not draw the same."""
    one, first = begun(tmp_path / "one", postgresql, 8)
    two, second = begun(tmp_path / "two", postgresql, 8)
    searches = [Thread(target=search.search) for search in (one, two)]
    for search in searches:
        search.start()
    for search in searches:
        search.join()
    tried = first.calls + second.calls
    assert first.calls and second.calls and 8 <= len(tried) <= 9 and len({*tried}) >= 7
    assert {each.recipe for each in two.study.outcomes()} == set(tried)


def test_a_database_in_a_file(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    first, _ = go_on(tmp_path, storage, 2)
    second, land = go_on(tmp_path, storage, 3)
    assert second.outcomes[:2] == first.outcomes and len(land.calls) == 1


def test_a_database_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    for storage in ("postgresql+psycopg://nobody@127.0.0.1:1/none", "nosuch://x"):
        with pytest.raises(LissomError, match=r"--storage: .* cannot be opened"):
            go_on(tmp_path, storage, 1)
