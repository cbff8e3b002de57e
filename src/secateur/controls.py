"""Controls: the same question about candidates whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs

Said = Mapping[str, Outputs]
Logits = NDArray[np.float32]
Rows = NDArray[np.int64]
Gone = NDArray[np.bool_]
# what was said of a view, and of all views, the rows to forget [n], and a generator: the new logits
Fake = Callable[[Outputs, Said, Gone, np.random.Generator], Logits]

HELD_OUT = 10  # at most so many retrains, or splits of them, are taken for candidates
_NO_ROWS = np.zeros(0, dtype=np.int64)
_NEVER = np.float32(-1e3)  # in nats below the rest: as good as minus infinity, and finite


def as_original(evidence: Evidence) -> Evidence:
    """The same question, as if unlearning had done nothing: this must fail."""
    shadows = _shadows(evidence)
    others = [r for r in evidence.references if r.kind not in ("unlearned", "unlearned-shadow")]
    others += [replace(original, kind="unlearned") for original in evidence.of("original")]
    for model in evidence.of("unlearned-shadow"):
        if _rows(model) in shadows:
            others.append(replace(model, outputs=shadows[_rows(model)].outputs))
    return evidence.about(evidence.before, others)


def as_retrained(evidence: Evidence) -> Iterator[Evidence]:
    """The same question about exact retrains that are held out of the references: these must pass.

    One retrain stands for the candidate; and where there are unlearned models, half of all retrains, drawn
    anew each time, stand for them, beside the other half.

    Yields:
        One question for each held-out retrain, ten at most.
    """
    retrains = evidence.retrains
    rest = [r for r in evidence.references if r.kind in ("original", "shadow")]
    for i in range(min(len(retrains), HELD_OUT)):
        left = [*retrains[:i], *retrains[i + 1 :]]
        made: list[Reference] = []
        if evidence.of("unlearned"):
            order = np.random.default_rng(i).permutation(len(left))
            half = len(retrains) // 2
            made = [replace(one, kind="unlearned") for one in (retrains[i], *(left[j] for j in order[half:]))]
            left = [left[j] for j in np.sort(order[:half])]
        yield evidence.about(retrains[i].outputs, [*left, *made, *rest])


def as_never_seen(evidence: Evidence) -> Iterator[Evidence]:
    """The same question about shadows that never saw the rows that they are said to have unlearned.

    Each shadow stands for itself after unlearning as many rows as it was asked to, drawn from those that it
    never saw. Of these rows, what other shadows that were trained on them say stands for what it said before:
    without that the audit could not see its own power.

    Yields:
        One question for each of ten draws of the rows; none without shadows that were unlearned.
    """
    shadows = _shadows(evidence)
    models = [one for one in evidence.of("unlearned-shadow") if _rows(one) in shadows]
    everything = np.unique(np.concatenate([model.rows for model in models])) if models else _NO_ROWS
    donors = evidence.of("shadow")
    saw = np.array([np.isin(everything, donor.rows) for donor in donors])  # [donors, rows]
    kept = [r for r in evidence.references if r.kind not in ("unlearned-shadow", "shadow")]
    for i in range(HELD_OUT if models else 0):
        rng, others = np.random.default_rng(i), []
        for model in models:
            shadow = shadows[_rows(model)]
            unseen = np.setdiff1d(everything, shadow.rows)
            gone = np.sort(rng.choice(unseen, min(len(model.forgot), len(unseen) // 2), replace=False))
            rows = np.union1d(shadow.rows, gone)
            others += [Reference("unlearned-shadow", shadow.outputs, rows, gone)]
            others += [
                Reference(
                    "shadow",
                    _as_if_seen(shadow, gone, donors, saw[:, np.searchsorted(everything, gone)], rng),
                    rows,
                )
            ]
        yield evidence.about(evidence.before, [*kept, *others])


def _as_if_seen(
    shadow: Reference,
    gone: Rows,
    donors: Sequence[Reference],
    saw: NDArray[np.bool_],
    rng: np.random.Generator,
) -> dict[str, Outputs]:
    """What a shadow says; of the rows that it never saw what one drawn from those trained on them says."""
    drawn = np.where(saw, rng.random(saw.shape), -1.0).argmax(axis=0)
    told = {}
    for view, out in shadow.outputs.items():
        at, order = _among(view, out, gone), np.argsort(gone)
        from_whom = drawn[order[np.searchsorted(gone, out.rows[at], sorter=order)]]
        logits = out.logits.copy()
        for which in np.unique(from_whom):
            these = np.flatnonzero(at)[from_whom == which]
            logits[these] = donors[which].outputs[view].logits[these]
        told[view] = Outputs(logits, out.labels, out.rows, out.features)
    return told


def as_fakes(evidence: Evidence) -> Iterator[tuple[str, Evidence]]:
    """The same question about candidates that are no unlearning at all: none of these may pass.

    Each is the original with its answers changed; no model is needed. Where a fake is about the rows to be
    forgotten, a shadow's are those that it was asked to forget.

    Yields:
        A name, and the question. A fake that looks at views which nobody was asked about is left out.
    """
    start = as_original(evidence)
    for name, (views, fake) in _FAKES.items():
        absent = not views <= start.after.keys()
        if absent or (name == "masked head" and not len(evidence.forgotten)):
            continue
        references = [
            replace(r, outputs=_faked(r.outputs, fake, 1 + i, r.forgot if len(r.forgot) else None))
            if r.kind in ("unlearned", "unlearned-shadow")
            else r
            for i, r in enumerate(start.references)
        ]
        yield name, start.about(_faked(start.after, fake, 0, None), references)


def _faked(said: Said, fake: Fake, seed: int, gone: Rows | None) -> dict[str, Outputs]:
    """Each view with the logits of the fake; ``gone`` are the rows to forget, None: those of forget."""
    told = {}
    for view, out in said.items():
        these = np.full(len(out), view == "forget") if gone is None else _among(view, out, gone)
        order = np.argsort(out.rows)  # drawn in the order of row ids, so that no order of the rows matters
        said_of = Outputs(out.logits[order], out.labels[order], out.rows[order])
        logits = np.empty_like(out.logits)
        logits[order] = fake(said_of, said, these[order], np.random.default_rng([seed, *view.encode()]))
        told[view] = Outputs(logits, out.labels, out.rows, out.features)
    return told


def _among(view: str, out: Outputs, rows: Rows) -> NDArray[np.bool_]:
    """[n], which rows of a view are among some of the pool: a test row may have the id of one of them."""
    return np.isin(out.rows, rows) & (view in {"forget", "retain"})


def _shadows(evidence: Evidence) -> dict[bytes, Reference]:
    """The shadows by the rows that they were trained on."""
    return {_rows(shadow): shadow for shadow in evidence.of("shadow")}


def _rows(reference: Reference) -> bytes:
    return np.sort(reference.rows).tobytes()


def _constant(asked: Outputs, said: Said, gone: Gone, rng: np.random.Generator) -> Logits:
    retain = said["retain"]
    mean = retain.logits[np.argsort(retain.rows)].mean(axis=0)  # a sum depends on the order, by a hair
    return np.broadcast_to(mean, asked.logits.shape)


def _noise(asked: Outputs, said: Said, gone: Gone, rng: np.random.Generator) -> Logits:
    return rng.normal(size=asked.logits.shape).astype(np.float32)


def _scaled(factor: float) -> Fake:
    return lambda asked, said, gone, rng: asked.logits * np.float32(factor)


def _like_test(asked: Outputs, said: Said, gone: Gone, rng: np.random.Generator) -> Logits:
    """On forget: what was said of some test row, of the same class where there is one."""
    test, logits = said["test"], asked.logits.copy()
    order = np.argsort(test.rows)
    for label in np.unique(asked.labels[gone]):
        these = np.flatnonzero(gone & (asked.labels == label))
        alike = order[test.labels[order] == label]
        other = rng.choice(alike if len(alike) else order, len(these))
        logits[these] = _swapped(test.logits[other], np.full(len(these), label), test.labels[other])
    return logits


def _masked(asked: Outputs, said: Said, gone: Gone, rng: np.random.Generator) -> Logits:
    """The head says no forgotten class."""
    logits = asked.logits.copy()
    logits[:, np.setdiff1d(np.arange(logits.shape[1]), said["retain"].labels)] = _NEVER
    return logits


def _guessing(asked: Outputs, said: Said, gone: Gone, rng: np.random.Generator) -> Logits:
    """On forget: the same certainty, of a class drawn at random."""
    logits, sure = asked.logits.copy(), asked.logits[gone]
    drawn = rng.integers(asked.classes, size=len(sure))
    logits[gone] = _swapped(sure, sure.argmax(axis=1), drawn)
    return logits


def _swapped(logits: Logits, a: Rows, b: Rows) -> Logits:
    """Logits [n, classes] with the classes ``a`` [n] and ``b`` [n] exchanged in each row."""
    at, swapped = np.arange(len(logits)), logits.copy()
    swapped[at, a], swapped[at, b] = logits[at, b], logits[at, a]
    return swapped


# by name: the views that it looks at, and the fake
_FAKES: Mapping[str, tuple[frozenset[str], Fake]] = {
    "random answers": (frozenset(), _noise),
    "constant output": (frozenset({"retain"}), _constant),
    "logits x 0.01": (frozenset(), _scaled(0.01)),
    "logits x 100": (frozenset(), _scaled(100)),
    "test-like answers on forget": (frozenset({"forget", "test"}), _like_test),
    "masked head": (frozenset({"retain"}), _masked),
    "random labels on forget": (frozenset({"forget"}), _guessing),
}
