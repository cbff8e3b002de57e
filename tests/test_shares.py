"""Batches in parts: their weighted means add up."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import UsageError
from secateur.loader import Batch
from secateur.shares import shares


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("parts", [2, 3, 7, 100])
def test_parts_of_a_batch_add_up_to_its_gradient(parts):
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(3, (61,), generator=rng)
    x = torch.randn(61, 1, 6, 6, generator=rng)
    run = sc.Run(seed=2, device="cpu", precision="fp64", threads=1)
    begun = sc.State.of(plain, sc.Split.of(x, y, forget=range(10)), run)
    step = sc.steps.Train(epochs=20, batch=25, lr=0.1, clip=1.0)
    want = sc.apply(step, begun, run)
    got = sc.apply(step, begun, replace(run, accumulate=parts))
    for key, value in want.state.model.state_dict().items():
        torch.testing.assert_close(got.state.model.state_dict()[key], value, rtol=0, atol=1e-11)
    assert got.trace.notes["loss"] == pytest.approx(want.trace.notes["loss"], rel=1e-10)


def test_a_pair_of_batches_is_cut_alike_or_refused():
    def batch(n):
        return Batch(torch.arange(n), torch.arange(n), torch.arange(n))

    cut = shares((batch(4), batch(8)), 2)
    assert [(weight, len(a.y), len(b.y)) for weight, (a, b) in cut] == [(0.5, 2, 4), (0.5, 2, 4)]
    with pytest.raises(UsageError, match="no single weight makes their losses add up"):
        shares((batch(4), batch(5)), 2)
    with pytest.raises(UsageError, match="expected batches, or tuples of them"):
        shares(torch.arange(4), 2)
    assert shares("anything", 1) == [(1.0, "anything")]
