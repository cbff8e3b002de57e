from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from secateur.errors import DataError
from secateur.network import copy_model, fill
from secateur.run import Run
from secateur.split import Split
from secateur.state import Mark, State
from secateur.testing import toy_problem

RUN = Run(device="cpu", precision="fp32", threads=1)


def split(classes=3, **kwargs):
    x, y = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % classes
    return Split.of(x, y, forget=[0, 1], **kwargs)


def build():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def equal(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_new_state():
    state = State.of(build, split(), RUN)
    assert not state.model.training
    assert (state.depth, state.masks, state.marks) == (0, {}, {})
    assert state.weights_saw == state.masks_saw == frozenset()
    assert len(state.pool) == len(state.forget) + len(state.retain) == 12
    assert state.pool.drawn == 0  # the look that checks the model is not counted


def test_the_seed_makes_the_weights_and_the_global_generator_does_not():
    before = torch.get_rng_state()
    first = State.of(build, split(), RUN)
    torch.rand(5)
    again = State.of(build, split(), RUN)
    torch.set_rng_state(before)
    assert equal(first.model, again.model)
    assert not equal(first.model, State.of(build, split(), replace(RUN, seed=1)).model)
    assert not equal(first.model, first.fresh(RUN.at(1)).model)
    assert torch.equal(torch.get_rng_state(), before)


def test_fp64_reaches_model_and_data():
    state = State.of(build, split(), replace(RUN, precision="fp64"))
    assert all(p.dtype == torch.float64 for p in state.model.parameters())
    assert next(iter(state.retain.once())).x.dtype == torch.float64


def test_a_model_trained_elsewhere_is_copied_and_has_seen_the_pool():
    model = build().train()
    state = State.of(build, split(holdout=[11]), RUN, model=model)
    assert equal(state.model, model)
    assert state.weights_saw == {"pool"}
    assert not state.model.training
    assert model.training
    with torch.no_grad():
        state.model[0].weight.zero_()
    assert bool((model[0].weight != 0).any())
    with pytest.raises(DataError, match="name rows in `holdout`"):
        State.of(build, split(holdout=0.1), RUN, model=model)


def test_frozen_parameters_of_a_model_stay_frozen():
    model = build()
    model[0].requires_grad_(False)
    state = State.of(build, split(), RUN, model=model)
    assert [p.requires_grad for p in state.model.parameters()] == [False, False, True, True, True, True]


class Dictionary(nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x)}


def numpy_init():
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(np.random.default_rng().normal(size=(3, 4))))
    return model


ONE = build()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Linear(4, 2), "got label 2: build the model with 3 classes"),
        (lambda: nn.Linear(5, 3), r"takes a batch of shape \(2, 4\), but it raised RuntimeError"),
        (lambda: Dictionary(4, 3), "returns logits .*got dict"),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.Flatten(0)), r"returns logits .*shape \(6,\)"),
        (lambda: torch.ones(3), "`build` to return a torch.nn.Module, got Tensor"),
        (lambda: ONE, "make a new model at every call"),
        (numpy_init, "weight differs between two calls under one seed"),
    ],
)
def test_builds_that_are_refused(make, words):
    with pytest.raises(DataError, match=words):
        State.of(make, split(), RUN)


def test_a_model_that_does_not_fit_its_build():
    with pytest.raises(DataError, match=r"0.bias has shape \(5,\), not \(3,\).* and 6 more"):
        State.of(lambda: nn.Sequential(nn.Linear(4, 3)), split(), RUN, model=build())


def test_pruned_fills():
    state = replace(State.of(build, split(), RUN), weights_saw=frozenset({"pool"}))
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[0] = True
    pruned = state.pruned({"0.weight": mask})
    weight = state.model[0].weight.detach()
    assert pruned.masks_saw == {"pool"}
    assert bool((weight[0] != 0).all())
    assert torch.equal(weight[1:].abs(), torch.zeros(4, 4))
    assert not bool(torch.signbit(weight[1:]).any())
    assert pruned.sparsity == 16 / 35


