from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from secateur.errors import DataError, UsageError
from secateur.state import State
from secateur.step import apply
from secateur.steps.prune.magnitude import Magnitude
from secateur.testing import toy_problem

PROBLEM = toy_problem()


def lowest(weights, count):
    """Names and positions of the ``count`` smallest weights, one at a time; of equals the first."""
    flat = [(abs(v), at, key, i) for at, (key, row) in enumerate(weights.items()) for i, v in enumerate(row)]
    return {
        (key, i) for _, _, key, i in sorted(flat, key=lambda entry: (entry[0], entry[1], entry[3]))[:count]
    }


def rows(model, names):
    weights = dict(model.named_parameters())
    return {name: weights[name].detach().flatten().tolist() for name in names}


def gone(state):
    pairs = ((key, mask.flatten().tolist()) for key, mask in state.masks.items())
    return {(key, i) for key, mask in pairs for i, kept in enumerate(mask) if not kept}


@pytest.mark.parametrize("sparsity", [0.01, 0.3, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("scope", "names"),
    [("all", ["0.weight", "4.weight"]), ("conv", ["0.weight"]), ("linear", ["4.weight"])],
)
def test_masks_equal_the_slow_way(sparsity, ties, scope, names):
    start = PROBLEM.state()
    if ties:
        with torch.no_grad():
            for p in start.model.parameters():
                p.copy_((p * 8).round() / 8)
    state, trace = apply(Magnitude(sparsity=sparsity, scope=scope, empty="allow"), start, PROBLEM.run)
    before = rows(start.model, names)
    count = round(sparsity * sum(map(len, before.values())))
    assert gone(state) == lowest(before, count)
    assert len(gone(state)) == count
    after = rows(state.model, names)
    for key, row in before.items():
        assert after[key] == [0.0 if (key, i) in gone(state) else value for i, value in enumerate(row)]
    assert trace.drawn == {}
    assert state.masks_saw == {"pool"}


def test_what_is_pruned_stays_pruned_and_less_is_refused():
    first = apply(Magnitude(sparsity=0.5), PROBLEM.state(), PROBLEM.run).state
    with torch.no_grad():  # the others shrink below what is zero already
        first.model[0].weight.mul_(0)
    second = apply(Magnitude(sparsity=0.8, empty="allow"), first, PROBLEM.run).state
    assert gone(first) < gone(second)
    assert len(gone(second)) == round(0.8 * 144)
    with pytest.raises(UsageError, match="no weight grows back"):
        apply(Magnitude(sparsity=0.2), first, PROBLEM.run)


def test_masks_of_other_layers_stay():
    conv = apply(Magnitude(sparsity=0.5, scope="conv"), PROBLEM.state(), PROBLEM.run).state
    both = apply(Magnitude(sparsity=0.25, scope="linear"), conv, PROBLEM.run).state
    assert {key: int((~mask).sum()) for key, mask in both.masks.items()} == {"0.weight": 18, "4.weight": 27}


def test_sparsity_zero_changes_nothing_not_even_by_rewinding():
    start = PROBLEM.state()
    state = apply(Magnitude(sparsity=0.0, rewind="epoch-0"), start, PROBLEM.run).state
    pairs = zip(start.model.state_dict().values(), state.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert (state.masks, state.masks_saw, state.weights_saw) == ({}, frozenset(), {"pool"})


def test_rewinding_restores_the_weights_of_the_mark_under_masks_of_the_trained_ones():
    start = PROBLEM.state()
    plain = apply(Magnitude(sparsity=0.5), start, PROBLEM.run).state
    back = apply(Magnitude(sparsity=0.5, rewind="epoch-0"), start, PROBLEM.run).state
    mark = start.marks["epoch-0"]
    assert gone(back) == gone(plain)
    for key, p in back.model.named_parameters():
        mask = back.masks.get(key, torch.ones_like(p, dtype=torch.bool))
        assert torch.equal(p, torch.where(mask, mark.weights[key], 0.0))
    assert all(torch.equal(b, mark.buffers[key]) for key, b in back.model.named_buffers())
    # the weights are those of a new model again; the masks have seen what the trained weights saw
    assert (back.weights_saw, back.masks_saw) == (frozenset(), {"pool"})


def test_a_mark_that_is_not_there():
    with pytest.raises(DataError, match=r"keep = \[7\]"):
        apply(Magnitude(rewind="epoch-7"), PROBLEM.state(), PROBLEM.run)
    with pytest.raises(UsageError, match="rewind should"):
        apply(Magnitude(rewind="the start"), PROBLEM.state(), PROBLEM.run)


def test_the_choice_does_not_depend_on_the_precision_of_equal_weights():
    start = PROBLEM.state()
    double = replace(PROBLEM, run=replace(PROBLEM.run, precision="fp64")).state(trained=False)
    double.model.load_state_dict(start.model.state_dict())
    fine = apply(Magnitude(sparsity=0.7), double, replace(PROBLEM.run, precision="fp64")).state
    assert gone(fine) == gone(apply(Magnitude(sparsity=0.7), start, PROBLEM.run).state)


def test_a_scope_without_weights_is_refused():
    split = PROBLEM.split
    size = next(iter(split.pool.once(batch=1))).x.numel()
    state = State.of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, 3)), split, PROBLEM.run)
    with pytest.raises(DataError, match="weights to prune in scope"):
        apply(Magnitude(sparsity=0.5, scope="conv"), state, PROBLEM.run)
