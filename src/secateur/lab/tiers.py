"""Audit a finished run with references that are made for it: as many as a budget buys."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from secateur import knobs
from secateur.audit import Audit, judge
from secateur.audits import shelf
from secateur.card import name_of
from secateur.evidence import Evidence
from secateur.lab.bank import Afford, Bank, Wanted
from secateur.lab.execute import Lab
from secateur.lab.mend import mending
from secateur.lab.read import read_plan
from secateur.lab.review import FINDINGS, find_run
from secateur.lab.store import Store, digest
from secateur.record import Finding, plain
from secateur.run import Progress


@mending
def audit_tier(
    store: Path,
    run: str,
    audits: Sequence[Audit],
    *,
    budget: float | None = None,
    progress: Progress | None = None,
    tell: Callable[[Afford], None] = lambda afford: None,
) -> list[Finding]:
    """Make the references that audits ask for, and judge a finished run by them.

    The references go through the store: other audits, methods and runs of the same originals find them there,
    and what was cut short goes on where it stopped. The findings are kept beside the run, whose own record
    stays as it is.

    Args:
        store: The folder of results.
        run: The run's key, or enough of its beginning.
        audits: What to ask.
        budget: Seconds that making references may take, by an estimate; None: as long as it takes.
        progress: Where to show how far it has come.
        tell: Called once before anything is trained, with what it costs and what it buys.

    Returns:
        One finding for each audit.

    Raises:
        DataError: No run has this key, or several do.
        StoreError: The store does not hold the run's steps, or cannot be believed.
        UsageError: The budget buys too few models, or the run cannot be repeated under another seed.
    """
    record = find_run(store, run)
    asked = [{"use": name_of(type(audit)), **knobs.values(audit)} for audit in audits]
    plan = read_plan({**record.plan, "audit": asked}, source=f"the plan of run {record.key[:12]}")
    lab = Lab(Store(store), progress)
    bank = Bank(lab, plan)
    afford = bank.afford(Wanted.by(audits), budget)
    tell(afford)
    references = bank.make(afford.wanted)
    said = [lab.outputs(link, bank.ground) for link in (bank.before, bank.links[-1])]
    evidence = Evidence(before=said[0][1], after=said[1][1], references=references, measures=record.measures)
    findings = judge(audits, evidence)
    told = {"run": record.key, "models": plain(afford.wanted), "findings": plain(findings)}
    versions = [audit.card.version for audit in audits]
    key = digest({"run": record.key, "models": plain(afford.wanted), "audits": asked, "versions": versions})
    kept = {FINDINGS: json.dumps(told, indent=1, allow_nan=False).encode()}
    lab.store.put("audits", key, kept, lab.store.used)
    return findings


def audits_up_to(tier: int, views: frozenset[str]) -> list[Audit]:
    """Every audit that ships, costs no more than a tier, and for whose views there are rows.

    Args:
        tier: 0, 1 or 2.
        views: That were observed.

    Returns:
        The audits.
    """
    every = [shelf[name]() for name in shelf]
    return [audit for audit in every if audit.needs.tier <= tier and audit.needs.views <= views]
