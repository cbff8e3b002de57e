"""``secateur status``."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secateur.cli.terminal import DEFAULT_STORE, AsJson, StoreAt, out, say

ALIVE = {True: "running", False: "died", None: "not seen from here"}


def status(store: StoreAt = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Tell which grids run on a store, and how far they have come."""
    from secateur import lab

    found = lab.status(store)
    if as_json:
        return out.print_json(json.dumps([asdict(one) for one in found]))
    if not found:
        return say(f"no grid runs on {store}")
    table = Table("plan", "process", "", "now", "since", "done", "failed", box=None, pad_edge=False)
    table.header_style = "bold"
    for one in found:
        since = [f"{_clock(step.since)} ({step.seconds:,.0f} s)" for step in one.running]
        table.add_row(
            escape(one.plan),
            f"{one.pid}" if one.alive is not None else escape(f"{one.pid} on {one.host}"),
            ALIVE[one.alive],
            "\n".join(escape(f"{step.label} (run {step.run})") for step in one.running),
            "\n".join(since) or _clock(one.since),
            f"{one.done}/{one.runs}",
            str(one.failed),
        )
    Console().print(table)


def _clock(moment: str) -> str:
    """An ISO moment by the clock on the wall here."""
    return f"{datetime.fromisoformat(moment).astimezone():%H:%M:%S}"
