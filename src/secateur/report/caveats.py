"""Caveats: what the audits said beside their numbers, each sentence once and where it belongs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from secateur.record import Record
from secateur.report import names
from secateur.report.rows import MEASURES, Row, placed
from secateur.report.spread import fixed

_POINTS = 5  # of sparsity: fewer is a last layer or a rounding, not a mask that went
_PLACED = re.compile(r"the candidate lies (in|out)side")


class Caveat(NamedTuple):
    """A sentence of audits.

    Attributes:
        mark: The sentence without its numbers.
        audits: Who said it.
        text: The sentence, as it first came.
        runs: In how many runs it stood.
        alike: Whether its numbers varied.
    """

    mark: str
    audits: tuple[str, ...]
    text: str
    runs: int
    alike: bool


def caveats(records: Iterable[Record]) -> list[Caveat]:
    """Each sentence once, whoever said it; sentences that differ only in their numbers are one."""
    texts: dict[str, dict[str, None]] = {}
    audits: dict[str, dict[str, None]] = {}
    runs: dict[str, set[int]] = {}
    for i, record in enumerate(records):
        for audit, finding in names.audits(record):
            for text in finding.caveats:
                if _PLACED.match(text) and len(placed(finding)) == len(MEASURES):
                    continue  # ``why`` says it for all runs at once
                mark = re.sub(r"[\d.,]*\d", "#", text)
                texts.setdefault(mark, {})[text] = None
                audits.setdefault(mark, {})[audit] = None
                runs.setdefault(mark, set()).add(i)
    return [
        Caveat(mark, tuple(audits[mark]), next(iter(told)), len(runs[mark]), len(told) > 1)
        for mark, told in texts.items()
    ]


def shared(records: Sequence[Record], told: Iterable[Caveat] = ()) -> list[Caveat]:
    """The caveats of all these runs, as far as their audits looked at them, that were not told before."""
    known = {caveat.mark for caveat in told}
    found = []
    for caveat in caveats(records):
        looked = sum(any(audit in caveat.audits for audit, _ in names.audits(record)) for record in records)
        if caveat.runs == looked and caveat.mark not in known:
            found.append(caveat)
    return found


def why(row: Row, told: Iterable[Caveat]) -> list[str]:
    """Why its verdicts fell so: the measures outside the band, what else went, caveats not told before."""
    found, count = [], row.count
    if row.outside:
        where = []
        for name, sides in row.outside.items():
            each = [side if n == count else f"{side} in {n} of {count}" for side, n in sides.items()]
            where.append(f"{name} ({', '.join(each)})")
        found.append("Outside the band of the retrains: " + ", ".join(where) + ".")
    elif row.inside:
        often = f" ({row.inside} of {count} runs)" if row.inside < count else ""
        found.append(f"Inside the band of the retrains by every measure{often}.")
    found += _denser(row)
    known = {caveat.mark for caveat in told}
    for caveat in (caveat for caveat in caveats(row.records) if caveat.mark not in known):
        often = f"{caveat.runs} of {count} runs" if caveat.runs < count else "every run" if count > 1 else ""
        numbers = ", with other numbers" if caveat.alike else ""
        found.append(caveat.text + (f" ({often}{numbers})" if often else ""))
    return found


def _denser(row: Row) -> list[str]:
    """Sparsity that went while unlearning, which no audit looks at."""
    pairs = [
        [run.measures.get(f"sparsity.{when}", 0.0) for when in ("before", "after")] for run in row.records
    ]
    lost = sorted(100 * (before - after) for before, after in pairs if 100 * (before - after) > _POINTS)
    if not lost:
        return []
    points = list(dict.fromkeys(fixed(value, 1).removesuffix(".0") for value in (lost[0], lost[-1])))
    often = f" ({len(lost)} of {row.count} runs)" if len(lost) < row.count else ""
    return [f"Lost {' to '.join(points)} points of sparsity while unlearning{often}."]
