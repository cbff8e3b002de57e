"""The price of not having the oracle: ``python tools/price.py STORE FOLDER --surrogate PLAN --oracle PLAN``.

The plans are those that ``secateur tune`` wrote, run as grids on one store; ``--hand`` adds one whose knobs
were chosen by hand, for methods that else have the same. ``tuned.csv`` is their main table, with what chose
the knobs, and the verdicts (``--table verdicts.csv --no-price`` is that alone). ``price.csv`` has a line for
each method: its knobs and its disparity on the real request as each chose them, and the price, the
surrogate's disparity less the oracle's, in points; means with 95 % intervals over seeds (Student's, each seed
with its own); of one seed that of the run, where an audit gave one, and the price has none. Searches that
chose knobs of their own for each seed are one line. ``price.svg`` draws them beside each other.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from curves import COLOURS
from matplotlib.figure import Figure
from results import interval, of_plan, table

from secateur.errors import SecateurError
from secateur.report import Row, Spread, summarise

SIDES = ("hand", "surrogate", "oracle")
TUNED = ("lr", "gamma", "noise", "damping")
Key = tuple[Any, ...]


def main(asked: argparse.Namespace) -> None:
    found = {side: rows(asked.store, plans, asked.set) for side in SIDES if (plans := getattr(asked, side))}
    by = {side: gathered(row for row in found[side] if row.kind == "method") for side in found}
    lines = list(priced(by))
    if not lines:
        raise SystemExit(
            "no method has runs of both sides in this store: run both kinds of plan, on one store"
        )
    asked.folder.mkdir(parents=True, exist_ok=True)
    write(asked.folder / asked.table, list(tuned(found)))
    if asked.no_price:
        return
    write(asked.folder / "price.csv", lines)
    draw(lines, list(found), asked.folder / "price.svg")


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: shown(value) for name, value in line.items()} for line in lines)


def shown(value: Any) -> Any:
    return value if not isinstance(value, float) else "" if math.isnan(value) else f"{value:.4g}"


def rows(store: Path, plans: Iterable[Path], sets: list[str]) -> list[Row]:
    """The plans of one side are one table."""
    return summarise([record for plan in plans for record in of_plan(store, plan, sets)])


def key(row: Row) -> Key:
    """Where a method stands, and the knobs that nobody chose."""
    rest = sorted((name, str(value)) for name, value in row.knobs.items() if name not in TUNED)
    return row.request, row.start, row.method, *rest


def gathered(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """Rows by place and method: more than one where a search for each seed chose knobs of its own."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def tuned(found: Mapping[str, list[Row]]) -> Iterator[dict[str, Any]]:
    """The main table: what no knob was chosen for once, the rest as each side chose it."""
    for i, (side, every) in enumerate(found.items()):
        for row, line in zip(every, table(every), strict=True):
            if row.kind == "method" or i == 0:
                chosen = (side, told(row)) if row.kind == "method" else ("", "")
                yield dict(zip(("chosen_by", "knobs"), chosen, strict=True)) | line


def priced(by: Mapping[str, Mapping[Key, list[Row]]]) -> Iterator[dict[str, Any]]:
    for place in by["surrogate"]:
        here = {side: rows[place] for side, rows in by.items() if place in rows}
        found = {side: disparities(rows) for side, rows in here.items()}
        found = {side: each for side, each in found.items() if each}
        if not {"surrogate", "oracle"} <= found.keys():
            continue
        seeds = sorted(set.intersection(*(set(each) for each in found.values())))
        shared = {side: over(each, seeds, here[side]) for side, each in found.items()}
        gaps = tuple(found["surrogate"][seed] - found["oracle"][seed] for seed in seeds)
        price = Spread(each=gaps, unit="points", better="lower")
        yield {
            **dict(zip(("request", "start", "method"), place[:3], strict=True)),
            "seeds": len(seeds),
            **{f"knobs_{side}": "; ".join(map(told, here[side])) if side in found else "" for side in by},
            **{f"{side}{end}": v for side in by for end, v in ends(shared.get(side), least=0.0).items()},
            **{f"price{end}": v for end, v in ends(price).items()},
        }


def told(row: Row) -> str:
    return ", ".join(f"{name} = {row.knobs[name]:.3g}" for name in TUNED if row.knobs.get(name))


def disparities(rows: Iterable[Row]) -> dict[int, float]:
    """Of each seed, which may stand in one row only: else two settings would be one."""
    found: dict[int, float] = {}
    for row in rows:
        each = row.values["disparity"].each if "disparity" in row.values else ()
        for seed, value in zip(row.seeds if each else (), each, strict=True):
            if seed in found:
                raise SystemExit(
                    f"expected one choice of knobs for a seed, got two of {row.method} on {row.request} "
                    f"under seed {seed}: give the plans of one search a side"
                )
            found[seed] = value
    return found


def over(each: Mapping[int, float], seeds: list[int], rows: list[Row]) -> Spread:
    """The disparities of some seeds; a lone run has ends of its own, those of all hold for no part."""
    spread = Spread(each=tuple(each[seed] for seed in seeds), unit="points", better="lower")
    whole = len(rows) == 1 and len(seeds) == len(rows[0].seeds)
    return rows[0].values["disparity"] if whole else spread


def ends(spread: Spread | None, least: float = -math.inf) -> dict[str, float]:
    """The mean and a 95 % interval; NaN where there is none."""
    if spread is None or not spread.n:
        return dict.fromkeys(("", "_low", "_high"), math.nan)
    low, high = interval(spread, least)
    return {"": spread.mean, "_low": low, "_high": high}


def draw(lines: list[dict[str, Any]], sides: list[str], path: Path) -> None:
    places = list(dict.fromkeys((line["request"], line["start"]) for line in lines))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 9}):
        figure = Figure(figsize=(10, 0.7 + 2.2 * -(-len(places) // 2)), layout="constrained")
        panels = figure.subplots(-(-len(places) // 2), 2, squeeze=False, sharex=True).flat
        for place, axes in zip(places, panels, strict=False):
            here = [line for line in lines if (line["request"], line["start"]) == place]
            for i, side in enumerate(sides):
                at = np.arange(len(here)) + 0.2 * (i - (len(sides) - 1) / 2)
                values, low, high = (
                    np.array([line[f"{side}{end}"] for line in here]) for end in ("", "_low", "_high")
                )
                axes.errorbar(
                    values,
                    at,
                    xerr=np.nan_to_num([values - low, high - values]),
                    fmt="D^s"[SIDES.index(side)],
                    color=COLOURS[SIDES.index(side)],
                    label=f"by {side}",
                    markersize=5,
                )
            axes.set_yticks(range(len(here)), [line["method"] for line in here])
            axes.set_ylim(len(here) - 0.5, -0.5)
            axes.set_title(" · ".join(place), fontsize=9)
            axes.set_xlim(left=0)
            axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlabel("disparity, points")
        for axes in list(panels):
            axes.set_visible(False)
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
        )
        figure.savefig(path, metadata={"Date": None})


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    made.add_argument("store", type=Path)
    made.add_argument("folder", type=Path)
    for side in SIDES:
        made.add_argument(f"--{side}", type=Path, nargs="+", required=side != "hand", metavar="PLAN")
    made.add_argument("--set", action="append", default=[], help="for every plan, as secateur grid was given")
    made.add_argument("--table", default="tuned.csv", help="name of the main table")
    made.add_argument("--no-price", action="store_true", help="the main table alone")
    return made


if __name__ == "__main__":
    try:
        main(parser().parse_args())
    except SecateurError as error:
        raise SystemExit(str(error)) from None
