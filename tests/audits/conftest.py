"""Made-up models: noise, and a margin for the true label that says how well each view was learned."""

from collections.abc import Callable

import numpy as np
import pytest

from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs

Views = dict[str, Outputs]


def speak(seed, *, forget=0.5, retain=3.0, test=0.5, gone=None, rows=(60, 120, 90), classes=3) -> Views:
    """What one model says of each view; ``gone``: a class that is forget's alone."""
    rng = np.random.default_rng(seed)
    kept = [c for c in range(classes) if c != gone]
    told = {}
    for i, (name, margin) in enumerate({"forget": forget, "retain": retain, "test": test}.items()):
        present = (
            {"forget": [gone], "retain": kept}.get(name, range(classes))
            if gone is not None
            else range(classes)
        )
        labels = np.resize(list(present), rows[i])
        logits = rng.normal(size=(rows[i], classes))
        logits[np.arange(rows[i]), labels] += margin
        told[name] = Outputs(logits, labels, 1000 * i + np.arange(rows[i]))
    return told


@pytest.fixture
def say() -> Callable[..., Views]:
    return speak


@pytest.fixture
def world() -> Callable[..., Evidence]:
    """Evidence of an original that knows the forget rows, a candidate, and retrains that do not know them."""

    def make(seed=0, *, retrains=5, before=None, after=None, **knobs):
        models = [speak(1000 * seed + i, **knobs) for i in range(retrains + 1)]
        knows = {"forget": 3.0} | knobs
        return Evidence(
            before or speak(1000 * seed + 999, **knows),
            after or models[0],
            [Reference("retrained", model, 1000 + np.arange(120)) for model in models[1:]],
        )

    return make
