"""Numbers that others published, as data: see the README beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from secateur.errors import UsageError, nearest
from secateur.report.spread import percent

FOLDER = Path(__file__).parent / "published"
MEASURES = {"UA": "ua", "MIA-Efficacy": "mia_efficacy", "RA": "ra", "TA": "ta"}


class Published(NamedTuple):
    """One row of a published table, or one point of a figure.

    Attributes:
        source: Where it stands: "table 1".
        scenario: "class" (all rows of one), "random", or "trojan" (the poisoned rows).
        share: Of the training rows that is forgotten.
        method: As ours are named; "original" for the model before unlearning.
        sparsity: Share of zeros, of convolution weights.
        values: Measure to mean and standard deviation, in percent; None: not told.
        disparity: Mean absolute gap to Retrain of the four means, in points; None: not told.
        minutes: RTE on the authors' machine; None: not told.
    """

    source: str
    scenario: str
    share: float
    method: str
    sparsity: float
    values: Mapping[str, tuple[float, float | None]]
    disparity: float | None = None
    minutes: float | None = None

    @property
    def asked(self) -> str:
        """What was asked to be forgotten, in words."""
        return {"class": "one class", "trojan": "Trojan"}.get(self.scenario, f"random {percent(self.share)}")

    @property
    def start(self) -> str:
        """What unlearning started from, in words."""
        return "dense" if self.sparsity == 0 else f"{percent(self.sparsity)} sparse"


class Study(NamedTuple):
    """A publication.

    Attributes:
        title: Who and where.
        note: How its numbers came here, in sentences.
        cells: What it says.
        trials: Runs that each mean of its tables is over; None: not known to us.
    """

    title: str
    note: str
    cells: tuple[Published, ...]
    trials: int | None


def study(name: str) -> Study:
    """A publication by the name that ``--compare`` takes.

    Args:
        name: "paper" or "salun".

    Returns:
        It, with its numbers.

    Raises:
        UsageError: None is called so.
    """
    if name not in _STUDIES:
        raise UsageError(f'no published results are called "{name}", {nearest(name, _STUDIES)}')
    title, note, trials = _STUDIES[name]
    cells = [*_table1(), *_figure6()] if name == "paper" else [*_salun()]
    return Study(title, note, tuple(cells), trials)


_STUDIES = {
    "paper": (
        "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv 2304.04934",
        "Table 1 holds the authors' numbers, mean and standard deviation of 10 trials. Figure 6 was read off "
        "the plot by eye, within 1 point.",
        10,
    ),
    "salun": (
        "Fan et al., SalUn, ICLR 2024",
        "Its table 1 holds the authors' numbers, mean and standard deviation.",
        None,
    ),
}


def _table1() -> Iterator[Published]:
    for line in _lines("table1.csv"):
        values = _values(line)
        yield Published(
            "table 1",
            line["scenario"],
            0.1,
            line["method"],
            float(line["sparsity"]),
            values,
            float(line["disparity_average"]),
            float(line["rte_minutes"]),
        )


def _salun() -> Iterator[Published]:
    for line in _lines("salun_table1.csv"):
        share, gap, took = (float(line[key]) for key in ("forget_share", "average_gap", "rte_minutes"))
        yield Published("table 1", "random", share, line["method"], 0.0, _values(line), gap, took)


def _figure6() -> Iterator[Published]:
    for line in _lines("figure6.csv"):
        values = {name: (float(line[f"{name.lower()}_percent"]), None) for name in ("ASR", "SA")}
        yield Published("figure 6", "trojan", 0.1, line["series"], float(line["sparsity"]), values)


def _values(line: Mapping[str, str]) -> dict[str, tuple[float, float | None]]:
    return {name: (float(line[key]), float(line[f"{key}_std"])) for name, key in MEASURES.items()}


def _lines(file: str) -> list[dict[str, str]]:
    with (FOLDER / file).open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))
