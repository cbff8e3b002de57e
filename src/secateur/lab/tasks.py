"""Tasks: what a grid has to compute, one prefix of a plan at a time. The store tells which are due."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from secateur.errors import DamagedEntry, DataError
from secateur.lab.execute import Lab
from secateur.lab.freeze import META
from secateur.lab.keys import Link, start, step_key
from secateur.lab.mend import mending
from secateur.lab.plan import Plan, PlannedStep
from secateur.lab.prepare import Ground
from secateur.lab.store import Store, digest


@dataclass(frozen=True, kw_only=True)
class Task:
    """The last step of a plan's prefix; or the judging of a run, once all its steps are there.

    Attributes:
        key: What the result is stored under; of a run, its number in words.
        label: What people call it.
        run: Number, from 1, of a run that needs it.
        path: Which of the plan's paths.
        steps: How many steps of that path; None: all paths are there, judge.
    """

    key: str
    label: str
    run: int
    path: int = 0
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a task left in the store.

    Attributes:
        key: Of the step, or of the record.
        taken: Names of the steps that were really taken.
    """

    key: str
    taken: tuple[str, ...] = ()


class WorkerDied(Exception):
    """A worker ended in the middle of a task: the task may be tried again."""


def perform(task: Task, plan: Plan, lab: Lab) -> Done:
    """Compute a task, or find it in the store.

    Args:
        task: The task.
        plan: The plan of its run.
        lab: Where steps are taken.

    Returns:
        What it left.

    Raises:
        DataError: The step has another key here than where the task was made.
        SecateurError: As data, steps, audits and store raise.
    """
    before = len(lab.taken)
    if task.steps is None:
        key = lab.run(plan).key
    else:
        key = _take(replace(plan, steps=plan.paths[task.path][: task.steps]), lab)
        if key != task.key:
            raise DataError(
                f'expected the step "{task.label}" under the key that the grid began with, got another: its '
                "code or its data changed meanwhile, and results would not belong together; start it again"
            )
    return Done(key=key, taken=tuple(lab.taken[before:]))


@mending
def _take(plan: Plan, lab: Lab) -> str:
    links, _ = lab.walk(plan, lab.ground(plan))
    return links[-1].key


class Grounds:
    """What plans stand on, for their keys alone: those that differ in seeds and steps build one network.

    Args:
        lab: What loads the data.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._known: dict[tuple[object, ...], Ground] = {}

    def of(self, plan: Plan) -> Ground:
        """The ground of a plan; its state may be that of another seed."""
        run = plan.settings.run()
        views = {view for audit in plan.audits for view in audit.needs.views}  # those are checked too
        mark = (replace(plan.settings, seed=0), repr(plan.data), repr(plan.model), frozenset(views))
        if mark not in self._known:
            self._known[mark] = self._lab.ground(plan)
        ground = self._known[mark]
        return replace(ground, run=run, link=start(ground.root, run.seed))


def chain(plan: Plan, ground: Ground, store: Store) -> list[tuple[str, PlannedStep]]:
    """The keys that a plan will need, references included; one may stand there more than once."""
    found = []
    for path in plan.paths:
        link = ground.link
        for planned in path:
            key = _key(link, planned, ground)
            if (after := _after(key, link, store)) is None:
                # masks that are not made yet are told apart by the pruning step that will make them
                prunes = ".prune." in type(planned.step).__module__
                after = Link(key=key, masks=digest(key) if prunes else link.masks, depth=link.depth + 1)
            link = after
            found.append((key, planned))
    return found


class Pending:
    """A run on its way: how far each of its paths has come in the store.

    Args:
        number: Of the run in its grid, from 1.
        plan: Its plan.
        store: Where its steps appear.
    """

    def __init__(self, number: int, plan: Plan, store: Store) -> None:
        self.number = number
        self._plan, self._store = plan, store
        self._reached: list[tuple[int, Link]] = []  # of each path: steps that are there, and where that is
        self._due: dict[str, Task] = {}

    def due(self, grounds: Grounds) -> dict[str, Task]:
        """Key to task, of all that could be computed now: what each waits for is in the store.

        Args:
            grounds: What plans stand on.

        Returns:
            At least one task, the most urgent first.
        """
        if not self._due:
            self._look(grounds.of(self._plan))
        return self._due

    def settled(self, key: str) -> None:
        """A task has ended: see anew what is due, where this run waited for it."""
        if key in self._due:
            self._due = {}

    def _look(self, ground: Ground) -> None:
        paths = self._plan.paths
        self._reached = self._reached or [(0, ground.link)] * len(paths)
        for i, path in enumerate(paths):
            at, link = self._reached[i]
            while at < len(path):
                key = _key(link, path[at], ground)
                if (after := _after(key, link, self._store)) is None:
                    task = Task(key=key, label=path[at].label, run=self.number, path=i, steps=at + 1)
                    self._due.setdefault(key, task)
                    break
                at, link = at + 1, after
            self._reached[i] = at, link
        if not self._due:
            key = f"run {self.number}"
            self._due[key] = Task(key=key, label="judge", run=self.number)


def _key(link: Link, planned: PlannedStep, ground: Ground) -> str:
    seed = ground.run.seed if planned.seed is None else planned.seed
    return step_key(ground.root, link, planned, ground.split, seed)


def _after(key: str, link: Link, store: Store) -> Link | None:
    """Where a step leads; None while it is not in the store, or damaged there: whoever takes it mends it."""
    if not store.has("steps", key):
        return None
    try:
        masks = json.loads(store.read("steps", key, META))["masks"]
    except DamagedEntry:
        return None
    return Link(key=key, masks=masks, depth=link.depth + 1)
