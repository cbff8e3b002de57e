from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from secateur.errors import DataError, StepError
from secateur.state import State
from secateur.step import apply
from secateur.steps.unlearn.newton import Newton
from secateur.testing import toy_problem

PROBLEM = toy_problem(precision="fp64")
RUN = PROBLEM.run


def slope(state, l2):
    """The objective's gradient over the head's weights, by plain autograd through the whole model."""
    batch = next(state.retain.fresh().once())
    weight = state.model[4].weight
    (found,) = torch.autograd.grad(functional.cross_entropy(state.model(batch.x), batch.y), weight)
    return found + l2 * weight.detach()


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
@pytest.mark.parametrize("l2", [1e-4, 0.1])
def test_only_the_head_moves_and_to_the_minimum(l2, sparsity):
    start = PROBLEM.state(sparsity=sparsity)
    state, trace = apply(Newton(l2=l2), start, RUN)
    found = slope(state, l2)
    if sparsity:
        found = found[start.masks["4.weight"]]
    assert float(found.norm()) < 1e-9
    assert trace.notes["gradient"][-1] < 1e-9
    for name, p in start.model.named_parameters():
        assert torch.equal(p, state.model.get_parameter(name)) is (name != "4.weight")  # its bias is frozen


def test_the_way_does_not_matter():
    start = PROBLEM.state()
    other = PROBLEM.state()
    with torch.no_grad():
        other.model[4].weight.fill_(5.0)
    first, second = (apply(Newton(l2=0.01), s, RUN).state.model[4].weight.detach() for s in (start, other))
    assert float((first - second).abs().max()) < 2 * 1e-9 / 0.01


def test_in_single_precision_it_is_the_rounded_solution():
    exact = apply(Newton(), PROBLEM.state(), RUN).state.model
    problem = toy_problem()
    start = State.of(problem.build, problem.split, problem.run, model=PROBLEM.state().model.float())
    found = apply(Newton(), start, problem.run).state.model[4].weight
    assert torch.allclose(found.double(), exact[4].weight, rtol=1e-4, atol=1e-5)


def test_a_bound_that_is_not_reached_is_an_error():
    with pytest.raises(StepError, match=r"gradient under 1e-30 after at most 3 Newton steps"):
        apply(Newton(bound=1e-30, steps=3), PROBLEM.state(), RUN)


class Odd(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.body, self.head = nn.Linear(36, 3), nn.Linear(3, 3)
        if how == "tied":
            self.again = nn.Linear(3, 3)
            self.again.weight = self.head.weight
        if how == "parametrised":
            torch.nn.utils.parametrizations.weight_norm(self.head)

    def forward(self, x):
        x = self.body(x.flatten(1)).relu()
        if self.how == "tied":
            x = self.again(x).relu()
        if self.how == "twice":
            x = self.head(x).relu()
        if self.how == "curved":
            return self.head(x).tanh()
        return self.head(x)


@pytest.mark.parametrize("how", ["tied", "twice", "curved", "parametrised"])
def test_what_is_not_convex_in_the_head_is_refused(how):
    start = State.of(lambda: Odd(how), PROBLEM.split, RUN)
    with pytest.raises(DataError, match=r"a head that is a torch\.nn\.Linear"):
        apply(Newton(), start, RUN)


def test_a_plain_model_is_taken():
    state = apply(Newton(), State.of(lambda: Odd("plain"), PROBLEM.split, RUN), RUN).state
    assert torch.isfinite(state.model.head.weight).all()


def test_a_frozen_head_has_nothing_to_update():
    def build():
        model = Odd("plain")
        model.head.requires_grad_(False)
        return model

    with pytest.raises(Exception, match="parameters to update"):
        apply(Newton(), State.of(build, PROBLEM.split, RUN), RUN)
