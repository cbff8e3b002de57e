"""What a grid will cost: what it stands on is loaded and built, a few updates are timed, none is kept."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from secateur.data import Batch, Loader, View
from secateur.lab.execute import Lab
from secateur.lab.plan import Plan
from secateur.lab.prepare import Ground
from secateur.lab.store import Store
from secateur.lab.tasks import Grounds, chain
from secateur.network import copy_model
from secateur.optimize import Sgd, cross_entropy, optimize

PROBES = 5
FEWEST = 4  # rows: batch norm needs two, and parts of an epoch may be a row smaller
PATIENCE = 20.0


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """One kind of step in a grid.

    Attributes:
        step: Its name.
        times: How many different ones the grid needs.
        stored: How many of them the store holds.
        updates: Updates that the missing ones will do; None for a step without epochs.
        seconds: What those will take here, from a timing of a few updates (of a few rows, where whole ones
            take too long); NaN for a step without epochs.
    """

    step: str
    times: int
    stored: int
    updates: int | None
    seconds: float


def estimate(plans: Sequence[Plan], store: Path, patience: float = PATIENCE) -> list[Estimated]:
    """Load and build everything that a grid stands on, and estimate its cost. Nothing is written.

    Args:
        plans: From ``lab.expand``.
        store: The folder of results; may be missing.
        patience: Seconds to time each network and batch size for, about. Where a whole update would take
            longer, the time of a few rows is multiplied: rougher, and rather too long than too short. With 0
            it is that of four rows.

    Returns:
        One entry for each kind of step, in the order of their first use.

    Raises:
        DataError: Data, labels, weights or models are not what they claim.
    """
    lab = Lab(Store(store))
    grounds = Grounds(lab)
    times: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    updates: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    speed: dict[tuple[str, int], float] = {}
    seen: set[str] = set()
    for plan in plans:
        ground = grounds.of(plan)
        for key, planned in chain(plan, ground, lab.store):
            if key in seen:
                continue
            seen.add(key)
            times[planned.use] += 1
            if lab.store.has("steps", key):
                stored[planned.use] += 1
                continue
            step = planned.step
            batch = getattr(step, "batch", None)
            if not hasattr(step, "epochs") or batch is None:
                continue
            views = {"pool": ground.split.pool, "forget": ground.split.forget, "retain": ground.split.retain}
            rows = max((len(views[role]) for role in step.reads), default=0)
            count = _epochs(step) * math.ceil(rows / batch)
            if (ground.root, batch) not in speed:
                speed[ground.root, batch] = _time_an_update(ground, batch, patience)
            updates[planned.use] += count
            seconds[planned.use] += count * speed[ground.root, batch]
    return [
        Estimated(
            step=use,
            times=times[use],
            stored=stored[use],
            updates=updates[use] if use in updates or times[use] == stored[use] else None,
            seconds=seconds[use] if use in updates or times[use] == stored[use] else math.nan,
        )
        for use in times
    ]


def _epochs(step: Any) -> int:
    """Passes over its rows that a step will make, by the names of its knobs."""
    rewound = str(getattr(step, "rewind", None) or "").removeprefix("epoch-")
    begun = getattr(step, "start", int(rewound) if rewound.isdecimal() else 0)
    twice = 2 if getattr(step, "sam", 0) else 1
    return int((step.epochs - begun) * getattr(step, "rounds", 1) * twice)


def _time_an_update(ground: Ground, batch: int, patience: float) -> float:
    """Seconds of one update of plain training, on a copy: of as many rows as there is patience for."""
    began = time.perf_counter()
    whole = min(batch, len(ground.split.pool))
    rows = min(FEWEST, whole)
    if patience:
        _timed(ground, rows, 1)  # warms up
    spent = _timed(ground, rows, 1)
    while rows < whole and began + patience > time.perf_counter() + 4 * spent:
        rows = min(whole, 4 * rows)
        spent = _timed(ground, rows, 1)
    if rows == whole and began + patience > time.perf_counter() + PROBES * spent:
        spent = _timed(ground, rows, PROBES)
    return spent * whole / rows


def _timed(ground: Ground, batch: int, updates: int) -> float:
    view = ground.split.pool.on(ground.run.where, ground.run.dtype, ground.run.layout)
    state = replace(ground.state, model=copy_model(ground.state.model))
    loader = _first(view, batch, updates)
    began = time.perf_counter()
    with ground.run.steady():
        optimize(state, loader, cross_entropy, optimizer=Sgd(lr=1e-6), run=ground.run.at(0))
        ground.run.synchronize()
    return (time.perf_counter() - began) / updates


def _first(view: View, batch: int, updates: int) -> Loader[Batch]:
    """As many updates as are timed; an epoch of a large set would take minutes."""
    items = iter(view.loader(epochs=updates, batch=batch, rng=torch.Generator()))
    return Loader(1, updates, lambda _: items)
