"""What all pruning steps share, tried on each."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from secateur import steps
from secateur.errors import DataError, UsageError
from secateur.run import Run
from secateur.split import Split
from secateur.state import Mark, State
from secateur.step import apply
from secateur.steps._choice import scratch
from secateur.testing import toy_problem
from secateur.zoo import vit_tiny

PROBLEM = toy_problem()
RUN = PROBLEM.run
ALL = ["magnitude", "random", "snip", "grasp", "synflow"]
PER = [name for name in ALL if name != "synflow"]
SMALL = {"samples": 20, "chunk": 8, "rounds": 5}


def make(name, **given):
    cls = steps.shelf[name]
    known = {key: value for key, value in SMALL.items() if key in cls.__dataclass_fields__}
    return cls(**{**known, **given})


def gone(state):
    return {name: int((~mask).sum()) for name, mask in state.masks.items()}


class Transformer(nn.Module):
    """As small as they come, with parameters that pruning does not take."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 3, stride=3)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 5, 8))
        self.norm = nn.LayerNorm(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.places
        n = self.norm(h)
        return self.head((h + self.attend(n, n, n, need_weights=False)[0])[:, 0])


TAKEN = {"patches.weight": 72, "attend.in_proj_weight": 192, "attend.out_proj.weight": 64, "head.weight": 24}
OTHERS = 8 + 40


def transformer(precision="fp32"):
    return State.of(Transformer, PROBLEM.split, replace(RUN, precision=precision))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.7])
def test_of_all_weights_of_an_attention_network_exactly_the_share_is_zero(name, sparsity):
    n = sum(TAKEN.values()) + OTHERS
    state = apply(make(name, sparsity=sparsity), transformer(), RUN).state
    assert state.masks.keys() == TAKEN.keys()
    assert sum(gone(state).values()) == round(sparsity * n)
    assert state.sparsity == round(sparsity * n) / n
    assert torch.equal(state.model.token, transformer().model.token)


@pytest.mark.parametrize("name", ALL)
def test_of_one_kind_the_share_is_of_that_kind(name):
    for scope, sizes in [("conv", [72]), ("linear", [192, 64, 24])]:
        state = apply(make(name, sparsity=0.5, scope=scope), transformer(), RUN).state
        assert sum(gone(state).values()) == round(0.5 * sum(sizes))
        assert len(state.masks) == len(sizes)


@pytest.mark.parametrize("name", ALL)
def test_more_than_can_be_pruned(name):
    with pytest.raises(UsageError if name != "synflow" else DataError) as told:
        apply(make(name, sparsity=0.97, empty="allow"), transformer(), RUN)
    assert "at most the 352 of 400" in str(told.value) or name == "synflow"


@pytest.mark.parametrize("name", PER)
def test_per_layer_each_gives_the_same_share(name):
    state = apply(make(name, sparsity=0.75, per="layer", scope="linear"), transformer(), RUN).state
    assert list(gone(state).values()) == [144, 48, 18]
    state = apply(make(name, sparsity=0.5, per="layer"), transformer(), RUN).state
    assert list(gone(state).values()) == [41, 109, 36, 14]  # 200 of 352: 0.568 of each
    assert state.sparsity == 0.5


