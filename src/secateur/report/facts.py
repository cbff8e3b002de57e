"""What an auditor asks beside the numbers: controls, costs, provenance, splits, versions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from secateur.record import Record, StepTrace, machine
from secateur.report import names
from secateur.report.rows import Row, told
from secateur.report.spread import NONE, Spread, fixed, percent, seconds
from secateur.report.tables import Panel

_CLASS = re.compile(r"([A-Za-z-]+)\[(\d+)\]")


class Control(NamedTuple):
    """A model to compare with: an original or a retrain."""

    name: str
    seed: str
    key: str
    seconds: str
    values: Mapping[str, Spread]


class Origin(NamedTuple):
    """What shaped the models of some rows."""

    labels: str
    weights: str
    masks: str
    leak: bool
    words: str


class Classes(NamedTuple):
    """One measure by class: the rows' labels, and for each class a number from each."""

    measure: str
    labels: tuple[str, ...]
    lines: tuple[tuple[int, tuple[Spread | None, ...]], ...]


def runs_of(panel: Panel) -> list[Record]:
    """The runs in which something was unlearned from this start."""
    return [run for row in panel.rows if row.kind != "original" for run in row.records]


def controls(panel: Panel) -> list[Control]:
    """The originals and every retrain that the rows of this panel were compared with, each once."""
    found: dict[str, Control] = {}
    runs = list({id(run): run for row in panel.rows for run in row.records}.values())
    for run in runs:
        before = {name: Spread.of([e]) for name, e in told(run, "before.").items()}
        if before:
            found.setdefault(
                f"before {names.training(run)}", Control("original", str(names.seed(run)), "", "", before)
            )
    every = list(found.values())
    for retrain in names.retrains(runs):
        took = "" if retrain.seconds is None else seconds(retrain.seconds)
        values = {name: Spread.of([e]) for name, e in retrain.told.items()}
        every.append(
            Control("retrain", "" if retrain.seed is None else str(retrain.seed), retrain.key, took, values)
        )
    return every


def classes(panel: Panel) -> list[Classes]:
    """Numbers by class, where an audit gave them."""
    found: dict[str, dict[int, None]] = {}
    for row in panel.rows:
        for name in row.values:
            if match := _CLASS.fullmatch(name):
                found.setdefault(match[1], {})[int(match[2])] = None
    every = []
    for measure, members in found.items():
        rows = [row for row in panel.rows if any(f"{measure}[{c}]" in row.values for c in members)]
        lines = tuple((c, tuple(row.values.get(f"{measure}[{c}]") for row in rows)) for c in sorted(members))
        every.append(Classes(measure, tuple(row.label for row in rows), lines))
    return every


def others(panel: Panel) -> list[tuple[str, list[str], list[Row]]]:
    """Audits beyond the usual measures: name, their estimates, the rows that have them."""
    found: dict[str, dict[str, None]] = {}
    for row in panel.rows:
        for name in row.values:
            audit, slash, estimate = name.partition("/")
            if slash and "[" not in estimate:
                found.setdefault(audit, {})[estimate] = None
    return [
        (a, list(e), [r for r in panel.rows if any(f"{a}/{x}" in r.values for x in e)])
        for a, e in found.items()
    ]


def origins(panel: Panel) -> list[Origin]:
    """Which roles shaped the models that the runs ended with, and whether that leaks; alike rows together."""
    found: dict[tuple[str, str, bool, str], dict[str, None]] = {}
    for row in panel.rows:
        for trace in (run.steps[-1] for run in row.records if row.kind != "original" and run.unlearning):
            leak = bool({"pool", "forget"} & set(trace.masks_saw))
            key = (_roles(trace.weights_saw), _roles(trace.masks_saw), leak, _origin(row, trace, leak))
            found.setdefault(key, {})[row.label] = None
    return [Origin(", ".join(labels), *key) for key, labels in found.items()]


def costs(panel: Panel) -> Sequence[tuple[Row, Mapping[str, str]]]:
    """What unlearning, with the steps after it, looked at and took, beside its seconds."""
    lines = []
    anew = (row for row in panel.rows if row.kind in {"retrain", "reference"} and "RTE" in row.values)
    fresh = next((row.values["RTE"].mean for row in anew), 0.0)
    for row in panel.rows:
        runs = [(run, run.steps[run.unlearn :]) for run in row.records if run.unlearning]
        if row.kind == "original" or not runs:
            continue
        mean, traces = row.values["RTE"].mean, [trace for _, steps in runs for trace in steps]
        # on a CPU the peak is the process's own, and holds whatever ran before
        peaks = [t.peak_bytes for run, steps in runs if run.run.get("device") != "cpu" for t in steps]
        lines.append((row, {
            "share": percent(mean / fresh) if fresh > 0 and row.kind == "method" else "",
            "reads": ", ".join(dict.fromkeys(role for trace in traces for role in trace.reads)) or "no rows",
            "drawn": " · ".join(
                f"{role} {_average([sum(t.drawn.get(role, 0) for t in steps) for _, steps in runs])}"
                for role in dict.fromkeys(role for trace in traces for role in trace.drawn)
            ),
            "peak": _bytes(max(peaks)) if peaks else "",
            "zeros": row.values["zeros"].middle if "zeros" in row.values else "",
        }))  # fmt: skip
    return lines


