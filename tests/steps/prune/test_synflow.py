from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from secateur.errors import DataError
from secateur.split import Split
from secateur.state import State
from secateur.step import apply
from secateur.steps.prune.random import Random
from secateur.steps.prune.snip import Snip
from secateur.steps.prune.synflow import Synflow
from secateur.testing import toy_problem

PROBLEM = toy_problem(precision="fp64")
RUN = PROBLEM.run


def left(state):
    return [int(mask.sum()) for mask in state.masks.values()]


def bottleneck():
    """Two wide layers between narrow ones."""
    layers = []
    for inside, out in itertools.pairwise((1, 4, 8, 32, 8)):
        layers += [
            nn.Conv2d(inside, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def deep():
    layers = [layer for _ in range(5) for layer in (nn.Linear(36, 36), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(36, 3))


def test_no_layer_is_lost_where_snip_loses_two():
    state = State.of(bottleneck, PROBLEM.split, RUN)
    snip = apply(Snip(sparsity=0.99, samples=60, empty="allow"), state, RUN).state
    assert left(snip).count(0) >= 1
    with pytest.raises(DataError, match="expected to keep a weight in every layer"):
        apply(Snip(sparsity=0.99, samples=60), state, RUN)
    flow = apply(Synflow(sparsity=0.99), state, RUN).state
    assert min(left(flow)) >= 3
    assert sum(left(flow)) == sum(left(snip)) == 4956 - round(0.99 * 4956)


@pytest.mark.parametrize("build", [bottleneck, deep])
@pytest.mark.parametrize("trained", [False, True])
def test_even_a_few_weights_are_paths_through_all_layers(build, trained):
    problem = replace(PROBLEM, build=build)
    state = problem.state(trained=trained)
    total = sum(p.numel() for p in state.prunable().values())
    after = apply(Synflow(sparsity=1 - 30 / total), state, RUN).state
    assert sum(left(after)) == 30
    assert min(left(after)) >= 1
    ones = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    with torch.no_grad():  # signs and all, something arrives: the logits depend on the input
        for p in after.model.parameters():
            p.abs_()
        assert not torch.allclose(after.model(ones), after.model(0 * ones))


def test_one_round_is_one_score_and_loses_layers():
    state = State.of(bottleneck, PROBLEM.split, RUN)
    one = apply(Synflow(sparsity=0.99, rounds=1, empty="allow"), state, RUN).state
    assert 0 in left(one)


def by_hand(state, sparsity, rounds):
    """A plain network of matrices without biases: scores as |w| times the flow in and the flow out."""
    weights = {name: p.detach().abs().clone() for name, p in state.prunable().items()}
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    masks |= {name: mask.clone() for name, mask in state.masks.items()}
    total = sum(w.numel() for w in weights.values())
    start, end = sum(left(replace(state, masks=masks))), total - round(sparsity * total)
    for number in range(1, rounds + 1):
        live = [weights[name] * masks[name] for name in weights]
        forward, backward = (
            [torch.ones(live[0].shape[1], dtype=torch.float64)],
            [torch.ones(3, dtype=torch.float64)],
        )
        for w in live[:-1]:
            forward.append(w @ forward[-1])
        for w in live[:0:-1]:
            backward.insert(0, backward[0] @ w)
        scores = [w * b[:, None] * f[None, :] for w, b, f in zip(live, backward, forward, strict=True)]
        flat = [
            (float(score[at]), name, at)
            for name, score in zip(weights, scores, strict=True)
            for at in itertools.product(*map(range, score.shape))
            if masks[name][at]
        ]
        goal = round(start * (end / start) ** (number / rounds))
        for _, name, at in sorted(flat, key=lambda entry: entry[0])[: len(flat) - goal]:
            masks[name][at] = False
    return masks


def matrices():
    layers = [nn.Linear(a, b, bias=False) for a, b in ((36, 6), (6, 5), (5, 3))]
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


@pytest.mark.parametrize("before", [0.0, 0.4])
@pytest.mark.parametrize("rounds", [1, 4, 10])
def test_the_rounds_are_those_of_a_loop_over_layers(before, rounds):
    state = State.of(matrices, PROBLEM.split, RUN)
    state = apply(Random(sparsity=before), state, RUN).state
    found = apply(Synflow(sparsity=0.8, rounds=rounds), state, RUN).state
    expected = by_hand(state, 0.8, rounds)
    assert found.masks.keys() == expected.keys()
    assert all(torch.equal(mask, expected[name]) for name, mask in found.masks.items())


def test_signs_biases_and_rows_do_not_matter():
    state = State.of(deep, PROBLEM.split, RUN)
    first = apply(Synflow(sparsity=0.9, rounds=10), state, RUN).state
    with torch.no_grad():
        for name, p in state.model.named_parameters():
            p.mul_(-1) if p.ndim > 1 else p.add_(len(name))
    second = apply(Synflow(sparsity=0.9, rounds=10), state, RUN).state
    assert all(torch.equal(mask, second.masks[name]) for name, mask in first.masks.items())
    trace = apply(Synflow(sparsity=0.9, rounds=2), state, RUN).trace
    assert (trace.drawn, trace.reads) == ({}, ())


def test_of_a_trained_model_the_masks_have_seen_what_the_weights_saw():
    fresh, trained = (PROBLEM.state(trained=known) for known in (False, True))
    step = Synflow(sparsity=0.5, rounds=2)
    assert apply(step, fresh, RUN).state.masks_saw == frozenset()
    assert apply(step, trained, RUN).state.masks_saw == {"pool"}


def test_the_shape_of_a_row_is_known_though_the_view_is_closed():
    view = PROBLEM.split.pool.closed("closed")
    assert view.shape == (1, 6, 6)
    mapping = Split.of({"a": np.zeros((4, 2)), "b": np.zeros((4, 3))}, np.arange(4) % 2, forget=[0])
    with pytest.raises(DataError, match="x is one tensor, got a mapping"):
        _ = mapping.pool.closed("closed").shape


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.embed(x).mean(1))


def test_a_model_that_takes_no_ones_is_told_so():
    split = Split.of(np.arange(12).reshape(6, 2) % 5, np.arange(6) % 3, forget=[0])
    with pytest.raises(DataError, match=r"takes a batch of shape \(1, 2\), but it raised RuntimeError"):
        apply(Synflow(sparsity=0.5), State.of(Words, split, RUN), RUN)


class Masked(nn.Module):
    """Attention that may not look ahead, by a buffer of minus infinities."""

    def __init__(self):
        super().__init__()
        self.into = nn.Linear(6, 4)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.register_buffer("ahead", torch.full((6, 6), -torch.inf).triu(1))

    def forward(self, x):
        h = self.into(x[:, 0])
        return self.head(self.attend(h, h, h, attn_mask=self.ahead)[0][:, -1])


def test_an_attention_mask_stays_one():
    state = State.of(Masked, PROBLEM.split, RUN)
    after = apply(Synflow(sparsity=0.5, rounds=3), state, RUN).state
    assert sum(left(after)) == 50
    assert torch.equal(after.model.ahead, state.model.ahead)