@pytest.mark.parametrize("name", ALL)
def test_sparsity_zero_changes_and_reads_nothing(name):
    start = PROBLEM.state(sparsity=0.5)
    state, trace = apply(make(name, sparsity=0.0), start, RUN)
    pairs = zip(start.model.state_dict().values(), state.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert gone(state) == gone(start)
    assert (state.masks_saw, state.weights_saw) == (start.masks_saw, start.weights_saw)
    assert (trace.drawn, trace.reads) == ({}, ())


@pytest.mark.parametrize("name", ALL)
def test_what_is_pruned_stays_pruned_and_less_is_refused(name):
    first = apply(make("random", sparsity=0.5), PROBLEM.state(), RUN).state
    second = apply(make(name, sparsity=0.7), first, RUN).state
    assert sum(gone(second).values()) == round(0.7 * 144)
    assert all(not bool((second.masks[key] & ~mask).any()) for key, mask in first.masks.items())
    with pytest.raises(UsageError, match=r"at least the 72 of 144 .*no weight grows back"):
        apply(make(name, sparsity=0.2), first, RUN)


@pytest.mark.parametrize("name", ALL)
def test_masks_of_other_layers_stay(name):
    conv = apply(make("magnitude", sparsity=0.5, scope="conv"), PROBLEM.state(), RUN).state
    both = apply(make(name, sparsity=0.25, scope="linear"), conv, RUN).state
    assert gone(both) == {"0.weight": 18, "4.weight": 27}
    assert torch.equal(both.masks["0.weight"], conv.masks["0.weight"])


def lopsided():
    """A wide layer between narrow ones: whatever compares over the network takes it whole."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 3)
    )
    with torch.no_grad():
        model[3].weight.mul_(1e-3)
    return model


def test_a_layer_without_weights_is_refused_unless_allowed():
    state = State.of(lopsided, PROBLEM.split, RUN)
    with pytest.raises(
        DataError, match=r'at sparsity 0.7 none of the 160 of "3.weight" is left.*empty = "allow"'
    ):
        apply(make("magnitude", sparsity=0.7), state, RUN)
    with pytest.raises(DataError, match=r'at sparsity 0.995 none .* "5.weight"'):
        apply(make("random", sparsity=0.995, scope="linear", per="layer"), state, RUN)
    allowed = apply(make("magnitude", sparsity=0.7, empty="allow"), state, RUN).state
    assert gone(allowed)["3.weight"] == 160
    layered = apply(make("magnitude", sparsity=0.7, per="layer"), state, RUN).state
    assert list(gone(layered).values()) == [101, 112, 84]
    flowing = apply(make("synflow", sparsity=0.7, rounds=100), state, RUN).state
    assert all(bool(mask.any()) for mask in flowing.masks.values())
    # an empty layer out of scope is not this step's choice
    first = apply(make("magnitude", sparsity=0.7, empty="allow"), state, RUN).state
    with pytest.raises(DataError, match=r"3\.weight"):
        apply(make("magnitude", sparsity=0.75), first, RUN)


def zero_head():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 3))
    nn.init.zeros_(model[3].weight)
    return model


@pytest.mark.parametrize("name", ["snip", "synflow"])
def test_a_head_that_begins_at_zero_tells_no_weight_from_another(name):
    with pytest.raises(DataError, match="all are 0: nothing flows"):
        apply(make(name, sparsity=0.5), State.of(zero_head, PROBLEM.split, RUN), RUN)


@pytest.mark.parametrize("name", ALL)
def test_a_scope_without_weights_is_refused(name):
    state = State.of(zero_head, PROBLEM.split, RUN)
    with pytest.raises(DataError, match='weights to prune in scope = "conv"'):
        apply(make(name, sparsity=0.5, scope="conv"), state, RUN)


@pytest.mark.parametrize("name", ALL)
def test_in_double_precision_and_twice_the_same(name):
    run = replace(RUN, precision="fp64")
    step = make(name, sparsity=0.6)
    first, again = (apply(step, transformer("fp64"), run).state for _ in range(2))
    assert all(torch.equal(mask, again.masks[key]) for key, mask in first.masks.items())
    single = apply(step, transformer(), RUN).state
    same = sum(int((mask == single.masks[key]).sum()) for key, mask in first.masks.items())
    assert same >= (352 if name in {"random", "magnitude", "synflow"} else 340)


def test_the_zoo_s_vision_transformer_ends_at_exactly_the_sparsity():
    rng = np.random.default_rng(0)
    split = Split.of(rng.normal(size=(9, 1, 8, 8)).astype(np.float32), np.arange(9) % 3, forget=[0])
    state = State.of(partial(vit_tiny, classes=3, channels=1, size=8, patch=4), split, RUN)
    with torch.no_grad():  # as after some training: token and head begin at zero
        for p in state.model.parameters():
            p[p == 0] = 0.01
    n = sum(p.numel() for p in state.model.parameters() if p.ndim > 1)
    # untrained, one projection is smaller than all others: compared over the network it would go whole
    pruned = apply(make("magnitude", sparsity=0.9, per="layer"), state, RUN).state
    assert pruned.sparsity == round(0.9 * n) / n
    assert not any("token" in name or "embedding" in name for name in pruned.masks)
    assert sum("in_proj_weight" in name for name in pruned.masks) == 12


# --- what is drawn


def test_more_rows_than_there_are():
    for name in ("snip", "grasp"):
        with pytest.raises(DataError, match=r'between 1 and 60 rows from "pool", got 100'):
            apply(make(name, samples=100), PROBLEM.state(), RUN)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, x):
        return self.left(x["a"]) * self.right(x["b"])


@pytest.mark.parametrize("name", ALL)
def test_rows_that_are_mappings(name):
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(24, 4)).astype("f4"), "b": rng.normal(size=(24, 2)).astype("f4")}
    state = State.of(Named, Split.of(x, np.arange(24) % 3, forget=[0]), RUN)
    if name == "synflow":
        with pytest.raises(DataError, match="x is one tensor, got a mapping"):
            apply(make(name, sparsity=0.5), state, RUN)
        return
    pruned = apply(make(name, sparsity=0.5), state, RUN).state
    assert sum(gone(pruned).values()) == 9


def test_a_scratch_copy_asks_for_gradients_of_these_weights_alone():
    model = PROBLEM.state().model
    model[0].weight.requires_grad_(False)
    copy = scratch(model, {"0.weight": model[0].weight})
    assert [name for name, p in copy.named_parameters() if p.requires_grad] == ["0.weight"]
    assert not model[0].weight.requires_grad
    assert model[4].weight.requires_grad


@pytest.mark.parametrize("name", ALL)
def test_frozen_weights_are_pruned_too(name):
    state = PROBLEM.state()
    state.model.requires_grad_(False)
    pruned = apply(make(name, sparsity=0.5), state, RUN).state
    assert sum(gone(pruned).values()) == 72
    assert not any(p.requires_grad for p in pruned.model.parameters())


def test_running_statistics_do_not_move():
    start = PROBLEM.state()
    for name in ALL:
        state = apply(make(name, sparsity=0.5), start, RUN).state
        pairs = zip(start.model.buffers(), state.model.buffers(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name


def test_the_mark_of_a_state_survives_pruning():
    state = PROBLEM.state()
    assert isinstance(state.marks["epoch-0"], Mark)
    for name in ALL:
        assert apply(make(name, sparsity=0.5), state, RUN).state.marks.keys() == {"epoch-0"}


def test_on_channels_last_images_as_on_plain_ones():
    # fp32 runs draw images in channels-last memory, and in place activations stand after batch norm
    def build():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3),
            nn.Flatten(),
            nn.Linear(16, 3),
        )

    assert Run(device="cpu", precision="fp32").layout is torch.channels_last
    state = State.of(build, PROBLEM.split, RUN)
    fine = State.of(build, PROBLEM.split, replace(RUN, precision="fp64"))
    fine.model.load_state_dict(state.model.state_dict())
    for name in ("snip", "grasp"):
        one = apply(make(name, sparsity=0.5), state, RUN).state
        other = apply(make(name, sparsity=0.5), fine, replace(RUN, precision="fp64")).state
        differ = sum(int((mask != other.masks[key]).sum()) for key, mask in one.masks.items())
        assert differ <= 2, name