def preparation(panel: Panel) -> list[tuple[str, Spread]]:
    """Training and pruning before unlearning: each step, and its seconds over the trainings."""
    runs = list({names.training(run): run for row in panel.rows for run in row.records}.values())
    found: dict[int, list[StepTrace]] = {}
    for run in runs:
        for i, step in enumerate(run.steps[: run.unlearn]):
            found.setdefault(i, []).append(step)
    return [
        (t[0].step, Spread(each=tuple(s.seconds for s in t), unit="seconds", better="lower"))
        for t in found.values()
    ]


def splits(records: Iterable[Record]) -> tuple[list[str], list[tuple[str, str, list[str], str]]]:
    """Roles; and for each split its request, the seeds that used it, its rows by role, and its hash."""
    found: dict[str, tuple[Record, set[int]]] = {}
    for record in records:
        mark = json.dumps([record.request, record.split], sort_keys=True, default=str)
        found.setdefault(mark, (record, set()))[1].add(names.seed(record))
    roles = list(dict.fromkeys(role for record, _ in found.values() for role in names.counts(record)))
    lines = []
    for record, seeds in found.values():
        sizes = names.counts(record)
        cells = [f"{sizes[role]:,}" if role in sizes else NONE for role in roles]
        code = str(record.split.get("hash", ""))
        lines.append((record.request, ", ".join(map(str, sorted(seeds))), cells, code))
    return roles, lines


def elsewhere(records: Iterable[Record]) -> list[tuple[str, int]]:
    """Machines, other than a run's own, on which its steps or references were made; and the runs of each."""
    found: dict[str, int] = {}
    for record in records:
        here = machine(record.hardware)
        there = {step.made.get("hardware", here) for step in record.steps}
        there |= {str(reference.get("hardware", here)) for reference in record.references}
        for place in sorted(there - {here}):
            found[place] = found.get(place, 0) + 1
    return list(found.items())


def evidence(record: Record) -> list[tuple[str, str, str]]:
    """The files that the numbers come from: name, path below the store, digest where the record has one."""
    return [
        (name, path, record.hashes.get(name, "")) for name, path in record.files.items() if name != "weights"
    ]


def variants(
    things: Iterable[Mapping[str, Any]], leave: Sequence[str] = ()
) -> list[tuple[dict[str, str], int]]:
    """Distinct mappings, flat and as text, and how many runs had each."""
    found: dict[str, tuple[dict[str, str], int]] = {}
    for thing in things:
        flat = {key: names.value(v) for key, v in names.flat(thing).items() if key not in leave}
        mark = json.dumps(flat, sort_keys=True)
        found[mark] = (flat, found.get(mark, (flat, 0))[1] + 1)
    return list(found.values())


def cards(records: Iterable[Record]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each card that any run carries, once."""
    found = {
        json.dumps([name, card], sort_keys=True, default=str): (name, card)
        for r in records
        for name, card in r.cards.items()
    }
    return list(found.values())


def knobs(records: Iterable[Record]) -> dict[str, list[tuple[str, str]]]:
    """Step to each of its knobs, defaults too, with every value that it had in these runs."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for record in records:
        for step in record.steps:
            its = found.setdefault(step.step, {})
            for name, value in names.flat(step.knobs).items():
                its.setdefault(name, {})[names.value(value)] = None
    return {step: [(name, " | ".join(values)) for name, values in its.items()] for step, its in found.items()}


def _origin(row: Row, trace: StepTrace, leak: bool) -> str:
    seen = {"pool", "forget"} & set(trace.weights_saw)
    if row.kind == "retrain" and seen:
        words = (
            "Called retrain, but these weights have seen the forget rows: no reference for having forgotten."
        )
    elif seen:
        words = "Forgetting rests on changing weights that had learned the forget rows."
    else:
        words = "These weights never saw the forget rows."
    if leak:
        words += f" {'The mask, too,' if seen else 'But the mask'} was chosen by weights that had seen them."
        if row.kind == "retrain":
            words += " So this retrain keeps something of them: compare with a dense one, "
            words += "or choose the mask again without them."
    elif trace.masks_saw:
        words += " The mask was chosen without them."
    elif row.sparsity > 0 and trace.sparsity > 0:
        words += " The mask was chosen without looking at rows."
    return words


def _roles(roles: Sequence[str]) -> str:
    if "pool" in roles:
        return "pool (forget and retain)"
    return ", ".join(roles) or "no rows"


def _average(values: Sequence[float]) -> str:
    return fixed(sum(values) / len(values), 0)


def _bytes(size: float) -> str:
    return f"{fixed(size / 2**30, 1)} GiB" if size >= 2**30 else f"{fixed(size / 2**20, 0)} MiB"
