"""The price of not having the oracle: ``python tools/price.py STORE FOLDER --surrogate PLAN --oracle PLAN``.

The plans are those that ``secateur tune`` wrote, run as grids on one store. ``price.csv`` has a line for each
method: its knobs and its disparity on the real request as the surrogate chose them and as the oracle did, and
the price, the first disparity less the second, in points; means with 95 % intervals over seeds (Student's,
each seed with its own). ``price.svg`` draws the two beside each other.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from curves import COLOURS
from matplotlib.figure import Figure
from results import interval, of_plan

from secateur.errors import SecateurError
from secateur.report import Row, Spread, summarise

SIDES = ("surrogate", "oracle")
TUNED = ("lr", "gamma", "noise", "damping", "scale")
Key = tuple[str, str, str]


def main(asked: argparse.Namespace) -> None:
    found = {side: rows(asked.store, getattr(asked, side)) for side in SIDES}
    lines = list(priced(found))
    if not lines:
        raise SystemExit(
            "no method has runs of both sides in this store: run both kinds of plan, on one store"
        )
    asked.folder.mkdir(parents=True, exist_ok=True)
    with (asked.folder / "price.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in line.items()} for line in lines
        )
    draw(lines, asked.folder / "price.svg")


def rows(store: Path, plans: Iterable[Path]) -> dict[Key, Row]:
    """Where a method stands to its row; the plans of one side are one table."""
    records = [record for plan in plans for record in of_plan(store, plan, [])]
    return {(row.request, row.start, row.method): row for row in summarise(records) if row.kind == "method"}


def priced(found: dict[str, dict[Key, Row]]) -> Iterator[dict[str, Any]]:
    by_surrogate, by_oracle = (found[side] for side in SIDES)
    for key, mine in by_surrogate.items():
        other = by_oracle.get(key)
        if other is None or not {"disparity"} <= mine.values.keys() & other.values.keys():
            continue
        disparity = [dict(zip(row.seeds, row.values["disparity"].each, strict=True)) for row in (mine, other)]
        seeds = sorted(disparity[0].keys() & disparity[1].keys())
        price = [disparity[0][seed] - disparity[1][seed] for seed in seeds]
        yield {
            **dict(zip(("request", "start", "method"), key, strict=True)),
            "seeds": len(seeds),
            **{f"knobs_{side}": told(row) for side, row in zip(SIDES, (mine, other), strict=True)},
            **{
                f"{side}{end}": value
                for side, each in zip(SIDES, disparity, strict=True)
                for end, value in ends([each[seed] for seed in seeds]).items()
            },
            **{f"price{end}": value for end, value in ends(price).items()},
        }


def told(row: Row) -> str:
    return ", ".join(f"{name} = {row.knobs[name]:.3g}" for name in TUNED if name in row.knobs)


def ends(values: list[float]) -> dict[str, float]:
    """The mean and a 95 % interval over seeds; of one seed there is none."""
    spread = Spread(each=tuple(values), unit="points", better="lower")
    low, high = interval(spread)
    return {"": float(np.mean(values)), "_low": low, "_high": high}


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    places = list(dict.fromkeys((line["request"], line["start"]) for line in lines))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 9}):
        figure = Figure(figsize=(10, 0.7 + 2.2 * -(-len(places) // 2)), layout="constrained")
        panels = figure.subplots(-(-len(places) // 2), 2, squeeze=False, sharex=True).flat
        for place, axes in zip(places, panels, strict=False):
            here = [line for line in lines if (line["request"], line["start"]) == place]
            for i, (side, marker) in enumerate(zip(SIDES, "os", strict=True)):
                at = np.arange(len(here)) + (0.14 if i else -0.14)
                values = [line[side] for line in here]
                reach = [line[f"{side}_high"] - line[side] for line in here]
                axes.errorbar(
                    values,
                    at,
                    xerr=np.nan_to_num(reach),
                    fmt=marker,
                    color=COLOURS[i],
                    label=f"by {side}",
                    markersize=5,
                )
            axes.set_yticks(range(len(here)), [line["method"] for line in here])
            axes.invert_yaxis()
            axes.set_title(" · ".join(place), fontsize=9)
            axes.set_xlim(left=0)
            axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlabel("disparity, points")
        for axes in list(panels):
            axes.set_visible(False)
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
        )
        figure.savefig(path, metadata={"Date": None})


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    made.add_argument("store", type=Path)
    made.add_argument("folder", type=Path)
    for side in SIDES:
        made.add_argument(f"--{side}", type=Path, nargs="+", required=True, metavar="PLAN")
    return made


if __name__ == "__main__":
    try:
        main(parser().parse_args())
    except SecateurError as error:
        raise SystemExit(str(error)) from None
