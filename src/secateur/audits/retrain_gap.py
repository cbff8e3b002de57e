"""The gap to retraining: does the candidate look like a model that never saw the forget rows?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import ClassVar

import numpy as np

from secateur import stats
from secateur.audit import Needs
from secateur.card import Card
from secateur.evidence import Evidence, Outputs
from secateur.knobs import Level, Members, References, Seed
from secateur.record import Estimate, Finding, Verdict

ENOUGH = 5  # fewer retrains show too little of their spread for a verdict
HAIR = 1e-9  # less than a row of any view, more than rounding: whoever compares with a band agrees

Values = Mapping[str, float]
Bands = Mapping[str, stats.Interval]


@dataclass(frozen=True, kw_only=True)
class RetrainGap:
    """Four metrics of the candidate against the band in which one more retrain would fall.

    The band of each of UA, MIA-Efficacy, RA and TA is the t prediction interval of the retrains, at a level
    that makes all four hold together (Bonferroni: 98.75 % each for 95 %), one row wider on each side and cut
    to [0, 1]. The row is there because the metrics are counts: retrains that agree to the row (RA = 100 %)
    would leave a band without width, which an exact retrain with one row more or less would miss. See
    docs/decisions/retrain-band.md.

    The verdict is "inconclusive" with fewer than five retrains, and if the original lies inside all four
    bands (no power); "fail" if the candidate lies outside any band, which an exact retrain does once in
    twenty times at most; "pass", within the stated power, if it lies inside all four while the original is
    outside on UA or MIA-Efficacy, the two that look at the forget rows; else "inconclusive".

    Attributes:
        references: How many retrained models to ask for; all that are there are used.
        level: Level at which the four bands hold together, in (0, 1).
        members: Which retain rows the predictor of MIA-Efficacy learns: "sampled", a random sample as large
            as test, the same rows for every model; "first", the first rows by id, as the published code takes
            them.
        seed: Seed of that sample.
    """

    references: References = 5
    level: Level = 0.95
    members: Members = "sampled"
    seed: Seed = 0

    card: ClassVar[Card] = Card(
        summary="Gap to retraining in UA, MIA-Efficacy, RA and TA, judged by the spread of the retrains.",
        paper="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934",
        data="What the models said about forget, retain and test; at least five models retrained on retain.",
    )

    @property
    def needs(self) -> Needs:
        """Forget, retain and test, and as many retrained models as ``references`` says."""
        return Needs(references=self.references)

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Place the candidate and the original among the retrains.

        Args:
            evidence: What the models said about forget, retain and test, with retrained references.

        Returns:
            For each metric "gap.*" (candidate minus mean of the retrains, in points) and "band.*" (that mean
            and the band), "disparity" (mean of the four absolute gaps), "before.gap.*" and "before.disparity"
            of the original, and "held-out.inside" (share of the retrains inside the bands of the others).
            Without a retrain there are no estimates, with one they have no intervals.
        """
        candidate, before, *retrains = [self._metrics(evidence, outputs) for _, outputs in evidence.models()]
        if not retrains:
            why = f"there is no retrained reference, so there is no gap: give {max(ENOUGH, self.references)}"
            return Finding(audit="retrain-gap", estimates={}, verdict="inconclusive", caveats=(why,))
        rows = {name: len(hits) for name, (_, hits) in evidence.hits(evidence.after).items()}
        steps = {name: 1 / rows.get(name, rows["UA"]) for name in candidate}  # MIA-Efficacy: of forget, as UA
        bands = self._bands(retrains, steps)
        estimates = self._gaps("", candidate, bands) | self._gaps("before.", before, bands)
        for name, band in bands.items():
            estimates[f"band.{name}"] = Estimate.of(band, unit="share", better="nearer-to-retrain")
        verdict, caveats = _verdict(candidate, before, bands)
        if len(retrains) > 2:
            rest = (self._bands([*retrains[:i], *retrains[i + 1 :]], steps) for i in range(len(retrains)))
            inside = [not _outside(values, others) for values, others in zip(retrains, rest, strict=True)]
            how = "each retrain against the bands of the others; no interval, since they share them"
            share, count = float(np.mean(inside)), len(inside)
            held = stats.Interval(value=share, low=nan, high=nan, level=self.level, n=count, method=how)
            estimates["held-out.inside"] = Estimate.of(held, unit="share", better="higher")
            caveats.append(f"{sum(inside)} of {count} held-out retrains lie inside the bands of the others")
        if len(retrains) < self.references:
            caveats.append(f"{self.references} retrains were asked for, {len(retrains)} are here")
        different = len({reference.outputs["forget"].logits.tobytes() for reference in evidence.retrains})
        if different < len(retrains):
            caveats.append(f"only {different} of {len(retrains)} retrains differ: copies narrow the bands")
        caveats += evidence.left_out
        return Finding(audit="retrain-gap", estimates=estimates, verdict=verdict, caveats=tuple(caveats))

    def _metrics(self, evidence: Evidence, outputs: Mapping[str, Outputs]) -> dict[str, float]:
        shares = {name: float(hits.mean()) for name, (_, hits) in evidence.hits(outputs).items()}
        efficacy = evidence.mia_efficacy(outputs, members=self.members, seed=self.seed)
        return {"UA": shares["UA"], "MIA-Efficacy": efficacy, "RA": shares["RA"], "TA": shares["TA"]}

    def _bands(self, retrains: Sequence[Values], steps: Values) -> dict[str, stats.Interval]:
        level, bands = 1 - (1 - self.level) / len(steps), {}
        for name, step in steps.items():
            band = stats.prediction_interval([values[name] for values in retrains], level, step=step + HAIR)
            low, high = np.clip([band.low, band.high], 0, 1).tolist()  # NaN stays NaN
            how = f"{band.method}, cut to [0, 1]; {len(steps)} such bands hold together at {self.level:.4g}"
            bands[name] = replace(band, low=low, high=high, method=how)
        return bands

    def _gaps(self, prefix: str, values: Values, bands: Bands) -> dict[str, Estimate]:
        gaps = {}
        for name, band in bands.items():
            value, low, high = (100 * (values[name] - end) for end in (band.value, band.high, band.low))
            gap = replace(band, value=value, low=low, high=high, method=f"the model minus: {band.method}")
            gaps[f"{prefix}gap.{name}"] = Estimate.of(gap, unit="points", better="nearer-to-retrain")
        disparity = stats.mean_size(list(gaps.values()), self.level)
        return gaps | {f"{prefix}disparity": Estimate.of(disparity, unit="points", better="lower")}


