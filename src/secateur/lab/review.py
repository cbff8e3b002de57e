"""Judge a finished run again, from its stored evidence: no model, no GPU, no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from secateur.audit import Audit, judge
from secateur.audits import shelf
from secateur.errors import DataError, nearest
from secateur.evidence import Evidence, Reference
from secateur.lab.store import Store
from secateur.outputs import Outputs, load_outputs
from secateur.record import Finding, Record, read_finding


def audit_run(store: Path, run: str, audits: Sequence[Audit] | None = None) -> list[Finding]:
    """Run audits over what a finished run stored. The run's own record stays as it is.

    Args:
        store: The folder of results.
        run: The run's key, or enough of its beginning.
        audits: What to ask, of references that the run made; None: every audit that ships and for whose views
            the run has rows.

    Returns:
        One finding for each audit.

    Raises:
        DataError: No run has this key, several do, or an audit needs a view that was not observed.
        StoreError: Stored evidence is not what was written.
    """
    evidence = stored_evidence(store, find_run(store, run))
    if audits is None:
        every = [shelf[name]() for name in shelf]
        audits = [audit for audit in every if audit.needs.views <= set(evidence.after)]
    return judge(audits, evidence)


def stored_evidence(store: Path, record: Record) -> Evidence:
    """What the models of a finished run said, as it was stored.

    Args:
        store: The folder of results.
        record: The run's.

    Returns:
        The evidence, with the retrained models that the run itself made.

    Raises:
        StoreError: It is not what was written.
    """
    said = {name: _read(Store(store), path) for name, path in record.files.items() if name != "weights"}
    retrained = [
        Reference.retrained(outputs, outputs["retain"])
        for name, outputs in said.items()
        if name.startswith("retrain[")
    ]
    return Evidence(
        before=said["before"], after=said["after"], references=retrained, measures=record.measures
    )


FINDINGS = "findings.json"


def kept_findings(store: Path, run: str) -> list[Finding]:
    """What ``secateur audit --tier`` found of a run, the newest of each audit.

    Args:
        store: The folder of results.
        run: The run's whole key.

    Returns:
        One finding for each audit, by name.

    Raises:
        StoreError: Findings are not what was written.
    """
    found: dict[str, Finding] = {}
    for told in kept_audits(store, run):
        found |= {finding["audit"]: read_finding(finding) for finding in told["findings"]}
    return [found[name] for name in sorted(found)]


def kept_audits(store: Path, run: str) -> Iterator[dict[str, Any]]:
    """What each ``secateur audit --tier`` of a run left, oldest first.

    Args:
        store: The folder of results.
        run: The run's whole key.

    Yields:
        "run", "models" (kind to count) and "findings", as plain values.
    """
    shelf = Store(store)
    entries = [path for path in (store / "audits").glob("*") if not path.name.startswith(".")]
    for path in sorted(entries, key=lambda path: path.stat().st_mtime):
        told = json.loads(shelf.read("audits", path.name, FINDINGS))
        if told["run"] == run:
            yield told


def find_run(store: Path, run: str) -> Record:
    """The record of a run.

    Args:
        store: The folder of results.
        run: The run's key, or enough of its beginning.

    Returns:
        The record, its checksum verified.

    Raises:
        DataError: No run has this key, or several do.
        StoreError: The record is not what was written.
    """
    keys = _keys(store)
    found = [key for key in keys if key.startswith(run)] if run else []
    if len(found) != 1:
        short = [key[:12] for key in keys]
        told = (
            f"{len(found)} runs begin so: give more of the key"
            if found
            else nearest(run, short)
            if short
            else "there are no runs yet: run a plan first"
        )
        raise DataError(f'expected the key of one run in "{store}", got "{run}": {told}')
    return _record(store, found[0])


def all_runs(store: Path) -> list[Record]:
    """The records of all runs, oldest first.

    Args:
        store: The folder of results.

    Returns:
        The records, their checksums verified.

    Raises:
        DataError: There is none.
        StoreError: One of them is not what was written.
    """
    keys = _keys(store)
    if not keys:
        raise DataError(f'expected runs in "{store}", found none: run a plan first, or name its --store')
    return sorted((_record(store, key) for key in keys), key=lambda record: record.created)


def _keys(store: Path) -> list[str]:
    found = store.glob("runs/*")
    return sorted(path.name for path in found if path.is_dir() and not path.name.startswith("."))


def _record(store: Path, key: str) -> Record:
    return Record.from_json(Store(store).read("runs", key, "record.json").decode())


def _read(store: Store, path: str) -> dict[str, Outputs]:
    _, key, name = path.split("/")
    store.read("outputs", key, name)  # verifies it
    return load_outputs(store.root / path)
