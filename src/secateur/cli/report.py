"""``secateur report``, and what other commands show of records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.terminal import DEFAULT_STORE, AsJson, StoreAt, check_page, out, say

if TYPE_CHECKING:
    from secateur.record import Record


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

    check_page(output)
    records = [find_run(store, key) for key in runs] if runs else all_runs(store)
    write_page_of(records, output)  # first: whoever reads the table may go away
    print_records(records, as_json)


def print_records(records: list[Record], as_json: bool) -> None:
    """Print the table of these runs."""
    from secateur.report import print_table, rows_as_json, summarise

    rows = summarise(records)
    if as_json:
        out.print_json(rows_as_json(rows))
    else:
        print_table(rows)


def write_page_of(records: list[Record], path: Path | None) -> None:
    """Write the page of these runs, where one is wanted."""
    if path is not None:
        from secateur.report import write_page

        write_page(records, path)
        say(f"report: {path}")
