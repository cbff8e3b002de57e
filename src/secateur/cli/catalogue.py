"""``secateur methods``, ``card``, ``init`` and ``doctor``: what there is, and where to begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secateur.cli.terminal import DEFAULT_STORE, AsJson, StoreAt, out
from secateur.errors import UsageError, nearest


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
