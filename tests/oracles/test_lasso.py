"""The proximal step with momentum finds the minimum that scikit-learn's coordinate descent finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

from secateur.maths.proximal import soft_threshold
from secateur.optimize import Sgd, optimize
from secateur.run import Run
from secateur.split import Split
from secateur.state import State

N, D, GAMMA, MOMENTUM = 60, 20, 0.1, 0.9
RUN = Run(device="cpu", precision="fp64", threads=1)


def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) @ (np.eye(D) + 0.3 * rng.normal(size=(D, D)))
    true = np.where(rng.random(D) < 0.4, rng.normal(size=D), 0.0)
    return x, x @ true + 0.1 * rng.normal(size=N)


def lasso(x, y, gamma):
    model = Lasso(alpha=gamma, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y)
    return model.coef_


def ours(x, y, threshold):
    """A linear layer on the mean of half the squares, all rows in every update."""
    split = Split.of(np.append(x, np.zeros((1, D)), 0), np.zeros(N + 1, dtype=int), forget=[N])
    state = State.of(lambda: nn.Linear(D, 1, bias=False), split, RUN)
    targets = torch.from_numpy(y)

    def loss(model, batch, progress):
        return 0.5 * (model(batch.x)[:, 0] - targets[batch.row]).square().mean()

    def shrink(weight, step, progress):
        return soft_threshold(weight, threshold(step))

    loader = state.retain.loader(epochs=1500, batch=N, rng=RUN.rng("order"))
    optimize(state, loader, loss, optimizer=Sgd(lr=0.02, momentum=MOMENTUM), proximal=shrink, run=RUN)
    return state.model.weight.detach().numpy()[0]


def test_the_fixed_point_is_the_lasso_with_the_same_support():
    x, y = problem()
    expected = lasso(x, y, GAMMA)
    found = ours(x, y, lambda step: step * GAMMA)
    assert 3 < np.count_nonzero(expected) < D - 3
    assert found == pytest.approx(expected, abs=1e-6)
    assert ((found != 0) == (expected != 0)).all()


def test_without_one_over_one_minus_momentum_it_is_another_lasso():
    x, y = problem()
    missed = ours(x, y, lambda step: step * (1 - MOMENTUM) * GAMMA)
    assert np.abs(missed - lasso(x, y, GAMMA)).max() > 0.02
    assert missed == pytest.approx(lasso(x, y, (1 - MOMENTUM) * GAMMA), abs=1e-6)
