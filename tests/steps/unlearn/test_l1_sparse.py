from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from secateur.errors import UsageError
from secateur.step import apply
from secateur.steps.unlearn.l1_sparse import L1Sparse
from secateur.testing import toy_problem

PROBLEM = toy_problem(precision="fp64")
SMALL = {"epochs": 4, "batch": 16, "lr": 0.02}


@pytest.mark.parametrize(
    ("fade", "tail", "values"),
    [
        ("linear", 0, [0.4, 0.3, 0.2, 0.1]),
        ("linear", 2, [0.4, 0.2, 0, 0]),
        ("constant", 0, [0.4, 0.4, 0.4, 0.4]),
        ("constant", 1, [0.4, 0.4, 0.4, 0]),
        ("rising", 0, [0, 0.1, 0.2, 0.3]),
        ("rising", 2, [0, 0.2, 0, 0]),
    ],
)
def test_gamma_by_hand(fade, tail, values):
    step = L1Sparse(epochs=4, gamma=0.4, fade=fade, tail=tail)
    updates = 7
    found = [step.gamma_at(done / (4 * updates)) for done in range(4 * updates)]
    assert found == pytest.approx([value for value in values for _ in range(updates)])


@pytest.mark.parametrize("epochs", [1, 3, 5, 10, 182])
def test_gamma_moves_with_whole_epochs_at_any_length(epochs):
    step = L1Sparse(epochs=epochs, gamma=1.0)
    for updates in (1, 3, 7, 49):
        for epoch in range(epochs):
            done = epoch * updates
            assert step.gamma_at(done / (epochs * updates)) == pytest.approx(1 - epoch / epochs)
            assert step.gamma_at((done + updates - 1) / (epochs * updates)) == pytest.approx(
                1 - epoch / epochs
            )


def by_hand(start, step, *, penalised):
    """The published loop: SGD with momentum on cross-entropy plus gamma_t times the l1 norm."""
    model = start.model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    momenta = [torch.zeros_like(p) for p in trainable]
    batches = list(start.retain.loader(epochs=4, batch=16, rng=PROBLEM.run.at(1).rng("order")))
    for i, batch in enumerate(batches):
        gamma = step.gamma * (1 - (i // 3) / 4)
        norm = sum(p.abs().sum() for p in trainable if penalised(p))
        loss = functional.cross_entropy(model(batch.x), batch.y) + gamma * norm
        gradients = torch.autograd.grad(loss, trainable)
        with torch.no_grad():
            for p, g, v in zip(trainable, gradients, momenta, strict=True):
                v.mul_(0.9).add_(g + step.decay * p)
                p.sub_(step.lr * v)
    return model.eval()


@pytest.mark.parametrize(("over", "penalised"), [("weights", lambda p: p.ndim > 1), ("all", lambda p: True)])
def test_the_subgradient_is_the_published_loop(over, penalised):
    step = L1Sparse(**SMALL, gamma=0.01, over=over)
    start = PROBLEM.state()
    state = apply(step, start, PROBLEM.run).state
    expected = by_hand(start, step, penalised=penalised)
    for (key, a), b in zip(expected.state_dict().items(), state.model.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-12, atol=1e-13), key


def zeros(state):
    return {key: int((p == 0).sum()) for key, p in state.model.named_parameters()}


def test_proximal_gives_exact_zeros_and_the_subgradient_none():
    given = {**SMALL, "gamma": 0.05, "fade": "constant"}
    exact = apply(L1Sparse(**given, penalty="proximal"), PROBLEM.state(), PROBLEM.run)
    assert zeros(exact.state)["4.weight"] > 20
    assert zeros(exact.state)["1.weight"] == 0  # one dimension: not penalised
    assert exact.trace.sparsity == exact.state.sparsity > 0.2
    assert not any(bool(torch.signbit(p[p == 0]).any()) for p in exact.state.model.parameters())
    rough = apply(L1Sparse(**given), PROBLEM.state(), PROBLEM.run).state
    assert rough.sparsity == 0
    small = (rough.model[4].weight.abs() < 0.02).sum()
    assert small > (PROBLEM.state().model[4].weight.abs() < 0.02).sum()


def test_over_all_takes_every_trainable_parameter():
    step = L1Sparse(**SMALL, gamma=1.0, fade="constant", penalty="proximal", over="all", decay=0.0)
    start = PROBLEM.state()
    state = apply(step, start, PROBLEM.run).state
    assert zeros(state) == {key: p.numel() * p.requires_grad for key, p in start.model.named_parameters()}


def test_a_tail_sets_weights_free_again():
    given = {**SMALL, "gamma": 0.05, "fade": "constant", "penalty": "proximal"}
    whole = apply(L1Sparse(**given), PROBLEM.state(), PROBLEM.run).state
    freed = apply(L1Sparse(**given, tail=1), PROBLEM.state(), PROBLEM.run).state
    assert freed.sparsity < whole.sparsity


def test_masks_hold_without_being_needed():
    state = apply(L1Sparse(**SMALL, penalty="proximal"), PROBLEM.state(sparsity=0.5), PROBLEM.run).state
    assert state.sparsity >= 0.5
    assert state.masks_saw == {"pool"}


def test_no_gamma_is_fine_tuning():
    from secateur.steps.unlearn.fine_tune import FineTune

    plain = apply(FineTune(**SMALL), PROBLEM.state(), PROBLEM.run).state.model
    for penalty in ("subgradient", "proximal"):
        state = apply(L1Sparse(**SMALL, gamma=0.0, penalty=penalty), PROBLEM.state(), PROBLEM.run).state
        assert all(
            torch.equal(a, b) for a, b in zip(plain.parameters(), state.model.parameters(), strict=True)
        )


def test_a_tail_must_leave_an_epoch():
    with pytest.raises(UsageError, match="tail = 4 leaves no epoch of 4"):
        L1Sparse(epochs=4, tail=4)
