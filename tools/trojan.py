"""Draw what cleansing does to a Trojan: ``python tools/trojan.py STORE FOLDER --plan PLAN [--rates PLAN]``.

``trojan.csv`` has a line for each model: how often the trigger works on images of other classes (ASR), the
published variant of it, and accuracy without the trigger (SA), in percent with 95 % intervals over test
images; beside them what the paper's figure 6 shows. ``trojan.svg`` draws them over sparsity; what other
rates do stands there as single points.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from curves import COLOURS, MARKERS
from matplotlib.figure import Figure
from results import of_plan, parser

from secateur.record import Record
from secateur.report import Row, summarise
from secateur.report.literature import study

SPARSITIES = (0.0, 0.75, 0.9, 0.95, 0.99)  # those of the figure
MEASURES = ("ASR", "ASR.published", "SA")
PAPER = {
    (cell.method, cell.sparsity): {name: cell.values[name][0] for name in ("ASR", "SA")}
    for cell in study("paper").cells
    if cell.scenario == "trojan"
}


def lines(records: Sequence[Record], *, swept: bool) -> Iterator[dict[str, Any]]:
    """One line for each model, originals once; of another plan than the sweep only its methods."""
    for row in summarise(list(records)):
        if not swept and row.kind != "method":
            continue
        sparsity = min(SPARSITIES, key=lambda s: abs(s - row.sparsity))
        series = row.method if row.kind == "method" else row.kind
        shown = (
            {"lr": row.knobs.get("lr", ""), "gamma": row.knobs.get("gamma", "")}
            if row.kind == "method"
            else {}
        )
        published = PAPER.get((series, sparsity), {}) if swept else {}
        yield {
            "series": series if swept else told(row),
            "sparsity": sparsity,
            "lr": shown.get("lr", ""),
            "gamma": shown.get("gamma", ""),
            **{key: value for name in MEASURES for key, value in percent(row, name).items()},
            **{f"paper_{name}": published.get(name, "") for name in ("ASR", "SA")},
        }


def told(row: Row) -> str:
    gamma = f", gamma {row.knobs['gamma']:g}" if row.method == "l1-sparse" else ""
    return f"{row.method}, lr {row.knobs['lr']:g}{gamma}"


def percent(row: Row, name: str) -> dict[str, float]:
    spread = row.values[f"attack-success/{name}"]
    ends = {"": spread.mean, "_low": spread.low, "_high": spread.high}
    return {f"{name}{end}": round(100 * value, 2) for end, value in ends.items()}


def draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    series = list(dict.fromkeys(p["series"] for p in points))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 9}):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        for measure, axes in zip(("ASR", "SA"), figure.subplots(1, 2), strict=True):
            for i, name in enumerate(series):
                here = sorted((p for p in points if p["series"] == name), key=lambda p: p["sparsity"])
                at = [SPARSITIES.index(p["sparsity"]) for p in here]
                values = [p[measure] for p in here]
                ends = [
                    [p[measure] - p[f"{measure}_low"] for p in here],
                    [p[f"{measure}_high"] - p[measure] for p in here],
                ]
                style = {
                    "marker": MARKERS[i % len(MARKERS)],
                    "color": COLOURS[i % len(COLOURS)],
                    "markersize": 5,
                }
                line = "-" if "lr" not in name else ":"
                axes.errorbar(
                    at, values, ends, linestyle=line, linewidth=1.2, elinewidth=0.8, label=name, **style
                )
                told = [
                    (s, p[f"paper_{measure}"])
                    for s, p in zip(at, here, strict=True)
                    if p[f"paper_{measure}"] != ""
                ]
                if told:
                    hollow = {"linestyle": "--", "linewidth": 0.8, "markerfacecolor": "white", "alpha": 0.8}
                    axes.plot(*zip(*told, strict=True), label=f"{name}, the paper's", **style, **hollow)
            axes.set_xticks(range(len(SPARSITIES)), [f"{100 * s:.0f}" for s in SPARSITIES])
            axes.set_xlabel("sparsity, %")
            axes.set_ylabel("%")
            axes.set_title(
                {"ASR": "ASR: the trigger works", "SA": "SA: accuracy without it"}[measure], fontsize=9
            )
            axes.set_ylim(0, 104)
            axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    arguments = parser(str(__doc__).splitlines()[0])
    arguments.add_argument("--rates", type=Path, help="a plan of other rates, whose runs stand beside")
    asked = arguments.parse_args()
    found = list(lines(of_plan(asked.store, asked.plan, asked.set), swept=True))
    if asked.rates:
        found += lines(of_plan(asked.store, asked.rates, asked.set), swept=False)
    asked.folder.mkdir(parents=True, exist_ok=True)
    with (asked.folder / "trojan.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    draw(found, asked.folder / "trojan.svg")
