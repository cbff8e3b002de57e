"""One number over several runs, and how people read it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from secateur.record import Better, Estimate

NONE = "–"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One number over several runs.

    Attributes:
        each: The finite values, one a run.
        unit: As the estimate's: "share" (in [0, 1]), "seconds" ...
        better: Which way is better.
        low: Lower end of the interval (the mean of the ends, over several runs); NaN where there is none.
        high: Its upper end.
    """

    each: tuple[float, ...]
    unit: str
    better: Better
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, estimates: Iterable[Estimate]) -> Spread:
        """Collect one estimate of each run; there must be at least one, and NaN is left out."""
        found = list(estimates)
        finite = [e for e in found if math.isfinite(e.value)]
        ends = [e for e in finite if math.isfinite(e.low) and math.isfinite(e.high)]
        return cls(
            each=tuple(e.value for e in finite),
            unit=found[0].unit,
            better=found[0].better,
            low=_mean([e.low for e in ends]),
            high=_mean([e.high for e in ends]),
        )

    @property
    def n(self) -> int:
        """Runs that gave a finite number."""
        return len(self.each)

    @property
    def mean(self) -> float:
        """Their mean; NaN without any."""
        return _mean(self.each)

    @property
    def std(self) -> float | None:
        """Their sample standard deviation; None with fewer than two."""
        return float(np.std(self.each, ddof=1)) if self.n > 1 else None

    @property
    def scale(self) -> float:
        """From the unit to what people read: percent, or points, for shares."""
        return 100.0 if self.unit == "share" else 1.0

    def number(self, value: float) -> str:
        """A value of this unit as people read it: shares in percent; minus zero is zero."""
        if self.unit == "seconds":
            return seconds(value)
        return fixed(value * self.scale, 1 if self.unit in {"share", "points"} else 3)

    @property
    def middle(self) -> str:
        """The mean, for people."""
        return self.number(self.mean)

    @property
    def plus_minus(self) -> str:
        """The standard deviation, for people; empty with fewer than two runs."""
        if self.std is None:
            return ""
        if self.unit == "seconds":  # as many digits as the mean has
            return fixed(self.std, _digits(self.mean))
        return self.number(self.std)

    @property
    def interval(self) -> str:
        """The interval of a single run, for people; empty with several, and where there is none."""
        if self.n != 1 or not (math.isfinite(self.low) and math.isfinite(self.high)):
            return ""
        return f"[{self.number(self.low)}, {self.number(self.high)}]"

    def __str__(self) -> str:
        return f"{self.middle} ±{self.plus_minus}" if self.plus_minus else self.middle


def fixed(value: float, digits: int) -> str:
    """A number with so many decimals, thousands apart, without a minus zero.

    >>> fixed(-0.04, 1), fixed(12345.6, 0), fixed(float("nan"), 1)
    ('0.0', '12,346', '–')

    Returns:
        Text.
    """
    if not math.isfinite(value):
        return NONE
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def seconds(value: float) -> str:
    """Seconds, with the digits that are worth reading.

    >>> seconds(0.0053), seconds(0.514), seconds(52.34), seconds(2593.1)
    ('0.005', '0.51', '52.3', '2,593')

    Returns:
        Text.
    """
    return fixed(value, _digits(value))


def duration(value: float) -> str:
    """A time in words.

    >>> duration(52.34), duration(2593.1), duration(9000.0)
    ('52.3 seconds', '43.2 minutes', '2.5 hours')

    Returns:
        Text.
    """
    for name, size in (("hours", 3600), ("minutes", 60)):
        if value >= 2 * size:
            return f"{fixed(value / size, 1)} {name}"
    return f"{seconds(value)} seconds"


def plural(count: int, noun: str) -> str:
    """A count and its noun.

    >>> plural(1, "run"), plural(4500, "row")
    ('1 run', '4,500 rows')

    Returns:
        Text.
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def percent(share: float) -> str:
    """A share as a whole or tenth of a percent.

    >>> percent(0.9), percent(0.995)
    ('90 %', '99.5 %')

    Returns:
        Text.
    """
    return fixed(share * 100, 1).removesuffix(".0") + " %"


def _digits(value: float) -> int:
    return 3 if abs(value) < 0.1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(np.mean(found)) if found else math.nan
