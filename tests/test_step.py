from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from secateur.card import Card
from secateur.data import Role
from secateur.errors import BrokenPromise, NotFinite, StepError, UsageError
from secateur.run import Run
from secateur.state import State
from secateur.step import apply
from secateur.testing import toy_problem

PROBLEM = toy_problem()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Does what ``act`` of the class says, and keeps what it was handed."""

    card: ClassVar[Card] = Card(summary="For tests.", paper="none", data="retain", version=3)
    reads: ClassVar[frozenset[Role]] = frozenset({"retain"})
    handed: ClassVar[list[tuple[State, Run]]] = []

    strength: float = 0.5

    def __call__(self, state, run, /):
        self.handed.append((state, run))
        return type(self).act(state, run)

    @staticmethod
    def act(state, run):
        return state


def probe(act, **card):
    """A step that does one thing."""
    cls = type(
        "Probe", (Probe,), {"act": staticmethod(act), "card": replace(Probe.card, **card), "handed": []}
    )
    return dataclass(frozen=True, kw_only=True)(cls)()


def test_the_trace_says_what_was_done():
    def act(state, run):
        run.note("loss", 2.0)
        run.note("loss", 1.0)
        list(state.retain.once())
        next(iter(state.retain.once(batch=1)))
        return state

    start = PROBLEM.state(sparsity=0.5)
    state, trace = apply(probe(act), start, replace(PROBLEM.run, seed=7))
    assert trace.step.endswith("test_step:Probe")
    assert (trace.knobs, trace.version, trace.seed, trace.depth) == ({"strength": 0.5}, 3, 7, 1)
    assert (trace.reads, trace.drawn) == (("retain",), {"retain": 49})
    assert trace.notes == {"loss": (2.0, 1.0)}
    assert trace.seconds > 0
    assert trace.peak_bytes > 10**6
    assert trace.sparsity == state.sparsity == pytest.approx(0.5, abs=0.01)
    assert (trace.weights_saw, trace.masks_saw) == (("pool", "retain"), ("pool",))
    assert state.depth == 2
    json.dumps(asdict(trace))


def test_a_step_is_handed_copies_in_evaluation_mode():
    start = PROBLEM.state(sparsity=0.5)
    start.model.train()
    step = probe(lambda state, run: state)
    apply(step, start, PROBLEM.run)
    handed, run = step.handed[0]
    assert handed.model is not start.model
    assert not handed.model.training
    assert start.model.training
    assert run.depth == start.depth == 1
    assert run.notes is not PROBLEM.run.notes
    assert handed.retain is not start.retain
    for key, mask in handed.masks.items():
        assert mask.data_ptr() != start.masks[key].data_ptr()
    ours = start.marks["epoch-0"].weights
    assert all(
        value.data_ptr() != ours[key].data_ptr() for key, value in handed.marks["epoch-0"].weights.items()
    )


def test_a_step_that_starts_anew_is_handed_new_weights_under_the_masks():
    start = PROBLEM.state(sparsity=0.5)
    step = probe(lambda state, run: state.pruned(state.masks), anew=True)
    state = apply(step, start, PROBLEM.run).state
    expected = start.fresh(PROBLEM.run.at(start.depth)).pruned(start.masks)
    assert all(
        torch.equal(a, b) for a, b in zip(state.model.parameters(), expected.model.parameters(), strict=True)
    )
    assert state.weights_saw == {"retain"}
    assert state.masks_saw == {"pool"}
    assert list(state.masks) == list(start.masks)


def test_an_error_in_a_step_leaves_all_as_it_was():
    def fails(state, run):
        torch.rand(3)
        torch.set_num_threads(3)
        for p in state.model.parameters():
            p.data.zero_()
        raise NotFinite("no")

    start = PROBLEM.state()
    before = [p.clone() for p in start.model.parameters()]
    chance, threads = torch.get_rng_state(), torch.get_num_threads()
    with pytest.raises(NotFinite, match="no"):
        apply(probe(fails), start, PROBLEM.run)
    assert all(torch.equal(a, b) for a, b in zip(before, start.model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), chance)
    assert torch.get_num_threads() == threads


def test_a_step_may_reshape_if_it_hands_back_a_build_that_fits():
    def wider():
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 7), nn.Linear(7, 3))

    def act(state, run):
        return replace(state, build=wider, model=wider(), masks={})

    state = apply(probe(act), PROBLEM.state(), PROBLEM.run).state
    assert state.build is wider
    assert not state.model.training


def test_weights_come_back_in_plain_memory():
    def act(state, run):
        state.model.to(memory_format=torch.channels_last)
        assert not state.model[0].weight.is_contiguous() or state.model[0].weight.shape[1] == 1
        state.model[4].weight.data = state.model[4].weight.data.t().contiguous().t()
        return state

    state = apply(probe(act), PROBLEM.state(), PROBLEM.run).state
    assert all(p.is_contiguous() for p in state.model.parameters())


def test_marks_live_until_a_step_tells_forget_from_retain():
    def act(state, run):
        return state

    blind = probe(act)
    type(blind).reads = frozenset({"pool"})
    start = PROBLEM.state()
    assert set(apply(blind, start, PROBLEM.run).state.marks) == {"epoch-0"}
    assert apply(probe(act), start, PROBLEM.run).state.marks == {}


def test_dropping_masks_claims_nothing_new():
    def act(state, run):
        return replace(state, masks={}, masks_saw=frozenset())

    assert apply(probe(act), PROBLEM.state(sparsity=0.5), PROBLEM.run).state.masks_saw == frozenset()


def test_a_state_belongs_to_the_precision_it_was_made_for():
    with pytest.raises(UsageError, match=r"torch.float64 on cpu.*got weights in torch.float32"):
        apply(probe(lambda state, run: state), PROBLEM.state(), replace(PROBLEM.run, precision="fp64"))


def test_steps_at_different_depths_draw_other_numbers():
    drawn = []

    def act(state, run):
        drawn.append((torch.rand(1).item(), torch.rand(1, generator=run.rng("order")).item()))
        return state

    step, start = probe(act), PROBLEM.state()
    first = apply(step, start, PROBLEM.run).state
    apply(step, start, PROBLEM.run)
    apply(step, first, PROBLEM.run)
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[2][0]
    assert drawn[0][1] != drawn[2][1]


def test_integer_buffers_are_no_reason_to_refuse():
    state = apply(probe(lambda state, run: state), PROBLEM.state(), PROBLEM.run).state
    assert state.model[1].num_batches_tracked.dtype == torch.int64


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(BrokenPromise, match="return a State, got dict"):
        apply(probe(lambda state, run: {"model": state.model}), PROBLEM.state(), PROBLEM.run)


class Causal(nn.Module):
    """Holds infinity by design, in four dimensions, as an attention mask does."""

    def __init__(self):
        super().__init__()
        self.inner = PROBLEM.build()
        self.register_buffer(
            "mask", torch.full((2, 3, 4, 5), -torch.inf).to(memory_format=torch.channels_last)
        )

    def forward(self, x):
        return self.inner(x)


def test_infinity_that_was_there_before_is_no_fault():
    state = State.of(Causal, PROBLEM.split, PROBLEM.run)
    after = apply(probe(lambda state, run: state), state, PROBLEM.run).state
    assert torch.equal(after.model.mask, state.model.mask)
    assert after.model.mask.is_contiguous()

    def spoil(state, run):
        state.model.mask[0, 0, 0, 0] = torch.nan
        return state

    with pytest.raises(NotFinite, match="mask holds NaN"):
        apply(probe(spoil), state, PROBLEM.run)


def test_what_a_step_raises_is_told_with_its_line():
    def fail(state, run):
        return [][3]

    with pytest.raises(
        StepError, match=r"could not do its work: IndexError: list index out of range \(.*test_step"
    ):
        apply(probe(fail), PROBLEM.state(), PROBLEM.run)
