"""Threshold attacks: can one number that the model says of a row tell forget rows from test rows?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur import attack, bands, stats
from secateur.audit import Needs
from secateur.card import Card
from secateur.evidence import Evidence
from secateur.knobs import Level, Seed
from secateur.outputs import Outputs
from secateur.record import Estimate, Finding

SCORES = ("loss", "phi", "correct", "entropy", "modified-entropy")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Five scores of each row, forget rows against test rows of the same classes, set beside the retrains.

    All are high for members: "loss", log p_y; "phi", log p_y - log sum_{c != y} p_c; "correct", 1 for a right
    answer; "entropy", sum_c p_c log p_c; "modified-entropy", minus the entropy that knows the label. Test
    rows of a forgotten class stay, for the forget rows are compared with them.

    Forget rows can be harder or easier than test rows by nature, so an area says nothing by itself. The
    verdict places the five areas of the candidate in the bands where those of one more retrain would fall,
    all five holding together, wider by one row for "correct" and by one pair of rows for the others. Above
    is remembered, below over-unlearned; both fail. With fewer than five retrains it is "inconclusive"
    (it asks for none, and takes those that are there); and so where phi cannot even tell retained rows from
    test rows, which it must for a pass.

    Attributes:
        level: Confidence level of each interval, over the rows of one model, and level at which the five
            bands hold together, in (0, 1).
        seed: Seed of the shuffle in the control "phi.shuffled.AUC".
    """

    level: Level = 0.95
    seed: Seed = 0

    card: ClassVar[Card] = Card(
        summary="How well loss, confidence, correctness and entropies tell forget from test rows.",
        paper="Yeom et al., CSF 2018; Song and Mittal, USENIX Security 2021, arXiv 2003.10595",
        data="What the models said about forget, retain and test; for a verdict five retrained models.",
    )

    needs: ClassVar[Needs] = Needs()

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Attack every model with every score.

        Args:
            evidence: What the models said about forget, retain and test.

        Returns:
            For each score and model "*.AUC", and "*.TPR@1%FPR", "*.TNR@1%FNR" and the same at 0.1 % where the
            rows suffice; "phi.shuffled.AUC", with membership dealt out at random; "retain.AUC", of retain
            against test by phi, which a power to see anything needs; with retrains "band.*" and "gap.*".
        """
        found: dict[str, Estimate] = {}
        for prefix, outputs in evidence.models():
            found |= self._attacks(outputs, prefix)
        unresolved = [name for name, estimate in found.items() if math.isnan(estimate.value)]
        for name in unresolved:
            del found[name]
        forget, test = _sides(evidence.after, "forget")
        names = [f"{score}.AUC" for score in SCORES]
        candidate, before, *retrains = [
            {name: found[prefix + name].value for name in names} for prefix, _ in evidence.models()
        ]
        m, n = len(forget), len(test)
        steps = dict.fromkeys(names, 1 / (m * n)) | {"correct.AUC": 1 / m + 1 / n}
        verdict, caveats = bands.verdict(
            candidate, before, around := bands.bands_of(retrains, steps, self.level), names
        )
        if retrains:
            found |= bands.estimates(around, candidate, before, unit="1")
        if len(retrains) < bands.ENOUGH:
            phi = found["phi.AUC"]
            caveats.append(f"phi.AUC is {phi}: alone it shows nothing, rows can be hard or easy by nature")
        if not found["retain.AUC"].low > 0.5:
            verdict = "inconclusive" if verdict == "pass" else verdict
            caveats.insert(
                0,
                f"no power seen even on rows that were kept: retain.AUC is {found['retain.AUC']}, and should "
                "lie above 0.50",
            )
        lost = [name.removeprefix("phi.") for name in unresolved if name.startswith("phi.")]
        if lost:
            caveats.append(
                f"{', '.join(lost)} left out: a rate takes 10 / rate rows, test rows for TPR and forget rows "
                f"for TNR, and here are {n} of the same classes and {m}"
            )
        return Finding(audit="threshold", estimates=found, verdict=verdict, caveats=tuple(caveats))

    def _attacks(self, said: Mapping[str, Outputs], prefix: str) -> dict[str, Estimate]:
        forget, test = map(_scores, _sides(said, "forget"))
        kept, unseen = (_scores(side)["phi"] for side in _sides(said, "retain"))
        found: dict[str, Estimate] = {}
        for name in SCORES:
            found |= attack.estimates(forget[name], test[name], self.level, prefix=f"{prefix}{name}.")
        chance = attack.shuffled(forget["phi"], test["phi"], self.level, seed=self.seed)
        power = Estimate.of(
            stats.roc_auc(kept, unseen, level=self.level), unit="1", better="nearer-to-retrain"
        )
        return found | {f"{prefix}phi.shuffled.AUC": chance, f"{prefix}retain.AUC": power}


def _sides(said: Mapping[str, Outputs], view: str) -> tuple[Outputs, Outputs]:
    return said[view], attack.matched(said[view], said["test"])


def _scores(said: Outputs) -> dict[str, NDArray[np.float64]]:
    """Name to scores [n], high for members, in the order of row ids."""
    at = np.argsort(said.rows)
    logs, labels = said.log_probs[at], said.labels[at]
    p = np.exp(logs)
    return {
        "loss": logs[np.arange(len(at)), labels],
        "phi": said.phi_by_row,
        "correct": said.correct[at].astype(np.float64),
        "entropy": (p * logs).sum(axis=1),
        "modified-entropy": -stats.modified_entropy(p, labels),
    }
