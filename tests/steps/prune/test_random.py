from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from secateur.state import State
from secateur.step import apply
from secateur.steps.prune.magnitude import Magnitude
from secateur.steps.prune.random import Random
from secateur.testing import toy_problem

PROBLEM = toy_problem()


def wide():
    return nn.Sequential(
        nn.Conv2d(1, 20, 3), nn.ReLU(), nn.Flatten(), nn.Linear(320, 20), nn.ReLU(), nn.Linear(20, 3)
    )


def flat(state):
    return torch.cat([~mask.flatten() for mask in state.masks.values()]).numpy()


@pytest.mark.parametrize("per", ["network", "layer"])
def test_every_weight_goes_equally_often(per):
    start, trials, sparsity = PROBLEM.state(), 400, 0.75
    count = np.zeros(144)
    for seed in range(trials):
        run = replace(PROBLEM.run, seed=seed)
        count += flat(apply(Random(sparsity=sparsity, per=per, empty="allow"), start, run).state)
    assert count.sum() == trials * 108
    # without replacement the counts are less spread than independent ones: by (n - 1) / n in all
    expected = trials * sparsity
    statistic = float(((count - expected) ** 2).sum() / (expected * (1 - sparsity)))
    low, high = stats.chi2(143).ppf([1e-4, 1 - 1e-4])
    assert low < statistic < high


def test_the_layers_give_their_shares_and_neighbours_are_independent():
    state = apply(Random(sparsity=0.5), State.of(wide, PROBLEM.split, PROBLEM.run), PROBLEM.run).state
    shares = {key: float((~mask).double().mean()) for key, mask in state.masks.items()}
    for key, share in shares.items():
        assert abs(share - 0.5) < 4 * 0.5 / state.masks[key].numel() ** 0.5
    gone = flat(state)
    assert gone.sum() == round(0.5 * len(gone))
    runs = 1 + int((gone[1:] != gone[:-1]).sum())
    assert abs(runs - len(gone) / 2) < 4 * len(gone) ** 0.5 / 2


def test_the_stream_decides_and_weights_rows_and_precision_do_not():
    first = apply(Random(sparsity=0.6), PROBLEM.state(), PROBLEM.run).state
    other = PROBLEM.state()
    with torch.no_grad():
        for p in other.model.parameters():
            p.add_(1)
    again = apply(Random(sparsity=0.6), other, PROBLEM.run).state
    fine = replace(PROBLEM, run=replace(PROBLEM.run, precision="fp64"))
    double = apply(Random(sparsity=0.6), fine.state(), fine.run).state
    assert np.array_equal(flat(first), flat(again))
    assert np.array_equal(flat(first), flat(double))
    moved = [
        apply(Random(sparsity=0.6), PROBLEM.state(), replace(PROBLEM.run, seed=1)).state,
        apply(Random(sparsity=0.6), replace(PROBLEM.state(), depth=5), PROBLEM.run).state,
    ]
    assert not any(np.array_equal(flat(first), flat(one)) for one in moved)


def test_its_masks_claim_nothing_but_what_shaped_those_before():
    plain, trace = apply(Random(sparsity=0.5), PROBLEM.state(), PROBLEM.run)
    assert (plain.masks_saw, plain.weights_saw, trace.masks_saw) == (frozenset(), {"pool"}, ())
    after = apply(Random(sparsity=0.8), plain, PROBLEM.run).state
    assert after.masks_saw == frozenset()
    chosen = apply(Magnitude(sparsity=0.5), PROBLEM.state(), PROBLEM.run).state
    on_top = apply(Random(sparsity=0.8), chosen, PROBLEM.run).state
    assert on_top.masks_saw == {"pool"}
    # and weights chosen among those that chance left have been looked at
    assert apply(Magnitude(sparsity=0.8), plain, PROBLEM.run).state.masks_saw == {"pool"}
