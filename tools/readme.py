"""Fill the README's table and picture from a finished demo: ``python tools/readme.py [STORE]``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from secateur.lab.review import all_runs
from secateur.report import Row, summarise, write_page

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- demo-table:begin -->", "<!-- demo-table:end -->"
COLUMNS = ("UA", "MIA-Efficacy", "RA", "TA")


def main(store: Path) -> None:
    records = [record for record in all_runs(store) if record.plan["data"]["use"] == "digits"]
    readme = ROOT / "README.md"
    head, rest = readme.read_text().split(BEGIN)
    _, tail = rest.split(END)
    readme.write_text(f"{head}{BEGIN}\n{table(summarise(records))}\n{END}{tail}")
    with tempfile.TemporaryDirectory() as folder:
        page = write_page(records, Path(folder) / "report.html")
        shot = ROOT / "docs/images/report.png"
        shot.parent.mkdir(parents=True, exist_ok=True)
        quiet = [
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
        ]
        size, target = "--window-size=1180,2050", f"--screenshot={shot}"
        subprocess.run(
            [
                "chromium",
                "--headless=new",
                *quiet,
                f"--user-data-dir={folder}/profile",
                size,
                target,
                f"file://{page}",
            ],
            check=True,
            capture_output=True,
        )


def table(rows: list[Row]) -> str:
    lines = ["| request | start | method | " + " | ".join(COLUMNS) + " | disparity | RTE, s | verdicts |"]
    lines.append("| --- " * 3 + "| ---: " * 6 + "| --- |")
    for row in rows:
        numbers = [
            str(row.values[name]) if name in row.values else "" for name in (*COLUMNS, "disparity", "RTE")
        ]
        lines.append("| " + " | ".join([row.request, row.start, row.label, *numbers, row.verdict]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".secateur"))
