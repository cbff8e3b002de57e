"""Draw methods beside each other: ``python tools/radar.py STORE FOLDER --plan PLAN``.

``radar.svg`` has a line for each request and start. On the left is the paper's radar: an axis ends at no gap
to the retrained model (UA, MIA-Efficacy, RA, TA), or at no time (RTE). On the right the same gaps are bars,
with 95 % intervals where there are several seeds. ``radar.csv`` has the numbers, in points and percent.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
from curves import COLOURS, MARKERS, MEASURES
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import interval, of_plan, parser

from secateur.record import Record
from secateur.report import Row, summarise

AXES = (*MEASURES, "RTE")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "ooo", "--")


def main(records: list[Record], folder: Path) -> None:
    rows = summarise(records)
    retrains = {(row.request, row.start): row for row in rows if row.kind in {"retrain", "reference"}}
    lines = [
        line(row, retrains[row.request, row.start])
        for row in rows
        if row.kind == "method" and (row.request, row.start) in retrains
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "radar.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in at.items()} for at in lines
        )
    draw(lines, folder / "radar.svg")


def line(row: Row, retrain: Row) -> dict[str, Any]:
    """One method: gaps in points, the time as a share of retraining."""
    found: dict[str, Any] = {
        "request": row.request,
        "start": row.start,
        "method": row.label,
        "seeds": row.count,
    }
    for name in MEASURES:
        gap = row.values[f"gap.{name}"]
        low, high = (end * gap.scale for end in interval(gap))
        found |= {name: gap.mean * gap.scale, f"{name}_low": low, f"{name}_high": high}
    took, fresh = (median(each.values["RTE"].each) for each in (row, retrain))  # other work moves a mean
    return found | {"RTE": 100 * took / fresh}


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    places = list(dict.fromkeys((at["request"], at["start"]) for at in lines))
    methods = list(dict.fromkeys(at["method"] for at in lines))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 9}):
        figure = Figure(figsize=(10, 0.8 + 2.9 * len(places)), layout="constrained")
        grid = figure.add_gridspec(len(places), 2, width_ratios=(1, 2.2))
        for i, place in enumerate(places):
            here = [at for at in lines if (at["request"], at["start"]) == place]
            radar(figure.add_subplot(grid[i, 0], projection="polar"), here, methods)
            axes = figure.add_subplot(grid[i, 1])
            bars(axes, here, methods)
            axes.set_title(f"{place[0]}, {place[1]}", fontsize=9)
        handles = axes.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def radar(axes: Any, lines: list[dict[str, Any]], methods: list[str]) -> None:
    angles = np.linspace(0, 2 * math.pi, len(AXES), endpoint=False)
    for at in lines:
        i = methods.index(at["method"])
        reach = [max(0.0, 100 - abs(at[name])) for name in AXES]
        style = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 3, "linewidth": 1}
        axes.plot([*angles, angles[0]], [*reach, reach[0]], **style)
    axes.set_xticks(angles, AXES)
    axes.set_ylim(0, 100)
    axes.set_yticks([25, 50, 75, 100], ["", "50", "", "100"], fontsize=7, color="#666666")


def bars(axes: Axes, lines: list[dict[str, Any]], methods: list[str]) -> None:
    wide, known = 0.8 / len(methods), len(MEASURES)
    for at in lines:
        i = methods.index(at["method"])
        spots = np.arange(len(AXES)) + (i - (len(methods) - 1) / 2) * wide
        heights = [abs(at[name]) for name in AXES]
        style = {"color": COLOURS[i], "hatch": HATCHES[i], "edgecolor": "white", "linewidth": 0.3}
        axes.bar(spots, heights, wide, label=at["method"], **style)
        if at["seeds"] > 1:
            reach = [(at[f"{name}_high"] - at[f"{name}_low"]) / 2 for name in MEASURES]
            axes.errorbar(spots[:known], heights[:known], reach, fmt="none", ecolor="#333333", linewidth=0.8)
    axes.set_xticks(range(len(AXES)), [*MEASURES, "RTE, % of Retrain"])
    axes.set_ylim(0, 100)
    axes.set_ylabel("gap to Retrain, points")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


if __name__ == "__main__":
    asked = parser(str(__doc__).splitlines()[0]).parse_args()
    main(of_plan(asked.store, asked.plan, asked.set), asked.folder)
