from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from secateur.optimize import Sgd, cross_entropy, optimize
from secateur.step import apply
from secateur.steps.unlearn.gradient_ascent import GradientAscent
from secateur.testing import toy_problem

# more rows than fit into one look at them
PROBLEM = toy_problem(rows=1500, forget=60, precision="fp64")
CLIMB = {"epochs": 3, "batch": 30, "lr": 1e-3}


def loss(model, view):
    (batch,) = view.once(batch=100)
    with torch.no_grad():
        return float(functional.cross_entropy(model(batch.x), batch.y))


def test_it_climbs_on_forget_and_leaves_the_statistics_alone():
    start = PROBLEM.state()
    state, trace = apply(GradientAscent(**CLIMB), start, PROBLEM.run)
    assert trace.drawn == {"forget": 3 * 60}
    assert list(trace.notes["loss"]) == sorted(trace.notes["loss"])
    assert loss(state.model, start.forget) > loss(start.model, start.forget)
    assert not torch.equal(state.model[0].weight, start.model[0].weight)
    for key, value in start.model[1].named_buffers():
        assert torch.equal(value, dict(state.model[1].named_buffers())[key])


def test_recomputed_statistics_are_those_of_a_pass_over_retain():
    start = PROBLEM.state()
    frozen = apply(GradientAscent(**CLIMB), start, PROBLEM.run).state
    state, trace = apply(GradientAscent(**CLIMB, norms="recompute"), start, PROBLEM.run)
    assert trace.drawn == {"forget": 3 * 60, "retain": 1440}
    assert all(
        torch.equal(a, b) for a, b in zip(frozen.model.parameters(), state.model.parameters(), strict=True)
    )
    with torch.no_grad():
        x = torch.cat([batch.x for batch in start.retain.fresh().once()])
        seen = state.model[0](x)  # the input of the norm layer, [n, 4, 3, 3]
        halves = seen[:720], seen[720:]
        means = torch.stack([half.mean((0, 2, 3)) for half in halves])
        variances = torch.stack([half.transpose(0, 1).flatten(1).var(1) for half in halves])
    assert torch.allclose(state.model[1].running_mean, means.mean(0), rtol=1e-12, atol=1e-14)
    assert torch.allclose(state.model[1].running_var, variances.mean(0), rtol=1e-12, atol=0)
    assert torch.allclose(state.model[1].running_mean, seen.mean((0, 2, 3)), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(state.model[1].running_mean, frozen.model[1].running_mean, rtol=1e-3)
    assert not state.model.training


@pytest.mark.parametrize(("norms", "reads"), [("frozen", {"forget"}), ("recompute", {"forget", "retain"})])
def test_what_it_reads_follows_from_the_knob(norms, reads):
    assert GradientAscent(norms=norms).reads == reads


def test_one_row_too_many_is_no_stump():
    # 1,025 rows in looks of at most 1,024: a look of one row has no variance to speak of
    problem = toy_problem(rows=1040, forget=15)
    state = apply(GradientAscent(**CLIMB, norms="recompute"), problem.state(trained=False), problem.run).state
    with torch.no_grad():
        x = torch.cat([batch.x for batch in problem.split.retain.once()])
        whole = state.model[0](x).transpose(0, 1).flatten(1).var(1)
    assert torch.allclose(state.model[1].running_var, whole, rtol=0.01)


def test_under_gamma_it_climbs_the_loss_less_the_norm_of_the_weights():
    step, start = GradientAscent(**CLIMB, gamma=0.02), PROBLEM.state()
    state, trace = apply(step, start, PROBLEM.run)
    model = start.model.train()
    model[1].eval()
    trainable = [p for p in model.parameters() if p.requires_grad]
    momenta, gains = [torch.zeros_like(p) for p in trainable], []
    batches = start.forget.loader(epochs=3, batch=30, rng=PROBLEM.run.at(1).rng("order"))
    for batch in batches:
        norm = sum(p.abs().sum() for p in trainable if p.ndim > 1)
        gain = functional.cross_entropy(model(batch.x), batch.y) - 0.02 * norm
        gradients = torch.autograd.grad(gain, trainable)
        gains.append(gain.item())
        with torch.no_grad():
            for p, g, v in zip(trainable, gradients, momenta, strict=True):
                v.mul_(0.9).add_(-g + step.decay * p)  # uphill, while decay pulls to zero
                p.sub_(step.lr * v)
    for (key, a), b in zip(model.state_dict().items(), state.model.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-12, atol=1e-13), key
    assert list(trace.notes["loss"]) == pytest.approx(np.reshape(gains, (3, 2)).mean(1).tolist())
    plain = apply(GradientAscent(**CLIMB), PROBLEM.state(), PROBLEM.run).state
    assert sum(p.abs().sum() for p in state.model.parameters()) < sum(
        p.abs().sum() for p in plain.model.parameters()
    )


def test_without_gamma_no_bit_differs_from_plain_ascent():
    start = PROBLEM.state()
    state = apply(GradientAscent(**CLIMB, gamma=0.0), start, PROBLEM.run).state
    run = PROBLEM.run.at(1)
    order = start.forget.loader(epochs=3, batch=30, rng=run.rng("order"))
    sgd = Sgd(lr=1e-3, decay=5e-4, ascend=True)
    with run.steady():
        optimize(start, order, cross_entropy, optimizer=sgd, norms="frozen", run=run)
    pairs = zip(start.model.state_dict().values(), state.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
