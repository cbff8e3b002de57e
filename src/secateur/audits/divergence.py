"""Divergence: how far the candidate's answers are from those of retrains, and those from each other."""

from __future__ import annotations

import math
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

VIEWS = ("forget", "retain", "test")
MOST = math.log(2)
LEAST = 1e-9  # nats: less is rounding


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Jensen-Shannon divergence of the softmax of two models, row by row, in nats: 0 to ln 2.

    "JS.forget" is the mean over forget rows and retrains of the divergence of candidate and retrain; so for
    retain and test. Two retrains differ too: each one against the others says by how much. The verdict is
    made by the bands of these, one for each view, all three holding together; above any "fail". They are open
    below, since a candidate cannot lie too near. Remembering and over-unlearning both move away from the
    retrains. All classes stay in test: a head that was told never to say the forgotten class shows there.

    The bands are t prediction intervals on the log scale, since a divergence is a square of a distance, and
    wider by (R - 1) / (R - 2), since each retrain's number shares its pairs with the others'. With both, an
    exact retrain failed less often than stated in simulations from one direction of chance to a thousand, at
    5, 6 and 10 retrains; on the plain scale up to 13 % did at 95 %.

    Attributes:
        references: How many retrained models to ask for; all that are there are used.
        level: Confidence level of the intervals, and level at which the three bands hold together, in (0, 1).
            The intervals are over retrains, the rows fixed: for one model, retrains are independent, and rows
            are not.
    """

    references: References = 5
    level: Level = 0.95

    card: ClassVar[Card] = Card(
        summary="How far answers are from those of retrains, beside how far retrains are from each other.",
        paper="Lin, IEEE Trans. Inf. Theory 1991; here: Chundawat et al., AAAI 2023, arXiv 2205.08096",
        data="What the models said about forget, retain and test; at least five models retrained on retain.",
    )

    @property
    def needs(self) -> Needs:
        """Forget, retain and test, and as many retrained models as ``references`` says."""
        return Needs(references=self.references)

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Compare candidate and original with every retrain, and every retrain with the others.

        Args:
            evidence: What the models said about forget, retain and test, with retrained references.

        Returns:
            "JS.forget", "JS.retain" and "JS.test" of the candidate, of the original and of each retrain, the
            latter against the others; "band.*" and "gap.*"; by row "forget/divergence", the candidate's mean
            over retrains. Without a retrain there are no estimates.
        """
        count = len(evidence.retrains)
        if not count:
            why = (
                f"there is no retrained reference to compare with: give {max(bands.ENOUGH, self.references)}"
            )
            return Finding(audit="divergence", estimates={}, verdict="inconclusive", caveats=(why,))
        found: dict[str, Estimate] = {}
        values: list[dict[str, float]] = [{} for _ in range(count + 2)]
        rows: tuple[float, ...] = ()
        for view in VIEWS:
            models = [_probabilities(outputs[view]) for _, outputs in evidence.models()]
            apart = np.full((count + 2, count), math.nan)  # model and retrain
            for j, retrain in enumerate(models[2:]):
                for i, model in enumerate(models[: j + 2]):
                    each = stats.jensen_shannon(model, retrain)
                    apart[i, j] = each.mean()
                    if i >= 2:
                        apart[j + 2, i - 2] = apart[i, j]
                    if i == 0 and view == "forget":
                        rows = tuple(np.add(rows or 0.0, each / count).tolist())
            for i, (prefix, _) in enumerate(evidence.models()):
                others = apart[i][~np.isnan(apart[i])]
                if len(others):
                    found[f"{prefix}JS.{view}"] = mean = self._mean(others)
                    values[i][f"JS.{view}"] = mean.value
        caveats = [f"{count} of the {bands.ENOUGH} retrains that a verdict needs (10 are better)"]
        verdict: Verdict = "inconclusive"
        candidate, before, *retrains = values
        if count > 2:
            around = self._bands(retrains)
            verdict, caveats = bands.verdict(candidate, before, around, ["JS.forget"])
            found |= bands.estimates(around, candidate, before, unit="nats")
        caveats += bands.missing(count, self.references)
        told = {"forget/divergence": rows}
        return Finding(
            audit="divergence", estimates=found, verdict=verdict, caveats=tuple(caveats), rows=told
        )

    def _bands(self, retrains: list[dict[str, float]]) -> dict[str, stats.Interval]:
        logs = [{name: math.log(max(value, LEAST)) for name, value in one.items()} for one in retrains]
        steps, found = dict.fromkeys(logs[0], 0.0), {}
        for name, band in bands.bands_of(logs, steps, self.level, (-math.inf, math.inf)).items():
            half = (band.high - band.value) * (band.n - 1) / (band.n - 2)
            how = f"t prediction interval of the logarithm, open below; {len(steps)} such hold together"
            high = min(math.exp(min(band.value + half, 0.0)), MOST)
            found[name] = replace(band, value=math.exp(band.value), low=0.0, high=high, method=how)
        return found

    def _mean(self, apart: NDArray[np.float64]) -> Estimate:
        one = stats.prediction_interval(apart, self.level)
        if one.n > 1:
            half = (one.high - one.low) / 2 / math.sqrt(one.n + 1)  # of the mean, not of one further value
            low, high = np.clip([one.value - half, one.value + half], 0, MOST).tolist()
            how = "t interval of the mean over retrains, the rows fixed"
            one = replace(one, low=low, high=high, method=how)
        return Estimate.of(one, unit="nats", better="lower")


def _probabilities(said: Outputs) -> NDArray[np.float64]:
    """[n, classes], in the order of row ids."""
    return np.exp(said.log_probs[np.argsort(said.rows)])
