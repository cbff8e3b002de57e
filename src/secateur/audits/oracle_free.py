"""How good a setting looks to somebody who has no retrained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from secateur import stats
from secateur.audit import Needs
from secateur.card import Card
from secateur.evidence import Evidence
from secateur.knobs import Level
from secateur.outputs import Outputs
from secateur.record import Estimate, Finding

Right = Mapping[str, tuple[int, int]]  # view to right answers, and rows
_VIEWS = ("forget", "retain", "holdout")


@dataclass(frozen=True, kw_only=True)
class OracleFree:
    """A score to choose knobs by before anything is judged: it looks at neither a retrain nor test rows.

    The mean, in points, of: how far the accuracy on forget is from what a model would have that never saw
    these rows, for which the original's on holdout stands (0 on rows of a class without retain rows); the
    accuracy lost on retain; and that lost on holdout. A gain does not make up for another loss. Forgotten
    classes are left out of holdout.

    Attributes:
        level: Confidence level of each interval, in (0, 1). The intervals are over rows, of this one model;
            that of the score holds where those of its parts, each taken wider, hold together.
    """

    level: Level = 0.95

    card: ClassVar[Card] = Card(
        summary="A score for choosing knobs without a retrained model and without test rows.",
        paper="None: this score is our own. Jia et al., NeurIPS 2023, chose knobs against Retrain instead",
        data="What the models said about forget, retain and holdout.",
    )
    needs: ClassVar[Needs] = Needs(views=frozenset(_VIEWS))

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Compare the candidate with the original.

        Args:
            evidence: What the models said about forget, retain and holdout.

        Returns:
            "score", and its parts "forget-distance", "retain-loss" and "holdout-loss", in points, of the
            candidate and, with their prefixes, of the controls; no verdict.
        """
        before, estimates = _right(evidence.before, evidence), {}
        for prefix, outputs in evidence.models():
            for name, part in self._parts(_right(outputs, evidence), before, evidence).items():
                low, value, high = (100 * number for number in (part.low, part.value, part.high))
                points = replace(part, low=low, value=value, high=high)
                estimates[prefix + name] = Estimate.of(points, unit="points", better="lower")
        caveats = (
            "made to choose knobs by: a good score is no evidence that the rows are forgotten",
            "accuracy on holdout stands in for that of a model that never saw the forget rows",
        )
        return Finding(audit="oracle-free", estimates=estimates, caveats=caveats)

    def _parts(self, after: Right, before: Right, evidence: Evidence) -> dict[str, stats.Interval]:
        level = 1 - (1 - self.level) / 3
        stay = float((~np.isin(evidence.after["forget"].labels, evidence.forgotten)).mean())
        distance = stats.share_difference(after["forget"], before["holdout"], level, weight=stay)
        parts = {"forget-distance": stats.mean_size([distance], level)}
        for view in ("retain", "holdout"):
            lost = stats.share_difference(before[view], after[view], level)
            low, value, high = (max(0.0, number) for number in (lost.low, lost.value, lost.high))
            parts[f"{view}-loss"] = replace(lost, low=low, value=value, high=high)
        return parts | {"score": stats.mean_size(list(parts.values()), self.level)}


def _right(outputs: Mapping[str, Outputs], evidence: Evidence) -> Right:
    views = {**outputs, "holdout": outputs["holdout"].without(evidence.forgotten)}
    return {view: (int(views[view].correct.sum()), len(views[view])) for view in _VIEWS}
