from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from secateur.errors import DataError, UsageError
from secateur.step import apply
from secateur.steps.unlearn.fine_tune import FineTune
from secateur.steps.unlearn.prune_and_tune import PruneAndTune
from secateur.testing import toy_problem

PROBLEM = toy_problem(precision="fp64")
N = 36 + 108  # weights with more than one dimension: of the convolution, and of the head
SMALL = {"epochs": 5, "batch": 16, "lr": 0.02}


def same_bits(one, other):
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def zeros(state):
    return sum(int((p == 0).sum()) for p in state.model.parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    ("epochs", "every", "path"),
    [
        (5, 2, [25, 25, 50, 50, 75]),  # a single epoch follows the last pruning
        (6, 2, [25, 25, 50, 50, 75, 75]),
        (4, 1, [19, 38, 56, 75]),
        (4, 3, [38, 38, 38, 75]),
        (3, 5, [75, 75, 75]),
        (1, 2, [75]),
    ],
)
def test_sparsity_rises_in_even_steps_and_one_epoch_follows_the_last(epochs, every, path):
    step = PruneAndTune(epochs=epochs, every=every, batch=16, lr=0.02, sparsity=75 / N)
    state, trace = apply(step, PROBLEM.state(), PROBLEM.run)
    assert [round(share * N) for share in trace.notes["sparsity"]] == path
    assert zeros(state) == sum(int((~mask).sum()) for mask in state.masks.values()) == 75
    assert len(trace.notes["loss"]) == epochs
    assert trace.drawn == {"retain": 48 * epochs}


def by_hand(start, step):
    """Prune by sorting all weights, tune an epoch, and so on; the slow and obvious way."""
    model = start.model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    momenta = [torch.zeros_like(p) for p in trainable]
    weights = [model[0].weight, model[4].weight]
    batches = list(start.retain.loader(epochs=5, batch=16, rng=PROBLEM.run.at(1).rng("order")))
    counts, dead = {0: 34, 6: 67, 12: 101}, [w.detach() != w for w in weights]  # of 101: 0.7 of 144
    for i, batch in enumerate(batches):
        if i in counts:
            edge = torch.cat([w.detach().abs().flatten() for w in weights]).sort()[0][counts[i] - 1]
            dead = [w.detach().abs() <= edge for w in weights]
            with torch.no_grad():
                for w, gone in zip(weights, dead, strict=True):
                    w[gone] = 0
        gradients = torch.autograd.grad(functional.cross_entropy(model(batch.x), batch.y), trainable)
        with torch.no_grad():
            for p, g, v in zip(trainable, gradients, momenta, strict=True):
                v.mul_(0.9).add_(g + step.decay * p)
                p.sub_(step.lr * v)
            for w, gone in zip(weights, dead, strict=True):
                w[gone] = 0
    return model.eval()


def test_it_is_the_obvious_loop():
    step, start = PruneAndTune(**SMALL, sparsity=0.7), PROBLEM.state()
    state = apply(step, start, PROBLEM.run).state
    expected = by_hand(start, step)
    for (key, a), b in zip(expected.state_dict().items(), state.model.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-12, atol=1e-13), key
    assert zeros(state) == 101


def test_it_starts_from_the_masks_that_are_there():
    start = PROBLEM.state(sparsity=0.5)
    state, trace = apply(PruneAndTune(**SMALL, sparsity=0.8), start, PROBLEM.run)
    assert [round(share * N) for share in trace.notes["sparsity"]] == [86, 86, 101, 101, 115]  # 72 + 43 k / 3
    for name, mask in start.masks.items():
        assert not bool((state.masks[name] & ~mask).any())


def test_to_where_the_masks_are_already_is_fine_tuning_under_them():
    start = PROBLEM.state(sparsity=0.5)
    state = apply(PruneAndTune(**SMALL, sparsity=0.5), start, PROBLEM.run).state
    assert same_bits(state, apply(FineTune(**SMALL), start, PROBLEM.run).state)
    assert state.masks_saw == start.masks_saw == {"pool"}


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_sparsity_zero_is_plain_fine_tuning(sparsity):
    start = PROBLEM.state(sparsity=sparsity)
    state, trace = apply(PruneAndTune(**SMALL, sparsity=0.0), start, PROBLEM.run)
    plain = apply(FineTune(**SMALL), start, PROBLEM.run)
    assert same_bits(state, plain.state)
    assert (state.masks.keys(), state.masks_saw) == (plain.state.masks.keys(), plain.state.masks_saw)
    assert trace.notes["sparsity"] == (plain.trace.sparsity,) * 5


def test_less_than_the_masks_prune_already_is_refused():
    with pytest.raises(UsageError, match=r"at least the 72 of 144 .* got sparsity 0.25 \(36 weights\)"):
        apply(PruneAndTune(**SMALL, sparsity=0.25), PROBLEM.state(sparsity=0.5), PROBLEM.run)


def test_scope_takes_one_kind_of_layer():
    state = apply(PruneAndTune(**SMALL, sparsity=0.5, scope="conv"), PROBLEM.state(), PROBLEM.run).state
    assert {name: int((~mask).sum()) for name, mask in state.masks.items()} == {"0.weight": 18}
    assert zeros(state) == 18


def test_a_layer_that_would_lose_every_weight_is_refused():
    start = PROBLEM.state()
    with torch.no_grad():
        start.model[0].weight.mul_(1e-6)
    with pytest.raises(DataError, match=r'of "0\.weight" is left'):
        apply(PruneAndTune(**SMALL, sparsity=0.8), start, PROBLEM.run)


def test_the_masks_have_seen_what_shaped_them():
    state = apply(PruneAndTune(**SMALL, sparsity=0.7), PROBLEM.state(), PROBLEM.run).state
    assert state.weights_saw == state.masks_saw == {"pool", "retain"}
    clean = replace(PROBLEM.state(), weights_saw=frozenset({"retain"}))  # as a retrained model
    state = apply(PruneAndTune(**SMALL, sparsity=0.7), clean, PROBLEM.run).state
    assert state.weights_saw == state.masks_saw == {"retain"}
