from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from secateur.errors import DataError
from secateur.maths.curvature import diagonal_fisher
from secateur.split import Split
from secateur.state import State
from secateur.step import apply
from secateur.steps.unlearn.fisher import Fisher
from secateur.testing import toy_problem

PROBLEM = toy_problem(precision="fp64")
RUN = PROBLEM.run
NORM, HEAD = ("1.weight", "1.bias"), ("4.weight",)


def weights(state):
    return {name: p.detach() for name, p in state.model.named_parameters() if p.requires_grad}


def moved(step, start):
    after = weights(apply(step, start, RUN).state)
    return {name: after[name] - before for name, before in weights(start).items()}


def information(start, kind="expected"):
    return diagonal_fisher(
        start.model, start.retain.fresh().once(), kind=kind, rng=RUN.at(start.depth).rng("classes")
    )


def flat(named):
    return torch.cat([value.flatten() for value in named.values()])


@pytest.mark.parametrize("kind", ["expected", "sampled", "empirical"])
@pytest.mark.parametrize(("exponent", "clamp"), [(0.5, 1e3), (0.25, 1e9), (0.5, 1e300)])
def test_the_noise_has_the_variance_that_it_says(kind, exponent, clamp):
    start = PROBLEM.state()
    delta = moved(Fisher(noise=1e-4, exponent=exponent, clamp=clamp, kind=kind), start)
    spread = {
        name: 1e-4 * f.pow(-2 * exponent).clamp(max=clamp) for name, f in information(start, kind).items()
    }
    z = flat({name: delta[name] / spread[name].sqrt() for name in delta})
    # the same draws under every knob: those of the stream, in the order of the parameters
    rng = RUN.at(start.depth).rng("noise")
    drawn = torch.cat([
        torch.randn(d.shape, generator=rng, dtype=torch.float64).flatten() for d in delta.values()
    ])
    assert torch.allclose(z, drawn, rtol=1e-6, atol=1e-6)
    assert kstest(z.numpy(), "norm").pvalue > 0.01


def test_no_noise_is_no_change_and_more_noise_is_more():
    start = PROBLEM.state()
    assert not flat(moved(Fisher(noise=0.0), start)).any()
    little, much = (flat(moved(Fisher(noise=noise), start)) for noise in (1e-6, 1e-2))
    assert torch.allclose(100 * little, much, rtol=1e-6, atol=1e-9)


def test_the_share_of_clamped_weights_is_of_those_that_may_move():
    start = PROBLEM.state(sparsity=0.5)
    found = information(start)
    kept = {name: start.masks.get(name, torch.ones_like(f, dtype=torch.bool)) for name, f in found.items()}
    inverse = torch.cat([(1 / found[name])[kept[name]] for name in found])
    clamp = float(inverse.quantile(0.6))
    trace = apply(Fisher(clamp=clamp), start, RUN).trace
    assert trace.notes["clamped"] == (float((inverse > clamp).double().mean()),)
    without = torch.cat([(1 / found[name])[kept[name]] for name in found if name not in NORM])
    trace = apply(Fisher(clamp=clamp, norm_factor=0.0), start, RUN).trace
    assert trace.notes["clamped"] == (float((without > clamp).double().mean()),)


@pytest.mark.parametrize(("knob", "names"), [("norm_factor", NORM), ("head_factor", HEAD)])
def test_norm_layers_and_the_head_by_a_factor(knob, names):
    start = PROBLEM.state()
    plain, more, none = (moved(Fisher(noise=1e-4, **{knob: factor}), start) for factor in (1.0, 9.0, 0.0))
    for name in plain:
        factor = 3.0 if name in names else 1.0
        assert torch.allclose(more[name], factor * plain[name], rtol=1e-6, atol=1e-9)
        assert bool(none[name].any()) is (name not in names)


def test_averaged_over_what_leads_to_one_output():
    start = PROBLEM.state(sparsity=0.5)
    step = Fisher(noise=1e-4, clamp=1e9)
    plain, averaged = moved(step, start), moved(replace(step, average="inputs"), start)
    for name, f in information(start).items():
        kept = start.masks.get(name, torch.ones_like(f, dtype=torch.bool))
        inverse = (1 / f).clamp(max=1e9)
        want = plain[name] / inverse.sqrt()
        for index in np.ndindex(*f.shape):
            line = (index[0], slice(None), *index[2:]) if f.ndim > 1 else index
            mean = inverse[line][kept[line]].mean() if kept[line].any() else torch.tensor(0.0)
            want[index] *= mean.sqrt()
        assert torch.allclose(averaged[name], want, rtol=1e-6, atol=1e-9)


def whole_class():
    pool = PROBLEM.split.pool
    x = torch.cat([batch.x for batch in pool.fresh().once()])
    split = Split.of(x, pool.labels, forget=pool.labels == 1)
    return State.of(PROBLEM.build, split, RUN, model=PROBLEM.state().model)


def test_a_forgotten_class_can_lose_its_row_of_the_head():
    start = whole_class()
    plain = weights(apply(Fisher(noise=1e-4), start, RUN).state)
    reset = weights(apply(Fisher(noise=1e-4, forgotten="reset"), start, RUN).state)
    for name in plain:
        same = plain[name] == reset[name]
        assert bool(same[[0, 2]].all() and not same[1].any()) if name in HEAD else bool(same.all())
    row = reset["4.weight"][1] / np.sqrt(1e-4 * 1000)
    assert kstest(row.numpy(), "norm").pvalue > 0.01
    # no class is forgotten whole: there is no such row
    known = PROBLEM.state()
    assert torch.equal(flat(moved(Fisher(forgotten="reset"), known)), flat(moved(Fisher(), known)))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(36, 3)

    def forward(self, x):
        return self.layer(x.flatten(1)) * 2


def test_a_head_that_cannot_be_found_is_asked_for_only_where_it_counts():
    start = State.of(Scaled, PROBLEM.split, RUN)
    apply(Fisher(), start, RUN)
    for knobs in ({"head_factor": 10.0}, {"forgotten": "reset"}):
        with pytest.raises(DataError, match=r"a head that is a torch\.nn\.Linear"):
            apply(Fisher(**knobs), start, RUN)


def test_rows_are_looked_at_once():
    assert apply(Fisher(), PROBLEM.state(), RUN).trace.drawn == {"retain": 48}
