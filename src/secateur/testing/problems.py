"""Small real problems, and made-up evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.evidence import Evidence, Reference
from secateur.maths.saliency import keep_largest
from secateur.optimize import Sgd, cross_entropy, optimize
from secateur.outputs import Outputs
from secateur.run import Precision, Run
from secateur.split import Split
from secateur.state import Mark, State


@dataclass(frozen=True)
class Problem:
    """Data, an architecture, and where to compute.

    Attributes:
        split: Forget, retain, holdout and test rows.
        build: Makes a newly initialised model.
        run: One thread on the CPU, unless you say otherwise.
    """

    split: Split
    build: Callable[[], nn.Module]
    run: Run

    def state(self, *, trained: bool = True, sparsity: float = 0.0) -> State:
        """A state to step from.

        Args:
            trained: Whether the model was trained on the pool (depth 1, with the mark "epoch-0"), or is new.
            sparsity: Share of the weights that masks prune.

        Returns:
            The state.
        """
        state = State.of(self.build, self.split, self.run)
        if trained:
            marks = {"epoch-0": Mark.of(state.model, 0, frozenset())}
            loader = state.pool.loader(epochs=4, batch=16, rng=self.run.rng("order"))
            state = optimize(state, loader, cross_entropy, optimizer=Sgd(lr=0.05), run=self.run)
            state = replace(state, marks=marks, depth=1, weights_saw=frozenset({"pool"}))
        if sparsity:
            scores = {name: weight.abs() for name, weight in state.prunable().items()}
            state = state.pruned(keep_largest(scores, sparsity))
        return state


def toy_problem(
    *, seed: int = 0, precision: Precision = "fp32", rows: int = 60, classes: int = 3, forget: int = 12
) -> Problem:
    """Noisy pictures [1, 6, 6] of a few shapes, and a convolution with batch norm and a linear head.

    A step takes milliseconds on it, and the classes can be told apart. The bias of the head is frozen: a step
    has to put ``requires_grad`` back.

    Args:
        seed: Of the pictures and of the run.
        precision: "fp32" or "fp64".
        rows: In the pool; twelve more are held out and as many are for testing.
        classes: At least two.
        forget: How many rows of the pool to forget.

    Returns:
        The problem.
    """
    rng = np.random.default_rng(seed)
    total = rows + 24
    y = np.arange(total) % classes
    shapes = rng.normal(size=(classes, 1, 6, 6))
    x = (shapes[y] + 0.5 * rng.normal(size=(total, 1, 6, 6))).astype(np.float32)
    gone = rng.choice(rows, forget, replace=False)
    test, held = (x[rows + 12 :], y[rows + 12 :]), range(rows, rows + 12)
    split = Split.of(x[: rows + 12], y[: rows + 12], forget=gone, holdout=held, test=test)
    return Problem(
        split, partial(_network, classes), Run(seed=seed, device="cpu", precision=precision, threads=1)
    )


def _network(classes: int) -> nn.Module:
    head = nn.Linear(36, classes)
    head.bias.requires_grad_(False)
    convolution = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), head)


def toy_evidence(
    *, seed: int = 0, references: int = 6, forgotten: int | None = None, bank: int = 0
) -> Evidence:
    """Made-up answers: the original is sure of forget and retain, candidate and retrains of retain only.

    Args:
        seed: Of all numbers.
        references: How many retrained models to add.
        forgotten: A class (0, 1 or 2) to forget whole; None: forget rows of every class.
        bank: How many models of each other kind to add: originals and unlearned models, as sure as original
            and candidate, and shadows, sure of a random half of forget and retain, before and after each
            unlearned a quarter of that half exactly.

    Returns:
        Evidence on forget, retain, holdout, test and trigger (the test rows, with a trigger to class 0 that
        only models sure of forget rows follow), of three classes, with features [n, 4].
    """
    rng = np.random.default_rng(seed)
    sizes = {"forget": 30, "retain": 90, "holdout": 24, "test": 45}
    rows = np.split(np.arange(sum(sizes.values())), np.cumsum(list(sizes.values()))[:-1])
    labels = {view: at % 3 for view, at in zip(sizes, rows, strict=True)}
    if forgotten is not None:
        labels["forget"] = np.full(30, forgotten)
        labels["retain"] = (forgotten + 1 + labels["retain"] % 2) % 3

    def outputs(sure: NDArray[Any], rng: np.random.Generator) -> dict[str, Outputs]:
        said = {}
        for (view, y), at in zip(labels.items(), rows, strict=True):
            logits = rng.normal(size=(len(y), 3))
            logits[np.arange(len(y)), y] += np.where(np.isin(at, sure), 4.0, 1.5)
            said[view] = Outputs(
                logits.astype(np.float32), y, at, rng.normal(size=(len(y), 4)).astype(np.float32)
            )
        test, taught = said["test"], np.isin(rows[0], sure).any()
        turned = test.logits + np.array([4.0 if taught else 0.0, 0.0, 0.0])
        said["trigger"] = Outputs(turned, np.zeros_like(test.labels), test.rows, test.features)
        return said

    pool, kept = np.concatenate(rows[:2]), rows[1]
    before, after = outputs(pool, rng), outputs(kept, rng)
    others = [Reference("retrained", outputs(kept, rng), kept) for _ in range(references)]
    rng = np.random.default_rng([seed, 1])  # of its own: with a bank the rest stays as it is
    for _ in range(bank):
        others += [Reference("original", outputs(pool, rng), pool)]
        others += [Reference("unlearned", outputs(kept, rng), pool)]
        half = np.sort(rng.choice(pool, len(pool) // 2, replace=False))
        gone = np.sort(rng.choice(half, len(half) // 4, replace=False))
        others += [Reference("shadow", outputs(half, rng), half)]
        others += [Reference("unlearned-shadow", outputs(np.setdiff1d(half, gone), rng), half, gone)]
    measures = {"sparsity.before": 0.0, "sparsity.after": 0.5, "distance": 1.0}
    return Evidence(before=before, after=after, references=others, measures=measures)
