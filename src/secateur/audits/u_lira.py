"""U-LiRA: whether rows that a model unlearned look, row by row, like rows that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from secateur import stats
from secateur.audit import Needs
from secateur.bands import HONEST
from secateur.card import Card
from secateur.evidence import Evidence, Reference
from secateur.knobs import Level, References, Seed
from secateur.record import Estimate, Finding, Verdict

ENOUGH = 16  # models for a verdict
SHRINK = 16.0  # degrees of freedom that the pooled variance is worth
# quantiles of the scores that part them into bins, finer at the top; within a bin they count as tied
PARTS = np.concatenate([np.linspace(0, 0.97, 385)[1:], np.linspace(0.97, 1, 129)[1:-1]])
BINS = len(PARTS) + 1
TINY = 1e-300  # in place of no weight, where a draw has no pairs
RATE, NEGATIVES = 0.01, 1000  # false positives, and how many rows never seen resolve them
DRAWS = 500
WIDER = sqrt(2)  # as wide as if one half alone had been scored
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ULira:
    """U-LiRA: unlearned rows against rows never seen, by a likelihood ratio of each row's own.

    Each model of the bank was trained on a random half of the pool and then unlearned some of it. For each
    row, the scores phi = log p_y - log sum of the others over the models that unlearned it make one normal
    distribution, those over the models that never saw it another; the attack's score is their log-likelihood
    ratio. What public code got wrong: no model is scored by distributions that it helped to fit (models are
    cut in halves, each scored by the other); each side has its own variance, shrunken towards that side's
    pooled one and widened for the error of the mean; rows weigh equally much on both sides, so that no row's
    level is mistaken for membership; the intervals are drawn over models, since the rows of one depend on
    each other. Without a difference the area is 0.5. The areas of both halves lean the same way (they
    correlate by 0.6 where nothing differs), so the interval is as wide as that of one half alone: it holds
    0.5 in at least 95 % of draws, and would in about 87 % if the halves were taken for independent.

    A ratio finds rows that are still known and rows that were unlearned too much alike, both above 0.5;
    "shift", by how many nats phi of unlearned rows lies above that of the same rows never seen, tells which.
    The forget rows of the candidate's own request play no part: this judges the procedure on random requests.

    The verdict is "inconclusive" with fewer than sixteen models, if the same attack cannot tell the rows in
    question before unlearning, or retained rows after it (a model that knows nothing has no power left);
    "fail" if the interval of "AUC" lies off 0.5; "pass" if it holds 0.5 and ends below ``margin``; else
    "inconclusive". Halves and intervals depend on the order of the models.

    Attributes:
        models: How many shadow models to ask for; all that are there count.
        margin: The greatest area that would not matter: a pass needs an interval that ends below it.
        level: Confidence level of each interval, in (0, 1).
        seed: Seed of the halves, of the draws and of the control with membership shuffled.
    """

    models: References = 64
    margin: Annotated[float, Field(gt=0.5, lt=1)] = 0.55
    level: Level = 0.95
    seed: Seed = 0

    card: ClassVar[Card] = Card(
        summary="A likelihood-ratio attack on each row, of unlearned rows against rows never seen.",
        paper="Hayes et al., Inexact Unlearning Needs More Careful Evaluations, arXiv 2403.01218",
        data="What 64 models, each trained on a random half of the pool, said before and after unlearning "
        "some of its rows.",
    )

    @property
    def needs(self) -> Needs:
        """Forget and retain, which are the pool, and test; K shadows, before and after requests of theirs."""
        return Needs(shadows=self.models, requests=True)

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Attack every model of the bank.

        Args:
            evidence: What the models said, with references shadow and unlearned-shadow on the same rows.

        Returns:
            "AUC", "TPR@1%FPR" and "shift" (nats), with "before." for the same models before they unlearned;
            "shuffled.AUC" with membership dealt out at random within each model; "retained.AUC" of retained
            rows against rows never seen, after unlearning.
        """
        shadows = {np.sort(one.rows).tobytes(): one for one in evidence.of("shadow")}
        pairs = [(one, shadows.get(np.sort(one.rows).tobytes())) for one in evidence.of("unlearned-shadow")]
        models, before = [a for a, b in pairs if b], [b for _, b in pairs if b]
        asked = f"{self.models} shadows, before and after unlearning, were asked for, {len(models)} are here"
        if len(models) < 4:
            return Finding(audit="u-lira", estimates={}, verdict="inconclusive", caveats=(asked,))
        ids = np.sort(np.concatenate([evidence.after[view].rows for view in ("forget", "retain")]))
        after, start = _scores(models), _scores(before)
        gone = np.stack([np.isin(ids, one.forgot) for one in models])
        trained = np.stack([np.isin(ids, one.rows) for one in models])
        rng = np.random.default_rng(self.seed)
        half = rng.permutation(len(models)) < len(models) // 2
        dealt = _dealt(gone, ~trained, rng)
        found = self._attack(after, gone, ~trained, half)
        for prefix, phi, member, other in (
            ("before.", start, gone, ~trained),
            ("shuffled.", after, dealt, (gone | ~trained) & ~dealt),
            ("retained.", after, trained & ~gone, ~trained),
        ):
            told = self._attack(phi, member, other, half)
            found |= {prefix + name: told[name] for name in told if name == "AUC" or prefix == "before."}
        if len(found) < 8:
            why = "no row was both unlearned and unseen in each half of the models: ask for more models"
            return Finding(audit="u-lira", estimates={}, verdict="inconclusive", caveats=(why, asked))

        verdict: Verdict = "inconclusive"
        area = found["AUC"]
        if area.low > 0.5:
            known = "still known" if found["shift"].value > 0 else "unlearned too much"
            verdict, why = "fail", f"unlearned rows can be told from rows never seen: they are {known}"
        elif area.high < 0.5:
            verdict, why = "fail", "AUC lies below 0.5: what one half of the models shows, the other reverses"
        elif area.high < self.margin:
            verdict, why = (
                "pass",
                f"the interval of AUC holds 0.5 and ends inside the margin, {self.margin:g}",
            )
        else:
            why = f"the interval of AUC holds 0.5 and ends beyond the margin, {self.margin:g}"
        caveats = [why]
        if len(models) < ENOUGH:
            verdict = "inconclusive"
            caveats.insert(0, f"{len(models)} models, a verdict needs {ENOUGH}")
        for name, who in (("before.", "the rows before unlearning"), ("retained.", "retained rows after it")):
            if not found[f"{name}AUC"].low > 0.5:
                verdict = "inconclusive"
                caveats.insert(0, f"no power: the attack cannot tell {who} from rows never seen")
        caveats += [HONEST] if verdict == "pass" else []
        caveats += [asked] if len(models) < self.models else []
        return Finding(audit="u-lira", estimates=found, verdict=verdict, caveats=tuple(caveats))

    def _attack(self, phi: Matrix, member: Mask, other: Mask, half: Mask) -> dict[str, Estimate]:
        """AUC, TPR and shift over all pairs of a row and a model; nothing where no pair can be scored."""
        scores, weights = _ratios(phi, member, other, half)
        if not weights.any():
            return {}
        edges = np.quantile(scores[weights > 0], PARTS)
        of = np.arange(len(phi))[:, None] * BINS + np.searchsorted(edges, scores, side="right")
        moved = (np.where(member, phi, 0) - np.where(other, phi, 0)) * weights
        # of each model: the weight of both sides in each bin, and of unlearned rows how far phi has moved
        yes, no = (
            np.bincount(of[side], weights[side], len(phi) * BINS).reshape(-1, BINS)
            for side in (member, other)
        )
        drawn = np.random.default_rng(self.seed).multinomial(len(phi), np.full(len(phi), 1 / len(phi)), DRAWS)
        counts = np.vstack([np.ones((1, len(phi))), drawn])  # all models once, and then the draws of models
        p, q, total = counts @ yes, counts @ no, np.maximum(counts @ yes.sum(axis=1), TINY)
        below, beyond = q.cumsum(axis=1) - q / 2, q[:, ::-1].cumsum(axis=1)
        below, reached = below / np.maximum(beyond[:, -1:], TINY), p[:, ::-1].cumsum(axis=1)
        allowed = (beyond <= RATE * beyond[:, -1:] * (1 + 1e-9)).sum(axis=1)
        rate = np.where(
            allowed > 0, np.take_along_axis(reached, np.maximum(allowed - 1, 0)[:, None], 1)[:, 0], 0
        )
        told = {"AUC": ((p * below).sum(axis=1) / total, "1"), "TPR@1%FPR": (rate / total, "share")}
        told["shift"] = counts @ moved.sum(axis=1) / total, "nats"
        found = {}
        for name, (values, unit) in told.items():
            value, ends = values[0], np.quantile(values[1:], [(1 - self.level) / 2, (1 + self.level) / 2])
            method = f"percentile bootstrap over models, {DRAWS} draws"
            if name != "shift":
                ends = np.clip(value + WIDER * (ends - value), 0, 1)
                method += f", {WIDER:.2f} times as wide: each half is scored by the other"
            low, high = min(ends[0], value), max(ends[1], value)
            if name == "TPR@1%FPR" and (other & (weights > 0)).sum() < NEGATIVES:
                value, low, high, method = nan, nan, nan, "unresolved"
            numbers = {"value": float(value), "low": float(low), "high": float(high)}
            interval = stats.Interval(**numbers, level=self.level, n=len(phi), method=method)
            found[name] = Estimate.of(interval, unit=unit, better="nearer-to-retrain")
        return found


