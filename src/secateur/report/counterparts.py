"""Which published cell a row of ours answers, and in what its setting differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.record import Record
from secateur.report import names
from secateur.report.literature import Published
from secateur.report.rows import Row
from secateur.report.spread import percent

# what the published settings were; the second paper repeats those of the first
NETWORK, ROWS, EPOCHS, DATA = "resnet18", 45_000, 182, "cifar10"
UNLEARNING = {"fine-tune": 10, "gradient-ascent": 5, "l1-sparse": 10, "retrain": 182}
NEAR = 0.1  # as far as our sparsity may lie from the published one
# a knob that makes another method of one, where it is not zero
VARIANTS = {"retrain": ("smoothing", "sam"), "gradient-ascent": ("gamma",)}


def counterpart(row: Row, cells: Sequence[Published]) -> tuple[Published | None, str]:
    """The published cell that a row answers.

    Args:
        row: Ours.
        cells: What was published.

    Returns:
        The cell, and nothing; or None, and why there is none.
    """
    if row.kind == "reference" or not row.records:
        return None, "retrained for the audits: the published Retrain is compared with runs of retrain"
    run = row.records[0]
    data = names.mapping(run.plan.get("data"))
    if data.get("use") != DATA:
        return None, f"published for {DATA} only"
    scenario, share = _asked(run, data)
    fitting = [c for c in cells if c.scenario == scenario and abs(c.share - share) < 0.005]
    if not fitting:
        return None, "nothing published for such a request"
    fitting = [c for c in fitting if c.method == row.method]
    if not fitting and row.kind == "original":
        return None, "nothing published of the model before unlearning"
    if not fitting:
        return None, f"nothing published of {row.method} for such a request"
    knobs = [f"{name} = {row.knobs[name]:g}" for name in VARIANTS.get(row.method, ()) if row.knobs.get(name)]
    if knobs:
        return None, f"a variant without a published number: {', '.join(knobs)}"
    sparse = [c for c in fitting if (c.sparsity > 0) == (row.sparsity > 0)]
    near = min(sparse, key=lambda c: abs(c.sparsity - row.sparsity), default=None)
    if near is None or abs(near.sparsity - row.sparsity) > NEAR:
        at = ", ".join(percent(c.sparsity) for c in fitting)
        return None, f"published at a sparsity of {at} only"
    return near, ""


def _asked(run: Record, data: Mapping[str, Any]) -> tuple[str, float]:
    """The scenario of a request, and its share of the training rows."""
    forget, counts = names.mapping(data.get("forget")), names.counts(run)
    rows = counts.get("forget", 0) + counts.get("retain", 0)
    share = counts.get("forget", 0) / rows if rows else math.nan
    if data.get("poison"):
        return "trojan", share
    how = forget.get("how")
    if how == "class":  # one of ten is published; two of a hundred rows would be another request
        return ("class" if len(forget.get("classes", ())) == 1 else "classes"), share
    return str(how), share


def differences(row: Row, cell: Published) -> list[str]:
    """In what the setting of a row differs from that of the published cell, in words."""
    run = row.records[0]
    data, counts = names.mapping(run.plan.get("data")), names.counts(run)
    model = str(names.mapping(run.plan.get("model")).get("use"))
    rows = counts.get("forget", 0) + counts.get("retain", 0)
    before = run.steps[: run.unlearn]
    trained = next((step for step in before if step.step == "train"), None)
    told = []
    if model != NETWORK:
        told.append(f"network {model}, published {NETWORK}")
    if rows and rows != ROWS:
        told.append(f"{rows:,} training rows, published {ROWS:,}")
    if data.get("augment") is False:
        told.append("no crop and flip, published with both")
    if trained is None:
        told.append("trained elsewhere")
    elif trained.knobs.get("epochs") != EPOCHS:
        told.append(f"{trained.knobs.get('epochs')} epochs of training, published {EPOCHS}")
    if round(abs(row.sparsity - cell.sparsity), 2) > 0.005:
        told.append(f"{percent(row.sparsity)} sparse, published {percent(cell.sparsity)}")
    masks = [step.step for step in before if step.step != "train"]
    if row.sparsity > 0 and masks and set(masks) != {"magnitude"}:
        told.append(f"pruned by {', '.join(dict.fromkeys(masks))}, published magnitude")
    epochs, theirs = row.knobs.get("epochs"), UNLEARNING.get(row.method)
    if epochs is not None and theirs and row.kind != "original" and epochs != theirs:
        told.append(f"{epochs} epochs of {row.method}, published {theirs}")
    if row.knobs.get("mask") == "dense" and row.sparsity > 0:
        told.append("retrained dense, published under the mask")
    return told
