"""The progress of a run: bars on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from .terminal import terminal

if TYPE_CHECKING:
    from ..language.training import Progress


class Live:
    """Report progress; `quiet` prints only plain lines, for scripts."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = terminal(stderr=True)
        self.plain = quiet or not self.console.is_terminal
        self.bars = Bars(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.bar = None if self.plain else self.bars.add_task("", facts="", visible=False)

    def __enter__(self) -> Live:
        if not self.plain:
            self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.plain:
            self.bars.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        if self.bar is not None:
            self.bars.update(self.bar, visible=False)
        self.console.print(text, soft_wrap=True)

    def begin(self, text: str) -> None:
        """Report the beginning of something that may take long: a line, and on a terminal a moving
        bar with the elapsed time.
        """
        self.say(text)
        if self.bar is not None:
            self.bars.reset(self.bar, total=None, description="", facts="", visible=True)

    def watch(self, now: Progress) -> None:
        """Show the progress of training: epoch, loss, accuracy, samples per second and time left."""
        top1 = "" if now.top1 is None else f"  top-1 {now.top1:.3f}"
        facts = f"loss {now.loss:.3f}{top1}  {now.samples_per_s:,.0f} samples/s"
        if self.bar is not None:
            self.bars.update(
                self.bar,
                description=f"epoch {now.epoch}/{now.epochs}",
                completed=now.done,
                total=now.total,
                facts=facts,
                visible=True,
            )
        elif now.done % max(1, now.total // now.epochs) == 0:
            left = (now.total - now.done) * now.seconds_per_step
            self.console.print(
                f"  epoch {now.epoch}/{now.epochs}  {facts}  {left:.0f} s left", soft_wrap=True
            )