def _scores(models: Sequence[Reference]) -> Matrix:
    """Phi [models, rows of the pool], rows in the order of their ids."""
    scores = []
    for model in models:
        said = [model.outputs[view] for view in ("forget", "retain")]
        phi, rows = (
            np.concatenate(of)
            for of in ([out.phi_by_row for out in said], [np.sort(out.rows) for out in said])
        )
        scores.append(phi[np.argsort(rows)])
    return np.stack(scores)


def _ratios(phi: Matrix, member: Mask, other: Mask, half: Mask) -> tuple[Matrix, Matrix]:
    """Scores and weights [models, rows]; a weight of 0 where a pair cannot be scored or is on no side."""
    scores, weights = np.zeros_like(phi), np.zeros_like(phi)
    for scored in (half, ~half):
        fit = ~scored
        (mean_in, wide_in), (mean_out, wide_out) = (_normal(phi[fit], side[fit]) for side in (member, other))
        x = phi[scored]
        ratio = (x - mean_out) ** 2 / wide_out - (x - mean_in) ** 2 / wide_in + np.log(wide_out / wide_in)
        positives, negatives = (side[scored].sum(axis=0) for side in (member, other))
        usable = np.isfinite(wide_in * wide_out) & (positives > 0) & (negatives > 0)
        share = np.where(usable, positives / np.maximum(negatives, 1), 0)  # both sides of a row weigh as much
        weights[scored] = np.where(member[scored], usable, np.where(other[scored], share, 0))
        scores[scored] = np.where(usable, ratio / 2, 0)
    return scores, weights


def _normal(phi: Matrix, side: Mask) -> tuple[Matrix, Matrix]:
    """Of each row over the models of one side: mean and variance [n] of one more score; NaN without one."""
    count = side.sum(axis=0)
    mean = np.where(side, phi, 0).sum(axis=0) / np.where(count > 0, count, nan)
    squares = np.where(side, (phi - mean) ** 2, 0).sum(axis=0)
    freedom = np.maximum(count - 1, 0)
    pooled = squares[count > 1].sum() / freedom.sum() if freedom.any() else nan
    own = (squares + SHRINK * max(pooled, 1e-12)) / (freedom + SHRINK)
    return mean, own * (1 + 1 / np.where(count > 0, count, nan))


def _dealt(member: Mask, other: Mask, rng: np.random.Generator) -> Mask:
    """As many members in each model, dealt out at random among members and others."""
    drawn = np.where(member | other, rng.random(member.shape), 2.0)
    dealt: Mask = drawn.argsort(axis=1).argsort(axis=1) < member.sum(axis=1, keepdims=True)
    return dealt
