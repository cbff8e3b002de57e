"""Tabulate and draw a search for knobs: ``python tools/search.py STORE FOLDER``.

Of the runs of ``recipes/closed-form-search.toml``: every setting with its score, which sees neither a retrain
nor test rows, as ``search.csv``; the best of each method, as a table; and UA, RA and TA against the knob that
was searched, as ``fisher.svg`` and ``influence.svg``.
"""

from __future__ import annotations

import csv
import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from secateur.lab.review import all_runs
from secateur.record import Record

KNOB = {"fisher": "noise", "influence": "damping"}
MEASURES = {"UA": ("o", "#b5651d"), "RA": ("s", "#1f5c42"), "TA": ("^", "#7a5195")}


class Point(NamedTuple):
    """One setting on one model and one request: shares in percent, the score in points."""

    method: str
    request: str
    start: str
    knob: str
    value: float
    score: float
    forget_distance: float
    retain_loss: float
    holdout_loss: float
    ua: float
    ra: float
    ta: float
    seconds: float

    @property
    def setting(self) -> tuple[str, float]:
        """What was tried."""
        return self.method, self.value


def main(store: Path, folder: Path) -> None:
    points = sorted(point(record) for record in all_runs(store) if record.steps[-1].step in KNOB)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "search.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Point._fields)
        writer.writerows([f"{v:.4g}" if isinstance(v, float) else v for v in p] for p in points)
    for method, found in groupby(points, key=lambda p: p.method):
        draw(list(found), folder / f"{method}.svg")
    show(points)


def point(record: Record) -> Point:
    step = record.steps[-1]
    score, ua, ra, ta = (record.estimate(name).value for name in ("score", "UA", "RA", "TA"))
    parts = [record.estimate(name).value for name in ("forget-distance", "retain-loss", "holdout-loss")]
    sparsity = record.steps[-2].sparsity
    return Point(
        step.step,
        record.request,
        f"{sparsity:.0%} sparse" if sparsity > 0.01 else "dense",
        KNOB[step.step],
        step.knobs[KNOB[step.step]],
        score,
        *parts,
        100 * ua,
        100 * ra,
        100 * ta,
        step.seconds,
    )


def show(points: list[Point]) -> None:
    """The settings by their mean score over all models and requests, the best first."""
    table = Table("method", "knob", "value", "mean score", "scores", box=None)
    means = {}
    for setting, found in groupby(sorted(points, key=lambda p: p.setting), key=lambda p: p.setting):
        scores = [p.score for p in found]
        means[setting] = sum(scores) / len(scores), scores
    for (method, value), (mean, scores) in sorted(means.items(), key=lambda item: (item[0][0], item[1][0])):
        told = "  ".join(f"{score:.1f}" for score in scores)
        table.add_row(method, KNOB[method], f"{value:g}", f"{mean:.2f}", told)
    Console().print(table)


def draw(points: list[Point], path: Path) -> None:
    cells = sorted({(p.request, p.start) for p in points}, key=lambda cell: (cell[0], cell[1] != "dense"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 10}):
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        panels = figure.subplots(2, (len(cells) + 1) // 2, sharex=True, sharey=True, squeeze=False)
        for axes, (request, start) in zip(panels.flat, cells, strict=False):
            here = sorted(
                (p for p in points if (p.request, p.start) == (request, start)), key=lambda p: p.value
            )
            best = min(here, key=lambda p: p.score)
            axes.axvline(best.value, color="#bbbbbb", linewidth=6, alpha=0.5, zorder=0, label="best score")
            for name, (marker, colour) in MEASURES.items():
                values = [getattr(p, name.lower()) for p in here]
                axes.plot(
                    [p.value for p in here], values, marker=marker, color=colour, label=name, markersize=4
                )
            axes.set_xscale("log")
            axes.set_ylim(-3, 103)
            axes.set_title(f"{request}, {start}", fontsize=10)
            axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[-1]:
            axes.set_xlabel(points[0].knob)
        for axes in panels[:, 0]:
            axes.set_ylabel("%")
        figure.legend(
            *panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
        )
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
