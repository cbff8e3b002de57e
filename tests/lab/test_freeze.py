"""States to bytes and back, bit for bit; weights in their public form."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

import secateur as sc
from secateur.errors import DataError
from secateur.lab.freeze import META, STATE, freeze, load_weights, pack_weights, thaw
from secateur.zoo import small_cnn


def build():
    return small_cnn(width=2)


@pytest.fixture(scope="module")
def run():
    return sc.Run(threads=1, precision="fp32")


@pytest.fixture(scope="module")
def start(run):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 1, 8, 8)).astype(np.uint8), np.arange(60) % 10
    return sc.State.of(build, sc.Split.of(x, y, forget=[1, 2]), run)


@pytest.fixture(scope="module")
def pruned(start, run):
    """Trained with marks, pruned, rewound: a state with everything in it."""
    state = sc.apply(sc.steps.Train(epochs=2, batch=20, lr=0.1, keep=(0, 1)), start, run).state
    return sc.apply(sc.steps.Magnitude(sparsity=0.5, rewind="epoch-1"), state, run)


def test_a_state_comes_back_bit_for_bit(start, pruned, run):
    files = freeze(pruned.state, pruned.trace)
    state = thaw(start, files[STATE], json.loads(files[META]), run)
    want = pruned.state
    for name, value in want.model.state_dict().items():
        assert value.numpy().tobytes() == state.model.state_dict()[name].numpy().tobytes(), name
    assert state.masks.keys() == want.masks.keys()
    assert all(torch.equal(state.masks[name], mask) for name, mask in want.masks.items())
    assert state.marks.keys() == {"epoch-0", "epoch-1"} == want.marks.keys()
    for name, mark in want.marks.items():
        assert (state.marks[name].epoch, state.marks[name].saw) == (mark.epoch, mark.saw)
        for part in ("weights", "buffers"):
            got, expected = getattr(state.marks[name], part), getattr(mark, part)
            assert got.keys() == expected.keys()
            assert all(torch.equal(got[key], value) for key, value in expected.items())
    for name in ("depth", "weights_saw", "masks_saw"):
        assert getattr(state, name) == getattr(want, name)
    assert freeze(state, pruned.trace) == files


def test_going_on_from_a_thawed_state_gives_the_same_bits(start, pruned, run):
    files = freeze(pruned.state, pruned.trace)
    thawed = thaw(start, files[STATE], json.loads(files[META]), run)
    step = sc.steps.FineTune(epochs=1, batch=20)
    one, other = (sc.apply(step, state, run).state.model for state in (pruned.state, thawed))
    assert pack_weights(one, {}) == pack_weights(other, {})


def test_masks_are_told_apart(pruned, start):
    def masks_of(state):
        return json.loads(freeze(state, pruned.trace)[META])["masks"]

    assert masks_of(start) == "dense"
    name, mask = next(iter(pruned.state.masks.items()))
    other = {**pruned.state.masks, name: ~mask}
    assert len({masks_of(start), masks_of(pruned.state), masks_of(replace(pruned.state, masks=other))}) == 3


def test_packed_weights_load_strictly_into_the_plain_architecture(pruned, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(pack_weights(pruned.state.model, {"run": "x", "more": 1}))
    model = load_weights(build(), tmp_path / "m.safetensors")
    want = pruned.state.model.state_dict()
    assert all(torch.equal(value, want[name]) for name, value in model.state_dict().items())
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert {key: json.loads(value) for key, value in file.metadata().items()} == {
            "secateur": {"run": "x", "more": 1}
        }


def test_the_same_weights_are_the_same_bytes(pruned):
    about = {"b": 1, "a": 2}
    once = pack_weights(pruned.state.model, about)
    assert once == pack_weights(pruned.state.model, dict(reversed(about.items())))


def test_tied_weights_can_be_packed():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert len(safetensors.torch.load(pack_weights(model, {}))) == 4


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 100, -1])
def test_weights_cut_short_are_refused(tmp_path, cut):
    path = tmp_path / "m.safetensors"
    path.write_bytes(pack_weights(build(), {})[:cut])
    with pytest.raises(DataError, match=r'expected weights as safetensors in ".*m\.safetensors"'):
        load_weights(build(), path)


def test_weights_that_are_not_there_or_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    for odd in (path, tmp_path):
        with pytest.raises(DataError, match="something unreadable"):
            load_weights(build(), odd)
    path.write_bytes(pack_weights(small_cnn(width=3), {}))
    with pytest.raises(DataError, match=r"has shape \(.*\), not \("):
        load_weights(build(), path)
    path.write_bytes(pack_weights(torch.nn.Linear(2, 2), {}))
    with pytest.raises(DataError, match=r"is missing|is not in the architecture"):
        load_weights(build(), path)


class Remembers(torch.nn.Module):
    """A running mean that no state dict shows."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(64, 10)
        self.register_buffer("mean", torch.zeros(64), persistent=False)

    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.head(x - self.mean)


def test_buffers_that_no_state_dict_shows_come_back(run):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 1, 8, 8)).astype(np.uint8), np.arange(60) % 10
    first = sc.State.of(Remembers, sc.Split.of(x, y, forget=[1, 2]), run)
    state, trace = sc.apply(sc.steps.Train(epochs=2, batch=20, lr=0.1), first, run)
    assert state.model.mean.abs().max() > 0
    files = freeze(state, trace)
    back = thaw(first, files[STATE], json.loads(files[META]), run)
    assert torch.equal(back.model.mean, state.model.mean)
