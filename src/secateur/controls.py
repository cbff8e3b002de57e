"""Controls: the same question about candidates whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs

Said = Mapping[str, Outputs]
Logits = NDArray[np.float32]
Fake = Callable[[Said, str, np.random.Generator], Logits]

HELD_OUT = 10  # at most so many retrains, or splits of them, are taken for candidates
_NEVER = np.float32(-1e3)  # in nats below the rest: as good as minus infinity, and finite


def as_original(evidence: Evidence) -> Evidence:
    """The same question, as if unlearning had done nothing: this must fail."""
    shadows = {reference.rows.tobytes(): reference.outputs for reference in evidence.of("shadow")}
    others = [r for r in evidence.references if r.kind not in ("unlearned", "unlearned-shadow")]
    others += [replace(original, kind="unlearned") for original in evidence.of("original")]
    for shadow in evidence.of("unlearned-shadow"):
        if shadow.rows.tobytes() in shadows:
            others.append(replace(shadow, outputs=shadows[shadow.rows.tobytes()]))
    return evidence.about(evidence.before, others)


def as_retrained(evidence: Evidence) -> Iterator[Evidence]:
    """The same question about exact retrains that are held out of the references: these must pass.

    One retrain stands for the candidate; half of all retrains, drawn anew each time, for the unlearned
    models, beside the other half; and a shadow that never saw some rows for one that unlearned them.

    Yields:
        One question for each held-out retrain, ten at most.
    """
    retrains = evidence.retrains
    rest = [r for r in evidence.references if r.kind in ("original", "shadow")]
    for i in range(min(len(retrains), HELD_OUT)):
        rng = np.random.default_rng(i)
        if evidence.of("unlearned"):
            order = rng.permutation(len(retrains))
            half = len(retrains) // 2
            left = [retrains[at] for at in order[half:]]
            made = [replace(retrains[at], kind="unlearned") for at in order[:half]]
        else:
            left, made = [*retrains[:i], *retrains[i + 1 :]], []
        yield evidence.about(retrains[i].outputs, [*left, *made, *rest])


def as_never_seen(evidence: Evidence) -> Iterator[Evidence]:
    """The same question about shadows that never saw the rows that they are said to have unlearned."""
    models = evidence.of("unlearned-shadow")
    everything = np.unique(np.concatenate([model.rows for model in models])) if models else np.zeros(0)
    shadows = {reference.rows.tobytes(): reference for reference in evidence.of("shadow")}
    for i in range(HELD_OUT if models else 0):
        rng, others = np.random.default_rng(i), []
        for model in models:
            shadow = shadows.get(model.rows.tobytes())
            if shadow is None:
                continue
            unseen = np.setdiff1d(everything, shadow.rows)
            count = min(len(model.forgot), len(unseen) // 2)
            gone = np.sort(rng.choice(unseen, count, replace=False))
            rows = np.union1d(shadow.rows, gone)
            others += [Reference("unlearned-shadow", shadow.outputs, rows, gone)]
            others += [Reference("shadow", shadow.outputs, rows)]
        kept = [r for r in evidence.references if r.kind not in ("unlearned-shadow", "shadow")]
        yield evidence.about(evidence.before, [*kept, *others])


def as_fakes(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    """The same question about candidates that are no unlearning at all: none of these may pass.

    Each is the original with its answers changed; no model is needed.

    Yields:
        A name, and the question.
    """
    start = as_original(evidence)
    for name, fake in _FAKES.items():
        if name == "masked head" and not len(evidence.forgotten):
            continue
        references = [
            replace(r, outputs=_faked(r.outputs, fake, 1 + i))
            if r.kind in ("unlearned", "unlearned-shadow")
            else r
            for i, r in enumerate(start.references)
        ]
        yield name, start.about(_faked(start.after, fake, 0), references)


def _faked(said: Said, fake: Fake, seed: int) -> dict[str, Outputs]:
    return {
        view: Outputs(fake(said, view, np.random.default_rng([seed, at])), out.labels, out.rows, out.features)
        for at, (view, out) in enumerate(said.items())
    }


def _constant(said: Said, view: str, rng: np.random.Generator) -> Logits:
    return np.broadcast_to(said["retain"].logits.mean(axis=0), said[view].logits.shape)


def _noise(said: Said, view: str, rng: np.random.Generator) -> Logits:
    return rng.normal(size=said[view].logits.shape).astype(np.float32)


def _scaled(factor: float) -> Fake:
    return lambda said, view, rng: said[view].logits * np.float32(factor)


def _like_test(said: Said, view: str, rng: np.random.Generator) -> Logits:
    """On forget: what was said of some test row, of the same class where there is one."""
    asked, test = said[view], said["test"]
    if view != "forget":
        return asked.logits
    logits = np.empty_like(asked.logits)
    for i, label in enumerate(asked.labels):
        alike = np.flatnonzero(test.labels == label)
        other = rng.choice(alike) if len(alike) else rng.integers(len(test))
        logits[i] = _swapped(test.logits[other], label, test.labels[other])
    return logits


def _masked(said: Said, view: str, rng: np.random.Generator) -> Logits:
    """The head says no forgotten class."""
    logits = said[view].logits.copy()
    logits[:, np.setdiff1d(np.arange(logits.shape[1]), said["retain"].labels)] = _NEVER
    return logits


def _guessing(said: Said, view: str, rng: np.random.Generator) -> Logits:
    """On forget: the same certainty, of a class drawn at random."""
    asked = said[view]
    if view != "forget":
        return asked.logits
    drawn = rng.integers(asked.classes, size=len(asked))
    best = asked.logits.argmax(axis=1)
    return np.stack([_swapped(row, a, b) for row, a, b in zip(asked.logits, best, drawn, strict=True)])


def _swapped(row: Logits, a: int, b: int) -> Logits:
    row = row.copy()
    row[[a, b]] = row[[b, a]]
    return row


_FAKES: Mapping[str, Fake] = {
    "random answers": _noise,
    "constant output": _constant,
    "logits x 0.01": _scaled(0.01),
    "logits x 100": _scaled(100),
    "test-like answers on forget": _like_test,
    "masked head": _masked,
    "random labels on forget": _guessing,
}
