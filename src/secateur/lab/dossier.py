"""All that the page of one audited run shows: its evidence, every audit's finding, pictures of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from secateur.errors import SecateurError
from secateur.evidence import Evidence, Reference
from secateur.lab.review import find_run, kept_audits, kept_findings, stored_evidence
from secateur.record import Finding, Record
from secateur.report.risk import Pictures, most_exposed

if TYPE_CHECKING:
    from secateur.lab.execute import Lab
    from secateur.lab.plan import Plan
    from secateur.run import Progress
    from secateur.split import Split


class Dossier(NamedTuple):
    """What is known of one run.

    Attributes:
        record: The run's.
        evidence: What its models said, with all models retrained for it that the store still finds.
        findings: One for each audit.
        pictures: Row id to picture, [h, w] or [h, w, 3], of the most exposed forget rows.
    """

    record: Record
    evidence: Evidence
    findings: list[Finding]
    pictures: Pictures


def gather(
    store: Path,
    run: str,
    made: Sequence[Finding] = (),
    *,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Dossier:
    """Gather what is known of a run.

    Args:
        store: The folder of results.
        run: The run's key, or enough of its beginning.
        made: Findings that were just made of it.
        progress: Where to show how far loading has come.
        tell: Called with a sentence where something could not be had.

    Returns:
        The dossier. Without the run's data, or on another kind of machine, it lacks the pictures and the
        models that ``secateur audit --tier`` retrained. Such models that are gone from the store are made
        again.

    Raises:
        DataError: No run has this key, or several do.
        StoreError: Stored evidence or findings are not what was written.
    """
    record = find_run(store, run)
    evidence = stored_evidence(store, record)
    findings = merged(record.findings, kept_findings(store, record.key), made)
    retrained = max((told["models"]["retrained"] for told in kept_audits(store, record.key)), default=0)
    try:
        lab, plan = _opened(store, record, max(retrained, 1), progress)
        ground = lab.ground(plan)  # loads the data
        if retrained > len(evidence.retrains):
            evidence = replace(evidence, references=_references(lab, plan, retrained))
        pictures = _pictures(ground.split, most_exposed(evidence, findings))
    except SecateurError as error:
        tell(f"the page does without the run's data: {error}")
        pictures = {}
    return Dossier(record, evidence, findings, pictures)


def merged(*sources: Sequence[Finding]) -> list[Finding]:
    """One finding for each audit: that which rests on most models; of equals, the last.

    Args:
        sources: Findings, older ones first.

    Returns:
        Findings, by the order in which audits first come.
    """
    found: dict[str, Finding] = {}
    for finding in (finding for source in sources for finding in source):
        held = found.get(finding.audit)
        if held is None or _rests_on(finding) >= _rests_on(held):
            found[finding.audit] = finding
    return list(found.values())


def _rests_on(finding: Finding) -> tuple[bool, int]:
    """Whether it has numbers at all, and how many models its bands and nulls are made of."""
    counts = [e.n for name, e in finding.estimates.items() if name.startswith(("band.", "null."))]
    return bool(finding.estimates), max(counts, default=0)


def _opened(store: Path, record: Record, retrained: int, progress: Progress | None) -> tuple[Lab, Plan]:
    from secateur.lab.execute import Lab  # these wait for torch, which reading a store does not
    from secateur.lab.read import read_plan
    from secateur.lab.store import Store

    asks = [{"use": "retrain-gap", "references": retrained}]  # so that the plan says how to retrain
    plan = read_plan({**record.plan, "audit": asks}, source=f"the plan of run {record.key[:12]}")
    return Lab(Store(store), progress), plan


def _references(lab: Lab, plan: Plan, count: int) -> list[Reference]:
    from secateur.lab.bank import Bank, Wanted

    return Bank(lab, plan).make(Wanted(retrained=count))


def _pictures(split: Split, wanted: Sequence[int]) -> Pictures:
    """Those of the wanted rows, where rows are images of bytes."""
    import torch

    try:
        x, _, _ = split.forget.table(draws=0)
    except SecateurError:  # a mapping of tensors
        return {}
    if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
        return {}
    found = {}
    for images, _, rows in split.forget.once(batch=64):
        assert isinstance(images, torch.Tensor)
        for image, row in zip(images, rows.tolist(), strict=True):
            if row in wanted:
                pixels = (image.float() * 255).round().byte().movedim(0, -1).numpy()
                found[row] = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    return found