def test_what_chose_the_masks():
    state = replace(State.of(build, split(), RUN), weights_saw=frozenset({"pool"}))
    some, fewer = torch.arange(20).view(5, 4) < 10, torch.arange(20).view(5, 4) < 5
    retain = frozenset({"retain"})
    # by weights; by something else; by nothing at all
    assert state.pruned({"0.weight": some}).masks_saw == {"pool"}
    known = state.pruned({"0.weight": some}, saw=retain)
    assert known.masks_saw == retain
    assert state.pruned({"0.weight": some}, saw=frozenset()).masks_saw == frozenset()
    # on top of masks that are there: what shaped those stays
    assert known.pruned({"0.weight": fewer}, saw=frozenset()).masks_saw == retain
    assert (
        known.pruned({"0.weight": some, "3.weight": torch.ones(3, 5).bool()}, saw=retain).masks_saw == retain
    )
    assert known.pruned({"0.weight": fewer}).masks_saw == {"pool", "retain"}
    # the same masks again, and others in their place
    assert known.pruned({"0.weight": some.clone()}).masks_saw == retain
    assert known.pruned({"0.weight": ~some}, saw=frozenset()).masks_saw == frozenset()
    assert known.pruned({}, saw=frozenset()).masks_saw == frozenset()


class HiddenBuffer(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def forward(self, x):
        return super().forward(x) * self.scale


def test_rewinding_puts_back_weights_and_buffers_under_the_masks():
    for make in (build, HiddenBuffer):
        state = State.of(make, split(), RUN)
        start = {"epoch-2": Mark.of(state.model, 2, frozenset({"pool"}))}
        known = copy_model(state.model)
        state = replace(state, marks=start, weights_saw=frozenset({"pool", "retain"}))
        with torch.no_grad():
            for value in [*state.model.parameters(), *state.model.buffers()]:
                value.add_(1)
        name, p = next(iter(state.model.named_parameters()))
        mask = torch.rand(p.shape) > 0.5
        back = state.pruned({name: mask}).rewound("epoch-2")
        assert back.weights_saw == {"pool"}
        fill(known, {name: mask})
        values = zip(
            [*known.parameters(), *known.buffers()],
            [*back.model.parameters(), *back.model.buffers()],
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in values)


def test_a_mark_that_was_not_kept():
    with pytest.raises(DataError, match=r"got these: epoch-0; .*keep = \[3\]"):
        toy_problem().state().rewound("epoch-3")


def test_a_mark_is_a_copy():
    model = build()
    mark = Mark.of(model, 0, frozenset())
    clone = mark.clone()
    with torch.no_grad():
        model[0].weight.zero_()
        clone.weights["0.bias"].zero_()
        clone.buffers["1.running_var"].zero_()
    assert bool((mark.weights["0.weight"] != 0).all())
    assert bool((mark.weights["0.bias"] != 0).all())
    assert bool((mark.buffers["1.running_var"] == 1).all())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.conv = nn.Conv1d(4, 4, 1)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embed.weight

    def forward(self, x):
        h = self.conv(self.embed(x).transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(self.attend(h, h, h)[0])[:, 0])


def test_prunable_takes_convolutions_and_linear_layers_attention_among_them():
    tokens = Split.of(np.arange(12).reshape(6, 2) % 7, np.arange(6), forget=[0])
    state = State.of(Attention, tokens, RUN)
    assert list(state.prunable()) == [
        "embed.weight",
        "conv.weight",
        "attend.in_proj_weight",
        "attend.out_proj.weight",
    ]
    assert list(state.prunable("conv")) == ["conv.weight"]
    assert "conv.weight" not in state.prunable("linear")
    assert all(p.ndim > 1 for p in state.prunable().values())
