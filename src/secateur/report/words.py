"""The report in sentences: a summary for whoever reads one paragraph only, and what the numbers mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TypeGuard

from secateur.report.spread import Spread, duration, percent, plural
from secateur.report.tables import Panel, Row, panels

GLOSSARY = (
    ("UA", "Unlearning accuracy: share of the forget rows that the model now gets wrong.",
     "Nearer to Retrain is better. More is over-forgetting, and can itself give away who was forgotten."),
    ("MIA-Efficacy", "Share of the forget rows that a confidence-based attacker takes for rows the model never saw.",
     "Nearer to Retrain is better; 100 is the goal only where Retrain reaches it."),
    ("RA", "Remaining accuracy: share of the retain rows that the model gets right.",
     "Nearer to Retrain is better. A fall means that unlearning damaged what should have stayed."),
    ("TA", "Test accuracy; where a whole class is forgotten, without that class.",
     "Nearer to Retrain is better. A fall is the price that users of the model pay."),
    ("Disparity", "Mean of the four absolute gaps (UA, MIA-Efficacy, RA, TA) to the mean of the retrained models, in points.",
     "Lower is better, down to the noise floor: the disparity of one retrain from the others."),
    ("RTE", "Run-time: wall-clock seconds of unlearning alone, device synchronised; training and pruning stand apart.",
     "Lower is better, and only worth comparing on the same hardware."),
    ("Band", "Prediction interval of the retrains: where one more retrain would fall.",
     "Inside it, a model cannot be told from a retrain by this measure."),
    ("Zeros", "Sparsity: share of zeros among parameters with more than one dimension.",
     "No better direction by itself; the real zeros of the stored weights are counted."),
)  # fmt: skip

HONEST = (
    "Honest operator assumed. These measurements show what a model does, not what was done to it: someone who controls the training run "
    "can make a page like this one for a model that forgot nothing. The hashes below bind the numbers to files; they do not bind "
    "the files to the model that is in use."
)


def summary(rows: Sequence[Row]) -> list[str]:
    """The result in plain words, one paragraph for each request.

    Args:
        rows: What ``summarise`` gave.

    Returns:
        Paragraphs of plain text.
    """
    told = []
    for _, group in groupby(panels(rows), key=lambda panel: (panel.setting, panel.request)):
        found = list(group)
        judged = [row for panel in found for row in panel.rows if row.kind in {"retrain", "method"}]
        if not judged:
            told.append(
                f"Nothing was unlearned for “{found[0].request}”: the page shows the model as it was trained."
            )
        elif sum(len(row.seeds) for row in judged) == 1:
            told.append(" ".join(_one(judged[0], found[0])))
        else:
            told.append(" ".join(_many(found, judged)))
    if any(
        "pool" in t.masks_saw or "forget" in t.masks_saw
        for row in rows
        for r in row.records
        if (t := r.unlearning)
    ):
        told.append(
            "Mind the masks: pruning masks in these runs were chosen by weights that had seen the forget rows, "
            "and such a mask can carry something of them. See “Provenance”."
        )
    return told


def _one(row: Row, panel: Panel) -> list[str]:
    record = row.records[0]
    forget, retain = record.split.get("forget"), record.split.get("retain")
    size = ""
    if isinstance(forget, int) and isinstance(retain, int) and forget + retain:
        size = f", {forget:,} of {forget + retain:,} training rows ({percent(forget / (forget + retain))})"
    told = [
        f"One run was asked to forget “{row.request}”{size}. It used {row.label} on the {row.start} model"
        + _took(row, panel)
        + "."
    ]
    ua, before = row.values.get("UA"), _of(panel, "original", "UA")
    if _has(ua):
        sentence = f"Afterwards the model gets {_percent(ua)} of the forget rows wrong"
        sentence += f"; before, {_percent(before)}" if _has(before) else ""
        band = row.values.get("band.UA")
        sentence += f"; models retrained without these rows, {_percent(band)}" if _has(band) else ""
        told.append(sentence + ".")
    ta, before = row.values.get("TA"), _of(panel, "original", "TA")
    if _has(ta):
        told.append(
            f"Test accuracy is {_percent(ta)}" + (f", from {_percent(before)}." if _has(before) else ".")
        )
    if _has(row.values.get("disparity")):
        told.append(
            f"On average over four measures it is {row.values['disparity'].middle} points from Retrain{_noise(panel)}."
        )
    return [*told, _verdicts([row])]


def _many(found: Sequence[Panel], judged: Sequence[Row]) -> list[str]:
    methods = [row for row in judged if row.kind == "method"]
    runs = sum(len(row.seeds) for row in judged)
    seeds = len({seed for row in judged for seed in row.seeds})
    names = [plural(count, "method")] if (count := len({row.label for row in methods})) else []
    names += ["retraining"] if len(methods) < len(judged) else []
    told = [
        f"{plural(runs, 'run')} unlearned “{judged[0].request}”: {' and '.join(names)}, from "
        f"{plural(len(found), 'starting point')} ({', '.join(panel.start for panel in found)}), over {plural(seeds, 'seed')}."
    ]
    ranked = sorted(
        (row for row in methods if _has(row.values.get("disparity"))),
        key=lambda row: row.values["disparity"].mean,
    )
    if ranked:
        best = ranked[0]
        panel = next(panel for panel in found if best in panel.rows)
        before = _of(panel, "original", "disparity")
        sentence = f"Nearest to Retrain on average is {best.label} on the {best.start} model"
        sentence += f"{_took(best, panel)}: {best.values['disparity']} points over the four measures"
        sentence += f", where the original was {before.middle}" if _has(before) else ""
        told.append(sentence + f"{_noise(panel)}.")
    told += _sparser(found)
    return [*told, _verdicts(methods or judged)]


def _sparser(found: Sequence[Panel]) -> list[str]:
    """Did sparsity help? The first and the last start, for the methods that ran from both."""
    if len(found) < 2:
        return []
    first, last = (
        {
            row.label: row.values["disparity"].mean
            for row in p.rows
            if row.kind == "method" and _has(row.values.get("disparity"))
        }
        for p in (found[0], found[-1])
    )
    both = first.keys() & last.keys()
    if not both:
        return []
    nearer = sum(last[name] < first[name] for name in both)
    return [
        f"From {found[0].start} to {found[-1].start}, {nearer} of {plural(len(both), 'method')} came nearer to Retrain."
    ]


def _verdicts(rows: Sequence[Row]) -> str:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for audit, found in row.verdicts.items():
            counts.setdefault(audit, Counter()).update(found)
    if not counts:
        return "No audit gave a verdict."
    told = []
    for audit, found in counts.items():
        if found.total() == 1:
            told.append(f"The verdict of {audit} is: {next(iter(found))}.")
        else:
            of = "runs of retrain" if rows[0].kind == "retrain" else "runs"
            told.append(
                f"Verdicts of {audit} on {found.total():,} {of}: "
                + ", ".join(f"{n} {v}" for v, n in found.items())
                + "."
            )
    return " ".join(told)


def _took(row: Row, panel: Panel) -> str:
    if not _has(row.values.get("RTE")):
        return ""
    spent, anew = row.values["RTE"].mean, _of(panel, "retrain", "RTE")
    share = ""
    if row.kind == "method" and _has(anew) and anew.mean > 0:
        part = spent / anew.mean
        share = f" ({percent(part) if part >= 0.001 else 'under 0.1 %'} of retraining)"
    return f", in {duration(spent)}{share}"


def _noise(panel: Panel) -> str:
    floor = _of(panel, "retrain", "disparity")
    return f"; independent retrains are {floor.middle} from one another" if _has(floor) else ""


def _of(panel: Panel, kind: str, name: str) -> Spread | None:
    return next((row.values[name] for row in panel.rows if row.kind == kind and name in row.values), None)


def _has(spread: Spread | None) -> TypeGuard[Spread]:
    return spread is not None and spread.n > 0


def _percent(spread: Spread | None) -> str:
    return f"{spread.middle} %" if spread else ""
