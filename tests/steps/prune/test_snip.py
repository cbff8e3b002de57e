from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from secateur.errors import UsageError
from secateur.network import copy_model
from secateur.step import apply
from secateur.steps.prune.snip import Snip
from secateur.testing import toy_problem

PROBLEM = toy_problem()
RUN = PROBLEM.run
NAMES = ["0.weight", "4.weight"]


def by_hand(state, rows, batch):
    """|w * dL/dw| in training mode, one chunk after another."""
    model = copy_model(state.model).train().requires_grad_(True)
    drawn = state.pool.fresh().sample(rows, RUN.at(state.depth).rng("rows"))
    chunks = [(part.x, part.y) for part in drawn.once(batch=batch)]
    for x, y in chunks:
        (functional.cross_entropy(model(x), y) * len(y) / rows).backward()
    return torch.cat([(p * p.grad).abs().flatten() for p in map(model.get_parameter, NAMES)]).detach()


@pytest.mark.parametrize(("rows", "batch"), [(20, 20), (20, 7), (60, 128)])
def test_it_keeps_the_highest_scores_of_its_rows(rows, batch):
    start = PROBLEM.state(trained=False)
    state, trace = apply(Snip(sparsity=0.7, samples=rows, chunk=batch), start, RUN)
    scores = by_hand(start, rows, batch)
    kept = torch.cat([state.masks[name].flatten() for name in NAMES])
    assert int(kept.sum()) == 144 - round(0.7 * 144)
    assert float(scores[kept].min()) >= float(scores[~kept].max())
    assert trace.drawn == {"pool": rows}
    assert (state.masks_saw, state.weights_saw) == ({"pool"}, {"pool"})
    # what is kept is not changed
    for name in NAMES:
        before = start.model.get_parameter(name)
        assert torch.equal(state.model.get_parameter(name), torch.where(state.masks[name], before, 0.0))


def test_other_rows_other_masks():
    start = PROBLEM.state(trained=False)
    few, many = (apply(Snip(sparsity=0.7, samples=n), start, RUN).state for n in (5, 60))
    assert any(not torch.equal(mask, many.masks[name]) for name, mask in few.masks.items())


def test_it_reads_nothing_where_it_prunes_nothing():
    assert Snip(sparsity=0.0).reads == frozenset()
    assert Snip().reads == {"pool"}


@pytest.mark.parametrize("given", [{"samples": 0}, {"chunk": 0}, {"sparsity": 1.0}, {"per": "block"}])
def test_knobs_out_of_bounds(given):
    with pytest.raises(UsageError, match=next(iter(given))):
        apply(Snip(**given), PROBLEM.state(), RUN)
