"""The gap to retraining: does the candidate look like a model that never saw the forget rows?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import ClassVar

import numpy as np

from secateur import bands, stats
from secateur.audit import Needs
from secateur.bands import ENOUGH
from secateur.card import Card
from secateur.evidence import Evidence
from secateur.knobs import Level, Members, References, Seed
from secateur.outputs import Outputs
from secateur.record import Estimate, Finding

TELLING = ("UA", "MIA-Efficacy")  # the two that look at the forget rows


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
        version=2,
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
        around = bands.bands_of(retrains, steps, self.level)
        found = bands.estimates(around, candidate, before, unit="share")
        for prefix in ("", "before."):
            gaps = [found[f"{prefix}gap.{name}"] for name in around]
            disparity = stats.mean_size(gaps, self.level)
            found[f"{prefix}disparity"] = Estimate.of(disparity, unit="points", better="lower")
        verdict, caveats = bands.verdict(candidate, before, around, TELLING)
        if len(retrains) > 2:
            others = ([*retrains[:i], *retrains[i + 1 :]] for i in range(len(retrains)))
            rest = (bands.bands_of(kept, steps, self.level) for kept in others)
            inside = [not bands.outside(values, band) for values, band in zip(retrains, rest, strict=True)]
            how = "each retrain against the bands of the others; no interval, since they share them"
            share, count = float(np.mean(inside)), len(inside)
            held = stats.Interval(value=share, low=nan, high=nan, level=self.level, n=count, method=how)
            found["held-out.inside"] = Estimate.of(held, unit="share", better="higher")
            caveats.append(f"{sum(inside)} of {count} held-out retrains lie inside the bands of the others")
        caveats += bands.missing(len(retrains), self.references)
        different = len({reference.outputs["forget"].logits.tobytes() for reference in evidence.retrains})
        if different < len(retrains):
            caveats.append(f"only {different} of {len(retrains)} retrains differ: copies narrow the bands")
        caveats += evidence.left_out
        return Finding(audit="retrain-gap", estimates=found, verdict=verdict, caveats=tuple(caveats))

    def _metrics(self, evidence: Evidence, outputs: Mapping[str, Outputs]) -> dict[str, float]:
        shares = {name: float(hits.mean()) for name, (_, hits) in evidence.hits(outputs).items()}
        efficacy = evidence.mia_efficacy(outputs, members=self.members, seed=self.seed)
        return {"UA": shares["UA"], "MIA-Efficacy": efficacy, "RA": shares["RA"], "TA": shares["TA"]}
