"""Rows: what runs that differ only in their seeds say together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secateur.record import Better, Estimate, Finding, Record
from secateur.report import names
from secateur.report.spread import Spread

Kind = Literal["original", "reference", "retrain", "method"]

MEASURES = ("UA", "MIA-Efficacy", "RA", "TA")
VERDICTS = ("pass", "fail", "inconclusive")
KINDS: tuple[Kind, ...] = ("original", "reference", "retrain", "method")
_PLAIN = re.compile(r"(gap\.|band\.)?(UA|MIA-Efficacy|RA|TA)(\[.*\])?|disparity|held-out\.inside")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ only in their seeds; or the models they started from or were compared with.

    Attributes:
        setting: Data and model.
        request: What was asked to be forgotten, in words.
        start: What unlearning started from: "dense", "90 % sparse", and more where needed.
        sparsity: Share of zeros before unlearning.
        kind: "original" (before unlearning), "retrain" (runs of that method), "method", or "reference": the
            retrained models of the audits, where no run of retrain stands beside them.
        method: The unlearning step, and the steps after it, by name.
        detail: The knobs in which rows of this method differ, as text; empty where none do.
        knobs: All knobs of the unlearning step, flat.
        count: How many runs (originals: trainings; references: models).
        seeds: Their seeds, where known.
        values: Name to number: "UA", "gap.UA", "band.UA", "disparity" ... as estimates are named;
            "audit/name" for other audits; "RTE" the seconds of unlearning, "zeros" the sparsity afterwards,
            "train" the original's train accuracy.
        verdicts: Audit to verdict to number of runs.
        outside: Measure to the number of runs "above" and "below" the band of the retrains.
        inside: How many runs were placed inside it by every measure.
        records: The runs; none for references.
    """

    setting: str
    request: str
    start: str
    sparsity: float
    kind: Kind
    method: str
    detail: str = ""
    knobs: Mapping[str, Any]
    count: int
    seeds: tuple[int, ...]
    values: Mapping[str, Spread]
    verdicts: Mapping[str, Mapping[str, int]]
    outside: Mapping[str, Mapping[str, int]]
    inside: int = 0
    records: tuple[Record, ...]

    @property
    def label(self) -> str:
        """The method with the knobs that tell it apart."""
        return f"{self.method} ({self.detail})" if self.detail else self.method

    @property
    def verdict(self) -> str:
        """How often each verdict fell: "4 pass, 1 fail"; with the audit's name where several gave one."""
        told = []
        for audit, found in self.verdicts.items():
            counts = ", ".join(f"{n} {verdict}" for verdict, n in found.items())
            told.append(counts if len(self.verdicts) == 1 else f"{audit}: {counts}")
        return "; ".join(told)


class Place(NamedTuple):
    """Where a run stands: rows of one place are compared with each other."""

    setting: str
    request: str
    start: str


def of_methods(place: Place, method: str, detail: str, runs: Sequence[Record]) -> Row:
    """The row of runs of one method.

    Args:
        place: Where they stand.
        method: Their name.
        detail: What tells them from others of that name.
        runs: The runs; each has an unlearning step.

    Returns:
        The row.
    """
    values = [told(run) | _afterwards(run) for run in runs]
    verdicts: dict[str, dict[str, int]] = {}
    outside: dict[str, dict[str, int]] = {name: {} for name in MEASURES}
    inside = 0
    for run in runs:
        for audit, finding in names.audits(run):
            if finding.verdict:
                counts = verdicts.setdefault(audit, dict.fromkeys(VERDICTS, 0))
                counts[finding.verdict] += 1
        found = [sides for finding in run.findings if (sides := placed(finding))]
        for name in MEASURES:
            for side in dict.fromkeys(sides[name] for sides in found if sides.get(name)):
                outside[name][side] = outside[name].get(side, 0) + 1
        inside += bool(found) and all(sides == dict.fromkeys(MEASURES, "") for sides in found)
    trace = runs[0].unlearning
    return Row(
        **place._asdict(),
        sparsity=runs[0].sparsity,
        kind="retrain" if runs[0].method == "retrain" else "method",
        method=method,
        detail=detail,
        knobs=names.flat(trace.knobs) if trace else {},
        count=len(runs),
        seeds=tuple(names.seed(run) for run in runs),
        values=_spreads(values),
        verdicts={audit: {v: n for v, n in counts.items() if n} for audit, counts in verdicts.items()},
        outside={name: sides for name, sides in outside.items() if sides},
        inside=inside,
        records=tuple(runs),
    )


def of_originals(place: Place, runs: Sequence[Record]) -> Row | None:
    """The row of the models that these runs started from: methods share a training, which counts once.

    Args:
        place: Where the runs stand.
        runs: The runs.

    Returns:
        The row; None where no audit looked at them.
    """
    runs = list({names.training(run): run for run in reversed(runs)}.values())[::-1]
    values = []
    for run in runs:
        found = told(run, "" if run.unlearn is None else "before.")
        values.append(found | _measured("train", _train_accuracy(run, found), "share", "higher"))
    if not any(values):
        return None
    return _control(
        place, "original", "original", runs[0].sparsity, values, [names.seed(run) for run in runs], runs
    )


def of_references(place: Place, runs: Sequence[Record]) -> Row | None:
    """The row of the retrained models that these runs were compared with.

    Args:
        place: Where the runs stand.
        runs: The runs.

    Returns:
        The row; None without such models.
    """
    found = names.retrains(runs)
    values = []
    for retrain in found:
        took = _measured("RTE", math.nan if retrain.seconds is None else retrain.seconds, "seconds", "lower")
        values.append({name: e for name, e in retrain.told.items() if _PLAIN.fullmatch(name)} | took)
    seeds = [retrain.seed for retrain in found if retrain.seed is not None]
    if not found:
        return None
    return _control(place, "reference", "retrained references", runs[0].sparsity, values, seeds, ())


