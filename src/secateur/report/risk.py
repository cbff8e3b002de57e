"""Risk row by row: which number tells it, and which forget rows are most exposed."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secateur import attack
from secateur.evidence import Evidence
from secateur.outputs import Outputs
from secateur.record import Finding
from secateur.report.spread import NONE, fixed

Numbers = NDArray[np.float64]
Pictures = Mapping[int, NDArray[np.uint8]]
MOST = 20  # rows in the table
_SIDE = 96  # pixels: a larger picture is made smaller
# by row, strongest first: a number's name, its column, its axis, what it means
_NUMBERS = {
    "forget/epsilon": (
        "Epsilon, nats",
        "lower bound on epsilon, nats",
        "How surely unlearned models can be told from retrained ones by this row alone: a lower bound on "
        "epsilon, each row by itself, not corrected for their number. 0: nothing is shown of the row.",
    ),
    "forget/exposure": (
        "Exposure",
        "exposure (RMIA score of the candidate)",
        "The row's RMIA score: the share of unseen rows that the candidate fits less than this one, beyond "
        "what the retrains lead one to expect. An exact retrain spreads its rows over 0 to 1.",
    ),
}
_SHIFT = (
    "Shift, nats",
    "shift of phi, nats",
    "How much more the candidate prefers the row's label than the retrains do on average: phi = log p(label) "
    "− log p(all others), candidate less retrains. About 0: as if never seen; far above: still known; far "
    "below: unlearned too much.",
)


class Risk(NamedTuple):
    """One number for each forget row.

    Attributes:
        audit: Which audit gave it; empty for the shift, which needs none.
        name: As the finding names it; "shift".
        column: The head of its column.
        axis: The label of its axis.
        told: What it means.
        values: [n], in the order of row ids; high is exposed.
        null: The same of each retrain against the others, pooled; empty where it is not known.
    """

    audit: str
    name: str
    column: str
    axis: str
    told: str
    values: Numbers
    null: Numbers


class Exposed(NamedTuple):
    """One forget row, as text: the confidences are those in its label."""

    row: int
    label: int
    candidate: str
    original: str
    retrains: str
    number: str
    picture: str


def risk(evidence: Evidence, findings: Sequence[Finding]) -> Risk | None:
    """The strongest number by row that there is.

    Args:
        evidence: What the models said.
        findings: Of audits, some of which give numbers by row.

    Returns:
        Epsilon, where it shows anything of any row; else the exposure of RMIA; else how far the candidate
        lies from the retrains; None without retrains, or forget rows.
    """
    count = len(evidence.after["forget"]) if "forget" in evidence.after else 0
    if not count:
        return None
    for name, told in _NUMBERS.items():
        for finding in findings:
            values = np.array(finding.rows.get(name, ()), dtype=np.float64)
            shows = np.isfinite(values).any() and (name != "forget/epsilon" or np.nanmax(values) > 0)
            if len(values) == count and shows:
                return Risk(finding.audit, name, *told, values, np.zeros(0))
    shift = _shift(evidence)
    if shift is None:
        return None
    out = _of_retrains(evidence)
    null = np.zeros(0)
    if len(out) > 1:
        null = np.concatenate([one - np.delete(out, i, axis=0).mean(axis=0) for i, one in enumerate(out)])
    return Risk("", "shift", *_SHIFT, shift, null)


def most_exposed(evidence: Evidence, findings: Sequence[Finding]) -> list[int]:
    """The ids of the most exposed forget rows, twenty at most, the most exposed first.

    Args:
        evidence: What the models said.
        findings: Of audits.

    Returns:
        Row ids; none where no number tells.
    """
    found = risk(evidence, findings)
    if found is None:
        return []
    ids = np.sort(evidence.after["forget"].rows)
    return [int(ids[at]) for at in _order(found, evidence)]


def exposed(evidence: Evidence, found: Risk | None, pictures: Pictures) -> list[Exposed]:
    """The table of the most exposed forget rows.

    Args:
        evidence: What the models said.
        found: From ``risk``.
        pictures: Row id to picture.

    Returns:
        Twenty rows at most.
    """
    if found is None:
        return []
    said = evidence.after["forget"]
    by_id = np.argsort(said.rows)
    candidate, original = (_confidence(model["forget"]) for model in (evidence.after, evidence.before))
    retrains = [_confidence(model.outputs["forget"]) for model in evidence.retrains]
    lines = []
    for at in _order(found, evidence):
        row = int(said.rows[by_id][at])
        lines.append(
            Exposed(
                row=row,
                label=int(said.labels[by_id][at]),
                candidate=_percent(candidate[at]),
                original=_percent(original[at]),
                retrains=_percent(np.mean([one[at] for one in retrains])) if retrains else NONE,
                number=fixed(float(found.values[at]), 3 if found.name == "forget/exposure" else 2),
                picture=png(pictures[row]) if row in pictures else "",
            )
        )
    return lines


def png(picture: NDArray[np.uint8]) -> str:
    """A picture as a data URI.

    Args:
        picture: [h, w] or [h, w, 3].

    Returns:
        "data:image/png;base64,...".
    """
    image = Image.fromarray(np.ascontiguousarray(picture, dtype=np.uint8))
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def sides(model: Mapping[str, Outputs]) -> tuple[Numbers, Numbers] | None:
    """Phi of forget rows, and of test rows of their classes; None where there are none of either."""
    if not all(view in model and len(model[view]) for view in ("forget", "test")):
        return None
    return model["forget"].phi_by_row, attack.matched(model["forget"], model["test"]).phi_by_row


def _order(found: Risk, evidence: Evidence) -> list[int]:
    """Positions by number, then by how far the candidate lies from the retrains, then by row id."""
    first = np.where(np.isfinite(found.values), found.values, -np.inf)
    shift = _shift(evidence)
    then = evidence.after["forget"].phi_by_row if shift is None else shift
    return [int(at) for at in np.lexsort((-then, -first))[:MOST]]


def _shift(evidence: Evidence) -> Numbers | None:
    out = _of_retrains(evidence)
    shift: Numbers | None = evidence.after["forget"].phi_by_row - out.mean(axis=0) if len(out) else None
    return shift


def _of_retrains(evidence: Evidence) -> Numbers:
    return np.array([model.outputs["forget"].phi_by_row for model in evidence.retrains])


def _confidence(said: Outputs) -> Numbers:
    return said.confidence[np.argsort(said.rows)]


def _percent(share: np.floating[Any]) -> str:
    return f"{fixed(100 * float(share), 1)} %"
