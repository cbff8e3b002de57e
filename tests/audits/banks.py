"""Synthetic banks: what each model says of each row is a normal draw about the row's own level."""

from __future__ import annotations

import numpy as np

from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs


def outputs(phi, sizes, classes=3):
    """Outputs of forget, retain and test whose ``logit_confidence`` is phi [n]; row ids count up."""
    told, start = {}, 0
    for view, size in sizes.items():
        rows = np.arange(start, start + size)
        logits = np.full((size, classes), -np.log(classes - 1))
        logits[np.arange(size), rows % classes] = phi[rows]
        told[view] = Outputs(logits, rows % classes, rows)
        start += size
    return told


def bank(
    seed=0,
    *,
    models=40,
    sizes=(30, 90, 60),
    kinds="fixed random",
    shift=3.0,
    left=0.0,
    both=False,
    damage=0.0,
):
    """Evidence with banks, whose answers are known.

    Args:
        seed: Of all numbers.
        models: K, of each kind.
        sizes: Rows of forget, retain and test.
        kinds: "fixed": retrained, original and unlearned; "random": shadows before and after a request.
        shift: By how many nats a row that was trained on lies higher.
        left: Share of it that is left after unlearning; below 0: unlearned too much.
        both: What is left goes up for one row and down for the next.
        damage: By how many nats unlearned models lie lower on retained rows.

    Returns:
        The evidence.
    """
    rng = np.random.default_rng(seed)
    sizes = dict(zip(("forget", "retain", "test"), sizes, strict=True))
    total, pool = sum(sizes.values()), np.arange(sizes["forget"] + sizes["retain"])
    forget, retain = pool[: sizes["forget"]], pool[sizes["forget"] :]
    level, spread = rng.normal(1, 1.5, total), rng.uniform(0.6, 1.2, total)
    sign = np.where(np.arange(total) % 2, -1, 1) if both else np.ones(total)

    def model(trained, gone=()):
        phi = level + spread * rng.normal(size=total) + 0.1 * rng.normal()
        known = np.isin(np.arange(total), trained)
        unlearned = np.isin(np.arange(total), gone)
        phi += np.where(unlearned, shift * left * sign, np.where(known, shift, 0.0))
        phi -= damage * (known & ~unlearned) * (len(gone) > 0)
        return outputs(phi, sizes)

    references = []
    for _ in range(models if "fixed" in kinds else 0):
        references += [
            Reference("retrained", model(retain), retain),
            Reference("original", model(pool), pool),
            Reference("unlearned", model(pool, forget), pool),
        ]
    for _ in range(models if "random" in kinds else 0):
        half = np.sort(rng.choice(pool, len(pool) // 2, replace=False))
        gone = np.sort(rng.choice(half, len(half) // 4, replace=False))
        references += [
            Reference("shadow", model(half), half),
            Reference("unlearned-shadow", model(half, gone), half, gone),
        ]
    return Evidence(before=model(pool), after=model(pool, forget), references=references)
