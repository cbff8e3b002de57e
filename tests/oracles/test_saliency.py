"""Pruning scores against the slow and obvious way: one weight at a time, a dense Hessian, every path."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from secateur.maths.saliency import grasp, keep_largest, snip, synflow
from secateur.network import copy_model, fill

TEMPERATURE = 3.0


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def convolution(inplace=True):
    return nn.Sequential(
        nn.Conv2d(2, 3, 2),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=inplace),
        nn.Flatten(),
        nn.Linear(12, 3),
    ).double()


def plain():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()


class Attention(nn.Module):
    def __init__(self, need_weights):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.need_weights = need_weights

    def forward(self, x):
        return self.head(self.attend(x, x, x, need_weights=self.need_weights)[0].mean(1))


CASES = {
    "convolution and batch norm": (convolution, (2, 3, 3)),
    "linear": (plain, (4,)),
    "attention": (lambda: Attention(True).double(), (3, 4)),
    "fused attention": (lambda: Attention(False).double(), (3, 4)),
}


def rows(shape, n=10, classes=3):
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x), torch.arange(n) % classes


def weight_names(model):
    return [name for name, p in model.named_parameters() if p.ndim > 1]


def loss_of(model, x, y, temperature=1.0):
    return functional.cross_entropy(model(x) / temperature, y)


@pytest.mark.parametrize("case", CASES)
def test_snip_is_the_slope_of_the_loss_in_the_mask(case):
    build, shape = CASES[case]
    model, (x, y) = seeded(build).train(), rows(shape)
    names = weight_names(model)
    scores = snip(model, [(x, y)], names)
    step = 1e-5
    for name in names:
        weight, found = model.get_parameter(name).data, torch.zeros_like(scores[name])
        for at in itertools.product(*map(range, weight.shape)):
            known, losses = float(weight[at]), []
            for gate in (1 + step, 1 - step):
                weight[at] = gate * known
                losses.append(loss_of(model, x, y).item())
            weight[at] = known
            found[at] = abs(losses[0] - losses[1]) / (2 * step)
        assert torch.allclose(scores[name], found, rtol=1e-5, atol=1e-9), name
        assert float(found.max()) > 1e-3


@pytest.mark.parametrize("score", [snip, partial(grasp, temperature=TEMPERATURE)], ids=["snip", "grasp"])
@pytest.mark.parametrize("case", ["linear", "fused attention"])
def test_one_big_batch_equals_uneven_chunks(case, score):
    build, shape = CASES[case]
    model, (x, y) = seeded(build), rows(shape)
    chunks = [(x[a:b], y[a:b]) for a, b in [(0, 3), (3, 4), (4, 10)]]
    whole, parts = (score(model, given, weight_names(model)) for given in ([(x, y)], chunks))
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], rtol=1e-10, atol=1e-14), name


def test_batch_norm_looks_at_its_own_chunk():
    model, (x, y) = seeded(convolution).train(), rows((2, 3, 3))
    halves = [(x[:5], y[:5]), (x[5:], y[5:])]
    names = weight_names(model)
    both = [snip(model, [half], names) for half in halves]
    chunked, whole = snip(model, halves, names), snip(model, [(x, y)], names)
    weights = dict(model.named_parameters())
    slopes = []
    for a, b in halves:
        gradient = torch.autograd.grad(loss_of(model, a, b), [weights[name] for name in names])
        slopes.append(dict(zip(names, gradient, strict=True)))
    for name in names:
        mean = (slopes[0][name] + slopes[1][name]) / 2
        assert torch.allclose(chunked[name], (weights[name] * mean).abs(), rtol=1e-10)
        assert torch.allclose(both[0][name], (weights[name] * slopes[0][name]).abs(), rtol=1e-10)
        assert not torch.allclose(chunked[name], whole[name], rtol=1e-3)


def dense(model, x, y, names, masks):
    """w * H (mask * g), with every entry of the Hessian."""
    weights = [model.get_parameter(name).detach() for name in names]
    sizes = [w.numel() for w in weights]

    def loss(flat):
        parts = (part.view_as(w) for part, w in zip(torch.split(flat, sizes), weights, strict=True))
        logits = functional_call(copy_model(model), dict(zip(names, parts, strict=True)), (x,))
        return functional.cross_entropy(logits / TEMPERATURE, y)

    flat = torch.cat([w.flatten() for w in weights])
    gradient = torch.autograd.functional.jacobian(loss, flat)
    hessian = torch.autograd.functional.hessian(loss, flat)
    kept = torch.cat([
        masks.get(name, torch.ones_like(w)).flatten() for name, w in zip(names, weights, strict=True)
    ])
    found = flat * (hessian @ (kept * gradient))
    assert float(hessian.abs().max()) > 1e-3
    parts = torch.split(found, sizes)
    return {name: part.view_as(w) for name, part, w in zip(names, parts, weights, strict=True)}


@pytest.mark.parametrize("case", ["convolution and batch norm", "linear", "attention"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_grasp_is_the_dense_hessian_times_the_gradient(case, sparsity):
    build, shape = CASES[case]
    model, (x, y) = seeded(build).train(), rows(shape)
    names = weight_names(model)
    masks = keep_largest({n: model.get_parameter(n).abs() for n in names}, sparsity) if sparsity else {}
    fill(model, masks)
    scores = grasp(model, [(x, y)], names, temperature=TEMPERATURE, kept=masks)
    for name, expected in dense(model, x, y, names, masks).items():
        assert torch.allclose(scores[name], expected, rtol=1e-8, atol=1e-14), name
    flat = torch.cat([score.flatten() for score in scores.values()])
    assert bool((flat > 0).any())
    assert bool((flat < 0).any())


def test_fused_attention_scores_as_the_plain_one_does():
    (x, y), models = rows((3, 4)), [seeded(partial(Attention, kind)).double() for kind in (True, False)]
    first, second = (grasp(model, [(x, y)], weight_names(model)) for model in models)
    for name, value in first.items():
        assert torch.allclose(value, second[name], rtol=1e-9, atol=1e-15), name


def test_the_lowest_grasp_scores_cost_least_gradient_flow():
    """Fading a weight a little changes g'g by -2 w (H g) times that: the highest cost most."""
    model, (x, y) = seeded(plain), rows((4,))
    names = weight_names(model)
    scores = grasp(model, [(x, y)], names, temperature=TEMPERATURE)

    def flow():
        weights = [model.get_parameter(name) for name in names]
        gradient = torch.autograd.grad(loss_of(model, x, y, TEMPERATURE), weights)
        return float(sum(g.square().sum() for g in gradient))

    step = 1e-5
    for name in names:
        weight = model.get_parameter(name).data
        for at in itertools.product(*map(range, weight.shape)):
            known, flows = float(weight[at]), []
            for fade in (step, -step):
                weight[at] = known * (1 - fade)
                flows.append(flow())
            weight[at] = known
            change = (flows[0] - flows[1]) / (2 * step)
            assert change == pytest.approx(-2 * float(scores[name][at]), rel=1e-5, abs=1e-12)


