"""``secateur report``, and what other commands show of records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.terminal import DEFAULT_STORE, AsJson, Sets, StoreAt, check_page, look_in, out, say
from secateur.errors import DataError, UsageError

if TYPE_CHECKING:
    from secateur.record import Record
    from secateur.report import Comparison


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="keys of runs, or enough of their beginnings; default: all", show_default=False),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="only the runs of this plan or grid, of a store that several share", metavar="PLAN"
        ),
    ] = None,
    sets: Sets = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="the page to write")] = Path("report.html"),
    published: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="NAME", help='set published results beside ours: "paper" or "salun"'
        ),
    ] = None,
    numbers: Annotated[
        Path | None, typer.Option("--csv", help="also write the comparison here, as CSV; with --compare")
    ] = None,
    store: StoreAt = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Tabulate finished runs, and write them as one self-contained page."""
    from secateur.lab.review import all_runs, find_run
    from secateur.report import as_csv, compare
    from secateur.report.literature import study
    from secateur.report.sheet import put

    check_page(output)
    check_page(numbers)
    if published is not None:
        study(published)  # before anything is read: a slip of the pen is told at once
    elif numbers is not None:
        raise UsageError(
            "--csv holds a comparison with published results: say which, such as --compare paper"
        )
    if plan is None:
        if sets:
            raise UsageError("--set changes a plan: name it with --plan")
        records = [find_run(store, key) for key in runs] if runs else all_runs(store)
    else:
        if runs:
            raise UsageError("expected keys of runs or --plan, got both: the plan already says which runs")
        records = records_of(plan, sets, store)
    comparison = compare(records, published) if published else None
    write_page_of(records, output, comparison)  # first: whoever reads the table may go away
    if comparison:
        say(f"compared with {published}: {comparison.told}")
        if numbers is not None:
            say(f"comparison: {put(as_csv(comparison), numbers)}")
    print_records(records, as_json)


def records_of(path: Path, sets: list[str] | None, store: Path) -> list[Record]:
    """The runs of a plan that the store has.

    Args:
        path: The plan file.
        sets: As ``--set`` gives them.
        store: The folder of results.

    Returns:
        The records, in the grid's order.

    Raises:
        DataError: There is none.
    """
    from secateur.lab import expand, load
    from secateur.lab.grid import runs_of
    from secateur.lab.review import all_runs

    look_in(str(path.parent.absolute()))
    plans = expand(load(path, sets or ()), source=str(path))
    records = runs_of(plans, all_runs(store))
    if not records:
        raise DataError(
            f'expected runs of "{path}" in "{store}", found none: run it first, or give the same --set '
            "(where data lies counts)"
        )
    if len(records) < len(plans):
        say(f"{len(records)} of the {len(plans)} runs of {path} are in the store")
    return records


def print_records(records: list[Record], as_json: bool) -> None:
    """Print the table of these runs."""
    from secateur.report import print_table, rows_as_json, summarise

    rows = summarise(records)
    if as_json:
        out.print_json(rows_as_json(rows))
    else:
        print_table(rows)


def write_page_of(records: list[Record], path: Path | None, comparison: Comparison | None = None) -> None:
    """Write the page of these runs, where one is wanted."""
    if path is not None:
        from secateur.report import write_page

        write_page(records, path, comparison)
        say(f"report: {path}")
