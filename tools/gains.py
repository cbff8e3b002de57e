"""Draw what transfer gains: ``python tools/gains.py FOLDER``.

From ``transfer-probe.csv`` and ``transfer-fine-tune.csv``, by ``tools/transfer.py``: the gain of
each model over its original in downstream accuracy, a point for each seed with its 95 % interval over test
rows, and the time of unlearning as a share of that of the retrain; as ``transfer.svg``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib as mpl
from curves import COLOURS, MARKERS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HOW = {"probe": "linear probe on its features", "fine-tune": "fine-tuning of all weights"}
Line = dict[str, str]


def main(folder: Path) -> None:
    found = {how: read(path) for how in HOW if (path := folder / f"transfer-{how}.csv").exists()}
    if not found:
        raise SystemExit(f"no transfer-*.csv is in {folder}: make one with tools/transfer.py")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 9}):
        figure = Figure(figsize=(10, 2.9), layout="constrained")
        for axes, (how, lines) in zip(
            figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
        ):
            draw(axes, lines)
            axes.set_title(HOW[how], fontsize=9)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(folder / "transfer.svg", metadata={"Date": None})


def read(path: Path) -> list[Line]:
    with path.open(newline="") as file:
        return [line for line in csv.DictReader(file) if line["gain"]]


def draw(axes: Axes, lines: list[Line]) -> None:
    methods = list(dict.fromkeys(line["method"] for line in lines))
    seeds = sorted({int(line["seed"]) for line in lines})
    for i, seed in enumerate(seeds):
        here = [line for line in lines if int(line["seed"]) == seed]
        at = [methods.index(line["method"]) + 0.16 * (i - (len(seeds) - 1) / 2) for line in here]
        gain, low, high = (
            [100 * float(line[name]) for line in here] for name in ("gain", "gain_low", "gain_high")
        )
        ends = [
            [g - b for g, b in zip(gain, low, strict=True)],
            [b - g for g, b in zip(gain, high, strict=True)],
        ]
        style = {"fmt": MARKERS[i], "color": COLOURS[i], "markersize": 5, "elinewidth": 1}
        axes.errorbar(gain, at, xerr=ends, label=f"seed {seed}", **style)
    axes.axvline(0, color="#666666", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(methods)), [f"{method}\n{share(lines, method)}" for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlabel("accuracy above the original's, points")
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def share(lines: list[Line], method: str) -> str:
    found = [float(line["of_retrain"]) for line in lines if line["method"] == method and line["of_retrain"]]
    return f"{100 * sum(found) / len(found):.0f} % of the time" if found else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
