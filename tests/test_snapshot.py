"""A step that is stopped at any update and taken again ends with the bits of one that was never stopped."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.snapshot import ABOUT, TRAINING


class Stopped(BaseException):
    """The process ends here."""


class Shelf:
    """Checkpoints in memory: keeps each training once, at an update, and ends there."""

    seconds = 0.0

    def __init__(self, files, training, update):
        self.files, self.at, self.training = files, (training, update), -1

    def begin(self):
        self.training += 1
        return self.files.get(self.training)

    def due(self, done):
        return (self.training, done) == self.at

    def keep(self, files):
        assert files.keys() == {TRAINING, ABOUT}
        self.files[self.training] = dict(files)
        raise Stopped

    def end(self, files):
        if self.training < self.at[0]:
            self.files[self.training] = dict(files())


def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 3)
    )


def shaken(x, rng):
    return x + 0.1 * torch.randn(x.shape, generator=rng, dtype=x.dtype)


@pytest.fixture(scope="module")
def begun():
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(3, (50,), generator=rng)
    x = torch.randn(50, 1, 6, 6, generator=rng) + y[:, None, None, None]
    run = sc.Run(seed=1, device="cpu", precision="fp32", threads=1)
    state = sc.State.of(build, sc.Split.of(x, y, forget=range(10), augment=shaken), run)
    return sc.apply(sc.steps.Train(epochs=3, batch=16, lr=0.1, keep=(1,)), state, run).state, run


STEPS = {
    "train, with marks": (sc.steps.Train(epochs=3, batch=16, lr=0.1, keep=(1, 3), start=1), 1, 8),
    "l1-sparse": (sc.steps.L1Sparse(epochs=3, batch=16, lr=0.05, penalty="proximal"), 1, 9),
    "prune-and-tune": (sc.steps.PruneAndTune(epochs=3, batch=16, lr=0.05, sparsity=0.5), 1, 9),
    "gradient-ascent": (sc.steps.GradientAscent(epochs=3, batch=4, lr=1e-3, momentum=0.0), 1, 9),
    "retrain": (sc.steps.Retrain(epochs=2, batch=16, lr=0.1, sam=0.1), 1, 6),
    "iterative": (sc.steps.Iterative(epochs=3, batch=16, lr=0.1, rounds=2, rewind="epoch-1"), 2, 8),
}


@pytest.mark.parametrize("name", STEPS)
def test_stopped_anywhere_it_ends_with_the_same_bits(begun, name):
    state, run = begun
    step, trainings, updates = STEPS[name]
    whole = sc.apply(step, state, run)
    for training in range(trainings):
        for update in range(updates):
            files = {}
            stopping = replace(run, checkpoints=Shelf(files, training, update))
            with pytest.raises(Stopped):
                sc.apply(step, state, stopping)
            again = sc.apply(step, state, replace(run, checkpoints=Shelf(files, -1, -1)))
            same(whole, again)
    same(whole, sc.apply(step, state, replace(run, checkpoints=Shelf({}, trainings - 1, updates))))


def same(one, other):
    want, got = one.state.model.state_dict(), other.state.model.state_dict()
    assert all(torch.equal(want[key], got[key]) for key in want)
    assert all(torch.equal(one.state.masks[key], other.state.masks[key]) for key in one.state.masks)
    assert one.state.marks.keys() == other.state.marks.keys()
    for name, mark in one.state.marks.items():
        twin = other.state.marks[name]
        assert (mark.epoch, mark.saw, mark.total) == (twin.epoch, twin.saw, twin.total)
        assert all(torch.equal(mark.weights[key], twin.weights[key]) for key in mark.weights)
        assert all(torch.equal(mark.buffers[key], twin.buffers[key]) for key in mark.buffers)
    for field in ("notes", "drawn", "weights_saw", "masks_saw", "sparsity"):
        assert getattr(one.trace, field) == getattr(other.trace, field), field


def test_a_step_that_goes_on_takes_only_the_updates_that_are_left(begun):
    state, run = begun
    step, files, seen = sc.steps.FineTune(epochs=3, batch=16, lr=0.1), {}, []

    class Counting(Shelf):
        def due(self, done):
            seen.append(done)
            return super().due(done)

    with pytest.raises(Stopped):
        sc.apply(step, state, replace(run, checkpoints=Counting(files, 0, 5)))
    assert seen == [0, 1, 2, 3, 4, 5]
    seen.clear()
    sc.apply(step, state, replace(run, checkpoints=Counting(files, -1, -1)))
    assert seen == [5, 6, 7, 8]