def _outside(values: Values, bands: Bands) -> dict[str, str]:
    """The metrics on which a model lies outside the bands, and on which side."""
    above = {name: "above" for name, band in bands.items() if values[name] > band.high}
    return above | {name: "below" for name, band in bands.items() if values[name] < band.low}


def _verdict(candidate: Values, before: Values, bands: Bands) -> tuple[Verdict, list[str]]:
    retrains = bands["UA"].n
    if retrains < ENOUGH:
        return "inconclusive", [f"{retrains} of the {ENOUGH} retrains that a verdict needs (10 are better)"]
    off, power = _outside(candidate, bands), _outside(before, bands)
    sides = ", ".join(f"{name} ({side})" for name, side in off.items())
    told = f"the candidate lies outside on {sides}" if off else "the candidate lies inside all four bands"
    if not power:
        return "inconclusive", ["no power: the original itself lies inside all four bands", told]
    if off:
        return "fail", [told]
    seen = " and ".join(name for name in ("UA", "MIA-Efficacy") if name in power)
    if not seen:
        return "inconclusive", ["no power on the forget rows: UA and MIA-Efficacy of the original lie inside"]
    return "pass", [
        f"pass within the stated power: {seen} can tell the original from a retrain, smaller gaps go unseen",
        "an honest operator is assumed: a masked head or faked confidences would look the same here",
    ]
