from __future__ import annotations

import torch

from secateur.optimize import Sgd, cross_entropy, optimize
from secateur.step import apply
from secateur.steps.unlearn.fine_tune import FineTune
from secateur.testing import toy_problem

PROBLEM = toy_problem()


def test_it_is_training_on_retain_from_the_weights_as_they_are():
    start = PROBLEM.state(sparsity=0.5)
    state, trace = apply(FineTune(epochs=3, batch=16, lr=0.02), start, PROBLEM.run)
    assert trace.drawn == {"retain": 3 * 48}
    assert state.weights_saw == {"pool", "retain"}
    run = PROBLEM.run.at(1)
    loader = start.retain.loader(epochs=3, batch=16, rng=run.rng("order"))
    with run.steady():
        optimize(start, loader, cross_entropy, optimizer=Sgd(lr=0.02, decay=5e-4), run=run)
    pairs = zip(start.model.state_dict().values(), state.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
