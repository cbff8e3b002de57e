"""Learning-rate schedules: progress in [0, 1) to the factor on the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """One, all the way."""
    return 1.0


def step(milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """Times ``factor`` at each milestone.

    Returns:
        The schedule.

    >>> [round(step()(p), 4) for p in (0.0, 0.5, 0.9)]
    [1.0, 0.1, 0.01]
    """
    # the small part keeps a resumed schedule from reaching a milestone one update late, by rounding
    return lambda progress: factor ** sum(progress + 1e-9 >= milestone for milestone in milestones)


def cosine(progress: float) -> float:
    """From one down to zero along half a cosine (Loshchilov and Hutter, ICLR 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(peak: float = 0.2, start: float = 0.04) -> Schedule:
    """Straight up from ``start`` to one at ``peak``, then along a cosine to zero (Smith and Topin, 2019).

    Returns:
        The schedule.

    >>> [round(one_cycle()(p), 2) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    return lambda p: start + (1 - start) * p / peak if p < peak else cosine((p - peak) / (1 - peak))


def warmed_up(schedule: Schedule, share: float) -> Schedule:
    """The schedule, with the first ``share`` of the run rising from zero (Goyal et al., 2017).

    Returns:
        The schedule.

    >>> [round(warmed_up(constant, 0.2)(p), 2) for p in (0.0, 0.1, 0.2, 0.5)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return lambda progress: schedule(progress) * (min(1.0, progress / share) if share else 1.0)


def resumed(schedule: Schedule, at: float) -> Schedule:
    """The rest of a schedule, from ``at`` on: what a rewound run follows.

    Returns:
        The schedule.

    >>> resumed(cosine, 0.5)(0.0) == cosine(0.5)
    True
    """
    return lambda progress: schedule(at + (1 - at) * progress)
