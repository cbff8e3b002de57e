"""What the closed-form steps refuse: one sentence each, and the original as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.errors import DataError, NotFinite, UsageError
from secateur.split import Split
from secateur.state import State
from secateur.step import apply
from secateur.steps.unlearn.fisher import Fisher
from secateur.steps.unlearn.influence import Influence
from secateur.steps.unlearn.newton import Newton
from secateur.testing import toy_problem

PROBLEM = toy_problem()
RUN = PROBLEM.run


class Net(nn.Module):
    """A linear head over norm and features; ``how`` says what is wrong with it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.norm, self.head = nn.BatchNorm1d(36, track_running_stats=how != "batch"), nn.Linear(36, 3)
        self.requires_grad_(how != "frozen")
        if how == "infinite":
            self.register_buffer("far", torch.full((36,), 1e38))

    def forward(self, x):
        x = self.norm(x.flatten(1))
        return self.head(x * self.far * 10) if self.how == "infinite" else self.head(x)


FAULTS = {
    "frozen": (UsageError, "parameters to update"),
    "batch": (UsageError, "batch norm in evaluation mode"),
    "infinite": (NotFinite, "NaN or infinity"),
}


STEPS = (Fisher(), Fisher(kind="sampled"), Influence(), Newton())
# Newton asks for no gradient of what lies before the head, so batch norm may be there as it likes
TRIED = [(step, how) for step in STEPS for how in FAULTS if (how, type(step)) != ("batch", Newton)]


@pytest.mark.parametrize(("step", "how"), TRIED, ids=repr)
def test_a_model_without_a_gradient_to_speak_of(step, how):
    state = State.of(lambda: Net(how), PROBLEM.split, RUN)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    kind, words = FAULTS[how]
    with pytest.raises(kind, match=words) as caught:
        apply(step, state, RUN)
    assert str(caught.value).count(". ") == 0  # one sentence
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())
    assert not any(module.training for module in state.model.modules())
    assert all(p.grad is None for p in state.model.parameters())


def test_a_singular_matrix_is_not_solved_without_damping():
    start = PROBLEM.state()
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    for solver in ("cg", "woodfisher"):
        with pytest.raises(UsageError, match="damping"):
            apply(Influence(damping=0.0, solver=solver, tolerance=1e-6, products=1000), start, RUN)
    assert all(torch.equal(value, before[name]) for name, value in start.model.state_dict().items())


def test_rows_that_change_from_one_look_to_the_next():
    class Shuffled(torch.utils.data.Dataset):
        looks = 0

        def __len__(self):
            return 12

        def __getitem__(self, i):
            self.looks += 1
            return torch.full((4,), float(self.looks)), i % 3

    with pytest.raises(DataError, match="second"):
        Split.of(Shuffled(), forget=[0])


def test_more_rows_than_there_are():
    with pytest.raises(DataError, match=r'between 1 and 48 rows from "retain", got 49'):
        apply(Influence(rows=49), PROBLEM.state(), RUN)
