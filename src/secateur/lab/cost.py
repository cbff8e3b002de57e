"""What a grid will cost: what it stands on is loaded and built, a few updates are timed, none is kept."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
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
from secateur.maths.curvature import mean_gradient
from secateur.network import copy_model
from secateur.optimize import Sgd, cross_entropy, optimize

PROBES = 5
CHUNK = 256  # rows that the gradient of one is timed in
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
            take too long), or of the gradients of a few rows for a step that says how many of those it takes;
            NaN for one that says neither.
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
    seconds: defaultdict[str, float] = defaultdict(float)
    clock = _Clock(patience)
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
                gradients = step.gradients(ground.split) if hasattr(step, "gradients") else math.nan
                seconds[planned.use] += gradients and gradients * clock.gradient(ground)
                continue
            views = {"pool": ground.split.pool, "forget": ground.split.forget, "retain": ground.split.retain}
            rows = max((len(views[role]) for role in step.reads), default=0)
            count = _epochs(step) * math.ceil(rows / batch)
            updates[planned.use] += count
            seconds[planned.use] += count * clock.update(ground, batch)
    return [
        Estimated(
            step=use,
            times=times[use],
            stored=stored[use],
            updates=updates[use] if use in updates or times[use] == stored[use] else None,
            seconds=seconds[use],
        )
        for use in times
    ]


class _Clock:
    """Times each network and batch size once."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._known: dict[tuple[str, int | None], float] = {}

    def update(self, ground: Ground, batch: int) -> float:
        """Seconds of an update of plain training."""
        if (ground.root, batch) not in self._known:
            whole = min(batch, len(ground.split.pool))
            spent = _grown(lambda rows, times: _updates(ground, rows, times), whole, self._patience)
            self._known[ground.root, batch] = spent
        return self._known[ground.root, batch]

    def gradient(self, ground: Ground) -> float:
        """Seconds of the gradient of a row."""
        if (ground.root, None) not in self._known:
            rows = min(CHUNK, len(ground.split.pool))
            spent = _grown(lambda rows, times: _gradients(ground, rows, times), rows, self._patience)
            self._known[ground.root, None] = spent / rows
        return self._known[ground.root, None]


def _epochs(step: Any) -> int:
    """Passes over its rows that a step will make, by the names of its knobs."""
    rewound = str(getattr(step, "rewind", None) or "").removeprefix("epoch-")
    begun = getattr(step, "start", int(rewound) if rewound.isdecimal() else 0)
    twice = 2 if getattr(step, "sam", 0) else 1
    return int((step.epochs - begun) * getattr(step, "rounds", 1) * twice)


def _grown(timed: Callable[[int, int], float], whole: int, patience: float) -> float:
    """Seconds that so many rows take, from those of as many as there is patience for."""
    began = time.perf_counter()
    rows = min(FEWEST, whole)
    if patience:
        timed(rows, 1)  # warms up
    spent = timed(rows, 1)
    while rows < whole and began + patience > time.perf_counter() + 4 * spent:
        rows = min(whole, 4 * rows)
        spent = timed(rows, 1)
    if rows == whole and began + patience > time.perf_counter() + PROBES * spent:
        spent = timed(rows, PROBES)
    return spent * whole / rows


def _updates(ground: Ground, batch: int, updates: int) -> float:
    """Seconds of one update of plain training, on a copy."""
    view = ground.split.pool.on(ground.run.where, ground.run.dtype, ground.run.layout)
    state = replace(ground.state, model=copy_model(ground.state.model))
    loader = _first(view, batch, updates)
    began = time.perf_counter()
    with ground.run.steady():
        optimize(state, loader, cross_entropy, optimizer=Sgd(lr=1e-6), run=ground.run.at(0))
        ground.run.synchronize()
    return (time.perf_counter() - began) / updates


def _gradients(ground: Ground, rows: int, times: int) -> float:
    """Seconds of the gradient of some rows."""
    pool = ground.split.pool.on(ground.run.where, ground.run.dtype, ground.run.layout)
    few = pool.fresh().sample(rows, torch.Generator())
    began = time.perf_counter()
    with ground.run.steady():
        for _ in range(times):
            mean_gradient(ground.state.model, few.once())
        ground.run.synchronize()
    return (time.perf_counter() - began) / times


def _first(view: View, batch: int, updates: int) -> Loader[Batch]:
    """As many updates as are timed; an epoch of a large set would take minutes."""
    items = iter(view.loader(epochs=updates, batch=batch, rng=torch.Generator()))
    return Loader(1, updates, lambda _: items)
