"""KLoM: how far what unlearned models say of each row lies from what retrained models say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

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
SPLITS = 60  # of the retrains in two: the null has so many values
BINS, FLOOR, CLIP = 20, 1e-5, 100.0  # of the published histograms
KINDS: tuple[Kind, ...] = ("retrained", "unlearned", "original")
VIEWS = ("forget", "retain", "test")
Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Klom:
    """KL divergence of margins: row by row, K unlearned models against K retrained ones.

    The margin of a row is phi = log p_y - log sum of the others, in nats; the divergence is that of its
    distribution over unlearned models from that over retrained ones. Unlike one number for all rows, it sees
    rows that err to both sides, too much forgetting, and damage to rows that should have stayed as they were.

    Estimated from K models it is far from 0 even where nothing differs. So the retrains are split in two at
    random, sixty times: one half against the other is the null, and as many unlearned models against that
    same other half the estimate, from which the null is taken off. What is left is about 0 for exact
    unlearning, at any K. The interval is the estimate less the band of the null, over splits: it lies above 0
    where the estimate lies above the band. The bands of the three views hold together (Bonferroni).

    The verdict is about the procedure, of which the candidate is one draw that is not looked at. It is
    "inconclusive" with fewer than sixteen models a side, or if the originals lie inside the band on forget
    (no power); "fail" if forget, retain or test lie above theirs; else "pass". The splits depend on the order
    of the models.

    Attributes:
        models: How many unlearned models to ask for, and how many retrained ones; all that are there count.
        density: How a distribution is estimated: "normal", by mean and variance, since phi is nearly normal
            over models; "histogram", 20 bins over the range of both, as published, which has a null of more
            than 3 nats with 36 models a side, and needs hundreds.
        level: Level at which the three bands hold together, in (0, 1).
        seed: Seed of the splits.
    """

    models: References = 64
    density: Literal["normal", "histogram"] = "normal"
    level: Level = 0.95
    seed: Seed = 0

    card: ClassVar[Card] = Card(
        summary="KL divergence of margins of many unlearned from many retrained models, less its null.",
        paper="EasyDUB, arXiv 2602.16400; Georgiev et al., Attribute-to-Delete, arXiv 2410.23232",
        data="What 64 unlearned models, the originals that they were made of and 64 retrained models said.",
    )

    @property
    def needs(self) -> Needs:
        """Forget, retain and test; K retrained and K unlearned models."""
        return Needs(references=self.models, unlearned=self.models)

    def __call__(self, evidence: Evidence, /) -> Finding:
        """Measure the divergence of unlearned and of original models from retrained ones.

        Args:
            evidence: What the models said, with references retrained, unlearned and original.

        Returns:
            "KLoM.forget", ".retain" and ".test" (mean over rows, corrected), each again with ".95%" for the
            95th percentile of the rows; the same with "before." for the originals; "null.KLoM.forget" and so
            on, what was taken off. By row "forget/klom", corrected.
        """
        retrained, unlearned, originals = map(evidence.of, KINDS)
        counts = (
            f"{self.models} unlearned and as many retrained models were asked for, {len(unlearned)} and "
            f"{len(retrained)} are here"
        )
        if min(len(retrained) // 2, len(unlearned), len(originals)) < 2:
            why = f"{counts}, from {len(originals)} originals: their spread cannot be compared"
            return Finding(audit="klom", estimates={}, verdict="inconclusive", caveats=(why,))
        found: dict[str, Estimate] = {}
        for view in VIEWS:
            ours, theirs, first = (_scores(models, view) for models in (unlearned, retrained, originals))
            each, by_row = self._splits((ours, first), theirs)
            for at, name in enumerate((view, f"{view}.95%")):
                unlearn, start, null = each[:, at]
                found[f"KLoM.{name}"] = self._less(unlearn, null, len(ours))
                found[f"before.KLoM.{name}"] = self._less(start, null, len(first))
            found[f"null.KLoM.{view}"] = self._null(each[2, 0], len(theirs))
            if view == "forget":
                rows = {"forget/klom": tuple((by_row[0] - by_row[2]).tolist())}

        above = [view for view in VIEWS if found[f"KLoM.{view}"].low > 0]
        told = f"above the band of the null on {', '.join(above)}" if above else "inside all three bands"
        verdict: Verdict = "fail" if above else "pass"
        caveats = [f"the unlearned models lie {told}"]
        count = min(len(retrained), len(unlearned))
        if count < ENOUGH:
            verdict = "inconclusive"
            caveats.insert(0, f"{count} models a side, a verdict needs {ENOUGH}")
        elif not found["before.KLoM.forget"].low > 0:
            verdict = "inconclusive"
            caveats.insert(0, "no power: the originals lie inside the band of the null on forget")
        if verdict == "pass":
            caveats += ["pass within the stated power: differences below the band go unseen", HONEST]
        if count < self.models:
            caveats.append(counts)
        return Finding(audit="klom", estimates=found, verdict=verdict, caveats=tuple(caveats), rows=rows)

    def _splits(self, candidates: Sequence[Matrix], retrained: Matrix) -> tuple[Matrix, Matrix]:
        """Of each candidate and of the null: mean and 95th percentile [3, 2, splits], mean by row [3, n]."""
        rng = np.random.default_rng(self.seed)
        half = min(len(retrained) // 2, *map(len, candidates))
        divergence = _normal if self.density == "normal" else _histogram
        rows, told = np.zeros((len(candidates) + 1, retrained.shape[1])), []
        for _ in range(SPLITS):
            order = rng.permutation(len(retrained))
            some = [models[rng.permutation(len(models))[:half]] for models in candidates]
            some, rest = [*some, retrained[order[:half]]], retrained[order[half : 2 * half]]
            each = np.stack([divergence(models, rest) for models in some])
            rows += each / SPLITS
            told.append([each.mean(axis=1), np.quantile(each, 0.95, axis=1)])
        return np.transpose(told, (2, 1, 0)), rows

    def _less(self, ours: Matrix, null: Matrix, count: int) -> Estimate:
        """The mean over splits less the null's; the interval is that mean less the null's band."""
        band = self._null(null, count)
        value, low, high = (float(ours.mean() - end) for end in (band.value, band.high, band.low))
        method = f"the estimate less {band.method}"
        return replace(band, value=value, low=low, high=high, method=method)

    def _null(self, null: Matrix, count: int) -> Estimate:
        tail, value = (1 - self.level) / len(VIEWS), float(null.mean())
        low, high = (float(end) for end in np.quantile(null, [tail, 1 - tail]))
        method = (
            f"the null: half of the retrains against the other, {SPLITS} splits, {self.density} densities"
        )
        ends = {"low": min(low, value), "high": max(high, value)}  # a mean may lie beyond a quantile
        interval = stats.Interval(value=value, **ends, level=self.level, n=count, method=method)
        return Estimate.of(interval, unit="nats", better="nearer-to-retrain")


def _scores(models: Sequence[Reference], view: str) -> Matrix:
    """Phi [models, rows], rows in the order of their ids."""
    return np.stack([model.outputs[view].phi_by_row for model in models])


def _normal(ours: Matrix, theirs: Matrix) -> Matrix:
    """KL divergence [n] of the normal distribution of our margins from that of theirs."""
    # where all models say the same of a row the divergence would be infinite
    spread, other = (np.maximum(side.var(axis=0, ddof=1), FLOOR**2) for side in (ours, theirs))
    gap = (ours.mean(axis=0) - theirs.mean(axis=0)) ** 2
    divergence: Matrix = (np.log(other / spread) + (spread + gap) / other - 1) / 2
    return divergence


def _histogram(ours: Matrix, theirs: Matrix) -> Matrix:
    """KL divergence [n] of histograms over the range of both, no bin below a share of 1e-5."""
    ours, theirs = (np.clip(side, -CLIP, CLIP) for side in (ours, theirs))
    low = np.minimum(ours.min(axis=0), theirs.min(axis=0))
    width = np.maximum(ours.max(axis=0), theirs.max(axis=0)) - low
    width[width == 0] = 1.0
    into = [np.minimum((BINS * (side - low) / width).astype(np.int64), BINS - 1) for side in (ours, theirs)]
    p, q = (np.maximum(_counts(bins) / len(bins), FLOOR) for bins in into)
    divergence: Matrix = (p * np.log(p / q)).sum(axis=1)
    return divergence


def _counts(bins: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many models [n, bins] put each row into each bin."""
    rows = bins.shape[1]
    return np.bincount((BINS * np.arange(rows) + bins).ravel(), minlength=rows * BINS).reshape(rows, BINS)
