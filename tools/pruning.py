"""Tabulate and draw what the ways to prune cost: ``python tools/pruning.py STORE FOLDER``.

Of the runs of ``recipes/pruning-ways.toml`` and ``recipes/pruning-iterative.toml``: the accuracy of the
pruned and trained networks, as ``pruning.csv`` and ``pruning.svg``.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from secateur.lab.review import all_runs
from secateur.record import Record

WAYS = {
    "magnitude": ("magnitude, rewound to epoch 2", "o", "#1f5c42"),
    "iterative": ("iterative magnitude, rewound to epoch 2", "D", "#4f9d78"),
    "synflow": ("SynFlow", "s", "#b5651d"),
    "snip": ("SNIP", "^", "#7a5195"),
    "grasp": ("GraSP", "v", "#c23b64"),
    "random": ("random", "x", "#6b6b6b"),
}


class Point(NamedTuple):
    """One network: how it was pruned, and how well it does; shares, test accuracy with its interval."""

    way: str
    sparsity: float
    test_accuracy: float
    low: float
    high: float
    train_accuracy: float
    seed: int


def main(store: Path, folder: Path) -> None:
    points = sorted(map(point, all_runs(store)), key=lambda p: (list(WAYS).index(p.way or "magnitude"), p))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pruning.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Point._fields)
        writer.writerows([p.way or "dense", *(round(value, 4) for value in p[1:])] for p in points)
    draw(points, folder / "pruning.svg")


def point(record: Record) -> Point:
    steps = [step.step for step in record.steps]
    ta, ua, ra = (record.estimate(name) for name in ("TA", "UA", "RA"))
    rows = record.split["rows"]
    hits = rows["forget"] * (1 - ua.value) + rows["retain"] * ra.value
    return Point(
        way=next((way for way in WAYS if way in steps), ""),
        sparsity=record.steps[-1].sparsity,
        test_accuracy=ta.value,
        low=ta.low,
        high=ta.high,
        train_accuracy=hits / (rows["forget"] + rows["retain"]),
        seed=record.run["seed"],
    )


def draw(points: list[Point], path: Path) -> None:
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 10}):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for p in points:
            if not p.way:
                axes.axhline(p.test_accuracy, color="#999999", linewidth=1, zorder=0)
                axes.annotate(
                    "dense", (0, p.test_accuracy), (2, 3), textcoords="offset points", color="#666666"
                )
        for way, (label, marker, colour) in WAYS.items():
            here = [p for p in points if p.way == way]
            if not here:
                continue
            values = [p.test_accuracy for p in here]
            ends = [[p.test_accuracy - p.low for p in here], [p.high - p.test_accuracy for p in here]]
            # the last tenth is where they part: density on a log scale
            x = [-_log(1 - p.sparsity) for p in here]
            axes.errorbar(
                x, values, ends, label=label, marker=marker, color=colour, linewidth=1.2, markersize=5
            )
        ticks = (0.0, 0.5, 0.75, 0.9, 0.95, 0.99)
        axes.set_xticks([-_log(1 - s) for s in ticks], [f"{s:.0%}" for s in ticks])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("sparsity (the axis is the logarithm of what is left)")
        axes.set_ylabel("test accuracy after training")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        axes.legend(frameon=False, loc="lower left")
        figure.savefig(path, metadata={"Date": None})


def _log(value: float) -> float:
    return math.log10(value)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
