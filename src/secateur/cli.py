"""The command line: parse, call, print. Every command is a thin door to one public function."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from secateur.allocator import keep_freed_memory
from secateur.errors import SecateurError, UsageError, nearest

if TYPE_CHECKING:
    from secateur.lab.bank import Afford
    from secateur.record import Finding, Record

app = typer.Typer(
    name="secateur",
    help="Make a trained classifier forget chosen training data, and prove how well it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
out, err = Console(soft_wrap=True), Console(stderr=True)

Plan = Annotated[Path, typer.Argument(help="a TOML file; see docs/start.md", show_default=False)]
StoreAt = Annotated[Path, typer.Option("--store", help="folder of results")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="change a key of the plan, as an axis names it; may be given often"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print results for programs")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="load and build everything, estimate the cost, train nothing")
]
PageAt = Annotated[Path | None, typer.Option("--report", help="also write the report page here")]
DEFAULT_STORE = Path(".secateur")
STOPPED = 130  # the exit code after Ctrl-C


def main() -> None:
    """Run the command line. Exit codes: see ``secateur.errors``; 130 after Ctrl-C."""
    # the console script, unlike "python -m", does not look in the working directory for a plan's own code;
    # looked at last, so that nothing installed is hidden
    _look_in("")
    keep_freed_memory()
    try:
        ended = app(standalone_mode=False)
    except SecateurError as error:
        _say(f"secateur: {_told(error)}", bad=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        ended = STOPPED
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # click's usage errors
            _say(f"secateur: {error.format_message()}", bad=True)
            sys.exit(error.exit_code)
        raise
    if ended == STOPPED:  # typer turns Ctrl-C into this code
        _say("secateur: stopped; what was finished is in the store, and the same command goes on from there")
    sys.exit(ended if isinstance(ended, int) else 0)


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    """Make a trained classifier forget chosen training data, and prove how well it did."""
    if version:
        from secateur import __version__

        out.print(f"secateur {__version__}", highlight=False)
        raise typer.Exit


@app.command()
def run(
    plan: Plan,
    store: StoreAt = DEFAULT_STORE,
    sets: Sets = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    report: PageAt = None,
) -> None:
    """Run one plan: train, prune, unlearn, judge."""
    from secateur import lab

    _check_page(report)
    plans = _read(plan, sets)
    if len(plans) > 1:
        raise UsageError(f'"{plan}" has axes and stands for {len(plans)} runs: use "secateur grid {plan}"')
    if dry_run:
        return _print_estimate(plans, store, as_json)
    with _bars() as progress:
        record = lab.run_plan(plans[0], store, progress)
    if as_json:
        out.print_json(record.to_json())
    else:
        for finding in record.findings:
            out.print(str(finding), markup=False, highlight=False)
        out.print(
            f"\nrun {record.key[:12]}: record {store}/runs/{record.key}/record.json",
            markup=False,
            highlight=False,
        )
        out.print(f"unlearned weights: {store}/{record.files['weights']}", markup=False, highlight=False)
    _write_page([record], report)


@app.command()
def grid(
    plan: Plan,
    store: StoreAt = DEFAULT_STORE,
    sets: Sets = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    report: PageAt = None,
) -> None:
    """Run every cell of a plan with axes; a failure does not stop the rest."""
    from secateur import lab

    _check_page(report)
    plans = _read(plan, sets)
    if dry_run:
        return _print_estimate(plans, store, as_json)
    with _bars() as progress:
        ended = lab.run_grid(plans, store, progress)
    if ended.records:
        _write_page(list(ended.records), report)
        _print_records(list(ended.records), as_json)
    for number, error in ended.failures:
        _say(f"secateur: run {number} of {len(plans)} failed: {_told(error)}", bad=True)
    if ended.failures:
        raise typer.Exit(max(error.exit_code for _, error in ended.failures))


@app.command()
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
    _check_page(report)
    if Path(run).parent.name == "runs" and Path(run).is_dir():
        store, run = Path(run).parent.parent, Path(run).name  # the run's folder itself was named
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


@app.command()
def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="keys of runs, or enough of their beginnings; default: all", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="the page to write")] = Path("report.html"),
    store: StoreAt = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Tabulate finished runs, and write them as one self-contained page."""
    from secateur.lab.review import all_runs, find_run

    _check_page(output)
    records = [find_run(store, key) for key in runs] if runs else all_runs(store)
    _write_page(records, output)  # first: whoever reads the table may go away
    _print_records(records, as_json)


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List every step and audit, from their cards."""
    from secateur import audits, steps

    rows = [
        {
            "name": name,
            "kind": kind,
            "summary": cls.card.summary,
            "data": cls.card.data,
            "paper": cls.card.paper,
        }
        for kind, shelf in (("step", steps.shelf), ("audit", audits.shelf))
        for name, cls in shelf.items()
    ]
    if as_json:
        return out.print_json(json.dumps(rows))
    table = Table("name", "kind", "summary", "data", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(escape(row[column]) for column in ("name", "kind", "summary", "data")))
    Console().print(table)


@app.command()
def card(
    name: Annotated[str, typer.Argument(help="a step's or an audit's name or address", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show what a step or an audit says of itself, and its knobs."""
    from dataclasses import asdict

    from secateur import audits, knobs, steps

    if ":" not in name and name not in [*steps.shelf, *audits.shelf]:
        raise UsageError(
            f'no step or audit is called "{name}": {nearest(name, [*steps.shelf, *audits.shelf])}'
        )
    cls = (audits.shelf if name in audits.shelf else steps.shelf).find(name)
    told = knobs.describe(cls)
    if as_json:
        return out.print_json(
            json.dumps({"name": name, **asdict(cls.card), "knobs": [knob._asdict() for knob in told]})
        )
    console = Console()
    console.print(
        f"[bold]{escape(name)}[/bold]  {escape(cls.card.summary)}\n\npaper: {escape(cls.card.paper)}\n"
        f"data: {escape(cls.card.data)}\nversion of its numbers: {cls.card.version}\n",
        highlight=False,
    )
    table = Table("knob", "type", "default", "meaning", box=None, header_style="bold", pad_edge=False)
    for knob in told:
        row = knob._replace(default=knob.default.replace("null", "none"))
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="the file to write")] = Path("plan.toml")) -> None:
    """Write a starter plan that runs as it is."""
    from secateur.lab.starter import STARTER

    try:
        with path.open("x") as file:
            file.write(STARTER)
    except OSError as error:
        raise UsageError(
            f'cannot write "{path}" ({error.strerror}): name a file that does not exist yet, in a folder '
            "that does"
        ) from error
    out.print(f'wrote {path}; now "secateur run {path}"', markup=False, highlight=False)


