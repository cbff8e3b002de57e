"""MIA-Efficacy: the share of forget rows that a confidence predictor takes for rows the model never saw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from secateur import stats
from secateur.audit import Needs
from secateur.card import Card
from secateur.evidence import Evidence
from secateur.knobs import Level, Members, Seed
from secateur.record import Estimate, Finding


@dataclass(frozen=True, kw_only=True)
class MiaEfficacy:
    """MIA-Efficacy exactly as the paper defines it, for the candidate and for every control.

    A support vector machine learns, from each model by itself, to tell retain rows from test rows by the
    softmax probability of the true label; the number is the share of forget rows that it calls non-members.
    It is no privacy measure, and an exact retrain has no fixed value. Only the gap to a retrain means
    something. Classes without retain rows count as forgotten and are left out of test.

    Attributes:
        members: Which retain rows the predictor learns: "sampled", a random sample as large as test, the same
            rows for every model; "first", the first rows by id, as the published code takes them.
        seed: Seed of that sample.
        level: Confidence level of each interval, in (0, 1). The intervals are over the forget rows.
    """

    members: Members = "sampled"
    seed: Seed = 0
    level: Level = 0.95

    card: ClassVar[Card] = Card(
        summary="The share of forget rows that a confidence predictor calls non-members.",
        paper="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934",
        data="What the models said about forget, retain and test.",
        version=2,
    )

    @property
    def needs(self) -> Needs:
        """Forget, retain and test; a retrain is not required, but without one there is no gap to read."""
        return Needs()

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Fit one predictor for each model, and ask it about the forget rows.

        Args:
            evidence: What the models said about forget, retain and test.

        Returns:
            "MIA-Efficacy" of the candidate and, with their prefixes, of the controls; no verdict.
        """
        estimates = {}
        for prefix, outputs in evidence.models():
            share = evidence.mia_efficacy(outputs, members=self.members, seed=self.seed)
            rows = len(outputs["forget"])
            interval = stats.share_interval(round(share * rows), rows, self.level)
            method = f"{interval.method} over the forget rows, the fitted predictor held fixed"
            estimates[f"{prefix}MIA-Efficacy"] = Estimate.of(
                replace(interval, method=method), unit="share", better="nearer-to-retrain"
            )
        caveats = [
            "MIA-Efficacy is no privacy measure: read it as a gap to a retrain, which has no fixed value"
        ]
        if not evidence.retrains:
            caveats.append("no retrained reference is here, so there is no gap to read")
        return Finding(audit="mia-efficacy", estimates=estimates, caveats=(*caveats, *evidence.left_out))
