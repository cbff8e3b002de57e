"""Epsilon: how surely many unlearned models can be told from as many that were retrained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur import stats
from secateur.audit import Needs
from secateur.bands import HONEST
from secateur.card import Card
from secateur.evidence import Evidence, Kind, Reference
from secateur.knobs import Level, References, Seed
from secateur.record import Estimate, Finding, Verdict

ENOUGH = 16  # models a side for a verdict
KINDS: tuple[Kind, ...] = ("retrained", "unlearned", "original")
SUMMARIES = ("mean", "distance")
Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Epsilon:
    """Lower bounds on epsilon between K unlearned and K retrained models, for one fixed request.

    Unlearning is exact up to epsilon if no test tells an unlearned from a retrained model better than a ratio
    of e^epsilon allows. The score of a row is phi = log p_y - log sum of the others. Half of alpha = 1 -
    ``level`` goes to each of two questions:

    - a model as a whole, in two numbers fixed beforehand that share this half: the mean phi over forget rows,
      and the mean distance of phi from what the retrains say of the same row on average (a retrain is held
      against the others), which sees rows that err to both sides;
    - each forget row by itself (Bonferroni over rows).

    Every threshold is tried on all models and paid for (Bonferroni). At 64 models a side this finds a shift
    of 1.5 standard deviations between the models in 94 % of draws and one of 1 in 30 %; a threshold from a
    split half finds them in 67 % and 11 %, and its draw would move the result.

    A plug-in epsilon, the greatest log-ratio of two rates that were counted, is not given: it is biased
    upwards, and more models do not help. Of two identical distributions it makes 1.4 on average, so that an
    exact retrain would look like a leak. A bound never proves that there is no leak, and K models cannot show
    more than the "ceiling" printed beside it.

    The verdict is about the procedure, of which the candidate is one draw that is not looked at. It is
    "inconclusive" with fewer than sixteen models a side, or if the originals are not told from the retrains
    (no power); "fail" if either question has a bound above 0, as an exact procedure has once in twenty times
    at most; else "pass". "null.epsilon" depends on the order of the models, nothing else does.

    Attributes:
        models: How many unlearned models to ask for, and how many retrained ones; all that are there count.
        level: Level at which both bounds hold together, in (0.5, 1).
        seed: Seed of the halves of "null.epsilon".
    """

    models: References = 64
    level: Level = 0.95
    seed: Seed = 0

    card: ClassVar[Card] = Card(
        summary="Lower bound on epsilon from many unlearned and retrained models, overall and row by row.",
        paper="Jagielski et al., Auditing Differentially Private Machine Learning, NeurIPS 2020, "
        "arXiv 2006.07709",
        data="What 64 unlearned models, the originals that they were made of and 64 retrained models said.",
    )

    @property
    def needs(self) -> Needs:
        """Forget, retain and test (the controls look at all); K retrained and K unlearned models."""
        return Needs(references=self.models, unlearned=self.models)

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Bound epsilon between unlearned and retrained, and between original and retrained.

        Args:
            evidence: What the models said, with references retrained, unlearned and original.

        Returns:
            "epsilon" and "epsilon.rows.max" (over forget rows, corrected), with "before." for the originals;
            "epsilon.ceiling"; "null.epsilon" of one half of the retrains against the other. By row
            "forget/epsilon": bounds that hold for each row by itself, not for all of them together.
        """
        alpha = 1 - self.level
        scores = {kind: _scores(evidence.of(kind)) for kind in KINDS}
        retrained, unlearned, originals = scores.values()
        counts = (
            f"{self.models} unlearned and as many retrained models were asked for, {len(unlearned)} and "
            f"{len(retrained)} are here"
        )
        if min(len(retrained) // 2, len(unlearned), len(originals)) < 2:
            why = f"{counts}, from {len(originals)} originals: there is nothing to compare"
            return Finding(audit="epsilon", estimates={}, verdict="inconclusive", caveats=(why,))

        found, singly = {}, np.zeros(0)
        for prefix, models in (("before.", originals), ("", unlearned)):
            found[f"{prefix}epsilon"] = _whole(models, retrained, alpha / 2)
            found[f"{prefix}epsilon.rows.max"], singly = _rows(models, retrained, alpha)
        pick = np.random.default_rng(self.seed).permutation(len(retrained))
        one, other = np.array_split(retrained[pick], 2)
        found["null.epsilon"] = _whole(one, other, alpha / 2)
        count = min(len(unlearned), len(retrained))
        most = stats.epsilon_ceiling(count, alpha=alpha / 2 / len(SUMMARIES), threshold="bonferroni")
        top = replace(found["epsilon"], value=most, low=most, high=most, method=f"no error in {count} models")
        found["epsilon.ceiling"] = replace(top, better="higher")

        told = {p: max(found[f"{p}epsilon"].low, found[f"{p}epsilon.rows.max"].low) for p in ("", "before.")}
        verdict: Verdict = "fail" if told[""] > 0 else "pass"
        ceiling = f"{count} models a side cannot show an epsilon above {most:.2f} nats"
        caveats = [ceiling, "forget/epsilon: the bound of each row by itself, not corrected for their number"]
        if count < ENOUGH:
            verdict = "inconclusive"
            caveats.insert(0, f"{count} models a side, a verdict needs {ENOUGH}")
        elif not told["before."]:
            verdict = "inconclusive"
            caveats.insert(0, "no power: the originals are not told from retrains either")
        if verdict == "pass":
            caveats.insert(0, "pass within the stated power: the originals are told, smaller leaks go unseen")
            caveats.append(HONEST)
        if count < self.models:
            caveats.append(counts)
        for kind, models in scores.items():
            if (different := len(np.unique(models, axis=0))) < len(models):
                caveats.append(
                    f"only {different} of {len(models)} {kind} models differ: copies prove nothing"
                )
        rows = {"forget/epsilon": tuple(singly.tolist())}
        return Finding(audit="epsilon", estimates=found, verdict=verdict, caveats=tuple(caveats), rows=rows)


def _scores(models: Sequence[Reference]) -> Matrix:
    """Phi [models, forget rows], rows in the order of their ids."""
    scores = [model.outputs["forget"].phi_by_row for model in models]
    return np.stack(scores) if scores else np.zeros((0, 0))


def _whole(models: Matrix, retrained: Matrix, alpha: float) -> Estimate:
    """The larger bound of both summaries; ``alpha`` is shared by them."""
    count = len(retrained)
    others = (retrained.sum(axis=0) - retrained) / (count - 1)  # what the other retrains say on average
    apart = np.abs(models - retrained.mean(axis=0)).mean(axis=1), np.abs(retrained - others).mean(axis=1)
    pairs = (models.mean(axis=1), retrained.mean(axis=1)), apart
    bounds = [_bound(ours, theirs, alpha / len(SUMMARIES)) for ours, theirs in pairs]
    best = max(bounds, key=lambda bound: bound.low)
    return _estimate(replace(best, level=1 - alpha), f"the larger of {' and '.join(SUMMARIES)}")


def _rows(models: Matrix, retrained: Matrix, alpha: float) -> tuple[Estimate, Matrix]:
    """The largest bound of a row, corrected, at half of ``alpha``; and the bounds [n], each at ``alpha``."""
    count = models.shape[1]
    singly = np.array([_bound(models[:, i], retrained[:, i], alpha).low for i in range(count)])
    largest = np.flatnonzero(singly > 0)  # where nothing is shown at alpha, nothing is at less
    largest = largest if len(largest) else np.arange(1)
    bounds = [_bound(models[:, i], retrained[:, i], alpha / 2 / count) for i in largest]
    best = max(bounds, key=lambda bound: bound.low)
    return _estimate(replace(best, level=1 - alpha / 2), f"the largest of {count} rows, corrected"), singly


def _bound(ours: Matrix, theirs: Matrix, alpha: float) -> stats.Interval:
    return stats.epsilon_lower_bound(ours, theirs, alpha=alpha, threshold="bonferroni")


def _estimate(bound: stats.Interval, how: str) -> Estimate:
    return Estimate.of(replace(bound, method=f"{bound.method}; {how}"), unit="nats", better="lower")
