"""``secateur audit``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.terminal import (
    DEFAULT_STORE,
    AsJson,
    PageAt,
    StoreAt,
    bars,
    check_page,
    err,
    located,
    out,
    say,
)
from secateur.errors import UsageError

if TYPE_CHECKING:
    from secateur.lab.bank import Afford
    from secateur.record import Finding


def audit(
    run: Annotated[
        str, typer.Argument(help="a run's key, or enough of its beginning, or its folder", show_default=False)
    ],
    use: Annotated[
        list[str] | None,
        typer.Option("--use", help="an audit's name or address; default: all that there are rows for"),
    ] = None,
    tier: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2,
            help="make the models that audits ask for: 1, retrains; 2, a bank; default: none",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help='what --tier may train for: "20m", "90s", "2h"', show_default=False
        ),
    ] = None,
    store: StoreAt = DEFAULT_STORE,
    as_json: AsJson = False,
    report: PageAt = None,
) -> None:
    """Judge a finished run again from its stored evidence; with --tier, by references made for it."""
    from secateur import audits, knobs
    from secateur.audit import overall
    from secateur.lab import audit_run
    from secateur.record import plain

    if budget is not None and tier is None:
        raise UsageError(
            "--budget limits the training of references, and none are trained: add --tier 1 or 2"
        )
    check_page(report)
    store, run = located(store, run)
    asked = [knobs.build(audits.shelf.find(name), {}, where=name) for name in use] if use else None
    if tier is None:
        findings = audit_run(store, run, asked)
    else:
        findings = _with_references(store, run, asked, tier, _seconds(budget))
    if (
        not use
        and tier is None
        and (left := sorted(set(audits.shelf) - {finding.audit for finding in findings}))
    ):
        err.print(f"left out, since the run has no rows that they need: {', '.join(left)}")
    if as_json:
        out.print_json(json.dumps(plain(findings)))
    else:
        for finding in findings:
            out.print(str(finding), markup=False, highlight=False)
        if any(finding.verdict for finding in findings):
            verdict, why = overall(findings)
            out.print(f"\nverdict: {verdict}: {why}", markup=False, highlight=False)
    _write_audit(store, run, findings, report)


def _with_references(
    store: Path, run: str, audits: list[Any] | None, tier: int, budget: float | None
) -> list[Finding]:
    from secateur.lab.review import find_run
    from secateur.lab.tiers import audit_tier, audits_up_to

    if audits is None:
        audits = audits_up_to(tier, frozenset(find_run(store, run).split["rows"]))
    elif dear := [audit for audit in audits if audit.needs.tier > tier]:
        raise UsageError(
            f"expected audits of tier {tier} at most, got {type(dear[0]).__name__}, which asks for a bank of "
            f"models: say --tier {dear[0].needs.tier}, or take it out"
        )

    def tell(afford: Afford) -> None:
        models, power = afford.wanted, []
        if afford.ceiling:
            power.append(f"epsilon up to {afford.ceiling:.2f} nats")
        if models.shadows:
            power.append(f"areas from {afford.detectable:.2f} on, or less where rows agree")
        say(
            f"{models.retrained} retrained, {models.unlearned} unlearned and {models.shadows} shadow models, "
            f"about {afford.seconds:,.0f} s where none is in the store"
            + (f"; they can show {' and '.join(power)}" if power else "")
        )

    with bars() as progress:
        return audit_tier(store, run, audits, budget=budget, progress=progress, tell=tell)


def _seconds(text: str | None) -> float | None:
    """A time as people write it."""
    if text is None:
        return None
    number, unit = text[:-1], {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        seconds = float(number) * (unit or math.nan)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(
            f'expected --budget as a number and a unit, such as "20m", "90s" or "2h", got "{text}"'
        )
    return seconds


def _write_audit(store: Path, run: str, findings: list[Finding], path: Path | None) -> None:
    if path is not None:
        from secateur.lab.dossier import gather
        from secateur.report import write_audit

        with bars() as progress:
            found = gather(store, run, findings, progress=progress, tell=say)
        write_audit(found.record, found.evidence, found.findings, path, found.pictures)
        say(f"report: {path}")
