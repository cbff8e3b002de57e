"""What a grid shows while it runs: a terminal gets bars, a file gets lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from secateur.cli.terminal import Bars, bars, err, say


@contextmanager
def live(jobs: int, *, steps: bool) -> Iterator[tuple[Bars, Shown]]:
    """Show a grid while this lasts.

    Args:
        jobs: Of its engine.
        steps: Whether steps show how far they come; what does not is told by lines, on a terminal, too.

    Yields:
        Where steps show how far they come, and what hears the events of the log.
    """
    with bars() as progress, ExitStack() as stack:
        yield progress, Shown(progress, stack, lines=not steps or (jobs > 1 and not err.is_terminal))


class Shown:
    """Hears the events of a grid.

    Args:
        progress: Shows how many runs are done; here, how many have failed.
        stack: Closes the bars.
        lines: Whether to print a line for each event.
    """

    def __init__(self, progress: Bars, stack: ExitStack, *, lines: bool) -> None:
        self._progress, self._stack, self._lines = progress, stack, lines
        self._runs = 0
        self._another_failed: Callable[[int], None] = self._first_failed

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event, as ``lab.run_grid`` tells it."""
        what = event["event"]
        if what == "start":
            self._runs = event["runs"]
            if was := event["before"]:
                ended = "was stopped"
                if was["host"]:
                    ended = f"was not seen to end on {was['host']}, and may run there still,"
                say(
                    f"secateur: {event['plan']} or its --set has changed since {was['since'][:16]}Z, when a "
                    f"grid of it began that {ended} after {was['done']} of {was['runs']} runs: what that "
                    "finished is kept, steps in common are not taken again, and the old plan can still be "
                    "finished"
                )
            if event["threads"]:
                say(
                    f"secateur: the plan leaves threads open, so each of {event['jobs']} jobs takes "
                    f"{event['threads']}, which is part of a run's key; threads = {event['threads']} in the "
                    "plan gives the same runs under any --jobs"
                )
            if crowd := event["crowd"]:
                say(
                    f"secateur: {event['jobs']} jobs want {crowd['threads']} threads and there are "
                    f"{crowd['cores']} cores, so they will wait for one another: fewer --jobs, or fewer "
                    "threads in the plan, are faster"
                )
        elif what == "failed":
            self._another_failed(1)
        if what == "died":
            say(f"secateur: a worker died ({event['why']}) in {self._named(event)}", bad=True)
        elif self._lines and what in ("began", "done", "failed"):
            say(f"{event['time'][11:19]} {what} {self._named(event)}", bad=what == "failed")

    def _named(self, event: Mapping[str, Any]) -> str:
        return f'"{event["label"]}" of run {event["run"]} of {self._runs}'

    def _first_failed(self, count: int) -> None:
        self._another_failed = self._stack.enter_context(self._progress.bar("failed", self._runs))
        self._another_failed(count)
