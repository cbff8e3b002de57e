"""The report in sentences: a summary for whoever reads one paragraph only, and what the numbers mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TypeGuard

from secateur.record import Record
from secateur.report import names
from secateur.report.rows import VERDICTS, Row
from secateur.report.spread import Spread, duration, percent, plural
from secateur.report.tables import Panel, panels

GLOSSARY = (
    (
        "UA",
        "Unlearning accuracy: share of the forget rows that the model now gets wrong.",
        "Nearer to Retrain is better. More is over-forgetting, and can itself give away who was forgotten.",
    ),
    (
        "MIA-Efficacy",
        "Share of the forget rows that an attacker who sees confidences takes for rows the model never saw.",
        "Nearer to Retrain is better; 100 is the goal only where Retrain reaches it.",
    ),
    (
        "RA",
        "Remaining accuracy: share of the retain rows that the model gets right.",
        "Nearer to Retrain is better. A fall means that unlearning damaged what should have stayed.",
    ),
    (
        "TA",
        "Test accuracy; where a whole class is forgotten, without that class.",
        "Nearer to Retrain is better. A fall is the price that users of the model pay.",
    ),
    (
        "Disparity",
        "Mean of the four absolute gaps (UA, MIA-Efficacy, RA, TA) to the mean of the retrains, in points.",
        "Lower is better, down to the noise floor: the disparity of one retrain from the others.",
    ),
    (
        "RTE",
        "Run-time: wall-clock seconds of unlearning alone; training and pruning stand apart.",
        "Lower is better, and only worth comparing on the same hardware.",
    ),
    (
        "Band",
        "Prediction interval of the retrains: where one more retrain would fall.",
        "Inside it, this measure cannot tell the model from a retrain; a wide band may hide a difference.",
    ),
    (
        "Zeros",
        "Sparsity: share of zeros among parameters with more than one dimension, counted in the weights.",
        "No direction is better by itself.",
    ),
)

HONEST = (
    "Honest operator assumed.",
    "These measurements show what a model does, not what was done to it: someone who controls the training "
    "can make a page like this one for a model that forgot nothing.",
)
BOUND = (
    "The hashes below bind the numbers to files; they do not bind the files to the model that is in use.",
    "Some records here hold no hashes of their evidence: nothing binds their numbers to files.",
)


def summary(rows: Sequence[Row]) -> list[str]:
    """The result in plain words, one paragraph for each request.

    Args:
        rows: What ``summarise`` gave.

    Returns:
        Paragraphs of plain text.
    """
    told = []
    for (_, request), group in groupby(panels(rows), key=lambda panel: (panel.setting, panel.request)):
        found = list(group)
        judged = [row for panel in found for row in panel.rows if row.kind in {"retrain", "method"}]
        if not judged:
            told.append(f"Nothing was unlearned for “{request}”: the page shows the model as it was trained.")
        elif sum(row.count for row in judged) == 1:
            told.append(" ".join(_one(judged[0], found[0])))
        else:
            told.append(" ".join(_many(found, judged)))
    if any(len({_seeds(run) for run in row.records}) < len(row.records) for row in rows):
        told.append(
            "Some runs repeat the seeds of others in their row: their spread is that of repeats, and says "
            "less than it seems to."
        )
    if any(leaky(row) for row in rows):
        told.append(
            "Mind the masks: pruning masks in these runs were chosen by weights that had seen the forget "
            "rows, and such a mask can carry something of them. See “Provenance”."
        )
    return told


def leaky(row: Row) -> bool:
    """Whether a mask that unlearning left in these runs has seen forget rows."""
    saw = {role for run in row.records if run.unlearning for role in run.steps[-1].masks_saw}
    return bool(saw & {"pool", "forget"})


def _seeds(run: Record) -> tuple[object, ...]:
    return (*(step.seed for step in run.steps), run.split.get("hash"))


def _one(row: Row, panel: Panel) -> list[str]:
    forget, retain = (names.counts(row.records[0]).get(role, 0) for role in ("forget", "retain"))
    size = ""
    if forget + retain:
        size = f", {forget:,} of {forget + retain:,} training rows ({percent(forget / (forget + retain))})"
    told = [f"One run was asked to forget “{row.request}”{size}."]
    told.append(f"It used {row.label} on the {row.start} model{_took(row, panel)}.")
    ua, before, band = row.values.get("UA"), _of(panel, "original", "UA"), row.values.get("band.UA")
    if _has(ua):
        sentence = f"Afterwards the model gets {ua.middle} % of the forget rows wrong"
        sentence += f"; before, {before.middle} %" if _has(before) else ""
        told.append(
            sentence + (f"; models retrained without these rows, {band.middle} %." if _has(band) else ".")
        )
    ta, before = row.values.get("TA"), _of(panel, "original", "TA")
    if _has(ta):
        told.append(
            f"Test accuracy is {ta.middle} %" + (f", from {before.middle} %." if _has(before) else ".")
        )
    gap = row.values.get("disparity")
    if _has(gap):
        told.append(f"On average over four measures it is {gap.middle} points from Retrain{_noise(panel)}.")
    return [*told, _verdicts([row])]


def _many(found: Sequence[Panel], judged: Sequence[Row]) -> list[str]:
    methods = [row for row in judged if row.kind == "method"]
    variants, kinds = len({row.label for row in methods}), len({row.method for row in methods})
    by = (
        [plural(kinds, "method") + (f" in {variants} settings" if variants > kinds else "")]
        if methods
        else []
    )
    by += ["retraining"] if len(methods) < len(judged) else []
    runs = plural(sum(row.count for row in judged), "run")
    seeds = plural(len({seed for row in judged for seed in row.seeds}), "seed")
    starts = f"{plural(len(found), 'starting point')} ({', '.join(panel.start for panel in found)})"
    told = [f"{runs} unlearned “{judged[0].request}”: {' and '.join(by)}, from {starts}, over {seeds}."]
    return [*told, *_nearest(found, methods), _verdicts(methods or judged)]


def _nearest(found: Sequence[Panel], methods: Sequence[Row]) -> list[str]:
    """The method nearest to Retrain, of those that moved by more than their runs scatter."""
    panels_of = {id(row): panel for panel in found for row in panel.rows}
    ranked = [(gap.mean, i, row) for i, row in enumerate(methods) if _has(gap := row.values.get("disparity"))]
    if not ranked:
        return []
    moved = []
    for mean, i, row in ranked:
        before = _of(panels_of[id(row)], "original", "disparity")
        if not _has(before) or before.mean - mean > (row.values["disparity"].std or 0.0):
            moved.append((mean, i, row))
    if not moved:
        return ["No method came clearly nearer to Retrain than its original."]
    best = min(moved)[2]
    panel, gap = panels_of[id(best)], best.values["disparity"]
    before = _of(panel, "original", "disparity")
    spread = f" ± {gap.plus_minus}" if gap.plus_minus else ""
    first = "Nearest to Retrain on average is"
    if min(ranked)[2] is not best:
        first = "Of those that came clearly nearer to Retrain than their original, the nearest is"
    return [
        f"{first} {best.label} on the {best.start} model{_took(best, panel)}: "
        f"{gap.middle}{spread} points over the four measures"
        + (f", where the original was {before.middle}" if _has(before) else "")
        + f"{_noise(panel)}.",
        *_sparser(found),
    ]


def _sparser(found: Sequence[Panel]) -> list[str]:
    """Did sparsity help? The first and the last start, for the methods that ran from both."""
    first, last = _distances(found[0]), _distances(found[-1])
    both = first.keys() & last.keys()
    if len(found) < 2 or not both:
        return []
    nearer = sum(last[name] < first[name] for name in both)
    methods = plural(len(both), "method")
    return [f"From {found[0].start} to {found[-1].start}, {nearer} of {methods} came nearer to Retrain."]


def _distances(panel: Panel) -> dict[str, float]:
    methods = [row for row in panel.rows if row.kind == "method"]
    return {row.label: gap.mean for row in methods if _has(gap := row.values.get("disparity"))}


def _verdicts(rows: Sequence[Row]) -> str:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for audit, found in row.verdicts.items():
            counts.setdefault(audit, Counter()).update(found)
    told = []
    for audit, found in counts.items():
        if found.total() == 1:
            told.append(f"The verdict of {audit} is: {next(iter(found))}.")
        else:
            runs = plural(found.total(), "run") + (" of retrain" if rows[0].kind == "retrain" else "")
            told.append(
                f"Verdicts of {audit} on {runs}: "
                + ", ".join(f"{found[v]} {v}" for v in VERDICTS if found[v])
                + "."
            )
    return " ".join(told) or "No audit gave a verdict."


def _took(row: Row, panel: Panel) -> str:
    spent, anew = row.values.get("RTE"), _of(panel, "retrain", "RTE") or _of(panel, "reference", "RTE")
    if not _has(spent):
        return ""
    share = ""
    if row.kind == "method" and _has(anew) and anew.mean > 0:
        part = spent.mean / anew.mean
        share = f" ({percent(part) if part >= 0.001 else 'under 0.1 %'} of retraining)"
    return f", in {duration(spent.mean)}{share}"


def _noise(panel: Panel) -> str:
    floor = _of(panel, "retrain", "disparity")
    return f"; independent retrains are {floor.middle} from one another" if _has(floor) else ""


def _of(panel: Panel, kind: str, name: str) -> Spread | None:
    return next((row.values[name] for row in panel.rows if row.kind == kind and name in row.values), None)


def _has(spread: Spread | None) -> TypeGuard[Spread]:
    return spread is not None and spread.n > 0
