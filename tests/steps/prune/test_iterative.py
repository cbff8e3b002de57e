from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from secateur.errors import DataError, UsageError
from secateur.network import copy_model
from secateur.optimize import Sgd, cross_entropy, optimize
from secateur.step import apply
from secateur.steps.prune.iterative import Iterative
from secateur.steps.prune.magnitude import Magnitude
from secateur.steps.train import Train
from secateur.testing import toy_problem

PROBLEM = toy_problem()
RUN = PROBLEM.run
SMALL = {"epochs": 4, "batch": 16, "lr": 0.05, "schedule": "constant"}


@pytest.fixture(scope="module")
def trained():
    return apply(Train(**SMALL, keep=(0, 1, 2)), PROBLEM.state(trained=False), RUN).state


def pruned(state):
    return sum(int((~mask).sum()) for mask in state.masks.values())


def same(first, second):
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.07])
@pytest.mark.parametrize("per", ["network", "layer"])
def test_k_rounds_prune_1_minus_1_minus_share_to_the_k(trained, share, per):
    state, trace = apply(Iterative(**SMALL, rounds=4, share=share, per=per), trained, RUN)
    expected = [round(144 * (1 - (1 - share) ** k)) for k in (1, 2, 3, 4)]
    assert trace.notes["sparsity"] == tuple(count / 144 for count in expected)
    assert pruned(state) == expected[-1]
    assert state.sparsity == expected[-1] / 144
    assert trace.drawn == {"pool": 4 * 2 * 60}
    assert len(trace.notes["loss"]) == 4 * 2


# at 0.06, counting on from what two rounds have pruned would miss a weight in the third
@pytest.mark.parametrize("share", [0.2, 0.06, 1 / 3])
def test_two_steps_in_a_row_prune_as_much_as_one(trained, share):
    one = apply(Iterative(**SMALL, rounds=5, share=share), trained, RUN).state
    two, done = trained, 0
    for rounds in (2, 1, 2):
        two = apply(Iterative(**SMALL, rounds=rounds, share=share), two, RUN).state
        done += rounds
        assert pruned(two) == round(144 * (1 - (1 - share) ** done))
        assert two.marks.keys() == {"epoch-0", "epoch-1", "epoch-2"}
    assert pruned(one) == pruned(two)
    for name, mark in trained.marks.items():
        assert all(torch.equal(value, two.marks[name].weights[key]) for key, value in mark.weights.items())


def test_after_another_pruning_it_goes_on_from_there(trained):
    half = apply(Magnitude(sparsity=0.31), trained, RUN).state
    after = apply(Iterative(**SMALL, rounds=2, share=0.2), half, RUN).state
    left = 1 - round(0.31 * 144) / 144
    assert pruned(after) == round(144 * (1 - left * 0.8**2))
    assert all(not bool((after.masks[key] & ~mask).any()) for key, mask in half.masks.items())


@pytest.mark.parametrize("rewind", ["epoch-0", "epoch-1"])
def test_a_round_is_prune_rewind_and_train_the_rest(trained, rewind):
    step = Iterative(**{**SMALL, "schedule": "cosine"}, rounds=2, share=0.4, rewind=rewind)
    run, start = RUN.at(trained.depth), int(rewind[-1])
    now = apply(Magnitude(sparsity=0.4, rewind=rewind), trained, RUN).state
    for number in (1, 2):
        if number == 2:
            now = apply(Magnitude(sparsity=1 - 0.6**2, rewind=rewind), now, RUN).state
        loader = now.pool.loader(epochs=4 - start, batch=16, rng=run.rng(f"order-{number}"))
        sgd = Sgd(lr=0.05, decay=5e-4, schedule=step.sgd(start=start).schedule)
        with run.steady():
            now = optimize(now, loader, cross_entropy, optimizer=sgd, run=run)
    found = apply(step, trained, RUN).state
    assert same(found, now)
    assert all(torch.equal(mask, now.masks[key]) for key, mask in found.masks.items())


def test_one_round_is_magnitude_with_rewinding_and_train(trained):
    """The same recipe in three steps; only the order of rows is another, so counts and not bits."""
    steps = [Magnitude(sparsity=0.2, rewind="epoch-2"), Train(**SMALL, start=2)]
    state = trained
    for step in steps:
        state = apply(step, state, RUN).state
    one, trace = apply(Iterative(**SMALL, rounds=1), trained, RUN)
    assert all(torch.equal(mask, one.masks[key]) for key, mask in state.masks.items())
    assert trace.drawn == {"pool": 2 * 60}


def test_what_it_saw(trained):
    after, trace = apply(Iterative(**SMALL, rounds=1, rewind="epoch-0"), trained, RUN)
    assert (after.weights_saw, after.masks_saw) == ({"pool"}, {"pool"})
    assert trace.reads == ("pool",)


def test_scopes_and_layers_that_run_empty(trained):
    conv = apply(Iterative(**SMALL, rounds=3, share=0.5, scope="conv"), trained, RUN).state
    assert list(conv.masks) == ["0.weight"]
    assert pruned(conv) == round(36 * (1 - 0.5**3))
    with pytest.raises(DataError, match="keep a weight in every layer"):
        apply(Iterative(**SMALL, rounds=3, share=0.9), trained, RUN)


def test_nothing_is_left_to_prune(trained):
    bare = replace(trained, model=copy_model(trained.model)).pruned({
        "0.weight": torch.zeros(4, 1, 3, 3).bool(),
        "4.weight": torch.zeros(3, 36).bool(),
    })
    with pytest.raises(DataError, match="all are 0"):
        apply(Iterative(**SMALL), bare, RUN)


def test_a_mark_that_is_not_there(trained):
    with pytest.raises(
        DataError, match=r'mark "epoch-3" .*got these: epoch-0, epoch-1, epoch-2; .*keep = \[3\]'
    ):
        apply(Iterative(**SMALL, rewind="epoch-3"), trained, RUN)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rewind": None}, "a mark that each round goes back to, got none"),
        ({"rewind": "epoch-4"}, 'rewind = "epoch-4" leaves nothing of a schedule of 4 epochs'),
        ({"momentum": 0.0, "nesterov": True}, "nesterov"),
    ],
)
def test_knobs_that_contradict_each_other(given, words):
    with pytest.raises(UsageError, match=words):
        Iterative(**{**SMALL, **given})


@pytest.mark.parametrize("given", [{"share": 0.0}, {"share": 1.0}, {"rounds": 0}, {"rewind": "the start"}])
def test_knobs_out_of_bounds(trained, given):
    with pytest.raises(UsageError, match=next(iter(given))):
        apply(Iterative(**{**SMALL, **given}), trained, RUN)


def test_a_mark_is_gone_on_from_along_its_own_schedule():
    marked = apply(Train(epochs=3, batch=16, lr=0.1, keep=(2,)), PROBLEM.state(trained=False), RUN).state
    for step in (Iterative(rounds=1, batch=16, rewind="epoch-2"), Train(epochs=40, start=2, batch=16)):
        with pytest.raises(
            UsageError, match=r"schedule of 3 epochs in which epoch 2 was marked, got .*: the"
        ):
            apply(step, marked, RUN)
    assert apply(Train(epochs=3, start=2, batch=16), marked, RUN).trace.drawn == {"pool": 60}
