"""The band of the retrains: where one more exact retrain would fall, and what lies outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from secateur import stats
from secateur.record import Estimate, Verdict

ENOUGH = 5  # fewer retrains show too little of their spread for a verdict
HAIR = 1e-9  # less than a row of any view, more than rounding: whoever compares with a band agrees

Values = Mapping[str, float]
Bands = Mapping[str, stats.Interval]

HONEST = "an honest operator is assumed: outputs faked for the rows that are asked about may look the same"


def bands_of(
    retrains: Sequence[Values], steps: Values, level: float, limits: tuple[float, float] = (0, 1)
) -> dict[str, stats.Interval]:
    """For each measure the t prediction interval of the retrains; all of them hold together at ``level``.

    Each stands at 1 - (1 - level) / measures (Bonferroni), and is wider by one step, and a hair, on each
    side: see docs/decisions/retrain-band.md.

    Args:
        retrains: What each retrain measures, by name.
        steps: Name to the step in which that measure moves: 1 / rows for a share of rows.
        level: In (0, 1).
        limits: Least and greatest value that the measures can take.

    Returns:
        Name to mean and band; the ends are NaN for fewer than two retrains.
    """
    each, bands = 1 - (1 - level) / len(steps), {}
    for name, step in steps.items():
        band = stats.prediction_interval([values[name] for values in retrains], each, step=step + HAIR)
        low, high = np.clip([band.low, band.high], *limits).tolist()  # NaN stays NaN
        how = f"{band.method}, cut to [{limits[0]:g}, {limits[1]:g}]"
        if len(steps) > 1:
            how += f"; {len(steps)} such bands hold together at {level:.4g}"
        bands[name] = replace(band, low=low, high=high, method=how)
    return bands


def outside(values: Values, bands: Bands) -> dict[str, str]:
    """The measures on which a model lies outside the bands, and on which side: "above" or "below"."""
    above = {name: "above" for name, band in bands.items() if values[name] > band.high}
    return above | {name: "below" for name, band in bands.items() if values[name] < band.low}


def verdict(
    candidate: Values, before: Values, bands: Bands, telling: Sequence[str]
) -> tuple[Verdict, list[str]]:
    """What the bands say of a candidate.

    "inconclusive" with fewer than five retrains, and where the original lies inside all bands (no power);
    "fail" if the candidate lies outside any; "pass" if it lies inside all of them and the original outside on
    a measure that looks at the forget rows; else "inconclusive".

    Args:
        candidate: Its measures.
        before: Those of the original.
        bands: From ``bands_of``.
        telling: The measures that look at the forget rows.

    Returns:
        The verdict, and sentences that say why.
    """
    retrains = next(iter(bands.values())).n
    if retrains < ENOUGH:
        return "inconclusive", [f"{retrains} of the {ENOUGH} retrains that a verdict needs (10 are better)"]
    all_bands = {1: "the band", 2: "both bands", 4: "all four bands"}.get(
        len(bands), f"all {len(bands)} bands"
    )
    off, power = outside(candidate, bands), outside(before, bands)
    sides = ", ".join(f"{name} ({side})" for name, side in off.items())
    told = f"the candidate lies outside on {sides}" if off else f"the candidate lies inside {all_bands}"
    if not power:
        return "inconclusive", [f"no power: the original itself lies inside {all_bands}", told]
    if off:
        return "fail", [told]
    seen = " and ".join(name for name in telling if name in power)
    if not seen:
        looking = " and ".join(telling)
        return "inconclusive", [f"no power on the forget rows: {looking} of the original lie inside"]
    return "pass", [
        f"pass within the stated power: {seen} can tell the original from a retrain, smaller gaps go unseen",
        HONEST,
    ]


def estimates(
    bands: Bands, candidate: Values, before: Values, *, unit: str, prefix: str = ""
) -> dict[str, Estimate]:
    """The bands, and how far candidate and original lie from their middles.

    Args:
        bands: From ``bands_of``.
        candidate: Its measures.
        before: Those of the original.
        unit: Of the measures; gaps of shares are in points.
        prefix: Before every name.

    Returns:
        "band.*", "gap.*" and "before.gap.*"; the interval of a gap is the model minus the band.
    """
    scale, told = (100, "points") if unit == "share" else (1, unit)
    found = {}
    for who, values in (("", candidate), ("before.", before)):
        for name, band in bands.items():
            value, low, high = (scale * (values[name] - end) for end in (band.value, band.high, band.low))
            gap = replace(band, value=value, low=low, high=high, method=f"the model minus: {band.method}")
            found[f"{who}gap.{prefix}{name}"] = Estimate.of(gap, unit=told, better="nearer-to-retrain")
    for name, band in bands.items():
        found[f"band.{prefix}{name}"] = Estimate.of(band, unit=unit, better="nearer-to-retrain")
    return found


def missing(retrains: int, asked: int) -> list[str]:
    """A sentence where there are fewer retrains than an audit asked for."""
    return [f"{asked} retrains were asked for, {retrains} are here"] if retrains < asked else []
