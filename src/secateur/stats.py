"""Statistics that hold: pure functions of numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its uncertainty.

    Attributes:
        value: The point estimate.
        low: Lower end of the interval; NaN where none can be given.
        high: Upper end of the interval; NaN where none can be given.
        level: Confidence level, in (0, 1).
        n: The number of independent things that it rests on (rows, or models).
        method: How the interval was made.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    method: str
