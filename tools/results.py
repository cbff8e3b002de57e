"""Write what a finished grid says into a folder: ``python tools/results.py STORE FOLDER``.

``table.csv`` has the columns of the paper's main table in percent, points and minutes, one for the number
of seeds and one for the train accuracy of the original; ``report.html`` is the report page of these runs.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from secateur.lab.review import all_runs
from secateur.report import Row, Spread, summarise, write_page

MEASURES = {"UA": "ua", "MIA-Efficacy": "mia_efficacy", "RA": "ra", "TA": "ta"}


def main(store: Path, folder: Path) -> None:
    records = all_runs(store)
    folder.mkdir(parents=True, exist_ok=True)
    lines = list(table(summarise(records)))
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    write_page(records, folder / "report.html")


def table(rows: list[Row]) -> Iterator[dict[str, object]]:
    trained = ""
    for row in rows:
        if row.kind == "original":
            trained = _mean(row.values.get("train"))
        line: dict[str, object] = {
            "scenario": row.request,
            "method": row.label,
            "sparsity": round(row.sparsity, 2),
        }
        for name, column in MEASURES.items():
            spread = row.values.get(name)
            line |= {column: _mean(spread), f"{column}_std": _std(spread)}
        took = row.values.get("RTE")
        yield line | {
            "disparity_average": _mean(row.values.get("disparity")),
            "rte_minutes": f"{took.mean / 60:.2f}" if took else "",
            "seeds": row.count,
            "train_accuracy_of_original": trained,
        }


def _mean(spread: Spread | None) -> str:
    return f"{spread.mean * spread.scale:.2f}" if spread else ""


def _std(spread: Spread | None) -> str:
    return f"{spread.std * spread.scale:.2f}" if spread and spread.std is not None else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
