"""The processes of a run that learn together: the first starts the others by its own command line.

Only the first reads and writes records, prunes, quantizes and measures. It sends the others the key
of each network that has to learn, and they load the network before it from the store.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist

from ..errors import LissomError
from ..learning.ranks import Ranks, join_group
from ..system.processes import command, ended, surroundings
from ..system.scratch import temporary

RANK = "LISSOM_RANK"  # of a process that the first process started
COUNT = "LISSOM_PROCESSES"
PLACE = "LISSOM_MEETING"  # a folder
PATIENCE_S = 5.0  # wait this long for a process that does not answer to end
AGAIN = "the same command goes on from the last checkpoint"


class Team:
    """The processes that learn together; this one is `rank` of `count`.

    `arguments` is the command line by which the first process starts the others when a step learns;
    None if torchrun has started them already. `place` is the folder of their rendezvous.
    """

    def __init__(
        self,
        count: int,
        arguments: Sequence[str] | None = None,
        rank: int = 0,
        place: Path | None = None,
    ) -> None:
        self.count = count
        self.arguments = arguments
        self.rank = rank
        self.place = place
        self.others: list[subprocess.Popen[bytes]] = []
        self.ranks: Ranks | None = None
        self.stack = ExitStack()

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the other processes end; kill them if this one failed."""
        if kind is not None:
            self._end()
        with self.stack, suppress(LissomError):
            if kind is None and self.rank == 0 and self.ranks is not None:
                self.ranks.broadcast_bytes(b"", patient=True)
                wait(self.others, any, 2 * PATIENCE_S)

    def begin(self, device: torch.device) -> None:
        """Join the processes that torchrun started: they wait from the beginning, for this one."""
        if self.arguments is None and self.ranks is None:
            self.check(device)
            self.ranks = self.join(nccl=one_each(device, self.count))

    @contextmanager
    def learning(self, key: str, device: torch.device) -> Iterator[Ranks]:
        """Let the other processes join in learning a network; the cores are divided meanwhile."""
        self.check(device)
        threads = torch.get_num_threads()
        if self.ranks is None:
            if self.arguments is not None:
                self._start(max(1, threads // self.count))
            self.ranks = self.join(nccl=one_each(device, self.count))
        self.ranks.broadcast_bytes(key.encode(), patient=True)
        if self.arguments is not None:
            torch.set_num_threads(max(1, threads // self.count))
        try:
            yield self.ranks
        finally:
            torch.set_num_threads(threads)

    def keys(self, ranks: Ranks) -> Iterator[str]:
        """Yield the key of each network to learn, as the first process sends them."""
        while key := ranks.broadcast_bytes(b"", patient=True).decode():
            yield key

    def check(self, device: torch.device) -> None:
        """Raise LissomError if processes cannot exchange tensors of a device."""
        if device.type not in ("cpu", "cuda"):
            raise LissomError(f"--processes: expected --device cpu or cuda, got {device}")

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process: its own GPU if there is one for each process."""
        if not one_each(device, self.count):
            return device
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)))
        torch.cuda.set_device(own)
        return own

    def join(self, nccl: bool) -> Ranks:
        """Join the other processes. With `nccl`, gradients on GPUs are exchanged through NCCL."""
        file = None
        if self.place is not None:
            file = self.place / "meeting"
            (self.place / f"{self.rank}.ready").touch()
        ranks = join_group(self.rank, self.count, file, self.failure_reason, nccl=nccl)
        self.stack.callback(dist.destroy_process_group)
        return ranks

    def _start(self, threads: int) -> None:
        """Start the other processes, and wait until they have read the data."""
        assert self.arguments is not None
        self.place = self.stack.enter_context(temporary())
        self.stack.callback(self._end)
        stay_inside()
        shared = {COUNT: str(self.count), PLACE: str(self.place), "OMP_NUM_THREADS": str(threads)}
        for rank in range(1, self.count):
            with (self.place / f"{rank}.log").open("wb") as log:
                self.others.append(
                    subprocess.Popen(
                        command("lissom", *self.arguments),
                        env=surroundings(**shared, **{RANK: str(rank)}),
                        stdin=subprocess.PIPE,  # closes when this process ends, however it ends
                        stdout=subprocess.DEVNULL,
                        stderr=log,
                    )
                )
        places = [self.place / f"{rank}.ready" for rank in range(1, self.count)]
        while not all(place.exists() for place in places):
            if any(process.poll() is not None for process in self.others):
                raise LissomError(self.failure_reason())
            time.sleep(0.05)

    def _end(self) -> None:
        """Kill the other processes."""
        for process in self.others:
            process.kill()
        for process in self.others:
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def failure_reason(self) -> str:
        """Return one line on which process does not answer, and why."""
        if self.rank:
            return "--processes: the first process has ended"
        wait(self.others, any, PATIENCE_S)
        wait(self.others, all, PATIENCE_S / 10)
        reasons = [self._reason(rank) for rank in range(1, len(self.others) + 1)]
        # when one process fails, the rest end too: report the original failure
        first = sorted(filter(None, reasons), key=lambda reason: "has ended" in reason)
        return f"--processes: {first[0] if first else 'another process does not answer'}; {AGAIN}"

    def _reason(self, rank: int) -> str:
        """Return how a process ended, and the last line it printed; '' if it has not ended."""
        if (status := self.others[rank - 1].poll()) is None:
            return ""
        assert self.place is not None
        text = (self.place / f"{rank}.log").read_text(encoding="utf-8", errors="replace")
        last = text.strip().rpartition("\n")[2].removeprefix("lissom: ")
        how = f"process {rank} of 0 to {self.count - 1} {ended(status)}"
        return f"{how}: {last}" if last else how


def stay_inside() -> None:
    """Make gloo use the loopback interface, unless the user names another one."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])


def wait(
    processes: Sequence[subprocess.Popen[bytes]],
    enough: Callable[[Iterator[bool]], bool],
    most_s: float,
) -> None:
    """Wait until enough processes (any or all) have ended, for at most `most_s` seconds."""
    until = time.monotonic() + most_s
    while processes and time.monotonic() < until:
        if enough(process.poll() is not None for process in processes):
            return
        time.sleep(0.02)


def one_each(device: torch.device, count: int) -> bool:
    """Return whether each process learns on its own GPU: the device has no index, and this machine
    has enough GPUs.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    return device.type == "cuda" and device.index is None and torch.cuda.device_count() >= here


def team_of(processes: int, arguments: Sequence[str]) -> Team | None:
    """Return the team of `--processes` or torchrun; None if this process learns alone."""
    if RANK in os.environ:
        threading.Thread(target=end_with_first, daemon=True).start()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
        place = Path(os.environ[PLACE])
        return Team(int(os.environ[COUNT]), rank=int(os.environ[RANK]), place=place)
    count = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if count > 1 and processes > 1:
        raise LissomError(
            f"--processes: torchrun has started {count} processes; expected --nproc-per-node or "
            "--processes, not both"
        )
    if count > 1:
        return Team(count, rank=int(os.environ["RANK"]))
    return Team(processes, arguments) if processes > 1 else None


def end_with_first() -> None:
    """End this process when the first process, which holds its standard input, has ended."""
    os.read(0, 1)  # reading sys.stdin would hold its lock when this process ends by itself
    os._exit(1)
