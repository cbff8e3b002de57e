"""RMIA: the robust membership attack, offline, with the retrains as models that never saw the forget rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur import attack, bands, stats
from secateur.audit import Needs
from secateur.card import Card
from secateur.evidence import Evidence
from secateur.knobs import Level, Offline, Ratio, References
from secateur.outputs import Outputs
from secateur.record import Finding, Verdict

Scores = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Rmia:
    """Offline RMIA of forget rows against test rows of the same classes; an attack on each row by itself.

    A row's score is the share of population rows whose probability the model raised less than this row's,
    both set against what models say that trained on neither. Every retrain is such an OUT model, of forget
    rows and of test rows, so nothing more has to be trained. The population are the test rows, in two halves
    (every other one by class and row id): a test row is scored with the half that it is not in, a forget row
    with each, and takes the mean. Test rows of a forgotten class stay, on both sides.

    Each retrain, scored with the others as OUT models, says where an exact one falls. The verdict places the
    area of the candidate in the band of theirs: above is remembered, below over-unlearned; both "fail".

    Attributes:
        references: How many retrained models to ask for; all that are there are used.
        ratio: How many times more a row must have gained than a population row; gamma in the paper.
        a: What models that saw a row are taken to say of it, from the OUT probability p: a p + 1 - a.
        level: Confidence level of each interval, over rows of one model, and level of the band, in (0, 1).
    """

    references: References = 5
    ratio: Ratio = 1.0
    a: Offline = 0.3
    level: Level = 0.95

    card: ClassVar[Card] = Card(
        summary="Offline RMIA: an attack on each forget row that takes the retrains for its OUT models.",
        paper="Zarifzadeh, Liu and Shokri, Low-Cost High-Power Membership Inference Attacks, ICML 2024",
        data="What the models said about forget and test; at least five models retrained on retain.",
    )

    @property
    def needs(self) -> Needs:
        """Forget and test; retain for the controls; as many retrained models as ``references`` says."""
        return Needs(references=self.references)

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Score the rows by candidate and original, and by each retrain against the others.

        Args:
            evidence: What the models said about forget and test, with retrained references.

        Returns:
            "AUC", and "TPR@1%FPR", "TNR@1%FNR" and the same at 0.1 % where the rows suffice, of the candidate
            and, with their prefixes, of the controls; "band.AUC" and "gap.AUC"; by row "forget/exposure", the
            candidate's score in [0, 1]. Without a retrain there are no estimates.
        """
        out = [reference.outputs for reference in evidence.retrains]
        if not out:
            why = (
                f"there is no retrained reference, so no OUT model: give {max(bands.ENOUGH, self.references)}"
            )
            return Finding(audit="rmia", estimates={}, verdict="inconclusive", caveats=(why,))
        exposure, other = self._scores(evidence.after, out)
        found = attack.estimates(exposure, other, self.level)
        found |= attack.estimates(*self._scores(evidence.before, out), self.level, prefix="before.")
        for i in range(len(out) if len(out) > 1 else 0):
            scores = self._scores(out[i], [*out[:i], *out[i + 1 :]])
            found |= attack.estimates(*scores, self.level, prefix=f"retrain[{i}].")
        unresolved = [name for name, estimate in found.items() if math.isnan(estimate.value)]
        for name in unresolved:
            del found[name]
        caveats = [f"{len(out)} of the {bands.ENOUGH} retrains that a verdict needs (10 are better)"]
        verdict: Verdict = "inconclusive"
        if len(out) > 1:
            candidate, before = {"AUC": found["AUC"].value}, {"AUC": found["before.AUC"].value}
            retrains = [{"AUC": found[f"retrain[{i}].AUC"].value} for i in range(len(out))]
            steps = {"AUC": 1 / (len(exposure) * len(other))}
            around = bands.bands_of(retrains, steps, self.level)
            verdict, caveats = bands.verdict(candidate, before, around, ["AUC"])
            found |= bands.estimates(around, candidate, before, unit="1")
        lost = [name for name in unresolved if name.startswith(("TPR", "TNR"))]
        if lost:
            caveats.append(
                f"{', '.join(lost)} left out: a rate takes 10 / rate rows, test rows for TPR and forget rows "
                f"for TNR, and here are {len(other)} of the same classes and {len(exposure)}"
            )
        caveats += bands.missing(len(out), self.references)
        rows = {"forget/exposure": tuple(exposure.tolist())}
        return Finding(audit="rmia", estimates=found, verdict=verdict, caveats=tuple(caveats), rows=rows)

    def _scores(self, model: Mapping[str, Outputs], out: Sequence[Mapping[str, Outputs]]) -> Scores:
        """Of forget rows, by row id, and of test rows of their classes."""
        forget, test = model["forget"], model["test"]
        by_id, by_class = np.argsort(forget.rows), np.lexsort((test.rows, test.labels))
        half = np.arange(len(test)) % 2 == 0
        halves = [(half, ~half), (~half, half)] if len(test) > 1 else [(half, half)]
        x, z = forget.confidence[by_id], test.confidence[by_class]
        out_x = np.array([said["forget"].confidence[by_id] for said in out])
        out_z = np.array([said["test"].confidence[by_class] for said in out])

        def score(
            target: NDArray[np.float64], others: NDArray[np.float64], rows: NDArray[np.bool_]
        ) -> NDArray[np.float64]:
            return stats.rmia_scores(
                target,
                others,
                np.ones(others.shape, dtype=bool),
                population=z[rows],
                population_reference=out_z[:, rows],
                gamma=self.ratio,
                a=self.a,
            )

        member = np.mean([score(x, out_x, population) for population, _ in halves], axis=0)
        other = np.empty(len(test))
        for population, asked in halves:
            other[asked] = score(z[asked], out_z[:, asked], population)
        return member, other[np.isin(test.rows[by_class], attack.matched(forget, test).rows)]