def _control(
    place: Place,
    kind: Kind,
    name: str,
    sparsity: float,
    values: Sequence[Mapping[str, Estimate]],
    seeds: Sequence[int],
    runs: Sequence[Record],
) -> Row:
    return Row(
        **place._asdict(),
        sparsity=sparsity,
        kind=kind,
        method=name,
        knobs={},
        count=len(values),
        seeds=tuple(seeds),
        values=_spreads(values),
        verdicts={},
        outside={},
        records=tuple(runs),
    )


def told(run: Record, prefix: str = "") -> dict[str, Estimate]:
    """What a run says of one of its models.

    Args:
        run: The run.
        prefix: "before." for the original; none for the candidate.

    Returns:
        Name without the prefix to estimate, as a row's values are named. A measure that only the audit of the
        gaps took is the middle of its band plus the gap.
    """
    found: dict[str, Estimate] = {}
    for audit, finding in names.audits(run):
        for name, estimate in finding.estimates.items():
            if name.startswith(prefix) and (prefix or not name.startswith(("before.", "retrain["))):
                bare = name.removeprefix(prefix)
                found.setdefault(bare if _PLAIN.fullmatch(bare) else f"{audit}/{bare}", estimate)
    for finding in run.findings:
        for name in MEASURES:
            gap, band = finding.estimates.get(f"{prefix}gap.{name}"), finding.estimates.get(f"band.{name}")
            if name not in found and gap and band:
                found |= _measured(name, band.value + gap.value / 100, "share", "nearer-to-retrain")
    return found


def placed(finding: Finding) -> dict[str, str]:
    """Where a finding places the candidate: measure to "above" or "below" the band, or "" inside it.

    Args:
        finding: Any finding; its "gap.*" tell, and no other audit's number.

    Returns:
        The measures whose gap has finite ends; a gap is in points, and zero lies in it inside the band.
    """
    gaps = {name: gap for name in MEASURES if (gap := finding.estimates.get(f"gap.{name}"))}
    return {
        name: "above" if gap.low > 0 else "below" if gap.high < 0 else ""
        for name, gap in gaps.items()
        if math.isfinite(gap.low) and math.isfinite(gap.high)
    }


def with_gaps(rows: Sequence[Row]) -> list[Row]:
    """Rows with their gaps and disparity to the runs of retrain beside them, where no audit measured any.

    Each run is held against the mean of the retrains, each retrain against the mean of the others, as
    ``retrain-gap`` does with references of its own.

    Args:
        rows: Of one place.

    Returns:
        The rows; unchanged where an audit gave a disparity, or where not exactly one kind of retrain stands.
    """
    retrains = [row for row in rows if row.kind == "retrain"]
    if len(retrains) != 1 or any("disparity" in row.values for row in rows):
        return list(rows)
    yardstick = _by_run(retrains[0])
    found = []
    for row in rows:
        values = _by_run(row)
        if row.kind == "retrain":
            others = [[v for j, v in enumerate(yardstick) if j != i] for i in range(len(values))]
        else:
            others = [yardstick] * len(values)
        pairs = [(own, other) for own, other in zip(values, others, strict=True) if len(other)]
        gaps = np.array([100 * (own - np.mean(other, axis=0)) for own, other in pairs])
        if len(gaps):
            told = {"disparity": Spread(each=_floats(np.abs(gaps).mean(1)), unit="points", better="lower")}
            for name, each in zip(MEASURES, gaps.T, strict=True):
                told[f"gap.{name}"] = Spread(each=_floats(each), unit="points", better="nearer-to-retrain")
            row = replace(row, values={**row.values, **told})
        found.append(row)
    return found


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _by_run(row: Row) -> list[NDArray[np.float64]]:
    """The four measures [4] of each run; none where a run lacks one."""
    spreads = [row.values[name].each for name in MEASURES if name in row.values]
    if len(spreads) < len(MEASURES) or len({len(each) for each in spreads} | {row.count}) > 1:
        return []
    return [np.array(each) for each in zip(*spreads, strict=True)]


def _spreads(values: Sequence[Mapping[str, Estimate]]) -> dict[str, Spread]:
    every = dict.fromkeys(name for found in values for name in found)
    return {name: Spread.of(found[name] for found in values if name in found) for name in every}


def _afterwards(run: Record) -> dict[str, Estimate]:
    took = sum(step.seconds for step in run.steps[run.unlearn :])  # what follows unlearning belongs to it
    zeros = _measured("zeros", run.steps[-1].sparsity, "share", "nearer-to-retrain")
    return zeros | _measured("RTE", took, "seconds", "lower")


def _train_accuracy(run: Record, found: Mapping[str, Estimate]) -> float:
    forget, retain = (names.counts(run).get(role, 0) for role in ("forget", "retain"))
    if not forget + retain or not {"UA", "RA"} <= found.keys():
        return math.nan
    return (forget * (1 - found["UA"].value) + retain * found["RA"].value) / (forget + retain)


def _measured(name: str, value: float, unit: str, better: Better) -> dict[str, Estimate]:
    if not math.isfinite(value):
        return {}
    nan = math.nan
    measured = Estimate(
        value=value, low=nan, high=nan, level=0.95, n=1, method="measured", unit=unit, better=better
    )
    return {name: measured}
