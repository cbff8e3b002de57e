"""The exposure of retained rows: did unlearning make the rows that stay easier to tell from test rows?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur import attack, bands, stats
from secateur.audit import Needs
from secateur.card import Card
from secateur.evidence import Evidence
from secateur.knobs import Level, References
from secateur.record import Estimate, Finding


@dataclass(frozen=True, kw_only=True)
class RetainExposure:
    """An attack on retained rows against test rows of their classes, set beside the same attack on retrains.

    The score is phi = log p_y - log sum_{c != y} p_c, high for members. An area above the band of the
    retrains says that unlearning left the rows that stay more exposed than retraining would; a caveat tells
    it. There is no verdict: the original learned these rows too, so no control is at hand that must fail.
    Classes without retain rows count as forgotten and are left out of test.

    Attributes:
        references: How many retrained models to ask for; all that are there are used.
        level: Confidence level of each interval, over rows of one model, and level of the band, in (0, 1).
    """

    references: References = 5
    level: Level = 0.95

    card: ClassVar[Card] = Card(
        summary="Whether unlearning exposed the rows that stay: an attack on retain, beside the retrains.",
        paper="The attack: Carlini et al., S&P 2022; the question: Hayes et al., 2024, arXiv 2403.01218",
        data="What the models said about retain and test; for a band five models retrained on retain.",
    )

    @property
    def needs(self) -> Needs:
        """Retain and test, and as many retrained models as ``references`` says."""
        return Needs(views=frozenset({"retain", "test"}), references=self.references)

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Attack the retained rows of every model.

        Args:
            evidence: What the models said about retain and test.

        Returns:
            "AUC", and "TPR@1%FPR", "TNR@1%FNR" and the same at 0.1 % where the rows suffice, of the candidate
            and, with their prefixes, of the controls. With retrains "shift" (phi on retain less the mean of
            the retrains, in nats, mean over rows), "band.AUC" and "gap.AUC", and by row "retain/exposure",
            the shift of each. No verdict.
        """
        found: dict[str, Estimate] = {}
        phi: dict[str, NDArray[np.float64]] = {}
        for prefix, said in evidence.models():
            phi[prefix] = said["retain"].phi_by_row
            other = attack.matched(said["retain"], said["test"]).phi_by_row
            found |= attack.estimates(phi[prefix], other, self.level, prefix=prefix)
        unresolved = [name for name, estimate in found.items() if math.isnan(estimate.value)]
        for name in unresolved:
            del found[name]
        caveats = ["a population attack: single rows may be at more risk than this average"]
        rows: dict[str, tuple[float, ...]] = {}
        candidate, before, *retrains = [{"AUC": found[f"{prefix}AUC"].value} for prefix in phi]
        if retrains:
            usual = np.mean([scores for prefix, scores in phi.items() if "retrain" in prefix], axis=0)
            rows["retain/exposure"] = tuple((phi[""] - usual).tolist())
            for prefix in ("", "before."):
                found[f"{prefix}shift"] = self._mean(phi[prefix] - usual)
            around = bands.bands_of(retrains, {"AUC": 1 / (len(usual) * len(other))}, self.level)
            found |= bands.estimates(around, candidate, before, unit="1")
            if len(retrains) < bands.ENOUGH:
                caveats.append(f"the band rests on {len(retrains)} retrains: {bands.ENOUGH} or more show it")
            elif side := bands.outside(candidate, around).get("AUC"):
                told = {"above": "more exposed", "below": "less exposed"}[side]
                caveats.insert(
                    0, f"retained rows are {told} than after a retrain: the area lies {side} the band"
                )
        lost = [name for name in unresolved if name.startswith(("TPR", "TNR"))]
        if lost:
            caveats.append(
                f"{', '.join(lost)} left out: a rate takes 10 / rate rows, test rows for TPR and retain rows "
                f"for TNR, and here are {len(other)} of the same classes and {len(phi[''])}"
            )
        caveats += [*bands.missing(len(retrains), self.references), *evidence.left_out]
        return Finding(audit="retain-exposure", estimates=found, caveats=tuple(caveats), rows=rows)

    def _mean(self, shift: NDArray[np.float64]) -> Estimate:
        one = stats.prediction_interval(shift, self.level)
        if one.n > 1:
            half = (one.high - one.low) / 2 / math.sqrt(one.n + 1)  # of the mean, not of one further value
            how = "t interval of the mean over rows of this model, the retrains fixed"
            one = replace(one, low=one.value - half, high=one.value + half, method=how)
        return Estimate.of(one, unit="nats", better="nearer-to-retrain")
