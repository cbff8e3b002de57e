"""``secateur store``: check it, tidy it, take a run out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from secateur.cli.terminal import DEFAULT_STORE, AsJson, StoreAt, bars, located, out, say

if TYPE_CHECKING:
    from secateur.lab.storekeeping import Unused

store = typer.Typer(
    name="store",
    help="Look after the folder of results: find faults, remove what no run needs, take a run out.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@store.command()
def check(store: StoreAt = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Read every entry from end to end; exit with 1 where something is not what was written."""
    from secateur.lab import check_store

    with bars() as progress:
        checked = check_store(store, progress)
    if as_json:
        shelves = [shelf._asdict() for shelf in checked.shelves]
        out.print_json(json.dumps({"shelves": shelves, "faults": [one._asdict() for one in checked.faults]}))
    else:
        table = _table("shelf", "entries", "files", "size", "faults")
        for shelf in checked.shelves:
            wrong = sum(fault.where.startswith(f"{shelf.kind}/") for fault in checked.faults)
            told = [shelf.kind, f"{shelf.entries:,}", f"{shelf.files:,}", decimal(shelf.bytes), f"{wrong:,}"]
            table.add_row(*told)
        Console().print(table)
        for fault in checked.faults:
            out.print(fault.what, markup=False, highlight=False)
    if checked.faults:
        raise typer.Exit(1)


@store.command()
def gc(
    store: StoreAt = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="remove it; without, it is only shown")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what no run in the store needs, and with --yes remove it; unfinished trainings stay."""
    from secateur.lab import find_unused, remove_unused

    found = find_unused(store)
    if not as_json:
        _print_unused(found)
    removed = remove_unused(store, found) if yes and found else []
    if as_json:
        told = {"unused": [one._asdict() for one in found], "removed": [one.path for one in removed]}
        return out.print_json(json.dumps(told))
    if removed:
        say(f"removed {_told(removed)}")
    elif found:
        say("nothing was removed: say --yes to remove this")


@store.command()
def export(
    run: Annotated[
        str, typer.Argument(help="a run's key, or enough of its beginning, or its folder", show_default=False)
    ],
    folder: Annotated[Path, typer.Argument(help="where to; must not be there yet", show_default=False)],
    store: StoreAt = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Write the final weights, the record and the plan of a run as files that open without secateur."""
    from secateur.lab import export_run

    files = export_run(*located(store, run), folder)
    if as_json:
        return out.print_json(json.dumps([str(path) for path in files]))
    for path in files:
        out.print(str(path), markup=False, highlight=False)


def _table(first: str, *numbers: str) -> Table:
    table = Table(first, box=None, header_style="bold", pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _print_unused(found: list[Unused]) -> None:
    if not found:
        return out.print("every entry is needed by a run, and nothing was left by killed processes")
    shelves: dict[str, list[Unused]] = {}
    for one in found:
        kind, _, name = one.path.partition("/")
        shelves.setdefault("left by killed processes" if name.startswith(".") else kind, []).append(one)
    table = _table("not needed by any run", "entries", "size")
    for shelf, ones in shelves.items():
        table.add_row(shelf, f"{len(ones):,}", decimal(sum(one.bytes for one in ones)))
    Console().print(table)
    out.print(f"in all {_told(found)}", highlight=False)


def _told(ones: list[Unused]) -> str:
    count = "1 entry" if len(ones) == 1 else f"{len(ones):,} entries"
    size = sum(one.bytes for one in ones)
    return f"{count}, {decimal(size)} ({size:,} bytes)"
