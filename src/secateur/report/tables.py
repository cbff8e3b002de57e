"""Tables: runs that differ only in their seeds become one row; for a terminal, and for programs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secateur.record import Better, Estimate, Record
from secateur.report import names
from secateur.report.spread import NONE, Spread

MEASURES = ("UA", "MIA-Efficacy", "RA", "TA")
NOISE_FLOOR = "Rows of retrain are independent retrains, each judged against the other retrains: their disparity is the noise floor, not zero."
_PLAIN = re.compile(r"(gap\.|band\.)?(UA|MIA-Efficacy|RA|TA)(\[.*\])?|disparity")
Kind = Literal["original", "reference", "retrain", "method"]
_KINDS: tuple[Kind, ...] = ("original", "reference", "retrain", "method")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ only in their seeds; or the originals that they started from.

    Attributes:
        setting: Data and model.
        request: What was asked to be forgotten, in words.
        start: What unlearning started from: "dense", "90 % sparse", with its differences where one name is not enough.
        sparsity: Share of zeros before unlearning.
        kind: "original" (before unlearning), "retrain" (runs of that method), "reference" (the retrained models that runs were
            compared with, where no run of retrain stands beside them), or "method".
        method: The unlearning step, and the steps after it, by name.
        detail: The knobs in which rows of this method differ, as text; empty where none do.
        knobs: All knobs of the unlearning step, flat.
        seeds: The seed of each run.
        values: Name to number: "UA", "gap.UA", "band.UA", "disparity" ... as estimates are named; "audit/name" for other
            audits; "RTE" the seconds of unlearning, "zeros" the sparsity afterwards, "train" the original's train accuracy.
        verdicts: Audit to verdict to number of runs.
        outside: Measure to the number of runs whose value lies outside the band of the retrains.
        records: The runs.
    """

    setting: str
    request: str
    start: str
    sparsity: float
    kind: Kind
    method: str
    detail: str
    knobs: Mapping[str, Any]
    seeds: tuple[int, ...]
    values: Mapping[str, Spread]
    verdicts: Mapping[str, Mapping[str, int]]
    outside: Mapping[str, int]
    records: tuple[Record, ...]

    @property
    def label(self) -> str:
        """The method with the knobs that tell it apart."""
        return f"{self.method} ({self.detail})" if self.detail else self.method

    @property
    def verdict(self) -> str:
        """How often each verdict fell: "4 pass, 1 fail"; with the audit's name where several gave one."""
        told = {
            audit: ", ".join(f"{n} {verdict}" for verdict, n in found.items())
            for audit, found in self.verdicts.items()
        }
        return "; ".join(text if len(told) == 1 else f"{audit}: {text}" for audit, text in told.items())


class Panel(NamedTuple):
    """The rows of one request at one start."""

    setting: str
    request: str
    start: str
    rows: tuple[Row, ...]

    @property
    def train(self) -> Spread | None:
        """Train accuracy of the original: without memorising there is little to unlearn."""
        return next((row.values["train"] for row in self.rows if "train" in row.values), None)


def summarise(records: Sequence[Record]) -> list[Row]:
    """Group runs that differ only in their seeds.

    Args:
        records: Runs in any order; one that stands there twice counts once.

    Returns:
        Rows by request, sparsity, then the original, retrain and the methods as they first came.
    """
    runs = list({record.key or id(record): record for record in records}.values())
    settings = names.settings(runs)
    starts = names.starts(runs, settings)
    methods = names.methods(runs)
    order = {
        key: i for i, key in reversed(list(enumerate(zip(settings, (r.request for r in runs), strict=True))))
    }
    first = {method: i for i, method in reversed(list(enumerate(methods)))}
    grouped: dict[tuple[Any, ...], list[Record]] = {}
    for i, run in enumerate(runs):
        place = (settings[i], run.request, starts[i])
        grouped.setdefault((*place, "original", ("original", "")), []).append(run)
        if run.unlearn is not None:
            grouped.setdefault(
                (*place, "retrain" if run.method == "retrain" else "method", methods[i]), []
            ).append(run)
    retrained = {key[:3] for key in grouped if key[3] == "retrain"}
    rows = [_row(key, found) for key, found in grouped.items()]
    rows += [
        _reference(key, found)
        for key, found in _places(grouped).items()
        if key not in retrained and names.retrains(found)
    ]
    come = {start: i for i, start in reversed(list(enumerate(starts)))}
    rows.sort(
        key=lambda row: (
            order[row.setting, row.request],
            round(row.sparsity, 3),
            come[row.start],
            _KINDS.index(row.kind),
            first.get((row.method, row.detail), 0),
        )
    )
    return [row for row in rows if row.kind != "original" or row.values.keys() - {"zeros"}]


