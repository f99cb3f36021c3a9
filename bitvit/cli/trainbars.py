"""What `bitvit train` shows while it works: bars with the time left on a terminal, else a line now and then."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, Progress, TextColumn
from rich.status import Status

from bitvit.cli.console import counting_bar, is_animated, print_note, printable, stderr_console
from bitvit.train.loop import Run, duration
from bitvit.train.training import Listener

__all__ = ["Shown"]


class Shown(Listener):
    """Shows what happens: bars with the time left on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._console = stderr_console() if sys.stderr is not None else None
        self._live = self._console is not None and is_animated(self._console)
        self._status: Status | None = None

    @contextlib.contextmanager
    def status(self) -> Iterator[None]:
        """Around what is told by say alone."""
        if not self._live or self._console is None:
            yield
            return
        with self._console.status("") as self._status:
            yield
        self._status = None

    def say(self, text: str) -> None:
        if self._status is not None:
            self._status.update(printable(text))
        elif self._console is not None and not self._live:
            self._console.print(f"{time.strftime('%H:%M:%S')} {printable(text)}", markup=False)

    def note(self, text: str) -> None:
        print_note(text)

    @contextlib.contextmanager
    def reading(self, total: int) -> Iterator[Callable[[], None]]:
        with counting_bar(stderr_console(), total) as done:
            yield done

    @contextlib.contextmanager
    def training(self, name: str) -> Iterator[Callable[[Run], None]]:
        if not self._live or self._console is None:
            yield lambda _run: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            TextColumn("epoch {task.fields[epoch]}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("top-1 {task.fields[top1]}"),
            TextColumn("{task.fields[left]} left"),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            yield _Bar(bar, name)


class _Bar:
    """Shows a run after each step."""

    def __init__(self, bar: Progress, name: str) -> None:
        self._bar = bar
        self._task = bar.add_task(
            name, total=None, epoch="1", loss="-", top1="-", left="compiling if need be, then training;"
        )

    def __call__(self, run: Run) -> None:
        measured = [row["top1"] for row in run.log if "top1" in row]
        self._bar.update(
            self._task,
            completed=run.step,
            total=run.steps,
            epoch=f"{-(-run.step // run.per_epoch)}/{-(-run.steps // run.per_epoch)}",
            loss=f"{run.losses.get('task', 0):.3f}",
            top1=f"{measured[-1]:.2f} %" if measured else "-",
            left=duration(run.seconds_left),
        )
