"""``secateur run`` and ``secateur grid``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secateur.cli.live import live
from secateur.cli.report import print_records, write_page_of
from secateur.cli.terminal import (
    DEFAULT_STORE,
    AsJson,
    PageAt,
    StoreAt,
    bars,
    check_page,
    look_in,
    out,
    say,
    told,
)
from secateur.errors import UsageError

Plan = Annotated[Path, typer.Argument(help="a TOML file; see docs/start.md", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="change a key of the plan, as an axis names it; may be given often"
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="load and build everything, estimate the cost, train nothing")
]


Checkpoint = Annotated[
    float,
    typer.Option(
        "--checkpoint", metavar="MINUTES", min=0, help="keep a training that lasts longer, every so often"
    ),
]


def run(
    plan: Plan,
    store: StoreAt = DEFAULT_STORE,
    sets: Sets = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    report: PageAt = None,
    checkpoint: Checkpoint = 10.0,
) -> None:
    """Run one plan: train, prune, unlearn, judge. Under torchrun, in several processes together."""
    from secateur import lab
    from secateur.ranks import joined, rank, world

    check_page(report)
    plans = _read(plan, sets)
    if len(plans) > 1:
        raise UsageError(f'"{plan}" has axes and stands for {len(plans)} runs: use "secateur grid {plan}"')
    with joined():
        here, processes = rank(), world()
        _check_batches(plans[0])
        if not dry_run:
            with bars(hidden=here > 0) as progress:
                record = lab.run_plan(plans[0], store, progress, checkpoint=60 * checkpoint)
    if here:  # one speaks
        return None
    if dry_run:
        if processes > 1:
            say(f"secateur: this is what one process would take and would find in the store, not {processes}")
        return print_estimate(plans, store, as_json)
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
    write_page_of([record], report)
    return None


def grid(
    plan: Plan,
    store: StoreAt = DEFAULT_STORE,
    sets: Sets = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    report: PageAt = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="how many steps at once, each in a process of its own")
    ] = 1,
    engine: Annotated[str, typer.Option(help="where steps are taken: local or ray")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="with --engine ray: the running cluster to join")
    ] = None,
    checkpoint: Checkpoint = 10.0,
) -> None:
    """Run every cell of a plan with axes; a failure does not stop the rest."""
    from secateur import lab

    check_page(report)
    plans = _read(plan, sets)
    if dry_run:
        return print_estimate(plans, store, as_json)
    with live(jobs, steps=engine != "ray") as (progress, hear):
        ended = lab.run_grid(
            plans,
            store,
            progress,
            engine=engine,
            jobs=jobs,
            address=ray_address,
            hear=hear,
            source=str(plan),
            checkpoint=60 * checkpoint,
        )
    if ended.records:
        write_page_of(list(ended.records), report)
        print_records(list(ended.records), as_json)
    for number, error in ended.failures:
        say(f"secateur: run {number} of {len(plans)} failed: {told(error)}", bad=True)
    if ended.failures:
        raise typer.Exit(max(error.exit_code for _, error in ended.failures))


def _read(plan: Path, sets: list[str] | None) -> list[Any]:
    from secateur import lab

    look_in(str(plan.parent.absolute()))
    table = lab.load(plan, sets or ())
    if "tune" in table:
        raise UsageError(
            f'"{plan}" has [tune], so its knobs are still to be chosen: use "secateur tune {plan} --output '
            'best.toml" and run that, or take [tune] out to run it as it is written'
        )
    return lab.expand(table, source=str(plan))


def _check_batches(plan: Any) -> None:
    """Refuse at once, and once, batches that the processes would refuse when their step begins."""
    from secateur.ranks import rank, told, world

    named = [(f'"{one.label}"', one.step) for one in plan.steps]
    named += [("the reference", plan.reference.step)] if plan.references else []
    odd = [
        f"batch={batch} in {name}"
        for name, step in named
        if isinstance(batch := getattr(step, "batch", None), int) and batch % world()
    ]
    if not odd:
        return
    if rank() == 0:
        say(
            f"secateur: expected batches that {world()} processes can share evenly, got "
            f"{', '.join(odd)}: each takes its part of every batch, so nothing was begun; set batch to a "
            f"multiple of {world()}",
            bad=True,
        )
    told("said")  # torchrun ends all as soon as one has ended
    raise typer.Exit(UsageError.exit_code)


def print_estimate(plans: list[Any], store: Path, as_json: bool) -> None:
    """Print what some plans will cost."""
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
            "–" if one.updates is None else f"{one.updates:,}",
            cost,
        )
    console = Console()
    console.print(table)
    for poison in dict.fromkeys(plan.data.poison for plan in plans if plan.data.poison):
        console.print(f"poisoned: {poison}", highlight=False, soft_wrap=True)
    total = sum(one.seconds for one in found if not math.isnan(one.seconds))
    runs = "1 run" if len(plans) == 1 else f"{len(plans)} runs"
    told = f"{runs}, about {total:,.0f} s of work here, judging apart; nothing was trained or written"
    console.print(told, highlight=False, soft_wrap=True)
