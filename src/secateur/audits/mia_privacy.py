"""MIA-Privacy: how well a confidence predictor tells retained rows from rows that the model never saw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from secateur.audit import Needs
from secateur.card import Card
from secateur.evidence import Evidence
from secateur.knobs import Level, Seed
from secateur.record import Estimate, Finding


@dataclass(frozen=True, kw_only=True)
class MiaPrivacy:
    """MIA-Privacy as the paper defines it, for the candidate and for every control.

    As many retain rows as test rows are drawn. The predictor of MIA-Efficacy, taught by each model by itself
    on one half of both, is asked about the other half; the number is the mean of the two recalls. 0.5 is
    chance, and lower is better: it measures how exposed retained rows are, which unlearning can make worse.
    It says nothing of the forget rows. Classes without retain rows count as forgotten and are left out of
    test.

    Attributes:
        seed: Seed of the rows drawn and of the halves, the same for every model.
        level: Confidence level of each interval, in (0, 1). The intervals are over the rows asked about.
    """

    seed: Seed = 0
    level: Level = 0.95

    card: ClassVar[Card] = Card(
        summary="How well a confidence predictor tells retained rows from rows never seen.",
        paper="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934",
        data="What the models said about retain and test.",
        version=2,
    )
    needs: ClassVar[Needs] = Needs(views=frozenset({"retain", "test"}))

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Teach one predictor for each model, and ask it about the other halves.

        Args:
            evidence: What the models said about retain and test.

        Returns:
            "MIA-Privacy" of the candidate and, with their prefixes, of the controls; no verdict.
        """
        estimates = {}
        for prefix, outputs in evidence.models():
            interval = evidence.mia_privacy(outputs, seed=self.seed, level=self.level)
            method = (
                f"{interval.method}; over the halves that the predictor did not learn (drawn by seed "
                f"{self.seed}), the fitted predictor held fixed"
            )
            estimates[f"{prefix}MIA-Privacy"] = Estimate.of(
                replace(interval, method=method), unit="share", better="lower"
            )
        caveats = (
            "MIA-Privacy is about retained rows: 0.5 is chance, lower is better, and it says nothing of the "
            "forget rows",
            "a population attack: single rows may be at more risk than this average",
        )
        return Finding(audit="mia-privacy", estimates=estimates, caveats=(*caveats, *evidence.left_out))
