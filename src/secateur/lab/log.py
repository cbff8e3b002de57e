"""The log of a grid: one file of JSON lines for each process, and what is running, as told by them."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from secateur.errors import StoreError

FOLDER = "logs"

# "event" is "start", "began", "done", "died" (a worker; its task is tried again), "failed" (a run) or "end"
Event: TypeAlias = Mapping[str, Any]


class Log:
    """Writes what happens, as it happens.

    Args:
        store: The folder of results.
        hear: Also told of every event.
    """

    def __init__(self, store: Path, hear: Callable[[Event], None] | None = None) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        self.path = store / FOLDER / f"{stamp}-{os.getpid()}.jsonl"
        self._hear = hear

    def __call__(self, event: str, **told: Any) -> None:
        """Write one line, and see that it is on its way to the disk.

        Args:
            event: What happened.
            **told: About it, JSON-like.

        Raises:
            StoreError: It cannot be written.
        """
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **told}
        if event == "start":
            line["folder"] = os.getcwd()  # a plan may be named from elsewhere the next time
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise StoreError(
                f'cannot write "{self.path}" ({error.strerror or error}): free or unlock the disk, or name '
                "another --store; what was finished is kept"
            ) from error
        if self._hear is not None:
            self._hear(line)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self("end", why="finished" if kind is None else kind.__name__)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What runs now.

    Attributes:
        label: Name of the step in its plan, or "judge".
        run: Number of a run that needs it.
        since: When it began, ISO 8601 in UTC.
        seconds: How long ago that is.
    """

    label: str
    run: int
    since: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class GridStatus:
    """How far a grid has come that has not ended.

    Attributes:
        plan: Its name.
        pid: Of its process.
        host: Where that runs.
        alive: Whether it does; None where that cannot be seen from here.
        since: When it started.
        runs: How many it has.
        done: How many are.
        failed: How many have failed.
        running: Its steps under way.
        log: The file that tells this.
    """

    plan: str
    pid: int
    host: str
    alive: bool | None
    since: str
    runs: int
    done: int
    failed: int
    running: tuple[Step, ...]
    log: str


def status(store: Path) -> list[GridStatus]:
    """The grids that run now on a store.

    Args:
        store: The folder of results; may be missing.

    Returns:
        Those without an end, oldest first. One whose process is gone was killed; one on another host may have
        been. Either stands there until the same plan is started again, wherever that is; one on another host
        comes back when it is heard of after that.
    """
    found: list[tuple[str, str, GridStatus]] = []  # where the plan lies, when it was last heard of
    for path in sorted((store / FOLDER).glob("*.jsonl")):
        events = _read(path)
        if not events or events[0]["event"] != "start":
            continue
        told, place = _told(events, path), _place(events[0])
        found = [
            (where, last, one)
            for where, last, one in found
            if where != place or one.alive or (one.alive is None and last > told.since)
        ]
        if events[-1]["event"] != "end":
            found.append((place, events[-1]["time"], told))
    return [one for _, _, one in found]


def changed(store: Path, plan: str, content: str) -> dict[str, Any] | None:
    """What the last grid of a plan did, where it was stopped, and the plan was another one then.

    Args:
        store: The folder of results; may be missing.
        plan: The plan's name: one file counts as one plan, however its path is written.
        content: Digest of all its runs.

    Returns:
        "since" when, how many "runs" it had, how many were "done"; "host" is the other machine that it ran
        on, where it may still run there, for nobody saw it end. Else None.
    """
    place = _place({"plan": plan})
    for path in sorted((store / FOLDER).glob("*.jsonl"), reverse=True):
        events = _read(path)
        if not events or events[0]["event"] != "start" or _place(events[0]) != place:
            continue
        told, ended = _told(events, path), events[-1]["event"] == "end"
        finished = events[-1].get("why") == "finished"
        same = events[0].get("content", content) == content  # logs of before told no content
        if finished or same or (told.alive and not ended):
            return None
        unseen = told.alive is None and not ended
        about = {name: getattr(told, name) for name in ("since", "runs", "done")}
        return about | {"host": told.host if unseen else None}
    return None


def _place(start: Event) -> str:
    """Where a plan lies; logs of before did not say in which folder it was named."""
    return os.path.realpath(os.path.join(start.get("folder", ""), start["plan"]))


def _told(events: list[dict[str, Any]], path: Path) -> GridStatus:
    start, ends = events[0], ("done", "died", "failed")
    running: dict[str, Step] = {}
    for event in events:
        if event["event"] == "began":
            ago = time.time() - datetime.fromisoformat(event["time"]).timestamp()
            running[event["key"]] = Step(
                label=event["label"], run=event["run"], since=event["time"], seconds=round(ago, 3)
            )
        elif event["event"] in ends:
            running.pop(event["key"], None)
    alive = _alive(start["pid"], start["host"])
    return GridStatus(
        plan=start["plan"],
        pid=start["pid"],
        host=start["host"],
        alive=alive,
        since=start["time"],
        runs=start["runs"],
        done=sum(event["event"] == "done" and event["label"] == "judge" for event in events),
        failed=sum(event["event"] == "failed" for event in events),
        running=() if alive is False else tuple(running.values()),
        log=str(path),
    )


def _read(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # the last line of a process that was killed while it wrote
            continue
    return found


def _alive(pid: int, host: str) -> bool | None:
    if host != platform.node():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
