"""Kill a grid at random moments and let it go on: ``python tools/survival.py --kills 50``.

Each time a small grid on the digits starts on a new store, in a session of its own, and dies by SIGKILL at a
random moment after its first event: alone (its workers end because the pipe closes) or with every process of
its session. It is started again at once, and must end as one that
nobody disturbed: the same files but for what clocks and machines say, no finished step taken again,
nothing temporary and no lock left. A table tells each kill; where anything differs, the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from secateur.lab import check_store, expand, load, run_grid
from secateur.lab.store import SUMS, digest

PLAN = """\
device = "cpu"
threads = 1
precision = "fp32"
data = { use = "digits", test = 0.8, forget = { how = "class", classes = [3] } }
model = { use = "small-cnn", width = 2 }
step = [
  { use = "train", epochs = 2, batch = 32, lr = 0.1 },
  { use = "magnitude", as = "prune", sparsity = 0.5 },
  { use = "fine-tune", as = "unlearn" },
]
audit = [{ use = "accuracy" }, { use = "retrain-gap", references = 1 }]
[grid]
seed = [0, 1]
unlearn = [{ use = "fine-tune", epochs = 1, batch = 32 }, { use = "retrain", epochs = 1, batch = 32 }]
"""
CLOCKS = {"created", "seconds", "peak_bytes", "made", "hardware"}
PATIENCE = 300.0  # seconds for a grid to write its first event


class Killed(NamedTuple):
    """One kill, and what came of it.

    Attributes:
        jobs: Of the grid.
        whom: "grid" or "all".
        moment: Seconds from its first event to its death.
        finished: Steps in the store by then.
        then: Jobs of the second grid.
        left: Temporary folders and locks that it left.
        taken: Steps that the second grid took.
        faults: What is not as it should be.
    """

    jobs: int
    whom: str
    moment: float
    finished: int
    then: int
    left: int
    taken: int
    faults: tuple[str, ...]


class Whole(NamedTuple):
    """The grid that nobody disturbed.

    Attributes:
        files: As ``files_of`` tells them.
        spans: Jobs to seconds from the first event to the last.
    """

    files: Mapping[str, str]
    spans: Mapping[int, float]

    @classmethod
    def of(cls, plan: Path, folder: Path, jobs: tuple[int, ...]) -> Whole:
        """Run it once for each number of jobs, through the command line."""
        files, spans = [], {}
        for count in jobs:
            store = folder / f"whole-{count}"
            process = started(plan, store, count)
            if process.wait():
                raise SystemExit(f"the grid does not even end undisturbed (exit code {process.returncode})")
            times = [datetime.fromisoformat(event["time"]) for event in events(store)]
            spans[count] = (times[-1] - times[0]).total_seconds()
            files.append(files_of(store))
        if any(one != files[0] for one in files):
            raise SystemExit("the undisturbed grids differ by their jobs")
        return cls(files[0], spans)


def kills(
    plan: Path, folder: Path, count: int, seed: int, jobs: tuple[int, ...] = (1, 2)
) -> Iterator[Killed]:
    """Kill grids, and let each go on to its end.

    Args:
        plan: A TOML file.
        folder: For the stores.
        count: How many kills.
        seed: Of the moments.
        jobs: Taken in turn.

    Yields:
        One for each kill.
    """
    whole, rng = Whole.of(plan, folder, jobs), np.random.default_rng(seed)
    done = tried = 0
    while done < count:
        many, whom = jobs[done % len(jobs)], str(rng.choice(["grid", "all"]))
        store = folder / f"killed-{tried}"
        tried += 1
        then = many if rng.random() < 0.25 else 1
        if (moment := killed(plan, store, many, whom, whole.spans[many] * rng.random())) is not None:
            done += 1
            yield resumed(plan, store, then, whole.files)._replace(jobs=many, whom=whom, moment=moment)


def killed(plan: Path, store: Path, jobs: int, whom: str, after: float) -> float | None:
    """Start a grid and kill it; seconds from its first event, or None where it was faster than its death."""
    process = started(plan, store, jobs)
    try:
        until = time.monotonic() + PATIENCE
        while not any(store.glob("logs/*.jsonl")):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("the grid writes no log")
            time.sleep(0.001)
        begun = time.monotonic()
        time.sleep(after)
    finally:
        for pid in session(process.pid) if whom == "all" else [process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    moment = time.monotonic() - begun
    return moment if process.wait() == -signal.SIGKILL else None


def resumed(plan: Path, store: Path, jobs: int, want: Mapping[str, str]) -> Killed:
    """Let a killed grid go on, and compare."""
    before = {path.parent.name: path.stat().st_mtime_ns for path in store.glob(f"steps/*/{SUMS}")}
    left = len(temporary(store))
    ended = run_grid(expand(load(plan)), store, jobs=jobs)
    faults = [f"run {number}: {error}" for number, error in ended.failures]
    files = files_of(store)
    faults += [f"{name} differs" for name in sorted({*files, *want}) if files.get(name) != want.get(name)]
    after = {path.parent.name: path.stat().st_mtime_ns for path in store.glob(f"steps/*/{SUMS}")}
    faults += [f"the finished step {key} was touched" for key in before if after.get(key) != before[key]]
    faults += [f"the step {key} was taken twice" for key, times in steps_taken(store).items() if times > 1]
    if len(ended.taken) != len(after) - len(before):
        faults.append(f"{len(ended.taken)} steps taken for {len(after) - len(before)} missing ones")
    faults += [f"{path.relative_to(store)} was left" for path in temporary(store)]
    faults += [fault.what for fault in check_store(store).faults]
    return Killed(0, "", 0.0, len(before), jobs, left, len(ended.taken), tuple(faults))


def started(plan: Path, store: Path, jobs: int) -> subprocess.Popen[bytes]:
    """A grid, by the command line, that leads a session."""
    words = [sys.executable, "-m", "secateur", "grid", plan, "--store", store, "--jobs", str(jobs)]
    nothing = subprocess.DEVNULL
    return subprocess.Popen(words, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def session(leader: int) -> list[int]:
    """The processes of a session, its leader first."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found, key=lambda pid: pid != leader)