def panels(rows: Sequence[Row]) -> list[Panel]:
    """The rows of each request at each start, in order."""
    return [
        Panel(*key, tuple(found))
        for key, found in groupby(rows, key=lambda row: (row.setting, row.request, row.start))
    ]


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the rows for people: one table for each request and sparsity, readable at 100 columns.

    Args:
        rows: What ``summarise`` gave.
        console: Where to print; standard output unless told.
    """
    console = console or Console()
    several = len({row.setting for row in rows}) > 1
    for panel in panels(rows):
        title = " · ".join([panel.setting] * several + [panel.request, panel.start])
        console.print(f"\n[bold]{escape(title)}[/bold]")
        if panel.train:
            console.print(f"[dim]train accuracy of the original: {panel.train} %[/dim]")
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("method", min_width=12, overflow="fold")
        for head in ("n", "UA", "MIA-Eff.", "RA", "TA", "disparity", "RTE [s]"):
            table.add_column(escape(head), justify="right", no_wrap=True, min_width=len(head))
        table.add_column("verdict", overflow="fold")
        for row in panel.rows:
            cells = [_cell(row, name) for name in (*MEASURES, "disparity", "RTE")]
            table.add_row(
                escape(row.label), str(len(row.seeds)), *cells, escape(row.verdict).replace(", ", "\n")
            )
        console.print(table)
    if rows:
        console.print(
            "[dim]Mean ±standard deviation over n runs, in percent. Disparity: mean of the four absolute gaps to Retrain, in points. "
            f"{NOISE_FLOOR if any(row.kind == 'retrain' for row in rows) else ''}[/dim]"
        )


def rows_as_json(rows: Sequence[Row]) -> str:
    """The rows for programs, as JSON text: shares stay in [0, 1]; null where there is no number.

    Args:
        rows: What ``summarise`` gave.

    Returns:
        A JSON list with one object a row.
    """
    return (
        json.dumps([_plain(row) for row in rows], indent=1, allow_nan=False, ensure_ascii=False, default=str)
        + "\n"
    )


def _row(key: tuple[Any, ...], runs: list[Record]) -> Row:
    setting, request, start, kind, (method, detail) = key
    if kind == "original":  # methods share it: one run for each training
        runs = list({names.training(run): run for run in reversed(runs)}.values())[::-1]
    told = [_told(run, original=kind == "original") for run in runs]
    every = dict.fromkeys(name for found in told for name in found)
    verdicts: dict[str, dict[str, int]] = {}
    outside: dict[str, int] = {}
    for run, found in zip(runs, told, strict=True):
        for audit, finding in names.audits(run):
            if finding.verdict and kind != "original":
                counts = verdicts.setdefault(audit, dict.fromkeys(("pass", "fail", "inconclusive"), 0))
                counts[finding.verdict] += 1
        for name in MEASURES:
            band = run.estimate(f"band.{name}")
            if band and name in found and (found[name].value < band.low or found[name].value > band.high):
                outside[name] = outside.get(name, 0) + 1
    return Row(
        setting=setting,
        request=request,
        start=start,
        sparsity=runs[0].sparsity,
        kind=kind,
        method=method,
        detail=detail,
        knobs={}
        if kind == "original"
        else names.flat(runs[0].unlearning.knobs if runs[0].unlearning else {}),
        seeds=tuple(names.seed(run) for run in runs),
        values={name: Spread.of(found[name] for found in told if name in found) for name in every},
        verdicts={audit: {v: n for v, n in counts.items() if n} for audit, counts in verdicts.items()},
        outside={name: outside[name] for name in MEASURES if name in outside},
        records=tuple(runs),
    )


def _places(grouped: Mapping[tuple[Any, ...], list[Record]]) -> dict[tuple[Any, ...], list[Record]]:
    found: dict[tuple[Any, ...], list[Record]] = {}
    for key, runs in grouped.items():
        found.setdefault(key[:3], []).extend(runs)
    return found


def _reference(key: tuple[Any, ...], runs: list[Record]) -> Row:
    """The retrained models themselves, so that their numbers stand beside those that are judged by them."""
    found = names.retrains(runs)
    every = dict.fromkeys(name for retrain in found for name in retrain.told if _PLAIN.fullmatch(name))
    return Row(
        setting=key[0],
        request=key[1],
        start=key[2],
        sparsity=runs[0].sparsity,
        kind="reference",
        method="retrained references",
        detail="",
        knobs={},
        seeds=tuple(-1 if retrain.seed is None else retrain.seed for retrain in found),
        values={
            name: Spread.of(retrain.told[name] for retrain in found if name in retrain.told) for name in every
        },
        verdicts={},
        outside={},
        records=(),
    )


def _told(run: Record, *, original: bool) -> dict[str, Estimate]:
    """What one run says of the candidate, or of the model that it started from."""
    prefix = "before." if original and run.unlearn is not None else ""
    told: dict[str, Estimate] = {}
    for audit, finding in names.audits(run):
        for name, estimate in finding.estimates.items():
            if name.startswith(prefix) and (prefix or not name.startswith(("before.", "retrain["))):
                bare = name.removeprefix(prefix)
                told.setdefault(bare if _PLAIN.fullmatch(bare) else f"{audit}/{bare}", estimate)
    if original:
        told |= _measured("train", _train_accuracy(run, told), "share", "higher")
        return told | _measured("zeros", run.sparsity, "share", "nearer-to-retrain")
    told |= _measured("zeros", run.steps[-1].sparsity, "share", "nearer-to-retrain")
    return told | _measured("RTE", sum(step.seconds for step in run.steps[run.unlearn :]), "seconds", "lower")


def _train_accuracy(run: Record, told: Mapping[str, Estimate]) -> float:
    forget, retain = (run.split.get(role) for role in ("forget", "retain"))
    if (
        not isinstance(forget, int)
        or not isinstance(retain, int)
        or not forget + retain
        or not {"UA", "RA"} <= told.keys()
    ):
        return math.nan
    return (forget * (1 - told["UA"].value) + retain * told["RA"].value) / (forget + retain)


def _measured(name: str, value: float, unit: str, better: Better) -> dict[str, Estimate]:
    if not math.isfinite(value):
        return {}
    return {
        name: Estimate(
            value=value,
            low=math.nan,
            high=math.nan,
            level=0.95,
            n=1,
            method="measured",
            unit=unit,
            better=better,
        )
    }


def _cell(row: Row, name: str) -> str:
    spread = row.values.get(name)
    if not spread or not spread.n:
        return NONE
    return str(spread) if spread.n == len(row.seeds) else f"{spread} (n={spread.n})"


def _plain(row: Row) -> dict[str, Any]:
    def number(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    values = {
        name: {
            "mean": number(spread.mean),
            "std": number(spread.std),
            "n": spread.n,
            "low": number(spread.low) if spread.n == 1 else None,
            "high": number(spread.high) if spread.n == 1 else None,
            "unit": spread.unit,
            "better": spread.better,
        }
        for name, spread in row.values.items()
    }
    same = (
        "setting",
        "request",
        "start",
        "sparsity",
        "kind",
        "method",
        "detail",
        "knobs",
        "seeds",
        "verdicts",
        "outside",
    )
    return {name: getattr(row, name) for name in same} | {
        "values": values,
        "runs": [run.key for run in row.records],
    }
