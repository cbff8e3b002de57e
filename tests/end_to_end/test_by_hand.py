"""The story by hand, in the words of DESIGN section 1b: outside code is written against them."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    return x[:600], y[:600], x[600:], y[600:]


def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    )


def story(x, y, x_test, y_test, rows, other):
    """The contract, word for word; ``other`` is a model that never saw the rows."""
    split = sc.Split.of(x, y, forget=rows, holdout=0.1, test=(x_test, y_test), seed=0)
    run = sc.Run(seed=0)
    state = sc.State.of(build, split, run)

    state = sc.apply(sc.steps.Train(epochs=20), state, run).state
    original = state.model
    state = sc.apply(sc.steps.Magnitude(sparsity=0.9), state, run).state
    state = sc.apply(sc.steps.L1Sparse(gamma=5e-4, epochs=5), state, run).state

    evidence = sc.Evidence(
        before=sc.observe(original, split, run),
        after=sc.observe(state.model, split, run),
        references=[sc.Reference.retrained(sc.observe(other, split, run), split)],
    )
    for finding in sc.judge(
        [sc.audits.Accuracy(), sc.audits.MiaEfficacy(), sc.audits.RetrainGap()], evidence
    ):
        print(finding)

    return split, state, original, evidence


def test_the_story_by_hand(digits, capsys):
    x, y, x_test, y_test = digits
    rows = np.flatnonzero(y == 3)
    split = sc.Split.of(x, y, forget=rows, holdout=0.1, test=(x_test, y_test), seed=0)
    run = sc.Run(seed=0)
    applied = sc.apply(sc.steps.Retrain(epochs=20), sc.State.of(build, split, run), run)

    split, state, original, evidence = story(*digits, rows, applied.state.model)
    printed = capsys.readouterr().out
    assert [line for line in printed.split("\n") if line and line[0] != " "] == [
        "accuracy",
        "mia-efficacy",
        "retrain-gap: inconclusive",  # one reference; it does not raise
    ]
    assert set(split) == {"forget", "retain", "holdout", "test"}
    assert {name: len(outputs) for name, outputs in evidence.after.items()} == {
        name: len(view) for name, view in split.items()
    }
    count = sum(p.numel() for p in state.model.parameters() if p.ndim > 1)
    assert state.sparsity >= round(0.9 * count) / count
    # it learned, and the retrain knows nothing of class 3
    estimates = sc.audits.Accuracy()(evidence).estimates
    assert estimates["before.RA"].value > 0.8
    assert estimates["before.UA"].value < 0.5
    assert estimates["retrain[0].UA"].value == 1.0
    assert all(math.isfinite(e.value) for e in estimates.values())
    assert applied.trace.drawn == {"retain": 20 * len(split["retain"])}

    # the same calls give the same bits
    _, state_again, original_again, _ = story(*digits, rows, applied.state.model)
    assert capsys.readouterr().out == printed
    for model, again in ((original, original_again), (state.model, state_again.model)):
        for one, two in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(one, two)


def test_forget_may_be_a_mask_and_data_a_data_set(digits):
    x, y, x_test, y_test = digits
    rows = np.flatnonzero(y == 3)
    split = sc.Split.of(x, y, forget=rows, test=(x_test, y_test))
    masked = sc.Split.of(x, y, forget=y == 3, test=(x_test, y_test))
    pairs = TensorDataset(torch.tensor(x), torch.tensor(y))
    tests = TensorDataset(torch.tensor(x_test), torch.tensor(y_test))
    listed = sc.Split.of(pairs, forget=rows, test=tests)
    assert split.hash == masked.hash == listed.hash


def test_a_model_trained_elsewhere(digits):
    x, y, x_test, y_test = digits
    split = sc.Split.of(x, y, forget=[1, 2, 3], test=(x_test, y_test))
    run = sc.Run(seed=0, precision="fp32")
    model = build()
    state = sc.State.of(build, split, run, model=model)
    assert state.weights_saw == {"pool"}
    assert state.model is not model
    done = sc.apply(sc.steps.GradientAscent(epochs=1, lr=1e-3), state, run)
    assert done.trace.drawn == {"forget": 3}
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), state.model.state_dict().values(), strict=True)
    )
