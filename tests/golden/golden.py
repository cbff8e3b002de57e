"""The numbers of the golden plans: ``python tests/golden/golden.py`` writes them down anew.

It refuses where a number has moved and no card that had a part in it has a higher version, or where the
changelog does not tell of that version under "Numbers".
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from secateur import audits, steps
from secateur.lab import expand, load, run_grid
from secateur.record import Record

HERE = Path(__file__).parent
FILE = HERE / "golden.json"
CHANGELOG = HERE.parents[1] / "CHANGELOG.md"
PLANS = sorted(HERE.glob("*.toml"))
CLOSE = 1e-6
Numbers = dict[str, Any]


def numbers(plan: Path, store: Path) -> Numbers:
    """All that a plan's runs found: run, and then what was measured, to a number."""
    ended = run_grid(expand(load(plan), source=str(plan)), store)
    assert not ended.failures, ended.failures
    return {f"{i}: {told(record)}": found(record) for i, record in enumerate(ended.records)}


def told(record: Record) -> str:
    return f"{record.request}, " + " + ".join(step.step for step in record.steps)


def found(record: Record) -> Numbers:
    cards = {step.step: steps.shelf.find(step.step).card.version for step in record.steps}
    cards |= {one.audit: audits.shelf.find(one.audit).card.version for one in record.findings}
    counts = {
        f"{i}.{name}": int(rows) for i, step in enumerate(record.steps) for name, rows in step.drawn.items()
    }
    values = {f"{i}.sparsity": step.sparsity for i, step in enumerate(record.steps)}
    for i, step in enumerate(record.steps):
        values |= {f"{i}.{name}": noted[-1] for name, noted in step.notes.items()}
    for finding in record.findings:
        for name, one in finding.estimates.items():
            if "[" in name or name.startswith(
                "before."
            ):  # of a class, a retrain, the original: other runs tell
                continue
            counts[f"{finding.audit}.{name}.n"] = one.n
            values |= {f"{finding.audit}.{name}.{end}": getattr(one, end) for end in ("value", "low", "high")}
    return {"cards": cards, "counts": counts, "values": {k: plain(v) for k, v in values.items()}}


def plain(value: float) -> float | str:
    """In ten digits; NaN and infinity, which JSON does not know, as words."""
    return float(f"{value:.10g}") if abs(value) < float("inf") else str(value)


def moved(before: Mapping[str, Numbers], after: Mapping[str, Numbers]) -> dict[str, list[str]]:
    """Run to what is not as it was in it."""
    gone = {run: ["is gone"] for run in before.keys() - after.keys()}
    new = {run: ["is new"] for run in after.keys() - before.keys()}
    other = {run: differences(before[run], after[run]) for run in before.keys() & after.keys()}
    return {run: what for run, what in {**gone, **new, **other}.items() if what}


def differences(before: Numbers, after: Numbers) -> list[str]:
    lines = []
    for kind in ("counts", "values"):
        for name in sorted(before[kind].keys() | after[kind].keys()):
            a, b = before[kind].get(name), after[kind].get(name)
            if not alike(a, b, exactly=kind == "counts"):
                lines.append(f"{name}: {a} -> {b}")
    return lines


def alike(a: Any, b: Any, *, exactly: bool) -> bool:
    if exactly or not (isinstance(a, float | int) and isinstance(b, float | int)):
        return bool(a == b)
    return abs(a - b) <= CLOSE * max(1.0, abs(a))


def unexplained(before: Mapping[str, Numbers], after: Mapping[str, Numbers], changelog: str) -> list[str]:
    """Why numbers may not be written down: what has moved without a higher version, or without a word."""
    faults = []
    for run, what in moved(before, after).items():
        if run not in before or run not in after:
            continue
        was, now = before[run]["cards"], after[run]["cards"]
        raised = [name for name in now if now[name] > was.get(name, 0)]
        if not raised:
            faults.append(
                f"{run}: {what[0]}, and {len(what) - 1} more; raise the version of the card that moved"
            )
        faults += [
            f"{run}: CHANGELOG.md says nothing of `{name}` version {now[name]}"
            for name in raised
            if f"`{name}` version {now[name]}" not in changelog
        ]
    return list(dict.fromkeys(faults))


def written() -> Numbers:
    return dict(json.loads(FILE.read_text())) if FILE.exists() else {"torch": torch.__version__, "plans": {}}


def main() -> None:
    before = written()["plans"]
    with tempfile.TemporaryDirectory() as store:
        after = {plan.name: numbers(plan, Path(store)) for plan in PLANS}
    faults = [
        f"{name}, {why}"
        for name in after
        for why in unexplained(before.get(name, {}), after[name], CHANGELOG.read_text())
    ]
    if faults:
        sys.exit("\n".join(faults))
    for name in after:
        for run, what in moved(before.get(name, {}), after[name]).items():
            print(f"{name}, {run}: {what[0]}")
    FILE.write_text(json.dumps({"torch": torch.__version__, "plans": after}, indent=0) + "\n")


if __name__ == "__main__":
    main()
