"""``secateur tune``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secateur.cli.run import print_estimate
from secateur.cli.terminal import (
    DEFAULT_STORE,
    AsJson,
    DryRun,
    Plan,
    Sets,
    StoreAt,
    bars,
    look_in,
    out,
    say,
)
from secateur.errors import StepError, UsageError

if TYPE_CHECKING:
    from secateur.lab import Tuned

# metric to its column: by how much the candidate is above the retrains, in points
GAPS = {"UA": "UA", "MIA-Efficacy": "MIA-Eff.", "RA": "RA", "TA": "TA"}


def tune(
    plan: Plan,
    store: StoreAt = DEFAULT_STORE,
    sets: Sets = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="write the plan with the best knobs here", show_default=False),
    ] = None,
) -> None:
    """Choose the knobs that [tune] names, on a surrogate request or by oracle."""
    from secateur import lab
    from secateur.record import plain

    _check_output(output, plan)
    look_in(str(plan.parent.absolute()))
    table = lab.load(plan, sets or ())
    if dry_run:
        return print_estimate(lab.rehearse(table, store, source=str(plan)), store, as_json)
    with bars() as progress:
        tuned = lab.tune_plan(table, store, progress, source=str(plan))
    if as_json:
        out.print_json(json.dumps(plain([_told(one) for one in tuned])))
    else:
        for one in tuned:
            _print(one)
    if output is not None:
        _write(tuned, output)
    if failed := [one for one in tuned if one.failed]:
        raise StepError(_why_none(failed[0]))


def _check_output(path: Path | None, plan: Path) -> None:
    """A plan that cannot be written is better told before the work than after it."""
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f'cannot write the plan "{path}": name a file, in a folder that exists')
    if path.resolve() == plan.resolve():
        raise UsageError(f'"{path}" is the plan itself, whose [tune] would be lost: name another file')


def _told(one: Tuned) -> dict[str, Any]:
    best = None if one.best is None else one.best.number
    return {**asdict(one), "best": best}


def _named(one: Tuned) -> str:
    return f"{', '.join(one.methods) or 'no unlearning'} of {one.request}"


def _why_none(one: Tuned) -> str:
    if all(trial.fault for trial in one.trials):
        return (
            f"expected a trial that could be finished, got none for {_named(one)}: {one.trials[-1].fault}; "
            "name other values in [tune]"
        )
    return (
        f"expected a trial that loses no more than allowed_loss ({_allowed(one)}), got none for "
        f"{_named(one)}: all fall further below the retrains, or could not be finished; name gentler values "
        "in [tune], or allow more"
    )


def _allowed(one: Tuned) -> str:
    return ", ".join(f"{name} {most:g} points" for name, most in one.search.allowed_loss.items())


def _print(one: Tuned) -> None:
    """The trials of a cell, best first; its best knobs; its cost."""

    def line(text: str) -> None:
        out.print(text, markup=False, highlight=False)

    line(f"{_named(one)}: " + (_where(one) if one.trials else "no knob of it is in [tune]; as it is written"))
    if not one.trials:
        return line("")
    names = list(one.trials[0].knobs)
    steps = {name.partition(".")[0] for name in names}
    shown = Table(box=None, header_style="bold", pad_edge=False)
    heads = [name.partition(".")[2] if len(steps) == 1 else name for name in names]
    for column in ("trial", *heads, "score", *GAPS.values(), "seconds"):
        shown.add_column(escape(column), justify="right", no_wrap=True)
    for trial in one.ranked:
        cells = [str(trial.number), *(escape(str(trial.knobs[name])) for name in names)]
        gaps = [
            f"{trial.gaps[gap]:+.2f}{'!' if gap in trial.lost else ''}" for gap in GAPS if not trial.fault
        ]
        cells += ["failed"] if trial.fault else [f"{trial.score:.2f}", *gaps, f"{trial.seconds:.2f}"]
        shown.add_row(*cells)
    Console().print(shown)
    if any(trial.lost for trial in one.trials):
        line(f"! further below the retrains than allowed ({_allowed(one)}): not chosen")
    if one.best is not None:
        line("best: " + ", ".join(f"{name} = {value}" for name, value in one.best.knobs.items()))
        mean = "1 retrain" if one.references == 1 else f"the mean of {one.references} retrains"
        line(
            f"score: {one.best.score:.2f} points, the mean size of the four gaps to {mean}; the original has "
            f"{one.original:.2f}"
        )
    cost = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in one.cost.items())
    line(f"cost: {cost}; {len(one.taken)} steps were taken now, the others were in the store\n")


def _where(one: Tuned) -> str:
    if one.surrogate is None:
        return f"tuned by oracle, on the {one.rows:,} rows of the request itself"
    if "classes" in one.surrogate:
        classes = ", ".join(map(str, one.surrogate["classes"]))
        return (
            f"tuned on a surrogate, class {classes} ({one.rows:,} rows); nothing was asked about the real one"
        )
    return f"tuned on a surrogate of {one.rows:,} retained rows; nothing was asked about the real ones"


def _write(tuned: list[Tuned], path: Path) -> None:
    from secateur.lab import to_toml, tuned_plans

    plans = tuned_plans(tuned)
    for number, table in enumerate(plans, start=1):
        at = path if len(plans) == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        search = tuned[0].search
        head = f"# knobs chosen by secateur tune: {search.trials} trials by {search.by}, seed {search.seed}"
        if allowed := _allowed(tuned[0]):
            head += f"; loss allowed: {allowed}"
        at.write_text(f"{head}\n\n" + to_toml(table), encoding="utf-8")
        say(f"wrote {at}: secateur {'grid' if 'grid' in table else 'run'} {at}")
