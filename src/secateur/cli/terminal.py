"""What commands share: where they print, how they read options, and bars."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from secateur.errors import SecateurError, UsageError

out, err = Console(soft_wrap=True), Console(stderr=True)

Plan = Annotated[Path, typer.Argument(help="a TOML file; see docs/start.md", show_default=False)]
StoreAt = Annotated[Path, typer.Option("--store", help="folder of results")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="change a key of the plan, as an axis names it; may be given often"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print results for programs")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="load and build everything, estimate the cost, train nothing")
]
PageAt = Annotated[Path | None, typer.Option("--report", help="also write the report page here")]
DEFAULT_STORE = Path(".secateur")
STOPPED = 130  # the exit code after Ctrl-C
_STOPPED = "secateur: stopped; what was finished is in the store, and the same command goes on from there"


def look_in(folder: str) -> None:
    """Let the addresses of a plan ("mystep:Dampen") lead to this folder, where nowhere else."""
    if folder not in sys.path:
        sys.path.append(folder)


def told(error: SecateurError) -> str:
    """Its message, and where it happened: which step of the plan."""
    notes = getattr(error, "__notes__", [])
    return f"{error} ({'; '.join(notes)})" if notes else str(error)


def check_page(path: Path | None) -> None:
    """A page that cannot be written is better told before the work than after it."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UsageError(f'cannot write the report "{path}": name a file, in a folder that exists')


def located(store: Path, run: str) -> tuple[Path, str]:
    """The store and the key of a run, which may be named by its own folder."""
    folder = Path(run)
    named = folder.parent.name == "runs" and folder.is_dir()
    return (folder.parent.parent, folder.name) if named else (store, run)


def say(text: str, *, bad: bool = False) -> None:
    """Print to standard error."""
    err.print(text, style="red" if bad else None, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def two_stops() -> Iterator[None]:
    """The first Ctrl-C is an exception, as ever; a second ends the process at once, whatever it waits for.

    Yields:
        Nothing.
    """

    def second(*_: object) -> None:
        if err.is_terminal:
            err.show_cursor()  # bars hide it
        os.write(2, f"{_STOPPED}\n".encode())  # by no object that the first may have left locked
        os._exit(STOPPED)

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, second)  # for good: the way out has no place for a traceback either
        raise KeyboardInterrupt

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else a shell runs us behind
    if ours:
        signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if ours and signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def say_stopped() -> None:
    """Tell, once, that Ctrl-C has ended the command; one more has nothing to add."""
    ours = callable(signal.getsignal(signal.SIGINT))
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # or it might fall into the sentence
    say(_STOPPED)
    if ours:
        signal.signal(signal.SIGINT, lambda *_: os._exit(STOPPED))


@contextmanager
def bars(*, hidden: bool = False) -> Iterator[Bars]:
    """Show bars while this lasts, unless another process shows them."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=hidden or not err.is_terminal) as progress:
        yield Bars(progress)


class Bars:
    """Progress as bars on standard error, where that is a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        task = self._progress.add_task(label, total=total)
        try:
            yield lambda done: self._progress.advance(task, done)
        finally:
            self._progress.remove_task(task)

    def bar(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A bar that is called with how much is done, as ``secateur.run.Progress`` says."""
        return self._bar(label, total)