@app.command()
def doctor(store: StoreAt = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Say what this machine offers, and what would stand in the way."""
    from secateur.lab.doctor import examine

    checks = examine(store)
    if as_json:
        out.print_json(json.dumps([check._asdict() for check in checks]))
    else:
        table = Table("", "what", "found", box=None, show_header=False, pad_edge=False)
        for check in checks:
            sign = "[green]ok[/green]" if check.ok else "[red]no[/red]"
            table.add_row(sign, escape(check.what), escape(check.found))
        Console().print(table)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


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
        _say(
            f"{models.retrained} retrained, {models.unlearned} unlearned and {models.shadows} shadow models, "
            f"about {afford.seconds:,.0f} s where none is in the store"
            + (f"; they can show {' and '.join(power)}" if power else "")
        )

    with _bars() as progress:
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


def _look_in(folder: str) -> None:
    """Let the addresses of a plan ("mystep:Dampen") lead to this folder, where nowhere else."""
    if folder not in sys.path:
        sys.path.append(folder)


def _read(plan: Path, sets: list[str] | None) -> list[Any]:
    from secateur import lab

    _look_in(str(plan.parent.absolute()))
    return lab.expand(lab.load(plan, sets or ()), source=str(plan))


def _told(error: SecateurError) -> str:
    """Its message, and where it happened: which step of the plan."""
    notes = getattr(error, "__notes__", [])
    return f"{error} ({'; '.join(notes)})" if notes else str(error)


def _check_page(path: Path | None) -> None:
    """A page that cannot be written is better told before the work than after it."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UsageError(f'cannot write the report "{path}": name a file, in a folder that exists')


def _say(text: str, *, bad: bool = False) -> None:
    err.print(text, style="red" if bad else None, markup=False, highlight=False, soft_wrap=True)


def _print_records(records: list[Record], as_json: bool) -> None:
    from secateur.report import print_table, rows_as_json, summarise

    rows = summarise(records)
    if as_json:
        out.print_json(rows_as_json(rows))
    else:
        print_table(rows)


def _write_page(records: list[Record], path: Path | None) -> None:
    if path is not None:
        from secateur.report import write_page

        write_page(records, path)
        _say(f"report: {path}")


def _write_audit(store: Path, run: str, findings: list[Finding], path: Path | None) -> None:
    if path is not None:
        from secateur.lab.dossier import gather
        from secateur.report import write_audit

        with _bars() as progress:
            found = gather(store, run, findings, progress=progress, tell=_say)
        write_audit(found.record, found.evidence, found.findings, path, found.pictures)
        _say(f"report: {path}")


def _print_estimate(plans: list[Any], store: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from secateur.lab import estimate
    from secateur.record import plain

    found = estimate(plans, store)
    if as_json:
        return out.print_json(json.dumps(plain([asdict(one) for one in found])))
    table = Table(
        "step", "needed", "in store", "updates", "about", box=None, header_style="bold", pad_edge=False
    )
    for one in found:
        cost = "?" if math.isnan(one.seconds) else f"{one.seconds:,.0f} s"
        table.add_row(
            escape(one.step),
            str(one.times),
            str(one.stored),
            "?" if one.updates is None else f"{one.updates:,}",
            cost,
        )
    console = Console()
    console.print(table)
    total = sum(one.seconds for one in found if not math.isnan(one.seconds))
    runs = "1 run" if len(plans) == 1 else f"{len(plans)} runs"
    told = f"{runs}, about {total:,.0f} s of training here, judging apart; nothing was trained or written"
    console.print(told, highlight=False, soft_wrap=True)


@contextmanager
def _bars() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield _Bars(progress)


class _Bars:
    """Progress as bars on standard error, where that is a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        task = self._progress.add_task(label, total=total)
        try:
            yield lambda done: self._progress.advance(task, done)
        finally:
            self._progress.remove_task(task)

    def bar(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return self._bar(label, total)


if __name__ == "__main__":
    main()
