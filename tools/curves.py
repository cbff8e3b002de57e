"""Draw what a grid says: ``python tools/curves.py STORE FOLDER --plan PLAN --over sparsity|gamma``.

``curves.csv`` has a line for each setting, in percent and points, with ``--originals`` the model that it
started from, too; ``curves.svg`` a panel for each request and measure: over sparsity the gap to the retrain
of the same start, over gamma the measure itself.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from results import of_plan, parser

from secateur.errors import SecateurError
from secateur.record import Record
from secateur.report import Row, summarise

MEASURES = ("UA", "MIA-Efficacy", "RA", "TA")
COLOURS = ("#1f5c42", "#b5651d", "#7a5195", "#c23b64", "#3b6ea8", "#6b6b6b", "#a08500", "#4f9d78")
MARKERS = "os^vDxP*"


def main(records: list[Record], folder: Path, over: str, *, beside: bool = False) -> None:
    every = [row for row in summarise(records) if row.records]
    rows = [row for row in every if row.kind != "original"]
    originals = {(row.request, row.start): row for row in every if row.kind == "original"}
    points = sorted(
        (point(row, over) | (before(row, originals) if beside else {}) for row in rows),
        key=lambda p: (p["request"], p["line"], p[over]),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(points[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: told(v) for k, v in p.items()} for p in points)
    drawn = [p for p in points if over != "sparsity" or p["method"] != "retrain"]
    draw(drawn, folder / "curves.svg", over)


def point(row: Row, over: str) -> dict[str, Any]:
    run = row.records[0]
    way = way_of(run)
    knobs = {name: row.knobs.get(name, "") for name in ("penalty", "fade", "gamma")}
    line = row.method if over == "sparsity" else f"{knobs['penalty']}, {knobs['fade']}"
    if over == "sparsity" and way not in ("dense", "magnitude"):
        line = f"{row.method}, {way}"
    found = {
        "request": row.request,
        "line": line,
        "way": way,
        "sparsity": row.sparsity,
        "method": row.method,
        **knobs,
        "seeds": row.count,
    }
    for name in MEASURES:
        for key in (name, f"gap.{name}"):
            found[key] = value(row, key)
    return found | {"disparity": value(row, "disparity"), "zeros": value(row, "zeros")}


def way_of(run: Record) -> str:
    """How the mask was found that unlearning started under."""
    before = [step.step for step in run.steps[: run.unlearn]]
    way = " + ".join(dict.fromkeys(step for step in before if step not in ("train", "retrain"))) or "dense"
    # a retrain before unlearning begins is what found the mask
    return f"{way} without the forget rows" if "retrain" in before else way


def before(row: Row, originals: Mapping[tuple[str, str], Row]) -> dict[str, Any]:
    """What the model was that a row started from: how well it knew its rows, and what it was judged."""
    names = {"train_accuracy": "train", **{name: name for name in MEASURES}, "disparity": "disparity"}
    original = originals[row.request, row.start]
    return {f"{name}_of_original": value(original, key) for name, key in names.items()}


def told(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else ""


def value(row: Row, name: str) -> float:
    spread = row.values.get(name)
    return float("nan") if spread is None else spread.mean * spread.scale


def draw(points: Sequence[dict[str, Any]], path: Path, over: str) -> None:
    requests = list(dict.fromkeys(p["request"] for p in points))
    lines = list(dict.fromkeys(p["line"] for p in points))
    measures = [f"gap.{name}" for name in MEASURES] if over == "sparsity" else ["UA", "RA", "TA", "zeros"]
    places = sorted({p[over] for p in points})
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 9}):
        figure = Figure(figsize=(10, 0.9 + 2.4 * len(requests)), layout="constrained")
        panels = figure.subplots(len(requests), len(measures), sharex=True, squeeze=False)
        for request, across in zip(requests, panels, strict=True):
            for measure, axes in zip(measures, across, strict=True):
                for i, line in enumerate(lines):
                    here = [p for p in points if (p["request"], p["line"]) == (request, line)]
                    at, values = [places.index(p[over]) for p in here], [p[measure] for p in here]
                    marker, colour = MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)]
                    axes.plot(at, values, marker=marker, color=colour, label=line, markersize=4, linewidth=1)
                axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)
                told = [f"{100 * p:.0f}" if over == "sparsity" else f"{1000 * p:g}" for p in places]
                axes.set_xticks(range(len(places)), told)
                axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
                axes.spines[["top", "right"]].set_visible(False)
                axes.set_title(f"{request}: {measure.replace('gap.', '')}", fontsize=9)
        unit = "points above Retrain" if over == "sparsity" else "%"
        for axes in panels[:, 0]:
            axes.set_ylabel(unit)
        for axes in panels[-1]:
            axes.set_xlabel("sparsity, %" if over == "sparsity" else f"{over}, thousandths")
        handles = panels[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=min(len(lines), 4), frameon=False)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    arguments = parser(str(__doc__).splitlines()[0])
    arguments.add_argument("--over", choices=("sparsity", "gamma"), default="sparsity")
    arguments.add_argument(
        "--beside", type=Path, action="append", default=[], help="another plan, in the same figure"
    )
    arguments.add_argument("--originals", action="store_true", help="columns of the original")
    asked = arguments.parse_args()
    try:
        records = [r for plan in (asked.plan, *asked.beside) for r in of_plan(asked.store, plan, asked.set)]
        main(records, asked.folder, asked.over, beside=asked.originals)
    except SecateurError as error:
        raise SystemExit(str(error)) from None
