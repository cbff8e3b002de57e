"""Engines: many plans, one after the other. What fails is collected, the rest finishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import SecateurError, StoreError
from secateur.lab.execute import Lab
from secateur.lab.plan import Plan
from secateur.lab.store import Store
from secateur.record import Record
from secateur.run import Progress


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


def run_plan(plan: Plan, store: Path, progress: Progress | None = None) -> Record:
    """Run one plan.

    Args:
        plan: From ``lab.expand`` or ``lab.read_plan``.
        store: The folder of results; made where it is missing.
        progress: Where to show how far it has come.

    Returns:
        Its record.

    Raises:
        SecateurError: Anything that stands in ``secateur.errors``; what was finished is in the store.
    """
    return Lab(Store(store), progress).run(plan)


def run_grid(plans: Sequence[Plan], store: Path, progress: Progress | None = None) -> Ended:
    """Run every plan of a grid; a failure does not stop the others.

    Args:
        plans: From ``lab.expand``.
        store: The folder of results; made where it is missing.
        progress: Where to show how far it has come.

    Returns:
        Records and failures.

    Raises:
        StoreError: The store cannot be written or believed: then no other run could be kept either.
    """
    lab = Lab(Store(store), progress)
    records, failures = [], []
    with lab.progress.bar("runs", len(plans)) as advance:
        for number, plan in enumerate(plans, start=1):
            try:
                records.append(lab.run(plan))
            except StoreError:
                raise
            except SecateurError as error:
                failures.append((number, error))
            advance(1)
    return Ended(records=tuple(records), failures=tuple(failures), taken=tuple(lab.taken))
