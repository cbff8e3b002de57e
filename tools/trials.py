"""Does a surrogate rank settings as the oracle does? ``python tools/trials.py SURROGATE ORACLE FOLDER``.

Both are what ``secateur tune --json`` said of one plan, with as many trials as are drawn at random, so that
both tried the same settings. ``trials.csv`` has a line for each setting, with its disparity on the surrogate
request (by holdout rows) and on the real one (by test rows), in points; ``trials.svg`` sets one against the
other, with Spearman's rank correlation over the settings of a panel. ``--allowed-loss 5`` writes
``allowed-loss.csv`` too: what the surrogate would have chosen with that bound on RA and TA, and without one.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from curves import COLOURS, MARKERS
from matplotlib.figure import Figure
from scipy.stats import spearmanr

SIDES = ("surrogate", "oracle")
KEPT = ("RA", "TA")
Line = dict[str, Any]
Trials = dict[tuple[str, ...], Line]


def main(asked: argparse.Namespace) -> None:
    by_surrogate, by_oracle = (dict(read(getattr(asked, side))) for side in SIDES)
    lines = [
        {
            **dict(zip(("request", "start", "method", "knobs"), key, strict=True)),
            "surrogate": trial["score"],
            "oracle": other["score"],
            "surrogate_seconds": trial["seconds"],
            "oracle_seconds": other["seconds"],
        }
        for key, trial in by_surrogate.items()
        if (other := by_oracle.get(key))
    ]
    if not lines:
        raise SystemExit(
            f"{asked.surrogate} and {asked.oracle} have no setting in common: tune one plan both ways, with "
            "the same seed"
        )
    asked.folder.mkdir(parents=True, exist_ok=True)
    write(asked.folder / "trials.csv", lines)
    draw(lines, asked.folder / "trials.svg")
    if asked.allowed_loss is not None:
        chosen = list(bounded(by_surrogate, by_oracle, asked.allowed_loss))
        write(asked.folder / "allowed-loss.csv", chosen)


def bounded(by_surrogate: Trials, by_oracle: Trials, allowed: float) -> Iterator[Line]:
    """For each cell what the surrogate chooses, free and bounded, and how that does on the real request."""
    cells: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for key, trial in by_surrogate.items():
        if not trial["fault"]:
            cells.setdefault(key[:3], []).append(key)
    for cell, keys in cells.items():
        line = dict(zip(("request", "start", "method"), cell, strict=True))
        gentle = [k for k in keys if min(by_surrogate[k]["gaps"][name] for name in KEPT) >= -allowed]
        for bound, among in (("free", keys), ("bounded", gentle)):
            best = min(among, key=lambda k: by_surrogate[k]["score"], default=None)
            real = by_oracle.get(best, {}) if best else {}
            line |= {f"knobs_{bound}": best[3] if best else "", f"disparity_{bound}": real.get("score")}
            line |= {f"gap.{name}_{bound}": real.get("gaps", {}).get(name) for name in ("UA", *KEPT)}
        yield line


def read(path: Path) -> Iterator[tuple[tuple[str, ...], Line]]:
    for cell in json.loads(path.read_text(encoding="utf-8")):
        steps, methods = cell["table"]["step"], cell["methods"]
        before = steps[: len(steps) - len(methods)]
        start = next((f"{100 * s['sparsity']:g} % sparse" for s in before if "sparsity" in s), "dense")
        for trial in cell["trials"]:
            knobs = ", ".join(f"{name.partition('.')[2]} = {v:g}" for name, v in trial["knobs"].items())
            yield (cell["request"], start, " + ".join(methods), knobs), trial


def write(path: Path, lines: list[Line]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: shown(value) for name, value in line.items()} for line in lines)


def shown(value: Any) -> Any:
    """Four digits; blank for a trial that could not be finished."""
    if value is None or isinstance(value, float):
        return f"{value:.4g}" if finite(value) else ""
    return value


def finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def draw(lines: list[Line], path: Path) -> None:
    places = list(dict.fromkeys((line["request"], line["start"]) for line in lines))
    methods = list(dict.fromkeys(line["method"] for line in lines))
    high = -(-len(places) // 2)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 9}):
        figure = Figure(figsize=(10, 0.7 + 3.2 * high), layout="constrained")
        panels = list(figure.subplots(high, 2, squeeze=False).flat)
        for place, axes in zip(places, panels, strict=False):
            here = [
                line
                for line in lines
                if (line["request"], line["start"]) == place and all(finite(line[side]) for side in SIDES)
            ]
            for i, method in enumerate(methods):
                found = [line for line in here if line["method"] == method]
                axes.scatter(
                    *([line[side] for line in found] for side in SIDES),
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[i % len(MARKERS)],
                    label=method,
                    s=26,
                )
            ours, theirs = ([line[side] for line in here] for side in SIDES)
            ranks = spearmanr(ours, theirs).statistic
            ranked = f", rank correlation {ranks:.2f}" if len(here) > 2 else ""
            end = 1.05 * max((line[side] for line in here for side in SIDES), default=1.0)
            axes.plot([0, end], [0, end], color="#999999", linewidth=0.8, zorder=0)
            axes.set(xlim=(0, end), ylim=(0, end))
            axes.set_title(f"{' · '.join(place)}: {len(here)} settings{ranked}", fontsize=9)
            axes.set_xlabel("disparity on the surrogate, points")
            axes.set_ylabel("on the real request, points")
            axes.set_axisbelow(True)
            axes.grid(color="#e5e5e5", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[len(places) :]:
            axes.set_visible(False)
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(methods), frameon=False)
        figure.savefig(path, metadata={"Date": None})


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    for side in SIDES:
        made.add_argument(side, type=Path, help=f"what the search by {side} said with --json")
    made.add_argument("folder", type=Path)
    made.add_argument("--allowed-loss", type=float, metavar="POINTS", help="a bound on the loss of RA and TA")
    return made


if __name__ == "__main__":
    asked = parser().parse_args()
    try:
        main(asked)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"cannot read {asked.surrogate} and {asked.oracle} as what secateur tune --json prints: {error!r}"
        ) from None
