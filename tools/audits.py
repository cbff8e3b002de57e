"""What audits say of every run of a store: ``python tools/audits.py STORE FOLDER [--tier 2 --models 32]``.

Without ``--tier`` the findings are those of the runs' own plans. ``audits.csv`` has a line for each run and
audit: its verdict and leading number, the original's number, and what controls said. ``table.md`` has a line
for each run, with all verdicts.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from secateur.audit import Audit, overall
from secateur.lab.review import all_runs
from secateur.lab.tiers import audit_tier, audits_up_to
from secateur.record import Finding, Record
from secateur.report import names

# of each audit the number that a reader looks at first
LEADING = {
    "retrain-gap": "disparity",
    "mia-efficacy": "MIA-Efficacy",
    "threshold": "phi.AUC",
    "tug-of-war": "ToW",
    "divergence": "JS.forget",
    "rmia": "AUC",
    "iam": "completeness",
    "retain-exposure": "shift",
    "epsilon": "epsilon",
    "klom": "KLoM.forget",
    "u-lira": "AUC",
}


def main(store: Path, folder: Path, tier: int | None, models: int) -> None:
    records = all_runs(store)
    folder.mkdir(parents=True, exist_ok=True)
    lines, table = [], []
    methods = names.methods(records)
    for i, (record, (method, detail)) in enumerate(zip(records, methods, strict=True), start=1):
        start = f"{100 * record.sparsity:.0f} % sparse" if record.sparsity > 0.005 else "dense"
        who = record.request, start, f"{method} {detail}".strip(), names.seed(record)
        findings = judged(store, record, tier, models)
        lines += list(numbers(who, findings))
        table.append((*who, {f.audit: f.verdict for f in findings if f.verdict}, overall(findings)[0]))
        print(f"{i}/{len(records)}", *table[-1], flush=True)
    with (folder / "audits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    (folder / "table.md").write_text(markdown(table))


def judged(store: Path, record: Record, tier: int | None, models: int) -> list[Finding]:
    if tier is None:
        return list(record.findings)
    audits = audits_up_to(tier, frozenset(record.split["rows"]))
    return audit_tier(store, record.key, [fewer(audit, models) for audit in audits])


def fewer(audit: Audit, models: int) -> Audit:
    """The same audit, of a bank of so many models."""
    return type(audit)(models=models) if audit.needs.tier == 2 else audit


def numbers(who: tuple[str, str, str, int], findings: Sequence[Finding]) -> Iterator[dict[str, object]]:
    for finding in findings:
        name = LEADING.get(finding.audit)
        if name is None or name not in finding.estimates:
            continue
        found, before = finding.estimates[name], finding.estimates.get(f"before.{name}")
        said = {control.name: control for control in finding.controls}
        held = said.get("held-out retrains")
        fakes = [control for control in finding.controls if control.must == "not pass"]
        yield dict(zip(("request", "start", "method", "seed"), who, strict=True)) | {
            "audit": finding.audit,
            "verdict": finding.verdict or "",
            "number": name,
            "value": f"{found.value:.4g}",
            "low": f"{found.low:.4g}",
            "high": f"{found.high:.4g}",
            "of_original": f"{before.value:.4g}" if before else "",
            "held_out_passed": f"{held.said.get('pass', 0)} of {sum(held.said.values())}" if held else "",
            "fakes_passed": "; ".join(control.name for control in fakes if not control.held),
        }


def markdown(table: Sequence[tuple[str, str, str, int, dict[str, str], str]]) -> str:
    audits = list(dict.fromkeys(name for *_, verdicts, _ in table for name in verdicts))
    lines = [["request", "start", "method", "seed", *audits, "all"]]
    lines += [["---"] * len(lines[0])]
    for *who, verdicts, whole in sorted(table, key=lambda line: line[:4]):
        lines.append([*map(str, who), *(verdicts.get(name, "") for name in audits), f"**{whole}**"])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tier", type=int, choices=(0, 1, 2))
    parser.add_argument("--models", type=int, default=32, help="of each kind in a bank")
    asked = parser.parse_args()
    main(asked.store, asked.folder, asked.tier, asked.models)