def events(store: Path) -> list[dict[str, Any]]:
    """The events of all logs of a store; a line that its process died over is left out."""
    found = []
    for path in sorted(store.glob("logs/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def steps_taken(store: Path) -> Counter[str]:
    """How often each step was taken, by the logs: its key to a count."""
    return Counter(event["key"] for event in events(store) if event["event"] == "done" and event["taken"])


def temporary(store: Path) -> list[Path]:
    """What must not outlast the processes that work in a store."""
    return sorted([*store.glob("*/.writing-*"), *store.glob("locks"), *store.glob("locks/*")])


def files_of(store: Path) -> dict[str, str]:
    """Every file of every entry, by its path: a digest, of JSON without what clocks and machines say."""
    found = {}
    for path in sorted(store.glob("*/*/*")):
        if path.name != SUMS:
            data: Any = path.read_bytes()
            found[str(path.relative_to(store))] = digest(
                timeless(json.loads(data)) if path.suffix == ".json" else data
            )
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(held) for name, held in value.items() if name not in CLOCKS}
    return [timeless(held) for held in value] if isinstance(value, list) else value


def main(asked: argparse.Namespace) -> int:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.toml"
        plan.write_text(PLAN)
        each = kills(plan, Path(folder), asked.kills, asked.seed)
        console = Console(stderr=True)
        for one in track(each, "kills", total=asked.kills, console=console, disable=not console.is_terminal):
            found.append(one)
            if not console.is_terminal:
                print(
                    f"kill {len(found)} of {asked.kills}:",
                    *(one.faults or ["ok"]),
                    file=sys.stderr,
                    flush=True,
                )
    table = Table("kill", "jobs", "killed", "after", "finished", "left", "then", "taken", "", box=None)
    for number, one in enumerate(found, start=1):
        told = ("ok", *one.faults)[bool(one.faults) :]
        row = (number, one.jobs, one.whom, f"{one.moment:.3f} s", one.finished, one.left)
        row += (one.then, one.taken)
        table.add_row(*map(str, row), "\n".join(told))
    Console(width=None if Console().is_terminal else 120).print(table)
    bad = sum(bool(one.faults) for one in found)
    print(f"{len(found)} kills: {len(found) - bad} ended as the undisturbed grid, {bad} did not")
    return int(bad > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    sys.exit(main(parser.parse_args()))
