"""UA, RA and TA: how often the models are wrong on what should be forgotten, and right on the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from secateur import stats
from secateur.audit import Needs
from secateur.card import Card
from secateur.evidence import Evidence
from secateur.knobs import Level
from secateur.record import Estimate, Finding


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """UA = 1 - accuracy on forget, RA = accuracy on retain, TA = accuracy on test, with Wilson intervals.

    None has a direction of its own: nearer to a retrain is better, and a model that never saw the forget rows
    may still be right on most of them. Classes without retain rows count as forgotten and are left out of
    test. For the candidate and the original each number is also given by class: "UA[3]" is that of class 3.

    Attributes:
        level: Confidence level of each interval, in (0, 1). The intervals are over rows, of this one model.
    """

    level: Level = 0.95

    card: ClassVar[Card] = Card(
        summary="Accuracy on forget (UA = 1 - accuracy), retain (RA) and test (TA), overall and by class.",
        paper="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934",
        data="What the models said about forget, retain and test.",
    )

    @property
    def needs(self) -> Needs:
        """Forget, retain and test; no references."""
        return Needs()

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Count the hits of every model.

        Args:
            evidence: What the models said about forget, retain and test.

        Returns:
            "UA", "RA" and "TA" of the candidate and, with their prefixes, of the controls; no verdict.
        """
        estimates = {}
        for prefix, outputs in evidence.models():
            for name, (labels, hits) in evidence.hits(outputs).items():
                estimates[prefix + name] = self._estimate(hits)
                if prefix in {"", "before."}:
                    for label in np.unique(labels):
                        estimates[f"{prefix}{name}[{label}]"] = self._estimate(hits[labels == label])
        return Finding(audit="accuracy", estimates=estimates, caveats=evidence.left_out)

    def _estimate(self, hits: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Estimate:
        interval = stats.share_interval(int(hits.sum()), len(hits), self.level)
        return Estimate.of(interval, unit="share", better="nearer-to-retrain")
