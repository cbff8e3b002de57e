from __future__ import annotations

import pytest
import torch

from secateur.errors import UsageError
from secateur.maths.saliency import grasp
from secateur.network import copy_model
from secateur.step import apply
from secateur.steps.prune.grasp import Grasp
from secateur.testing import toy_problem

PROBLEM = toy_problem(precision="fp64")
RUN = PROBLEM.run
NAMES = ["0.weight", "4.weight"]


def scores(state, temperature, rows=30, batch=10):
    # the maths stands against a dense Hessian in the oracles
    model = copy_model(state.model).train().requires_grad_(True)
    drawn = state.pool.fresh().sample(rows, RUN.at(state.depth).rng("rows"))
    chunks = [(part.x, part.y) for part in drawn.once(batch=batch)]
    found = grasp(model, chunks, NAMES, temperature=temperature, kept=state.masks)
    return torch.cat([found[name].flatten() for name in NAMES])


@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("sparsity", [0.0, 0.3])
def test_it_keeps_what_carries_most_flow_signs_and_all(temperature, sparsity):
    start = PROBLEM.state(trained=False, sparsity=sparsity)
    step = Grasp(sparsity=0.7, samples=30, chunk=10, temperature=temperature)
    state, trace = apply(step, start, RUN)
    found = scores(start, temperature)
    kept, before = (
        torch.cat([masks.get(name, torch.ones_like(state.masks[name])).flatten() for name in NAMES])
        for masks in (state.masks, start.masks)
    )
    assert int(kept.sum()) == 144 - round(0.7 * 144)
    assert float(found[kept].min()) >= float(found[~kept & before].max())
    assert bool((found < 0).any())
    # not by size: among the pruned are scores of a size that is kept
    assert float(found[~kept].abs().max()) > float(found[kept].abs().min())
    assert trace.drawn == {"pool": 30}
    assert state.masks_saw == {"pool"}


def test_a_high_temperature_only_scales():
    # far from saturation the softmax is nearly linear: beyond some T the ranking no longer moves
    start = PROBLEM.state(trained=False)
    first, second = (
        apply(Grasp(sparsity=0.7, samples=30, temperature=t), start, RUN).state for t in (1e3, 1e4)
    )
    assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())


def test_it_reads_nothing_where_it_prunes_nothing():
    assert Grasp(sparsity=0.0).reads == frozenset()
    assert Grasp().reads == {"pool"}


def test_a_temperature_of_zero():
    with pytest.raises(UsageError, match="temperature should be greater than 0"):
        apply(Grasp(temperature=0.0), PROBLEM.state(), RUN)
