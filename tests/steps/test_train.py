from __future__ import annotations

import pytest
import torch

from secateur.errors import UsageError
from secateur.network import sparsity_of
from secateur.step import apply
from secateur.steps.prune.magnitude import Magnitude
from secateur.steps.train import Train
from secateur.testing import toy_problem

PROBLEM = toy_problem()
SMALL = {"batch": 16, "lr": 0.05, "schedule": "constant"}


def trained(**given):
    return apply(Train(**{**SMALL, **given}), PROBLEM.state(trained=False), PROBLEM.run)


def test_it_trains_on_the_whole_pool():
    state, trace = trained(epochs=8)
    assert trace.drawn == {"pool": 8 * 60}
    assert len(trace.notes["loss"]) == 8
    assert trace.notes["loss"][-1] < 0.2 < trace.notes["loss"][0]
    assert (state.weights_saw, state.marks) == ({"pool"}, {})


def test_marks_are_the_models_of_their_epochs():
    start = PROBLEM.state(trained=False)
    state = trained(epochs=3, keep=(0, 2)).state
    assert set(state.marks) == {"epoch-0", "epoch-2"}
    first, second = state.marks["epoch-0"], state.marks["epoch-2"]
    assert (first.epoch, first.saw, second.epoch, second.saw) == (0, frozenset(), 2, {"pool"})
    assert all(torch.equal(first.weights[key], p) for key, p in start.model.named_parameters())
    # a constant schedule: the first two of three epochs are a training of two
    two = trained(epochs=2).state.model
    assert all(torch.equal(second.weights[key], p) for key, p in two.named_parameters())
    assert all(torch.equal(second.buffers[key], b) for key, b in two.named_buffers())


def test_prune_rewind_and_train_the_rest():
    state = trained(epochs=4, keep=(2,)).state
    pruned = apply(Magnitude(sparsity=0.8, rewind="epoch-2"), state, PROBLEM.run).state
    after, trace = apply(Train(**SMALL, epochs=4, start=2, keep=(2, 4)), pruned, PROBLEM.run)
    assert trace.drawn == {"pool": 2 * 60}
    assert len(trace.notes["loss"]) == 2
    assert sparsity_of(after.model) == pytest.approx(0.8, abs=0.01)
    again = after.marks["epoch-2"]
    assert all(torch.equal(again.weights[key], p) for key, p in pruned.model.named_parameters())
    assert all(
        torch.equal(after.marks["epoch-4"].weights[key], p) for key, p in after.model.named_parameters()
    )


def test_a_later_start_follows_the_rest_of_the_schedule():
    start = PROBLEM.state()
    stepped = {**SMALL, "schedule": "step", "momentum": 0.0}
    state = apply(Train(**stepped, epochs=8, start=6), start, PROBLEM.run).state
    # from epoch 6 of 8 on the rate is a hundredth
    slow = apply(
        Train(**{**stepped, "schedule": "constant", "lr": 0.05 * 0.01}, epochs=2), start, PROBLEM.run
    ).state
    for a, b in zip(state.model.parameters(), slow.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-7)
    assert not torch.allclose(state.model[0].weight, start.model[0].weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": 3, "start": 3}, "leaves nothing of a schedule of 3 epochs"),
        ({"epochs": 3, "keep": (4,)}, "keep = 4 is outside the epochs 0..3"),
        ({"epochs": 3, "start": 1, "keep": (0, 2)}, "keep = 0 is outside the epochs 1..3"),
    ],
)
def test_knobs_that_contradict_each_other(given, words):
    with pytest.raises(UsageError, match=words):
        Train(**given)
