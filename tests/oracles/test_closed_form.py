"""Where retraining has a formula, or scikit-learn: one influence step comes close, Newton's steps arrive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from secateur.maths.curvature import solve
from secateur.run import Run
from secateur.split import Split
from secateur.state import State
from secateur.step import apply
from secateur.steps.unlearn.influence import Influence
from secateur.steps.unlearn.newton import Newton

N, D, CLASSES, L2 = 400, 5, 3, 0.01
RUN = Run(device="cpu", precision="fp64", threads=1)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D))
Y = (X @ RNG.normal(size=(D, CLASSES)) + RNG.gumbel(size=(N, CLASSES))).argmax(1)


def optimum(rows):
    """Scikit-learn's minimum of mean cross-entropy + l2 / 2 ||w||^2, [classes, d]."""
    model = LogisticRegression(
        C=1 / (L2 * len(rows)), fit_intercept=False, tol=1e-14, max_iter=1000, solver="newton-cg"
    )
    return torch.from_numpy(model.fit(X[rows], Y[rows]).coef_)


def linear():
    return nn.Linear(D, CLASSES, bias=False)


def start(forget, weight):
    model = linear().double()
    with torch.no_grad():
        model.weight.copy_(weight)
    return State.of(linear, Split.of(X, Y, forget=forget), RUN, model=model)


def retained(count):
    return np.arange(count, N)


def missed(step):
    """For requests of many sizes: how far the retrained solution is from the original, and from the step."""
    pool, ways, errors = optimum(np.arange(N)), [], []
    for count in (1, 4, 16, 64, 128):
        true = optimum(retained(count))
        with torch.no_grad():
            errors.append(
                float((apply(step, start(np.arange(count), pool), RUN).state.model.weight - true).norm())
            )
        ways.append(float((pool - true).norm()))
    return np.array(ways), np.array(errors)


def test_one_influence_step_is_of_second_order():
    ways, errors = missed(Influence(curvature="hessian", damping=L2, tolerance=1e-12))
    assert ways.max() > 30 * ways.min()
    assert (errors < 0.5 * ways**2).all()
    # and not with half a step, or another matrix
    for wrong in ({"damping": L2, "scale": 0.5}, {"damping": 3 * L2}):
        ways, errors = missed(Influence(curvature="hessian", tolerance=1e-12, **wrong))
        assert (errors > 0.05 * ways).all()


@pytest.mark.parametrize("count", [1, 40, 200])
def test_newton_arrives_at_the_retrained_solution(count):
    state, trace = apply(Newton(l2=L2, bound=1e-12), start(np.arange(count), optimum(np.arange(N))), RUN)
    assert float((state.model.weight.detach() - optimum(retained(count))).abs().max()) < 1e-8
    gradients = trace.notes["gradient"]
    assert gradients[-1] <= 1e-12 < gradients[0]
    assert trace.drawn["retain"] == N - count + 2
    # from anywhere
    far = apply(Newton(l2=L2, bound=1e-12), start(np.arange(count), torch.full((CLASSES, D), 7.0)), RUN).state
    assert float((far.model.weight - state.model.weight).detach().abs().max()) < 1e-9


@pytest.mark.parametrize("count", [1, 40, 200])
def test_on_a_quadratic_loss_one_step_is_retraining(count):
    y = torch.from_numpy(X @ RNG.normal(size=D) + RNG.normal(size=N))
    x = torch.from_numpy(X)

    def ridge(rows):
        return torch.linalg.solve(
            x[rows].T @ x[rows] / len(rows) + L2 * torch.eye(D), x[rows].T @ y[rows] / len(rows)
        )

    def slopes(rows, w):
        return x[rows].T @ (x[rows] @ w - y[rows])

    forget, retain = np.arange(count), retained(count)
    w = ridge(np.arange(N))
    v = slopes(forget, w) / N - slopes(retain, w) * count / (N * (N - count))
    found = solve(
        lambda vectors: {"w": x[retain].T @ (x[retain] @ vectors["w"]) / len(retain)},
        {"w": v},
        damping=L2,
        tolerance=1e-14,
    )
    assert float((w + found.vector["w"] - ridge(retain)).abs().max()) < 1e-10
