"""Write what a finished grid says into a folder: ``python tools/results.py STORE FOLDER [--plan PLAN]``.

``table.csv`` has the columns of the paper's main table in percent, points and minutes; beside them: the ends
of a 95 % interval (over seeds, Student's, within what the measure can be; of the one run, its own), the
median of RTE, which other work on the machine moves less than the mean, the median minutes of all steps
before unlearning, which are not in RTE (training, pruning, training again), the number of seeds, how often
each verdict fell, and the train accuracy of the original; last a line for each cell of the plan that has no
run. ``report.html`` is the report page of these runs.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from scipy.stats import t as student

from secateur.errors import SecateurError
from secateur.lab import Plan, expand, load
from secateur.lab.grid import runs_of
from secateur.lab.review import all_runs
from secateur.record import Record
from secateur.report import Row, Spread, summarise, write_page

MEASURES = {"UA": "ua", "MIA-Efficacy": "mia_efficacy", "RA": "ra", "TA": "ta"}
LEVEL = 0.95


def main(asked: argparse.Namespace) -> None:
    records = of_plan(asked.store, asked.plan, asked.set)
    asked.folder.mkdir(parents=True, exist_ok=True)
    rows = summarise(records)
    lines = list(table(rows, asked.value, judged(asked)))
    if asked.starts:
        lines = [{"start": row.start} | line for row, line in zip(rows, lines, strict=True)]
    if asked.plan is not None:
        lines += without(expand(load(asked.plan, asked.set)), records, list(lines[0]))
    with (asked.folder / asked.table).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    if not asked.no_page:
        write_page(records, asked.folder / "report.html")


def judged(asked: argparse.Namespace) -> dict[tuple[str, str, str], str]:
    """The verdicts of other runs of the same plan, such as the one seed for which references were made."""
    if not asked.judged:
        return {}
    rows = summarise(of_plan(asked.store, asked.plan, asked.judged))
    return {(row.request, row.start, row.label): row.verdict for row in rows}


def without(plans: list[Plan], records: list[Record], columns: list[str]) -> Iterator[dict[str, object]]:
    """A line for what has no run, so that no cell is missing without a word."""
    counts: Counter[tuple[str, str, float, str]] = Counter()
    there = set()
    for plan in plans:
        if plan.unlearn is not None:
            sparse = (getattr(p.step, "sparsity", 0.0) for p in plan.steps[: plan.unlearn])
            use, step = plan.steps[plan.unlearn].use, plan.steps[plan.unlearn].step
            cell = str(plan.data.forget), use, max(sparse), repr(step)
            counts[cell] += 1
            if runs_of([plan], records):
                there.add(cell)
    for (request, method, sparsity, knobs), count in counts.items():
        if (request, method, sparsity, knobs) not in there:
            told = {"scenario": request, "method": method, "sparsity": sparsity, "seeds": 0}
            yield dict.fromkeys(columns, "") | told | {"verdicts": f"no result in {count} runs"}


def of_plan(store: Path, plan: Path | None, sets: list[str]) -> list[Record]:
    """All runs of a store, or those of a plan."""
    records = all_runs(store)
    if plan is None:
        return records
    plans = expand(load(plan, sets))
    found = runs_of(plans, records)
    if not found:
        raise SystemExit(f"no run of {plan} is in {store}: run it first, or give the same --set")
    print(f"{len(found)} of the {len(plans)} runs of {plan.name} are in the store")
    return found


def table(
    rows: list[Row], more: Sequence[str] = (), verdicts: Mapping[tuple[str, str, str], str] | None = None
) -> Iterator[dict[str, object]]:
    trained = ""
    for row in rows:
        if row.kind == "original":
            trained = _number(row.values.get("train"))
        line: dict[str, object] = {
            "scenario": row.request,
            "method": row.label,
            "sparsity": round(row.sparsity, 2),
        }
        for name, column in MEASURES.items():
            line |= _columns(column, row.values.get(name))
        took = row.values.get("RTE")
        minutes = replace(took, unit="min", each=tuple(s / 60 for s in took.each)) if took else None
        yield (
            line
            | _columns("disparity_average", row.values.get("disparity"), least=0.0)
            | _columns("rte_minutes", minutes, least=0.0)
            | {
                "rte_minutes_median": f"{median(minutes.each):.2f}" if minutes else "",
                "before_minutes": before(row),
                "seeds": row.count,
                "verdicts": (verdicts or {}).get((row.request, row.start, row.label), row.verdict),
                "train_accuracy_of_original": trained,
            }
            | {k: v for name in more for k, v in _columns(name, row.values.get(name)).items()}
        )


def before(row: Row) -> str:
    took = [sum(step.seconds for step in run.steps[: run.unlearn]) / 60 for run in row.records]
    return f"{median(took):.2f}" if took else ""


def _columns(name: str, spread: Spread | None, least: float = -math.inf) -> dict[str, str]:
    low, high = interval(spread, least) if spread else (math.nan, math.nan)
    ends = {f"{name}_{end}": _percent(value, spread) for end, value in (("low", low), ("high", high))}
    return {name: _number(spread), f"{name}_std": _percent(spread.std, spread) if spread else "", **ends}


def interval(spread: Spread, least: float = -math.inf) -> tuple[float, float]:
    """Of the mean over seeds, at least ``least``, and of a share within 0 and 1; with one, of that run."""
    if spread.std is None:
        return spread.low, spread.high
    reach = float(student.ppf((1 + LEVEL) / 2, spread.n - 1)) * spread.std / spread.n**0.5
    low, high = (0.0, 1.0) if spread.unit == "share" else (least, math.inf)
    return max(spread.mean - reach, low), min(spread.mean + reach, high)


def _number(spread: Spread | None) -> str:
    return _percent(spread.mean, spread) if spread else ""


def _percent(value: float | None, spread: Spread | None) -> str:
    if spread is None or value is None or not math.isfinite(value):
        return ""
    return f"{value * spread.scale:.2f}"


def parser(about: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=about)
    made.add_argument("store", type=Path)
    made.add_argument("folder", type=Path)
    made.add_argument("--plan", type=Path, help="only the runs of this plan")
    made.add_argument("--set", action="append", default=[], help="as secateur grid was given")
    return made


def arguments() -> argparse.Namespace:
    made = parser(str(__doc__).splitlines()[0])
    made.add_argument("--table", default="table.csv", help="name of the table")
    made.add_argument(
        "--value", action="append", default=[], help="a number more, such as threshold/gap.phi.AUC"
    )
    made.add_argument(
        "--judged", action="append", default=[], help="a --set of the runs that the verdicts are taken from"
    )
    made.add_argument("--starts", action="store_true", help="a column for starts of one sparsity that differ")
    made.add_argument("--no-page", action="store_true", help="the table alone")
    return made.parse_args()


if __name__ == "__main__":
    try:
        main(arguments())
    except SecateurError as error:
        raise SystemExit(str(error)) from None
