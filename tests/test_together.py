"""apply_together: each state comes out as apply gives it, to rounding, and the promises are kept."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from secateur import zoo
from secateur.errors import NotFinite
from secateur.run import Run
from secateur.split import Split
from secateur.state import State
from secateur.step import apply
from secateur.steps import Magnitude, Retrain, Train
from secateur.table import Overlay
from secateur.together import apply_together, best_chunk, obstacle, plainly, speedup

RECIPE = {"epochs": 3, "batch": 16, "lr": 0.1, "nesterov": True, "schedule": "one-cycle"}


def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10)
    )


def pictures(dtype=np.float32):
    x, y = zoo.digits(test=0.9).train
    return (x if dtype == np.uint8 else (x / 255).astype(dtype)), y


def several(count, precision="fp64", data=None, sparsity=0.0):
    """States and runs of so many seeds, over one split."""
    split = Split.of(*(data or pictures()), forget=np.arange(20))
    runs = [Run(seed=seed, device="cpu", precision=precision, threads=1) for seed in range(count)]
    states = [State.of(build, split, run) for run in runs]
    if sparsity:
        states = [
            apply(Magnitude(sparsity=sparsity), s, run).state for s, run in zip(states, runs, strict=True)
        ]
    return states, runs


def together(step, states, runs, chunk=3):
    return apply_together(step, states, runs, chunk=chunk, advance=lambda _: None)


def assert_alike(step, states, runs, within):
    for state, run, done in zip(states, runs, together(step, states, runs), strict=True):
        alone = apply(step, state, run)
        for name, value in alone.state.model.state_dict().items():
            torch.testing.assert_close(
                done.state.model.state_dict()[name], value, rtol=within, atol=within, msg=name
            )
        assert done.trace.notes["loss"] == pytest.approx(alone.trace.notes["loss"], rel=1e-4)
        same = {"notes": {}, "seconds": 0.0, "peak_bytes": 0}
        assert replace(done.trace, **same) == replace(alone.trace, **same)
        assert done.state.depth == alone.state.depth


@pytest.mark.parametrize("step", [Train(**RECIPE), Retrain(**RECIPE, smoothing=0.1)])
def test_each_comes_out_as_alone(step):
    assert_alike(step, *several(4), 1e-9)


def test_in_single_precision_and_from_bytes():
    assert_alike(Train(**RECIPE), *several(3, "fp32", pictures(np.uint8)), 1e-3)


def test_masks_of_each_model_hold():
    states, runs = several(3, sparsity=0.5)
    assert_alike(Retrain(**RECIPE), states, runs, 1e-9)
    for state, done in zip(states, together(Retrain(**RECIPE), states, runs), strict=True):
        for name, mask in state.masks.items():
            pruned = done.state.model.get_parameter(name).detach()[~mask]
            assert not pruned.any()
            assert not torch.signbit(pruned).any()


def test_the_states_handed_in_stay_as_they_were():
    states, runs = several(3)
    before = [{name: v.clone() for name, v in s.model.state_dict().items()} for s in states]
    together(Train(**RECIPE), states, runs)
    for state, known in zip(states, before, strict=True):
        assert all(torch.equal(value, known[name]) for name, value in state.model.state_dict().items())


def test_a_loss_that_explodes_is_told():
    with pytest.raises(NotFinite, match="finite loss"):
        together(Train(epochs=2, batch=16, lr=1e30), *several(2, "fp32"))


@pytest.mark.parametrize(
    "step",
    [
        Train(**RECIPE, keep=(1,)),
        Train(**RECIPE, clip=1.0),
        Retrain(**RECIPE, sam=0.1),
        Retrain(**RECIPE, mask="dense"),
        Magnitude(sparsity=0.5),
    ],
)
def test_what_is_more_than_plain_is_taken_one_by_one(step):
    states, runs = several(2)
    assert plainly(step) is None
    assert "more than a plain training" in obstacle(step, states, runs[0])


def test_obstacles_are_told():
    states, runs = several(2, "fp32")
    step = Train(**RECIPE)
    assert obstacle(step, states, runs[0]) == ""
    assert "one by one" in obstacle(step, states, replace(runs[0], compile=True))
    others, _ = several(2, "fp32")
    assert "different tables" in obstacle(step, [states[0], others[1]], runs[0])
    pruned = states[1].pruned({
        n: torch.ones_like(w, dtype=torch.bool) for n, w in states[1].prunable().items()
    })
    assert "pruned and some are not" in obstacle(step, [states[0], pruned], runs[0])
    over = Overlay(torch.zeros(179, dtype=torch.bool), torch.zeros(8, 8), torch.zeros(1, 8, 8))
    states[0].pool._table.overlay = over
    assert "lies over its rows" in obstacle(step, states, runs[0])


def test_chunks_and_speed_are_measured():
    states, runs = several(4, "fp32")
    chunk = best_chunk(Train(**RECIPE), states, runs[0])
    assert chunk in {1, 2, 4}
    faster = speedup(Train(**RECIPE), states, runs[0], chunk)
    assert math.isfinite(faster)
    assert faster > 0
