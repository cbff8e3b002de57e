"""Ours beside what was published, and by hand beside tuned: ``python tools/beside.py docs/results/small``.

Fills the two tables of ``main/README.md`` from ``main/main_table.csv`` (knobs by hand, time, verdicts),
``main/paper.csv`` (the published cells; of l1-sparse, which it has none of, ``main/salun.csv``) and
``tuned/price.csv`` (knobs by surrogate and by oracle). Nothing is computed but the share of retraining.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

BEGIN, END = "<!-- tools/beside.py: begin -->", "<!-- tools/beside.py: end -->"
MEASURES = {
    "UA": "ua",
    "MIA-Efficacy": "mia_efficacy",
    "RA": "ra",
    "TA": "ta",
    "disparity": "disparity_average",
}
REQUESTS = ("class 0", "random 10 %")
JOINED = "\u00a0"  # a space at which no line is broken
Line = dict[str, str]


def main(folder: Path) -> None:
    needed = ("main/README.md", "main/main_table.csv", "main/paper.csv", "main/salun.csv", "tuned/price.csv")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise SystemExit(
            f"expected {', '.join(missing)} in {folder}, got none: name the folder of the studies"
        )
    readme = folder / "main" / "README.md"
    words = readme.read_text(encoding="utf-8")
    if BEGIN not in words or END not in words:
        raise SystemExit(f"expected the lines {BEGIN} and {END} in {readme}, for the tables to stand between")
    head, rest = words.split(BEGIN)
    _, tail = rest.split(END)
    readme.write_text(f"{head}{BEGIN}\n\n{tables(folder)}\n\n{END}{tail}", encoding="utf-8")


def tables(folder: Path) -> str:
    ours = lines(folder / "main" / "main_table.csv")
    # a published cell that has no run of ours is of the request as the paper calls it
    called = {"one class": REQUESTS[0]}
    published = {
        (
            called.get(line["request"], line["request"]),
            line["method"],
            line["start"] == "dense",
            line["measure"],
        ): line
        for line in [*lines(folder / "main" / "salun.csv"), *lines(folder / "main" / "paper.csv")]
        if line["published_mean"]
    }
    tuned = {
        (line["request"], line["method"], line["start"] == "dense"): line
        for line in lines(folder / "tuned" / "price.csv")
    }
    return "\n\n".join(
        "\n".join(table([line for line in ours if line["scenario"] == request], published, tuned))
        for request in REQUESTS
    )


def lines(path: Path) -> list[Line]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(
    ours: list[Line],
    published: dict[tuple[str, str, bool, str], Line],
    tuned: dict[tuple[str, str, bool], Line],
) -> Iterator[str]:
    request = ours[0]["scenario"]
    yield f"| {request} | start | " + " | ".join(MEASURES) + " | RTE, minutes | tuned: disparity | verdicts |"
    yield "| --- | --- |" + " ---: |" * (len(MEASURES) + 1) + " --- | --- |"
    fresh = {line["sparsity"]: line for line in ours if line["method"] == "retrain"}
    for label in dict.fromkeys(line["method"] for line in ours):
        for line in sorted((line for line in ours if line["method"] == label), key=lambda x: x["sparsity"]):
            dense = float(line["sparsity"]) == 0
            # published and tuned is l1-sparse by subgradient
            method = label.removesuffix(" (penalty=subgradient)")
            cells = [
                beside(line, column, published.get((request, method, dense, name)))
                for name, column in MEASURES.items()
            ]
            share = published.get((request, method, dense, "RTE"))
            cells.append(time(line, fresh[line["sparsity"]], share))
            chosen = tuned.get((request, method, dense))
            cells += [price(chosen) if chosen else "", line["verdicts"]]
            yield f"| {label} | {'dense' if dense else '95 %'} | " + " | ".join(cells) + " |"


def beside(line: Line, column: str, published: Line | None) -> str:
    """``ours ±std (published ±std)``; a dash where there is no result."""
    told = spread(line[column], line[f"{column}_std"]) if line[column] else "—"
    if published is None:
        return told
    return f"{told} ({spread(published['published_mean'], published['published_std'])})"


def time(line: Line, fresh: Line, published: Line | None) -> str:
    """The median over seeds, for they ran beside other work; the share of retraining, and the published."""
    took = "rte_minutes_median"
    if not line[took] or line is fresh:
        return line[took]
    theirs = f" ({float(published['published_mean']):.1f}{JOINED}%)" if published else ""
    return f"{line[took]}, {100 * float(line[took]) / float(fresh[took]):.0f}{JOINED}%{theirs}"


def price(line: Line) -> str:
    surrogate, oracle, paid, low, high = (
        f"{float(line[name]):.1f}" for name in ("surrogate", "oracle", "price", "price_low", "price_high")
    )
    if line["knobs_surrogate"] == line["knobs_oracle"]:
        return f"{surrogate} by either"
    return f"{surrogate} by surrogate, {oracle} by oracle: price {paid} ({low} to {high})"


def spread(mean: str, std: str) -> str:
    return f"{float(mean):.1f}" + (f"{JOINED}±{float(std):.1f}" if std else "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
