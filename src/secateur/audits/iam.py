"""IAM: where a forget row stands on the way from the original, which fits it, to models that never saw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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

Signals = NDArray[np.float64]

STAGES = 100  # of the way, ends included; as in the published code
NAMES = ("completeness", "spread")


@dataclass(frozen=True, kw_only=True)
class Iam:
    """Interpolated Approximate Measurement: the completeness of unlearning of each forget row, in [0, 1].

    The signal of a row is -log(0.01 - log(p_y + 1e-5)), which is high where the model fits it. It is
    interpolated in a hundred equal stages, from the mean of the OUT models (the retrains) to the original. At
    each stage but the last a Gumbel distribution has the row's mean, and the spread over all rows and OUT
    models; the candidate's signal has a probability in it. Their mean, later stages weighing more, is the
    membership score, and 1 minus it the completeness: 0 for a fit beyond the original's, about a half where
    unlearning could change nothing, 1 for a row that the candidate fits much worse than models without it.

    This is the published code's variant that looks at the original itself, which an audit has at hand; its
    offline variant puts the mean signal of training rows of shadow models in the original's place.

    Each retrain, scored with the others as OUT models, says where an exact one falls. The verdict places mean
    and standard deviation over rows in the bands of theirs, both holding together: a low mean is remembered,
    a high one over-unlearned, and rows of both kinds can hide in a mean but not in the spread. All "fail".
    The band of the spread is open below: what is made of the original shares its chance, and so lies nearer
    to it row by row, without knowing the rows any better.

    Attributes:
        references: How many retrained models to ask for; all that are there are used.
        level: Confidence level of the interval of the mean, over the rows of one model, and level at which
            both bands hold together, in (0, 1).
    """

    references: References = 5
    level: Level = 0.95

    card: ClassVar[Card] = Card(
        summary="IAM: how completely each forget row was unlearned, between the original and the retrains.",
        paper="Wang et al., Measuring Sample-level Unlearning Completeness, USENIX Security 2025",
        data="What the models said about forget; at least five models retrained on retain.",
    )

    @property
    def needs(self) -> Needs:
        """Forget; retain and test for the controls; as many retrained models as ``references`` says."""
        return Needs(references=self.references)

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Place candidate, original and retrains between retrains and original.

        Args:
            evidence: What the models said about forget, with retrained references.

        Returns:
            "completeness" (mean over rows) and "spread" (standard deviation over rows) of the candidate and,
            with their prefixes, of the controls; "band.*" and "gap.*"; by row "forget/completeness". Without
            a retrain there are no estimates.
        """
        candidate, before, *out = [_signal(outputs["forget"]) for _, outputs in evidence.models()]
        if not out:
            why = (
                f"there is no retrained reference, so no OUT model: give {max(bands.ENOUGH, self.references)}"
            )
            return Finding(audit="iam", estimates={}, verdict="inconclusive", caveats=(why,))
        complete = {"": _completeness(candidate, before, out), "before.": _completeness(before, before, out)}
        for i in range(len(out) if len(out) > 1 else 0):
            complete[f"retrain[{i}]."] = _completeness(out[i], before, [*out[:i], *out[i + 1 :]])
        found = {p + name: e for p, rows in complete.items() for name, e in self._estimates(rows).items()}
        caveats = [f"{len(out)} of the {bands.ENOUGH} retrains that a verdict needs (10 are better)"]
        verdict: Verdict = "inconclusive"
        if len(out) > 1:
            own, old, *retrains = [{name: found[p + name].value for name in NAMES} for p in complete]
            around = bands.bands_of(retrains, dict.fromkeys(NAMES, 0.0), self.level)
            wide = around["spread"]
            around["spread"] = replace(wide, low=0.0, method=f"{wide.method}; open below")
            verdict, caveats = bands.verdict(own, old, around, ["completeness"])
            found |= bands.estimates(around, own, old, unit="1")
        caveats += bands.missing(len(out), self.references)
        told = {"forget/completeness": tuple(complete[""].tolist())}
        return Finding(audit="iam", estimates=found, verdict=verdict, caveats=tuple(caveats), rows=told)

    def _estimates(self, rows: Signals) -> dict[str, Estimate]:
        mean = stats.prediction_interval(rows, self.level)
        if mean.n > 1:
            half = (mean.high - mean.low) / 2 / math.sqrt(mean.n + 1)  # of the mean, not of one further value
            low, high = np.clip([mean.value - half, mean.value + half], 0, 1).tolist()
            mean = replace(mean, low=low, high=high, method="t interval of the mean over rows of this model")
        spread = replace(mean, value=float(rows.std()), low=math.nan, high=math.nan, method="none")
        both = zip(NAMES, (mean, spread), strict=True)
        return {name: Estimate.of(one, unit="1", better="nearer-to-retrain") for name, one in both}


def _signal(said: Outputs) -> Signals:
    """[n], in the order of row ids."""
    p = said.confidence[np.argsort(said.rows)]
    signal: Signals = -np.log(0.01 - np.log(p + 1e-5))
    return signal


def _completeness(asked: Signals, fit: Signals, out: Sequence[Signals]) -> Signals:
    """[n]: 1 minus the weighted mean of the Gumbel probabilities along the way from ``out`` to ``fit``."""
    bank = np.array(out)
    mean, ends = bank.mean(axis=0), np.cov(bank.ravel(), np.tile(fit, len(bank)), bias=True)
    stages = np.linspace(0, 1, STAGES)
    member = np.zeros(len(asked))
    for stage, weight in pairwise(stages):
        way = np.array([1 - stage, stage])
        scale = max(math.sqrt(6 * max(way @ ends @ way, 0.0)) / math.pi, 1e-9)  # by the method of moments
        at = (asked - way @ [mean, fit]) / scale + np.euler_gamma
        member += weight * np.exp(-np.exp(-np.clip(at, -700, 700)))
    complete: Signals = np.clip(1 - member / stages[1:].sum(), 0, 1)
    return complete
