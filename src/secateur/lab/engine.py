"""Grids: what is due in the store goes to an engine. What fails is collected, the rest finishes."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from secateur.errors import SecateurError, StepError, StoreError, UsageError, nearest
from secateur.lab.checkpoints import EVERY
from secateur.lab.cluster import Cluster
from secateur.lab.environment import cpus
from secateur.lab.execute import RECORD, Lab
from secateur.lab.locks import Maker, Waiting
from secateur.lab.log import Event, Log, changed
from secateur.lab.plan import Plan
from secateur.lab.shared import store_at
from secateur.lab.store import Store, digest
from secateur.lab.tasks import Done, Grounds, Pending, Task, WorkerDied, perform
from secateur.lab.workers import Workers, share
from secateur.record import Record
from secateur.run import Progress

TRIES = 2  # of a task whose worker dies
LOOK = 0.2  # seconds between two looks at steps that other grids take


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a grid ended.

    Attributes:
        records: Of the runs that finished, in the grid's order.
        failures: Number of the run in the grid (from 1) and what it raised.
        taken: How often each kind of step was really taken.
    """

    records: tuple[Record, ...]
    failures: tuple[tuple[int, SecateurError], ...]
    taken: tuple[str, ...]


class Engine(Protocol):
    """Where tasks are done: here, in other processes, on other machines. Entered before the first task.

    The store carries all results, so a future holds no more than a key; it raises a ``SecateurError``, or
    ``WorkerDied`` where the task may be tried again. On leaving, what still runs is stopped.
    """

    @property
    def places(self) -> int:
        """How many tasks may run at once."""
        ...

    def submit(self, task: Task) -> Future[Done]:
        """Begin a task."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Here:
    """Engine: this process, one task after the other.

    Args:
        plans: Of the grid.
        lab: Where steps are taken.

    Attributes:
        places: 1.
    """

    places = 1

    def __init__(self, plans: Sequence[Plan], lab: Lab) -> None:
        self._plans, self._lab = plans, lab

    def submit(self, task: Task) -> Future[Done]:
        """Do a task."""
        future: Future[Done] = Future()
        try:
            future.set_result(perform(task, self._plans[task.run - 1], self._lab))
        except SecateurError as error:
            future.set_exception(error)
        return future

    def __enter__(self) -> Here:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _local(plans: Sequence[Plan], lab: Lab, jobs: int, address: str | None) -> Engine:
    if address is not None:
        raise UsageError(
            f'expected no address for the engine "local", which stays on this machine, got "{address}": take '
            "--engine ray, or leave --ray-address out"
        )
    return Here(plans, lab) if jobs == 1 else Workers(plans, lab, jobs)


# plans, lab, jobs and the address of a cluster; an engine of its own kind is one more line here
ENGINES: dict[str, Callable[[Sequence[Plan], Lab, int, str | None], Engine]] = {
    "local": _local,
    "ray": Cluster,
}


def run_plan(
    plan: Plan, store: Path, progress: Progress | None = None, *, checkpoint: float = EVERY
) -> Record:
    """Run one plan.

    Args:
        plan: From ``lab.expand`` or ``lab.read_plan``.
        store: The folder of results; made where it is missing.
        progress: Where to show how far it has come.
        checkpoint: Seconds between checkpoints of a training that lasts longer.

    Returns:
        Its record.

    Raises:
        SecateurError: Anything that stands in ``secateur.errors``; what was finished is in the store.
    """
    return Lab(store_at(store), progress, checkpoint).run(plan)


def run_grid(
    plans: Sequence[Plan],
    store: Path,
    progress: Progress | None = None,
    *,
    engine: str = "local",
    jobs: int = 1,
    address: str | None = None,
    hear: Callable[[Event], None] | None = None,
    source: str = "the plan",
    checkpoint: float = EVERY,
) -> Ended:
    """Run every plan of a grid; a failure does not stop the others.

    Args:
        plans: From ``lab.expand``.
        store: The folder of results; made where it is missing.
        progress: Where to show how far it has come; with several jobs, called from several threads.
        engine: Where steps are taken; see ``ENGINES``.
        jobs: How many at once. More than one share the threads that torch would use, where the plan does not
            say ``threads``; that number is part of a run's key.
        address: Of a Ray cluster to join, as ``host:port``; None: what the engine starts itself.
        hear: Called with every event of the log.
        source: The plan's name, for the log.
        checkpoint: Seconds between checkpoints of a training that lasts longer.

    Returns:
        Records and failures.

    Raises:
        UsageError: There is no such engine, or no job, or nothing at the address.
        StoreError: The store cannot be written or believed: then no other run could be kept either.
    """
    if engine not in ENGINES:
        raise UsageError(f'no engine is called "{engine}", {nearest(engine, ENGINES)}')
    if jobs < 1:
        raise UsageError(f"expected at least one job, got {jobs}")
    shared = share(jobs) if jobs > 1 and any(plan.settings.threads is None for plan in plans) else None
    plans = [
        replace(plan, settings=replace(plan.settings, threads=plan.settings.threads or shared))
        for plan in plans
    ]
    lab = Lab(Store(store), progress, checkpoint)
    place = ENGINES[engine](plans, lab, jobs, address)
    lab.store.ready()
    content = digest(json.dumps([plan.table for plan in plans], sort_keys=True).encode())
    about = {"plan": source, "content": content, "pid": os.getpid(), "host": platform.node()}
    about |= {"runs": len(plans), "before": changed(store, source, content)}
    with lab.progress.bar("runs", len(plans)) as advance, Log(store, hear) as log:
        log("start", **about, engine=engine, jobs=jobs, threads=shared, crowd=_crowd(plans, jobs, address))
        grid = _Grid(plans, lab, log, advance)
        with place:
            grid.run(place)
    records = (lab.store.read("runs", key, RECORD) for _, key in sorted(grid.finished.items()))
    return Ended(
        records=tuple(Record.from_json(text.decode()) for text in records),
        failures=tuple(sorted(grid.failures.items())),
        taken=tuple(grid.taken),
    )


def _crowd(plans: Sequence[Plan], jobs: int, address: str | None) -> dict[str, int] | None:
    """Threads that the jobs want together, and the cores that there are, where those are fewer."""
    wanted, have = jobs * max(plan.settings.threads or 1 for plan in plans), cpus()
    if address is not None or jobs == 1 or have is None or wanted <= have:
        return None
    return {"threads": wanted, "cores": have}


class _Grid:
    """Which runs are open, and how the others ended."""

    def __init__(self, plans: Sequence[Plan], lab: Lab, log: Log, advance: Callable[[int], None]) -> None:
        self.finished: dict[int, str] = {}
        self.failures: dict[int, SecateurError] = {}
        self.taken: list[str] = []
        self._open = {i: Pending(i, plan, lab.store) for i, plan in enumerate(plans, start=1)}
        self._grounds, self._log, self._advance = Grounds(lab), log, advance
        self._failed: dict[str, SecateurError] = {}
        self._deaths: Counter[str] = Counter()
        self._store = lab.store
        self._passed: list[tuple[Waiting, Maker]] = []  # steps that are due, and that other grids take
        self._waits: dict[str, Waiting] = {}

    def run(self, engine: Engine) -> None:
        """Hand out what is due until nothing is."""
        running: dict[Future[Done], Task] = {}
        while self._open or running:
            self._passed.clear()
            while len(running) < engine.places and (task := self._next({t.key for t in running.values()})):
                self._log("began", key=task.key, label=task.label, run=task.run)
                running[engine.submit(task)] = task
            if self._passed and not running:
                waiting, maker = self._passed[0]
                waiting.pause(maker, LOOK)
            look = LOOK if self._passed else None
            for future in wait(running, look, return_when=FIRST_COMPLETED).done:
                self._settle(running.pop(future), future)

    def _next(self, running: set[str]) -> Task | None:
        """The first task in the grid's order that nobody does; runs that cannot go on are closed."""
        for number, pending in list(self._open.items()):
            try:
                due = pending.due(self._grounds)
            except StoreError:
                raise
            except SecateurError as error:  # data or model: nothing of this run can begin
                self._fail(number, error, Task(key=f"run {number}", label="load", run=number))
                continue
            if failed := next((task for key, task in due.items() if key in self._failed), None):
                self._fail(number, self._failed[failed.key], failed)
                continue
            for task in due.values():
                if task.key not in running and not self._taken_elsewhere(task):
                    return task
        return None

    def _taken_elsewhere(self, task: Task) -> bool:
        """Whether another grid takes a step now: then what nobody takes comes first."""
        maker = self._store.maker("steps", task.key) if task.steps is not None else None
        if maker is not None:
            waiting = self._waits.setdefault(task.key, Waiting(f'takes the step "{task.label}"'))
            self._passed.append((waiting, maker))
        return maker is not None

    def _settle(self, task: Task, future: Future[Done]) -> None:
        """Note how a task ended; one whose worker died is due again."""
        try:
            done = future.result()
        except StoreError:
            raise
        except SecateurError as error:
            self._failed[task.key] = error
        except WorkerDied as death:
            self._log("died", key=task.key, label=task.label, run=task.run, why=str(death))
            self._deaths[task.key] += 1
            if self._deaths[task.key] == TRIES:
                self._failed[task.key] = StepError(
                    f'expected a worker to finish "{task.label}", but {TRIES} of them died ({death}), so it '
                    "has no result; most often memory ran out: take fewer --jobs, or a smaller batch"
                )
        else:
            self.taken += done.taken
            self._log("done", key=task.key, label=task.label, run=task.run, taken=list(done.taken))
            if task.steps is None:
                self.finished[task.run] = done.key
                self._close(task.run)
        for pending in self._open.values():
            pending.settled(task.key)

    def _fail(self, number: int, error: SecateurError, task: Task) -> None:
        self._log("failed", key=task.key, label=task.label, run=number, error=str(error))
        self.failures[number] = error
        self._close(number)

    def _close(self, number: int) -> None:
        del self._open[number]
        self._advance(1)
