"""What a network still knows, and how near unlearning comes: ``python tools/memory.py WAYS SPARSITY FOLDER``.

WAYS is a ``curves.csv`` of ``tools/curves.py``, SPARSITY a table of ``tools/results.py``, by magnitude. Each
network is a point: the accuracy of the original on its training rows, and for each request the disparity of
the untouched original, of fine-tune and of l1-sparse; as ``memory.csv`` and ``memory.svg`` in FOLDER. A label
is the network's sparsity in percent.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
from curves import COLOURS, MARKERS
from matplotlib.figure import Figure

METHODS = ("original", "fine-tune", "l1-sparse")
COLUMNS = ("request", "way", "sparsity", "method", "train_accuracy_of_original", "disparity")
CROWDED = 99  # percent known, from which on the points lie too close to be told apart by labels
Line = dict[str, str | float]


def main(ways: Path, sparsity: Path, folder: Path) -> None:
    found = sorted(
        [*by_magnitude(sparsity), *other(ways)], key=lambda line: [str(line[c]) for c in COLUMNS[:4]]
    )
    with (folder / "memory.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    draw(found, folder / "memory.svg")


def by_magnitude(path: Path) -> Iterator[Line]:
    for line in read(path):
        if line["method"] in METHODS:
            way = "dense" if float(line["sparsity"]) == 0 else "magnitude"
            yield point(line["scenario"], way, line, line["method"], line["disparity_average"])


def other(path: Path) -> Iterator[Line]:
    for line in read(path):
        if line["method"] in METHODS and line["disparity"]:
            yield point(line["request"], line["way"], line, line["method"], line["disparity"])
        if line["method"] == "retrain":
            yield point(line["request"], line["way"], line, "original", line["disparity_of_original"])


def point(request: str, way: str, line: Mapping[str, str], method: str, disparity: str) -> Line:
    known = float(line["train_accuracy_of_original"])
    values = (
        request,
        way,
        round(float(line["sparsity"]), 2),
        method,
        round(known, 2),
        round(float(disparity), 2),
    )
    return dict(zip(COLUMNS, values, strict=True))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def draw(lines: list[Line], path: Path) -> None:
    requests = list(dict.fromkeys(str(line["request"]) for line in lines))
    ways = list(dict.fromkeys(str(line["way"]) for line in lines))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 9}):
        figure = Figure(figsize=(10, 0.6 + 3.2 * len(requests)), layout="constrained")
        panels = figure.subplots(len(requests), len(METHODS), sharex=True, sharey="row", squeeze=False)
        for request, across in zip(requests, panels, strict=True):
            for method, axes in zip(METHODS, across, strict=True):
                for i, way in enumerate(ways):
                    place = request, way, method
                    here = [line for line in lines if (line["request"], line["way"], line["method"]) == place]
                    at = [float(line["train_accuracy_of_original"]) for line in here]
                    gap = [float(line["disparity"]) for line in here]
                    axes.scatter(at, gap, marker=MARKERS[i], color=COLOURS[i], label=way, s=30, zorder=3)
                    for x, y, line in zip(at, gap, here, strict=True):
                        if x < CROWDED:
                            text = f"{100 * float(line['sparsity']):.0f}"
                            axes.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
                axes.set_title(f"{request}: {method}", fontsize=9)
                axes.grid(color="#e5e5e5", linewidth=0.6)
                axes.spines[["top", "right"]].set_visible(False)
                axes.set_ylim(bottom=0)
            across[0].set_ylabel("disparity, points")
        for axes in panels[-1]:
            axes.set_xlabel("training rows that the original knows, %")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    for name in ("ways", "sparsity", "folder"):
        parser.add_argument(name, type=Path)
    asked = parser.parse_args()
    try:
        main(asked.ways, asked.sparsity, asked.folder)
    except (OSError, KeyError) as error:
        raise SystemExit(
            f"cannot read {asked.ways} as a curves.csv with --originals and {asked.sparsity} as a table of "
            f"tools/results.py: {error!r}"
        ) from None
