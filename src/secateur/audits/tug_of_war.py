"""Tug-of-war: how near the accuracies on forget, retain and test come to retraining, all three at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur import bands, stats
from secateur.audit import Needs
from secateur.card import Card
from secateur.evidence import Evidence
from secateur.knobs import Level, References
from secateur.outputs import Outputs
from secateur.record import Estimate, Finding, Verdict


@dataclass(frozen=True, kw_only=True)
class TugOfWar:
    """ToW: the product of 1 - |accuracy - mean accuracy of the retrains| over forget, retain and test.

    1 is the best. Each retrain against the others says what an exact one reaches. The verdict is made by the
    band of these values, one row of the smallest view wider: below it "fail". The band is open above, since a
    candidate that lies nearer to the mean than retrains do is no worse for it. It is a t prediction interval
    of sqrt(1 - ToW), since absolute gaps are skewed: on the plain scale too many exact retrains fail.
    Remembering and over-unlearning both lower the product, and both fail. A pass asks that the original would
    lie below by its accuracy on forget alone. Classes without retain rows count as forgotten and are left out
    of test.

    Attributes:
        references: How many retrained models to ask for; all that are there are used.
        level: Confidence level of the intervals, which are over retrains, the rows fixed, and level of the
            band, in (0, 1).
    """

    references: References = 5
    level: Level = 0.95

    card: ClassVar[Card] = Card(
        summary="Tug-of-war: one number for the gaps to retraining in accuracy on forget, retain and test.",
        paper="Zhao et al., What Makes Unlearning Hard and What to Do About It, NeurIPS 2024",
        data="What the models said about forget, retain and test; at least five models retrained on retain.",
    )

    @property
    def needs(self) -> Needs:
        """Forget, retain and test, and as many retrained models as ``references`` says."""
        return Needs(references=self.references)

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Compare candidate and original with the retrains, and each retrain with the others.

        Args:
            evidence: What the models said about forget, retain and test, with retrained references.

        Returns:
            "ToW" of the candidate, of the original and, against the others, of each retrain; "band.ToW" and
            "gap.ToW". Without a retrain there are no estimates.
        """
        models = [_accuracies(evidence, outputs) for _, outputs in evidence.models()]
        candidate, before, retrains = models[0], models[1], np.array(models[2:])
        count = len(retrains)
        if not count:
            why = (
                f"there is no retrained reference to compare with: give {max(bands.ENOUGH, self.references)}"
            )
            return Finding(audit="tug-of-war", estimates={}, verdict="inconclusive", caveats=(why,))
        found = {"ToW": self._product(candidate, retrains), "before.ToW": self._product(before, retrains)}
        caveats = [f"{count} of the {bands.ENOUGH} retrains that a verdict needs (10 are better)"]
        verdict: Verdict = "inconclusive"
        if count > 1:
            for i, one in enumerate(retrains):
                found[f"retrain[{i}].ToW"] = self._product(one, np.delete(retrains, i, axis=0))
            null = [{"ToW": math.sqrt(1 - found[f"retrain[{i}].ToW"].value)} for i in range(count)]
            step = 1 / min(len(hits) for _, hits in evidence.hits(evidence.after).values()) + bands.HAIR
            band = bands.bands_of(null, {"ToW": 0.0}, self.level)["ToW"]
            how = "t prediction interval of sqrt(1 - ToW), one row of the smallest view wider, open above"
            middle, low = 1 - band.value**2, max(0.0, 1 - band.high**2 - step)
            around = {"ToW": replace(band, value=middle, low=low, high=1.0, method=how)}
            known = {"ToW": 1 - abs(float(before[0] - retrains[:, 0].mean()))}  # by the forget rows alone
            verdict, caveats = bands.verdict({"ToW": found["ToW"].value}, known, around, ["ToW"])
            old = {"ToW": found["before.ToW"].value}
            found |= bands.estimates(around, {"ToW": found["ToW"].value}, old, unit="1")
        caveats += [*bands.missing(count, self.references), *evidence.left_out]
        return Finding(audit="tug-of-war", estimates=found, verdict=verdict, caveats=tuple(caveats))

    def _product(self, own: NDArray[np.float64], retrains: NDArray[np.float64]) -> Estimate:
        """ToW [3] against [R, 3], with the least and the greatest that the three means allow."""
        each = 1 - (1 - self.level) / 3
        low, high = 1.0, 1.0
        for accuracy, others in zip(own, retrains.T, strict=True):
            one = stats.prediction_interval(others, each)
            half = (one.high - one.low) / 2 / math.sqrt(one.n + 1)  # of the mean, not of one further value
            size = abs(accuracy - one.value)
            low, high = low * (1 - np.minimum(size + half, 1)), high * (1 - np.maximum(size - half, 0))
        interval = stats.Interval(
            value=stats.tug_of_war(*(own - retrains.mean(axis=0)).tolist()),
            low=float(low),
            high=float(high),
            level=self.level,
            n=len(retrains),
            method="t intervals of three means of the retrains that hold together; the rows fixed",
        )
        if len(retrains) < 2:
            interval = replace(interval, method="none: one retrain shows no spread")
        return Estimate.of(interval, unit="1", better="higher")


def _accuracies(evidence: Evidence, said: Mapping[str, Outputs]) -> NDArray[np.float64]:
    """[3]: on forget, retain and test."""
    hits = evidence.hits(said)
    return np.array([1 - hits["UA"][1].mean(), hits["RA"][1].mean(), hits["TA"][1].mean()])
