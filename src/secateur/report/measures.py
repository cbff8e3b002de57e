"""The numbers of one finding, a line for each measure: the candidate beside the original and the retrains."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from secateur.record import Estimate, Finding
from secateur.report.spread import NONE, Spread

_MODEL = re.compile(r"(before|retrain\[\d+\])\.(.+)")
_NULLS = ("null", "shuffled")  # what an audit without bands compares with


class Measure(NamedTuple):
    """One measure of one audit.

    Attributes:
        name: As the estimate of the candidate is named.
        candidate: Of the unlearned model; the middle of the band plus the gap, where the audit gives no more.
        original: Of the model that unlearning started from.
        retrains: Of each retrained model, as far as the audit names them.
        band: Where one more retrain would fall.
        gap: The candidate less the band.
        before: The original less the band.
    """

    name: str
    candidate: Estimate | None
    original: Estimate | None
    retrains: tuple[Estimate, ...]
    band: Estimate | None
    gap: Estimate | None
    before: Estimate | None

    @property
    def side(self) -> str:
        """Where the candidate lies: "above" or "below" the band, "inside" it; empty without one."""
        if self.gap is None or not (math.isfinite(self.gap.low) and math.isfinite(self.gap.high)):
            return ""
        return "above" if self.gap.low > 0 else "below" if self.gap.high < 0 else "inside"

    @property
    def drawn(self) -> bool:
        """Whether there is a band, with two ends, and something to place in it."""
        ends = (self.band.low, self.band.high) if self.band else (math.nan,)
        return (
            all(map(math.isfinite, ends)) and bool(self.candidate) and math.isfinite(_value(self.candidate))
        )


class Standing(NamedTuple):
    """An audit in one line: the measure that tells most, as text.

    Attributes:
        measure: Its name.
        side: As ``Measure.side``.
        candidate: The number, with its unit.
        original: The original's.
        other: What an exact model gives: the middle of the band of the retrains, or the audit's null.
        reach: From where to where that reaches.
        what: What ``other`` is: "retrains", "null" ...
    """

    measure: str
    side: str
    candidate: str
    original: str
    other: str
    reach: str
    what: str


def measures(finding: Finding) -> list[Measure]:
    """The measures of a finding, in its order.

    >>> def estimate(value):
    ...     ends = {"low": value, "high": value, "level": 0.95, "n": 5, "method": "any"}
    ...     return Estimate(value=value, **ends, unit="share", better="nearer-to-retrain")
    >>> told = {"before.UA": estimate(0.1), "UA": estimate(0.3), "retrain[0].UA": estimate(0.4)}
    >>> [(m.name, str(m.candidate), len(m.retrains)) for m in measures(Finding(audit="a", estimates=told))]
    [('UA', '30.00 % [30.00, 30.00]', 1)]

    Returns:
        Measures; one that only the original or a retrain has is left with the candidate's place empty.
    """
    found: dict[str, dict[str, Estimate]] = {}
    retrains: dict[str, list[Estimate]] = {}
    for name, estimate in finding.estimates.items():
        who, rest = "candidate", name
        if match := _MODEL.fullmatch(name):
            who, rest = match[1], match[2]
        if rest.startswith("gap."):
            who, rest = ("before" if who == "before" else "gap"), rest.removeprefix("gap.")
        elif rest.startswith("band."):
            who, rest = "band", rest.removeprefix("band.")
        elif who == "before":
            who = "original"
        told = found.setdefault(rest, {})
        if who.startswith("retrain["):
            retrains.setdefault(rest, []).append(estimate)
        else:
            told[who] = estimate
    every = []
    for name, told in found.items():
        band = told.get("band")
        for who, gap in (("candidate", told.get("gap")), ("original", told.get("before"))):
            if who not in told and gap and band:
                told[who] = _at(band, gap)
        keys = ("candidate", "original", "band", "gap", "before")
        parts = {key: told.get(key) for key in keys}
        every.append(Measure(name=name, retrains=tuple(retrains.get(name, ())), **parts))
    return every


def standing(finding: Finding) -> Standing | None:
    """The measure that tells most: furthest outside its band; else that on which the original is.

    Args:
        finding: Of any audit.

    Returns:
        Its line; None where the candidate has no number.
    """
    every = measures(finding)
    shown = [measure for measure in every if measure.candidate]
    if not shown:
        return None
    key = max(shown, key=lambda m: (_outside(m.gap), _outside(m.before)))  # the first of equals
    other = _other(key, {measure.name: measure for measure in every})
    return Standing(key.name, key.side, number(key.candidate), number(key.original), *other)


def number(estimate: Estimate | None, *, unit: bool = True) -> str:
    """An estimate's value as people read it, with its unit; a bound as one."""
    if estimate is None:
        return NONE
    text = Spread.of([estimate]).middle
    if text == NONE:
        return text
    if math.isfinite(estimate.low) and not math.isfinite(estimate.high) and estimate.low == estimate.value:
        text = f"≥ {text}"
    return text + sign(estimate) if unit else text


def ends(estimate: Estimate | None) -> str:
    """Its interval, without the unit; empty without two ends."""
    return "" if estimate is None else Spread.of([estimate]).interval


def sign(estimate: Estimate) -> str:
    """What stands behind a number of this unit."""
    return {"share": " %", "1": ""}.get(estimate.unit, f" {estimate.unit}")


def _at(band: Estimate, gap: Estimate) -> Estimate:
    scale = 100 if band.unit == "share" and gap.unit == "points" else 1
    nan, value = math.nan, band.value + gap.value / scale
    return Estimate(
        value=value, low=nan, high=nan, level=band.level, n=band.n, method="the middle of the band + the gap",
        unit=band.unit, better=band.better,
    )  # fmt: skip


def _outside(gap: Estimate | None) -> float:
    """How far outside, in half widths of the band; 0 inside."""
    if gap is None or not (math.isfinite(gap.low) and math.isfinite(gap.high)):
        return 0.0
    return max(gap.low, -gap.high, 0.0) / max((gap.high - gap.low) / 2, 1e-9)


def _other(key: Measure, every: dict[str, Measure]) -> tuple[str, str, str]:
    if key.band:
        return number(key.band), ends(key.band), "retrains"
    for null in _NULLS:
        if (found := every.get(f"{null}.{key.name}")) and found.candidate:
            return number(found.candidate), ends(found.candidate), null
    if key.retrains:
        return span(key.retrains), "", "retrains"
    return NONE, "", ""


def span(retrains: Sequence[Estimate]) -> str:
    """The mean of the retrains, and from where to where they reach."""
    spread = Spread.of(retrains)
    if not spread.n:
        return NONE
    low, high = (spread.number(end(spread.each)) for end in (min, max))
    return f"{spread.middle}{sign(retrains[0])}" + (f" ({low} to {high})" if spread.n > 1 else "")


def _value(estimate: Estimate | None) -> float:
    return math.nan if estimate is None else estimate.value
