"""``optimize`` does what a loop written out by hand does, update by update."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from secateur.maths.schedules import constant, cosine
from secateur.optimize import Sgd, cross_entropy, optimize
from secateur.testing import toy_problem

PROBLEM = toy_problem(precision="fp64")
RUN = PROBLEM.run
EPOCHS, BATCH = 3, 16


def batches(state):
    return state.retain.loader(epochs=EPOCHS, batch=BATCH, rng=RUN.rng("order"))


def by_hand(state, sgd, clip, norms):
    """Plain tensor operations, one parameter at a time; the weights after every update."""
    model = state.model
    for key, mask in state.masks.items():
        model.get_parameter(key).data[~mask] = 0.0
    model.train()
    if norms == "frozen":
        model[1].eval()
    trainable = {key: p for key, p in model.named_parameters() if p.requires_grad}
    momenta, path, clipped = {}, [], 0
    items = list(batches(state))
    for i, batch in enumerate(items):
        lr = sgd.lr * sgd.schedule(i / len(items))
        loss = functional.cross_entropy(model(batch.x), batch.y)
        gradients = dict(zip(trainable, torch.autograd.grad(loss, list(trainable.values())), strict=True))
        if clip is not None:
            norm = float(sum(g.square().sum() for g in gradients.values())) ** 0.5
            gradients = {key: g * min(1.0, clip / (norm + 1e-6)) for key, g in gradients.items()}
            clipped += norm > clip
        with torch.no_grad():
            for key, p in trainable.items():
                g = (-gradients[key] if sgd.ascend else gradients[key]) + sgd.decay * p
                momenta[key] = g if key not in momenta else sgd.momentum * momenta[key] + g
                p -= lr * (g + sgd.momentum * momenta[key] if sgd.nesterov else momenta[key])
            for key, mask in state.masks.items():
                model.get_parameter(key)[~mask] = 0.0
        path.append({key: p.detach().clone() for key, p in model.named_parameters()})
    assert clip is None or 0 < clipped < len(items)
    return path


def ours(state, sgd, clip, norms):
    path = []

    def loss(model, batch, progress):
        if progress:
            path.append({key: p.detach().clone() for key, p in model.named_parameters()})
        return cross_entropy(model, batch, progress)

    optimize(state, batches(state), loss, optimizer=sgd, clip=clip, norms=norms, run=RUN)
    return [*path, {key: p.detach().clone() for key, p in state.model.named_parameters()}]


CASES = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "decay": 0.05},
    {"momentum": 0.9, "nesterov": True, "decay": 0.05, "schedule": cosine},
    {"momentum": 0.5, "decay": 0.05, "ascend": True, "lr": 0.002},
]


@pytest.mark.parametrize(
    ("given", "clip", "sparsity", "norms"),
    [
        *((given, None, sparsity, "batch") for given, sparsity in itertools.product(CASES, (0.0, 0.5))),
        (CASES[3], 1.0, 0.0, "batch"),
        (CASES[4], 1.0, 0.5, "frozen"),
        (CASES[5], 1.0, 0.5, "frozen"),
    ],
)
def test_every_update_is_the_same(given, clip, sparsity, norms):
    sgd = Sgd(**{"lr": 0.05, "schedule": constant, **given})
    start, again = (PROBLEM.state(trained=False, sparsity=sparsity) for _ in range(2))
    with RUN.steady():
        expected, found = by_hand(start, sgd, clip, norms), ours(again, sgd, clip, norms)
    assert len(expected) == len(found) == 9
    for one, other in zip(expected, found, strict=True):
        for key, value in one.items():
            assert torch.allclose(other[key], value, rtol=1e-12, atol=1e-13), key
            if key in again.masks:
                pruned = other[key][~again.masks[key]]
                assert pruned.numpy().tobytes() == bytes(8 * len(pruned))
    pairs = zip(start.model.buffers(), again.model.buffers(), strict=True)
    assert all(torch.allclose(a.double(), b.double(), rtol=1e-12, atol=1e-14) for a, b in pairs)
    assert not torch.allclose(expected[0]["0.weight"], expected[-1]["0.weight"], rtol=1e-3)


def test_in_fp32_it_is_bit_for_bit_torch_s_own_optimizer():
    problem = replace(PROBLEM, run=replace(RUN, precision="fp32"))
    start, again = problem.state(sparsity=0.5), problem.state(sparsity=0.5)
    model = start.model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trainable, lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    with problem.run.steady():
        for batch in batches(start):
            sgd.zero_grad()
            functional.cross_entropy(model(batch.x), batch.y).backward()
            sgd.step()
            for key, mask in start.masks.items():
                model.get_parameter(key).data.masked_fill_(~mask, 0.0)
        optimize(again, batches(again), cross_entropy, optimizer=Sgd(lr=0.05, decay=5e-4), run=problem.run)
    pairs = zip(model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