def positive(model):
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.abs_()
    return model.eval()


@pytest.mark.parametrize(
    ("build", "shape"), [(convolution, (2, 3, 3)), (partial(convolution, False), (2, 3, 3))]
)
def test_synflow_is_the_flow_that_goes_with_each_weight(build, shape):
    model = positive(seeded(build))
    ones = torch.ones(1, *shape, dtype=torch.float64)
    names = weight_names(model)
    scores = synflow(model, ones, names)
    with torch.no_grad():
        whole = float(model(ones).sum())
        for name in names:
            weight = model.get_parameter(name)
            for at in itertools.product(*map(range, weight.shape)):
                known = float(weight[at])
                weight[at] = 0.0  # R is linear in each weight, and this is its share
                assert float(scores[name][at]) == pytest.approx(whole - float(model(ones).sum()), rel=1e-9)
                weight[at] = known


def test_synflow_is_a_sum_over_paths_and_the_same_in_each_layer():
    widths = (3, 4, 2, 3)
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    model = positive(
        seeded(lambda: nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).double())
    )
    names = weight_names(model)
    masks = keep_largest({name: model.get_parameter(name) for name in names}, 0.3)
    fill(model, masks)
    scores = synflow(model, torch.ones(1, 3, dtype=torch.float64), names)
    weights = [model.get_parameter(name).detach() for name in names]
    expected = [torch.zeros_like(w) for w in weights]
    for path in itertools.product(*map(range, widths)):
        steps = list(itertools.pairwise(path))
        flow = torch.stack([w[b, a] for w, (a, b) in zip(weights, steps, strict=True)]).prod()
        for total, (a, b) in zip(expected, steps, strict=True):
            total[b, a] += flow
    for name, total in zip(names, expected, strict=True):
        assert torch.allclose(scores[name], total, rtol=1e-12)
    sums = [float(score.sum()) for score in scores.values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)
    assert sums[0] > 0
