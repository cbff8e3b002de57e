"""Blocks that are computed again on the way back: the same bits in less memory."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import UsageError
from secateur.recompute import recomputing

RUN = sc.Run(seed=2, device="cpu", precision="fp32", threads=1)


def block():
    return nn.Sequential(nn.Linear(36, 36), nn.BatchNorm1d(36), nn.ReLU(), nn.Dropout(0.2))


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([block(), block()])
        self.head = nn.Linear(36, 3)

    def forward(self, x):
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture(scope="module")
def state():
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(3, (60,), generator=rng)
    x = torch.randn(60, 1, 6, 6, generator=rng)
    return sc.State.of(Dropping, sc.Split.of(x, y, forget=range(10)), RUN)


@pytest.mark.parametrize(
    "step",
    [
        sc.steps.Train(epochs=3, batch=16, lr=0.1),
        sc.steps.Retrain(epochs=2, batch=16, lr=0.1, sam=0.1),
        sc.steps.L1Sparse(epochs=2, batch=16),
    ],
    ids=lambda step: type(step).__name__,
)
def test_recomputed_blocks_give_the_same_bits(state, step):
    want = sc.apply(step, state, RUN)
    got = sc.apply(step, state, replace(RUN, recompute=True))
    for key, value in want.state.model.state_dict().items():
        assert torch.equal(got.state.model.state_dict()[key], value), key
    assert want.trace.notes == got.trace.notes


def test_a_block_is_really_computed_twice_and_its_statistics_move_once():
    model, calls = Dropping(), []
    model.blocks[0][0].register_forward_hook(lambda *_: calls.append(None))
    with recomputing(model):
        model(torch.randn(8, 36)).sum().backward()
    assert len(calls) == 2
    assert int(model.blocks[0][1].num_batches_tracked) == 1
    model(torch.randn(8, 36)).sum().backward()
    assert len(calls) == 3
    assert "forward" not in vars(model.blocks[0])


def test_it_keeps_less_for_the_way_back():
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            model(torch.randn(512, 36))
        return sum(sizes)

    model = Dropping()
    plain = kept(model)
    with recomputing(model):
        assert kept(model) < plain / 3


def test_a_network_without_blocks_is_refused():
    said = r"blocks .* got Sequential without any: set recompute = false"
    with pytest.raises(UsageError, match=said), recomputing(nn.Sequential(nn.Linear(2, 2), nn.ReLU())):
        pass


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("accumulate", 0, "at least one part of a batch"),
        ("recompute", 1, "recompute as true or false"),
        ("batchnorm", "global", '"local" or "sync"'),
        ("batchnorm", "sync", "expected GPUs"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(field, value, said):
    with pytest.raises(UsageError, match=said):
        replace(RUN, **{field: value})
