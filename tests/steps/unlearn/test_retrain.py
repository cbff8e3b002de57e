from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from secateur.errors import UsageError
from secateur.optimize import Sgd, optimize
from secateur.run import Run
from secateur.split import Split
from secateur.step import apply
from secateur.steps.prune.magnitude import Magnitude
from secateur.steps.train import Train
from secateur.steps.unlearn.retrain import Retrain
from secateur.testing import Problem, toy_problem

RECIPE = {"epochs": 2, "batch": 16, "lr": 0.05}
GONE = np.arange(5, 25)


def problem(forgotten=None):
    """The same retain rows; the rows to forget as they were, or of other contents."""
    base = toy_problem()
    table = base.split.pool._table
    x, y = table.x.numpy().copy(), table.y.numpy().copy()
    if forgotten is not None:
        x[GONE], y[GONE] = forgotten, 0
    return Problem(Split.of(x[:60], y[:60], forget=GONE), base.build, base.run)


def bits(state):
    return [value.numpy().tobytes() for value in state.model.state_dict().values()]


def test_no_bit_depends_on_the_forget_rows():
    trained, retrained = [], []
    for one in (problem(), problem(forgotten=9.0), problem(forgotten=-1.0)):
        state = apply(Train(**RECIPE), one.state(trained=False), one.run).state
        trained.append(bits(state))
        result, trace = apply(Retrain(**RECIPE), state, one.run)
        assert trace.drawn == {"retain": 2 * 40}
        assert (result.weights_saw, result.masks_saw, result.depth) == ({"retain"}, frozenset(), 2)
        retrained.append(bits(result))
    assert trained[0] != trained[1] != trained[2]
    assert retrained[0] == retrained[1] == retrained[2]


def test_under_the_same_masks_no_bit_does_either_and_the_masks_say_that_they_may():
    one, other = problem(), problem(forgotten=9.0)
    pruned = apply(Magnitude(sparsity=0.5), one.state(), one.run).state
    foreign = replace(other.state().pruned(pruned.masks), depth=pruned.depth)
    first, second = (apply(Retrain(**RECIPE), s, one.run).state for s in (pruned, foreign))
    assert bits(first) == bits(second)
    assert first.masks_saw == {"pool"}
    assert first.sparsity == pruned.sparsity


def test_it_is_a_training_that_never_had_the_rows():
    one = problem()
    result = apply(Retrain(**RECIPE), one.state(), one.run).state
    table = one.split.pool._table
    kept = one.split.retain.rows
    x, y = (
        np.append(table.x.numpy()[kept], np.zeros((1, 1, 6, 6), np.float32), 0),
        np.append(table.y.numpy()[kept], 0),
    )
    without = Split.of(x, y, forget=[40])  # one dummy, which a split must have; nobody looks at it
    begun = replace(one, split=without).state(trained=False)
    begun = replace(begun.fresh(one.run.at(1)), pool=begun.retain, depth=1)
    assert bits(result) == bits(apply(Train(**RECIPE), begun, one.run).state)


def test_dense_drops_the_masks():
    one = problem()
    pruned = apply(Magnitude(sparsity=0.5), one.state(), one.run).state
    dense = apply(Retrain(**RECIPE, mask="dense"), pruned, one.run).state
    assert (dense.masks, dense.masks_saw, dense.sparsity) == ({}, frozenset(), 0.0)
    plain = apply(Retrain(**RECIPE), replace(one.state(), depth=2), one.run).state
    assert bits(dense) == bits(plain)


def test_the_seed_counts():
    one = problem()
    runs = one.run, replace(one.run, seed=1), Run(seed=0, device="cpu", precision="fp32", threads=1)
    first, second, third = (bits(apply(Retrain(**RECIPE), one.state(), run).state) for run in runs)
    assert first == third != second


def test_trained_marks_do_not_pass():
    one = problem()
    state = one.state()
    assert state.marks
    result = apply(Retrain(**RECIPE), state, one.run).state
    assert result.marks == {}
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


@pytest.mark.parametrize(
    ("knobs", "smoothing", "sharpness"),
    [({}, 0.0, 0.0), ({"smoothing": 0.1}, 0.1, 0.0), ({"sam": 2.0}, 0.0, 2.0)],
)
def test_smoothing_and_sam_are_a_loss_and_an_optimizer(knobs, smoothing, sharpness):
    one = problem()
    result = apply(Retrain(**RECIPE, schedule="constant", **knobs), one.state(), one.run).state
    run = one.run.at(1)
    with run.steady():
        fresh = one.state().fresh(run)

        def loss(model, batch, progress):
            return functional.cross_entropy(model(batch.x), batch.y, label_smoothing=smoothing)

        order = fresh.retain.loader(epochs=2, batch=16, rng=run.rng("order"))
        sgd = Sgd(lr=0.05, decay=5e-4, sharpness=sharpness)
        expected = optimize(fresh, order, loss, optimizer=sgd, run=run)
    assert bits(result) == bits(expected)
    assert (
        bits(result) == bits(apply(Retrain(**RECIPE, schedule="constant"), one.state(), one.run).state)
    ) == (not knobs)


@pytest.mark.parametrize(("knob", "value"), [("smoothing", 1.0), ("smoothing", -0.1), ("sam", -1.0)])
def test_a_knob_out_of_bounds_is_refused(knob, value):
    one = problem()
    with pytest.raises(UsageError, match=knob):
        apply(Retrain(**RECIPE, **{knob: value}), one.state(), one.run)
