"""Curvature against the slow and obvious way: one row and one class at a time, dense matrices."""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from secateur.errors import DataError, NotFinite, UsageError
from secateur.maths.curvature import (
    Curvature,
    Pass,
    diagonal_fisher,
    ggn_product,
    hessian_product,
    low_rank,
    mean_gradient,
    sample_gradients,
    solve,
    top_eigenvalue,
)
from secateur.maths.curvature.layers import Layers
from secateur.maths.curvature.mean import mean_over_rows
from secateur.maths.curvature.model import choose, look
from secateur.maths.curvature.precondition import _signal
from secateur.maths.curvature.samples import RowGradients
from secateur.maths.curvature.solvers import rank_one_solve
from secateur.zoo import transformers

ROWS = 9
IMAGES = {"classes": 3, "channels": 2, "size": 4}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build().double().eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
            for value in [*module.parameters(), *module.buffers()]:
                if value.is_floating_point():  # nothing at its default, where a fault could hide
                    noise = torch.rand(value.shape, generator=generator(seed + 1), dtype=value.dtype)
                    value.data = 0.5 + noise
    return model


def convolution(bias=True):
    return nn.Sequential(
        nn.Conv2d(2, 3, 2, bias=bias),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(3, 2, 2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(2, 3),
    )


def smooth():
    return nn.Sequential(nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3))


def grouped():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, (1, 2), dilation=(2, 1), padding=(1, 0), groups=4, bias=False),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(2, 4), nn.LayerNorm(4)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.embed(x.flatten(2).transpose(1, 2)))
        return self.head((x + self.attend(x, x, x, need_weights=False)[0]).mean(1))


class Tied(nn.Module):
    """One layer used twice, one whose weight is used elsewhere too, one not at all, a bare parameter."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Linear(32, 4), nn.Linear(4, 4)
        self.shared, self.head, self.lazy = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        x = self.twice(torch.tanh(self.twice(self.first(x.flatten(1)))))
        x = torch.tanh(functional.linear(self.shared(x), self.shared.weight)) * self.scale
        return self.head(x) + x[:, :3]


class Turned(nn.Module):
    """The first dimension is not the rows, though there are as many."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = x.flatten(2).permute(2, 0, 1)[:ROWS]
        return self.head(torch.tanh(self.embed(x)).sum(0))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(32, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.left(x["image"].flatten(1)) + self.right(x["words"])


class Parts(nn.Module):
    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def linear_again(m, x):
    return functional.linear(x, m.a.weight, m.a.bias)


def gate(x):
    return functional.relu(x[:, 0, 0, :1])  # shut on the first rows, see gated_rows


def two(run, **parts):
    return lambda: Parts(
        lambda m, x: m.head(run(m, x.flatten(1))), a=nn.Linear(32, 4), head=nn.Linear(4, 3), **parts
    )


def shut(run, **parts):
    """Something else happens on later rows only."""
    return lambda: Parts(
        lambda m, x: m.head(torch.tanh(m.a(x.flatten(1))) + gate(x) * run(m, x.flatten(1))),
        a=nn.Linear(32, 4),
        head=nn.Linear(4, 3),
        **parts,
    )


def tied(run):
    def build():
        model = Parts(run, embed=nn.Embedding(32, 4), a=nn.Linear(4, 32), head=nn.Linear(32, 3))
        model.a.weight = model.embed.weight
        return model

    return build


def index(x):
    return (x.flatten(1)[:, :6].abs() * 8).long().clamp(max=31)


def depends(m, x):
    x = m.a(x.flatten(1))
    on = x[:, :1] > 0
    if bool(on.any()):
        x = torch.where(on, x + torch.sin(m.b(torch.tanh(m.b(x)))), x)
    return m.head(torch.tanh(m.b(x)))


def residual(m, x):
    h = m.a(x)
    h += torch.tanh(m.b(x))
    h[:, 0] *= 2
    h = functional.relu_(h)
    z = m.norm(m.c(h))
    z += h
    logits = m.head(functional.relu(z, inplace=True).flatten(1))
    logits[:, 1] += logits[:, 0]
    return logits


def normalise(m, x):
    x -= 0.5
    x.div_(0.7)
    x += torch.tanh(m.a(x * 1))
    return m.head(x.flatten(1))


def half_seen(m, x):
    z = m.a(x)
    with torch.no_grad():
        kept = m.b(z)
    return torch.tanh(z) * kept + m.b(z)


def counting(m, x):
    m.count += 1
    return torch.tanh(m.a(x))


def hooked():
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 3))
    model[1].register_forward_hook(lambda module, inputs, output: output * 2)
    model[3].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,))
    return model


class Wrong(torch.autograd.Function):
    """The identity, with a wrong rule for vmap."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def vmap(info, dims, x):
        return 2 * x, dims[0]


class Cube(torch.autograd.Function):
    """An operation without forward mode, and not for vmap."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


ODD = {
    "used again a little": two(lambda m, x: torch.tanh(m.a(x)) + 1e-3 * linear_again(m, x)),
    "used again later": shut(lambda m, x: torch.sin(linear_again(m, x))),
    "used otherwise later": lambda: Parts(
        lambda m, x: m.head(torch.where(gate(x) > 0, linear_again(m, x.flatten(1)).sin(), m.a(x.flatten(1)))),
        a=nn.Linear(32, 4),
        head=nn.Linear(4, 3),
    ),
    "called twice later": shut(lambda m, x: torch.sin(m.b(m.b(m.a(x)))), b=nn.Linear(4, 4)),
    "called in vain": two(lambda m, x: torch.tanh(linear_again(m, x)) + 0 * m.a(x).detach()),
    "tied": tied(lambda m, x: m.head(torch.tanh(m.a(m.embed(index(x)).mean(1))))),
    "tied later": tied(
        lambda m, x: m.head(
            m.a(torch.sin(x.flatten(1)[:, :4])) + gate(x) * m.embed(index(x)).repeat(1, 1, 8)[:, 0]
        )
    ),
    "control flow": lambda: Parts(depends, a=nn.Linear(32, 4), b=nn.Linear(4, 4), head=nn.Linear(4, 3)),
    "one by one": lambda: Parts(
        lambda m, x: torch.cat([m.head(torch.tanh(m.a(r.flatten()[None]))) for r in x]),
        a=nn.Linear(32, 4),
        head=nn.Linear(4, 3),
    ),
    "parametrised": lambda: nn.Sequential(
        nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(32, 4)),
        nn.Tanh(),
        parametrizations.spectral_norm(nn.Linear(4, 3)),
    ),
    "prelu": lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.PReLU(), nn.Flatten(), nn.Linear(27, 3)),
    "in place": lambda: Parts(
        residual,
        a=nn.Conv2d(2, 3, 3, padding=1),
        b=nn.Conv2d(2, 3, 1),
        c=nn.Conv2d(3, 3, 1),
        norm=nn.BatchNorm2d(3),
        head=nn.Linear(48, 3),
    ),
    "in place on x": lambda: Parts(normalise, a=nn.Conv2d(2, 2, 1), head=nn.Linear(32, 3)),
    "other norms": lambda: nn.Sequential(
        nn.LayerNorm((2, 4, 4)),
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.Flatten(2),
        nn.RMSNorm(16),
        nn.Flatten(),
        nn.Linear(64, 3),
    ),
    "other convolutions": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.Tanh(),
        nn.Conv2d(3, 3, 3, padding="same", dilation=2),
        nn.ConvTranspose2d(3, 4, 2, stride=2),
        nn.Tanh(),
        nn.Conv2d(4, 4, (3, 2), stride=(2, 3), padding=(2, 0), groups=2),  # rows and columns are left over
        nn.Flatten(2),
        nn.Conv1d(4, 3, 3),
        nn.BatchNorm1d(3),
        nn.Flatten(),
        nn.Linear(39, 3),
    ),
    "recurrent": lambda: Parts(
        lambda m, x: m.head(m.gru(x.flatten(2))[0][:, -1]),
        gru=nn.GRU(16, 4, batch_first=True),
        head=nn.Linear(4, 3),
    ),
    "transformer": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.Linear(16, 4),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(8, 3),
    ),
    "attention first": lambda: Parts(
        lambda m, x: m.head(m.attend(x.flatten(2), x.flatten(2), x.flatten(2))[0].flatten(1)),
        attend=nn.MultiheadAttention(16, 2, batch_first=True),
        head=nn.Linear(32, 3),
    ),
    "hooked": hooked,
    "by name": lambda: Parts(
        lambda m, x: m.head(input=torch.tanh(m.a(input=x.flatten(1)))),
        a=nn.Linear(32, 4),
        head=nn.Linear(4, 3),
    ),
    "half without gradients": two(half_seen, b=nn.Linear(4, 4)),
    "straight through": two(lambda m, x: (z := m.a(x)) + (torch.round(z) - z).detach()),
    "old function": two(lambda m, x: m.b(Cube.apply(m.a(x))), b=nn.PReLU()),
    "wrong rule": two(lambda m, x: m.b(Wrong.apply(m.a(x))), b=nn.PReLU()),
    "checkpoint": two(lambda m, x: m.b(checkpoint(m.a, x, use_reentrant=False)), b=nn.PReLU()),
    "counting": two(counting, count=nn.Buffer(torch.zeros(4))),
    "swin": partial(
        transformers,
        architecture="swin",
        config={"patch_size": 1, "window_size": 2, "embed_dim": 4, "depths": [2, 1], "num_heads": [2, 2]},
        **IMAGES,
    ),
    "vit": partial(
        transformers,
        architecture="vit",
        config={
            "patch_size": 2,
            "hidden_size": 4,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 6,
        },
        **IMAGES,
    ),
    "convnext": partial(
        transformers,
        architecture="convnext",
        config={"patch_size": 1, "num_stages": 2, "depths": [1, 1], "hidden_sizes": [3, 4]},
        **IMAGES,
    ),
}
NETS = {
    "convolution": convolution,
    "smooth": smooth,
    "grouped": grouped,
    "tokens": Tokens,
    "tied": Tied,
    "turned": Turned,
}


def rows(n=ROWS):
    x = torch.randn(n, 2, 4, 4, generator=generator(1), dtype=torch.float64)
    return x, torch.arange(n) % 3


def gated_rows():
    x, y = rows()
    x[:, 0, 0, 0] = torch.tensor([-1, -1, -1, -1, 1, -1, 1, 2, -0.5])
    return x, y


def uneven(x, y):
    return [(x[a:b], y[a:b], torch.arange(a, b)) for a, b in [(0, 4), (4, 4), (4, 5), (5, len(y))]]


def close(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        scale = max(1e-3, float(value.abs().max()))
        assert float((found[name] - value).abs().max()) <= tolerance * scale, name


@contextmanager
def untouched(model, *tensors):
    """The model, the random stream and these are as they were, whatever is raised."""

    def look_at():
        named = [*model.named_parameters(), *model.named_buffers()]
        modules = list(model.modules())
        return (
            {name: (id(t), t.requires_grad, id(t.grad)) for name, t in named},
            [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules],
            [t.detach().clone() for _, t in named] + [t.clone() for t in tensors] + [torch.get_rng_state()],
        )

    known = look_at()
    try:
        yield
    finally:
        now = look_at()
        assert now[:2] == known[:2]
        assert all(a.equal(b) for a, b in zip(now[2], known[2], strict=True))


def row_gradient(model, x, label):
    named = dict(model.named_parameters())
    loss = functional.cross_entropy(model(x[None].clone()), torch.tensor([label]))
    parts = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    return dict(zip(named, parts, strict=True))


def loop(model, x, y, kind):
    """One row and one class at a time."""
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(len(y)):
        chances = model(x[i : i + 1].clone()).softmax(1)[0].detach()
        classes = range(3) if kind == "expected" else [int(y[i])]
        for label in classes:
            weight = chances[label] if kind == "expected" else 1.0
            for name, g in row_gradient(model, x[i], label).items():
                found[name] += weight * g.square() / len(y)
    return found


def drawn(model, x, rng):
    """Labels as the docstring promises them: one number for each row, in their order."""
    found = []
    for row in x:
        chances = model(row[None].clone()).softmax(1)[0].detach().cumsum(0)
        point = torch.rand(1, generator=rng, dtype=torch.float64)
        found.append(int((chances <= point).sum()))
    return torch.tensor(found)


# ---------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("case", NETS)
@pytest.mark.parametrize("budget", [1, 2**29])
def test_sample_gradients_are_those_of_rows_alone(case, budget):
    model, (x, y) = seeded(NETS[case]), rows()
    parts = list(sample_gradients(model, uneven(x, y), budget=budget))
    assert len(parts) == (ROWS if budget == 1 else 3)
    for name, _ in model.named_parameters():
        whole = torch.cat([part[name] for part in parts])
        true = torch.stack([row_gradient(model, x[i], int(y[i]))[name] for i in range(ROWS)])
        assert torch.allclose(whole, true, rtol=1e-10, atol=1e-13), name


@pytest.mark.parametrize("case", NETS)
def test_the_mean_gradient_is_one_plain_pass(case):
    model, (x, y) = seeded(NETS[case]), rows()
    named = dict(model.named_parameters())
    loss = functional.cross_entropy(model(x), y)
    parts = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    expected = dict(zip(named, parts, strict=True))
    with untouched(model, x), torch.no_grad():
        for given, budget in ([(x, y)], 2**29), ([(x, y)], 1), (uneven(x, y), 2**29), (uneven(x, y), 40_000):
            close(mean_gradient(model, given, budget=budget), expected, 1e-12)
        some = mean_gradient(model, [(x, y.to(torch.int32))], names=list(named)[1:3])
    close(some, {name: expected[name] for name in list(named)[1:3]}, 1e-12)


def test_one_pass_comes_as_a_list_a_function_a_pass_or_an_iterator():
    model, (x, y) = seeded(smooth), rows()
    known = mean_gradient(model, [(x, y)]), diagonal_fisher(model, [(x, y)])
    for given in (lambda: uneven(x, y), lambda: iter(uneven(x, y)), Pass(uneven(x, y))):
        close(mean_gradient(model, given), known[0], 1e-12)
        close(diagonal_fisher(model, given), known[1])
        assert sum(len(part["0.bias"]) for part in sample_gradients(model, given)) == ROWS
    close(mean_gradient(model, iter(uneven(x, y))), known[0], 1e-12)


def test_sums_over_many_chunks_keep_their_digits():
    count, x, y = 20_000, torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    model, weights = nn.Linear(2, 3).eval(), {"bias": torch.zeros(3)}
    part = torch.full((3,), 0.1)
    found = mean_over_rows(model, weights, [(x, y)] * count, lambda *_: {"bias": part}, 2**29, "sum")
    assert torch.equal(found["bias"], part)
    total = torch.zeros(3)
    for _ in range(count):
        total += part
    assert float((total / count - part).abs().max()) > 1e-6  # in single precision


# ------------------------------------------------------------------------------------------------- Fisher


@pytest.mark.parametrize("case", NETS)
@pytest.mark.parametrize("kind", ["expected", "empirical", "sampled"])
@pytest.mark.parametrize("budget", [1, 40_000, 2**29])
def test_fisher_is_the_loop_over_rows_and_classes(case, kind, budget):
    model, (x, y) = seeded(NETS[case]), rows()
    with untouched(model, x):
        found = diagonal_fisher(model, uneven(x, y), kind=kind, rng=generator(5), budget=budget)
    labels = drawn(model, x, generator(5)) if kind == "sampled" else y
    assert kind != "sampled" or not torch.equal(labels, y)
    expected = loop(model, x, labels, kind)
    close(found, expected)
    assert max(float(value.max()) for value in expected.values()) > 1e-3


def test_fast_layers_are_used_where_they_hold_and_nowhere_else():
    x, _ = rows()
    taken = {name: Layers(m := seeded(build), choose(m, None), x).names for name, build in NETS.items()}
    everything = {name: {n for n, _ in seeded(build).named_parameters()} for name, build in NETS.items()}
    for name in ("convolution", "smooth", "grouped"):
        assert taken[name] == everything[name], name
    assert taken["tokens"] == {f"{a}.{b}" for a in ("embed", "norm", "head") for b in ("weight", "bias")}
    assert taken["tied"] == {f"{a}.{b}" for a in ("first", "head") for b in ("weight", "bias")} | {
        "shared.bias"
    }
    assert "embed.weight" not in taken["turned"]
    model = hooked().double()
    assert Layers(model, choose(model, None), x).names == choose(model, None).keys()


@pytest.mark.parametrize("case", ["convolution", "tokens"])
def test_sampled_fisher_is_the_expected_one_in_the_mean(case):
    model, (x, y) = seeded(NETS[case]), rows()
    times = 400
    many = [(x.repeat(times, 1, 1, 1), y.repeat(times))]
    found = diagonal_fisher(model, many, kind="sampled", rng=generator(7))
    mean = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    error = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(ROWS):
        chances = model(x[i : i + 1]).softmax(1)[0].detach()
        squares = [row_gradient(model, x[i], label) for label in range(3)]
        for name in mean:
            values = torch.stack([g[name].square() for g in squares])
            p = chances.view(-1, *[1] * (values.ndim - 1))
            center = (p * values).sum(0)
            mean[name] += center / ROWS
            error[name] += (p * (values - center).square()).sum(0) / (ROWS**2 * times)
    far = flatten({n: (found[n] - mean[n]).abs() / (error[n].sqrt() + 1e-9 * mean[n] + 1e-30) for n in mean})
    assert float(far.max()) < 5  # standard errors
    assert float(far.mean()) > 0.1  # a Monte Carlo mean, not the expected Fisher itself


def test_fisher_of_a_published_kind_would_fail():
    """The square of a batch's mean is not the mean of squares."""
    model, (x, y) = seeded(convolution), rows()
    named = dict(model.named_parameters())
    true = diagonal_fisher(model, [(x, y)], kind="empirical")
    gradient = torch.autograd.grad(functional.cross_entropy(model(x), y), list(named.values()))
    ratios = [float(g.square().sum() / true[n].sum()) for n, g in zip(named, gradient, strict=True)]
    assert max(ratios) < 0.9


def test_fisher_takes_named_parameters_and_named_inputs():
    model, (x, y) = seeded(Named), rows()
    words = torch.randn(ROWS, 4, generator=generator(3), dtype=torch.float64)
    given = [({"image": x[:4], "words": words[:4]}, y[:4]), ({"image": x[4:], "words": words[4:]}, y[4:])]
    found = diagonal_fisher(model, given, kind="empirical", names=["right.weight"], budget=1)
    total = torch.zeros(3, 4, dtype=torch.float64)
    for i in range(ROWS):
        loss = functional.cross_entropy(
            model({"image": x[i : i + 1], "words": words[i : i + 1]}), y[i : i + 1]
        )
        total += torch.autograd.grad(loss, model.right.weight)[0].square() / ROWS
    close(found, {"right.weight": total})
    (gradients, *_) = sample_gradients(model, given[:1], names=["right.weight"])
    assert gradients["right.weight"].shape == (4, 3, 4)
    v = random_like({"right.weight": model.right.weight.detach()})
    p = torch.cat([model(chunk[0]) for chunk in given]).softmax(1).detach()
    pushed = words @ v["right.weight"].T
    bent = p * (pushed - (p * pushed).sum(1, keepdim=True))
    close(ggn_product(model, given, v), {"right.weight": bent.T @ words / ROWS})


@pytest.mark.parametrize("case", NETS)
def test_fisher_and_products_in_single_precision(case):
    model, (x, y) = seeded(NETS[case]), rows()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    v = random_like(weights)
    known = diagonal_fisher(model, [(x, y)]), ggn_product(model, [(x, y)], v)
    names = Layers(model, weights, x).names
    model, x, v = model.float(), x.float(), {name: value.float() for name, value in v.items()}
    assert Layers(model, choose(model, None), x).names == names
    found = diagonal_fisher(model, [(x, y)]), ggn_product(model, [(x, y)], v)
    for single, double in zip(found, known, strict=True):
        assert all(value.dtype == torch.float32 for value in single.values())
        close({name: value.double() for name, value in single.items()}, double, 1e-3)


@pytest.mark.parametrize(
    "work",
    [
        lambda model, rows, v: diagonal_fisher(model, rows, kind="empirical"),
        lambda model, rows, v: next(sample_gradients(model, rows)),
        lambda model, rows, v: mean_gradient(model, rows),
        hessian_product,
        ggn_product,
    ],
    ids=["fisher", "gradients", "mean", "hessian", "ggn"],
)
def test_a_confident_model_keeps_its_digits(work):
    """Single precision says p = 1, so 1 - p and p (1 - p) have to come from the other classes."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Softplus(), nn.Linear(2, 3, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 0.2], [0.3, 1.0]])
    model[2].weight.data = torch.tensor([[10.0, 9.0], [-1.0, 0.0], [0.0, -1.0]])
    x, y = torch.tensor([[1.0, 1.0]]), torch.tensor([0])
    found = {}
    for dtype in (torch.float32, torch.float64):
        model, x = model.to(dtype), x.to(dtype)
        found[dtype] = work(model, [(x, y)], {name: p.detach().cos() for name, p in model.named_parameters()})
    assert float(model(x).softmax(1)[0, 0].detach()) > 1 - 1e-9
    for name, value in found[torch.float64].items():
        error = (found[torch.float32][name].double() - value).norm()
        assert float(error) <= 1e-4 * float(value.norm()), name
        assert float(value.norm()) > 0


@pytest.mark.parametrize("work", ["fisher", "gradients", "hessian", "ggn"])
def test_the_budget_splits(work):
    model, (x, y) = seeded(convolution), rows(32)
    weights = choose(model, None)
    sizes = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))

    def largest(budget):
        sizes.clear()
        if work == "fisher":
            diagonal_fisher(model, [(x, y)], kind="empirical", budget=budget)
        elif work == "gradients":
            for part in sample_gradients(model, [(x, y)], budget=budget):
                sizes.append(len(part["0.weight"]))
        else:
            Curvature(model, [(x, y)], work, budget)(weights)
        return max(sizes)

    each = look(model, weights, x)
    assert each > 3 * 9 * 8  # at least what batch norm keeps
    small, large = largest(64 * each), largest(2**29)
    assert 1 < small < 32
    assert largest(1) == 1
    assert large == 32


def slow_product(model, x, y, v, kind):
    """In reverse alone; the GGN one row and one class at a time."""
    named = dict(model.named_parameters())
    leaves = list(named.values())

    def along(parts):
        return sum((part * v[name]).sum() for name, part in zip(named, parts, strict=True))

    if kind == "hessian":
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            loss = functional.cross_entropy(model(x.clone()), y)
            slopes = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
            found = torch.autograd.grad(along(slopes), leaves, materialize_grads=True)
        return dict(zip(named, found, strict=True))
    total = {name: torch.zeros_like(p) for name, p in named.items()}
    for row in x:
        logits = model(row[None].clone())[0]
        p = logits.softmax(0).detach()
        each = [torch.autograd.grad(z, leaves, retain_graph=True, materialize_grads=True) for z in logits]
        pushed = torch.stack([along(parts) for parts in each])
        for weight, parts in zip(p * (pushed - (p * pushed).sum()), each, strict=True):
            for name, part in zip(named, parts, strict=True):
                total[name] += weight * part / len(x)
    return total


@pytest.mark.parametrize("case", ODD)
def test_odd_models_are_theirs_row_by_row(case):
    model, (x, y) = seeded(ODD[case]), gated_rows()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    v = random_like({name: p.detach() for name, p in model.named_parameters()})
    labels = {"expected": y, "empirical": y, "sampled": drawn(model, x, generator(5))}
    fisher = {kind: loop(model, x, labels[kind], kind) for kind in labels}
    each = [row_gradient(model, x[i], int(y[i])) for i in range(ROWS)]
    products = {kind: slow_product(model, x, y, v, kind) for kind in ("ggn", "hessian")}
    mean = {name: torch.stack([g[name] for g in each]).mean(0) for name in v}
    model.load_state_dict(state)
    with untouched(model, x):
        for budget in (1, 2**29):
            for kind, known in fisher.items():
                close(diagonal_fisher(model, [(x, y)], kind=kind, rng=generator(5), budget=budget), known)
            parts = list(sample_gradients(model, [(x, y)], budget=budget))
            for name in v:
                found = torch.cat([part[name] for part in parts])
                assert torch.allclose(found, torch.stack([g[name] for g in each]), rtol=1e-10, atol=1e-12), (
                    name
                )
            close(mean_gradient(model, [(x, y)], budget=budget), mean, 1e-11)
            for kind, known in products.items():
                close(Curvature(model, [(x, y)], kind, budget)(v), known)


def test_vmap_is_used_where_it_holds():
    for case, build in {**NETS, **ODD}.items():
        model, (x, _) = seeded(build), gated_rows()
        gradients = RowGradients(model, choose(model, None), x)
        slow = case in ("control flow", "recurrent", "old function", "wrong rule", "checkpoint")
        assert (gradients._way == gradients._loop) == slow, case


# ----------------------------------------------------------------------------------------------- products


def dense(model, x, y, kind, names=None):
    """The whole matrix, and how to put named tensors in a row."""
    weights = {n: p.detach() for n, p in model.named_parameters() if names is None or n in names}
    sizes = [w.numel() for w in weights.values()]

    def logits(flat):
        parts = (part.view_as(w) for part, w in zip(torch.split(flat, sizes), weights.values(), strict=True))
        return functional_call(model, dict(zip(weights, parts, strict=True)), (x,))

    flat = torch.cat([w.flatten() for w in weights.values()])
    if kind == "hessian":
        # not torch.func's: on attention, jacrev of jacrev is not even symmetric
        found = torch.autograd.functional.hessian(lambda f: functional.cross_entropy(logits(f), y), flat)
    else:
        jacobian, p = jacrev(logits)(flat), logits(flat).softmax(1)
        bends = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        found = torch.einsum("bcw,bcd,bdv->wv", jacobian, bends, jacobian) / len(y)
    return found.detach(), weights


def flatten(vectors):
    return torch.cat([value.flatten() for value in vectors.values()])


def random_like(weights, seed=3):
    rng = generator(seed)
    return {n: torch.randn(w.shape, generator=rng, dtype=w.dtype) for n, w in weights.items()}


@pytest.mark.parametrize("case", NETS)
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("budget", [1, 2**29])
def test_products_are_those_of_the_dense_matrix(case, kind, budget):
    model, (x, y) = seeded(NETS[case]), rows()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        matrix, weights = dense(model, x, y, kind)
    v = random_like(weights)
    product = {"hessian": hessian_product, "ggn": ggn_product}[kind]
    with untouched(model, x):
        found = product(model, uneven(x, y), v, budget=budget)
    expected = matrix @ flatten(v)
    assert float((flatten(found) - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


class Cubed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(32, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(Cube.apply(self.first(x.flatten(1))))


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_products_of_a_model_without_forward_mode(kind):
    model, (x, y) = seeded(Cubed), rows()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    v = random_like(weights)
    found = flatten(Curvature(model, [(x, y)], kind)(v))
    Cube.apply, known = staticmethod(lambda x: x**3), Cube.apply
    try:
        expected = dense(model, x, y, kind)[0] @ flatten(v)
    finally:
        Cube.apply = known
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


def test_products_of_a_parameter_that_leads_nowhere():
    model, (x, y) = seeded(Cubed), rows()
    model.spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    for kind in ("hessian", "ggn"):
        found = Curvature(model, [(x, y)], kind)({"spare": torch.ones(2, dtype=torch.float64)})
        assert torch.equal(found["spare"], torch.zeros(2, dtype=torch.float64))
    assert float(diagonal_fisher(seeded(Tied), [(x, y)], names=["scale"])["scale"].abs().min()) > 0
    model = seeded(convolution)
    model.spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    for names in (["spare"], ["spare", "0.weight"]):
        assert not bool(diagonal_fisher(model, [(x, y)], names=names)["spare"].any())
        (found,) = sample_gradients(model, [(x, y)], names=names)
        assert not bool(found["spare"].any())


def test_the_diagonal_of_the_ggn_is_the_expected_fisher():
    model, (x, y) = seeded(convolution), rows()
    matrix, _ = dense(model, x, y, "ggn")
    found = flatten(diagonal_fisher(model, [(x, y)]))
    assert torch.allclose(found, matrix.diag(), rtol=1e-10, atol=1e-14)


def test_products_in_a_part_of_the_parameters():
    model, (x, y) = seeded(smooth), rows()
    matrix, weights = dense(model, x, y, "hessian", {"0.bias", "4.weight"})
    v = random_like(weights)
    found = Curvature(model, [(x, y)], "hessian")(v)
    assert torch.allclose(flatten(found), matrix @ flatten(v), rtol=1e-10, atol=1e-14)


@pytest.mark.filterwarnings("ignore")  # its own
def test_curvlinops_agrees():
    import curvlinops

    model, (x, y) = seeded(smooth), rows()
    v = random_like({name: p.detach() for name, p in model.named_parameters()})
    for kind, other in (("hessian", curvlinops.HessianLinearOperator), ("ggn", curvlinops.GGNLinearOperator)):
        operator = other(model, nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)])
        expected = torch.as_tensor(operator @ flatten(v))
        assert torch.allclose(flatten(Curvature(model, [(x, y)], kind)(v)), expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------ solvers


def some_masks(weights):
    """Half of the weights of every tensor with more than one dimension; and one of another name."""
    rng = generator(11)
    masks = {n: torch.rand(w.shape, generator=rng) < 0.5 for n, w in weights.items() if w.ndim > 1}
    return masks | {"elsewhere": torch.ones(1, dtype=torch.bool)}


def restricted(matrix, weights, masks):
    kept = flatten({n: masks.get(n, torch.ones_like(w, dtype=torch.bool)) for n, w in weights.items()})
    return matrix[kept][:, kept], kept


def check_masked(u, masks, weights):
    for name, mask in masks.items():
        if name in weights:
            gone = u[name][~mask]
            assert len(gone)
            assert torch.equal(gone, torch.zeros_like(gone))
            assert not bool(gone.signbit().any())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kind", "damping"), [("ggn", 1e-3), ("hessian", 2.0)])
def test_cg_is_the_dense_inverse(masked, kind, damping):
    model, (x, y) = seeded(smooth), rows()
    matrix, weights = dense(model, x, y, kind)
    masks, v = some_masks(weights) if masked else {}, random_like(weights)
    small, kept = restricted(matrix, weights, masks)
    found = solve(
        Curvature(model, uneven(x, y), kind), v, damping=damping, masks=masks, tolerance=1e-12, iterations=500
    )
    system = small + damping * torch.eye(len(small), dtype=torch.float64)
    expected = torch.linalg.solve(system, flatten(v)[kept])
    u = flatten(found.vector)[kept]
    assert float((u - expected).norm()) <= 1e-8 * float(expected.norm())
    true = float((system @ u - flatten(v)[kept]).norm() / flatten(v)[kept].norm())
    assert found.residual == pytest.approx(true, rel=1e-2, abs=1e-12)
    assert 1 < found.iterations < 500
    check_masked(found.vector, masks, weights)


def images(n=60):
    """Rows enough for a rank that is neither nothing nor everything."""
    x = torch.randn(n, 2, 4, 4, generator=generator(5), dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator(6))


def as_matrix(product, weights, masks):
    """A function of vectors over the unmasked coordinates, column by column."""
    kept = flatten({n: masks.get(n, torch.ones_like(w, dtype=torch.bool)) for n, w in weights.items()})
    columns = []
    for i in kept.nonzero()[:, 0]:
        unit = torch.zeros(len(kept), dtype=torch.float64)
        unit[i] = 1.0
        parts = unit.split([w.numel() for w in weights.values()])
        found = product({n: part.view_as(w) for (n, w), part in zip(weights.items(), parts, strict=True)})
        columns.append(flatten(found)[kept])
    return torch.stack(columns, 1)


@pytest.mark.parametrize("masked", [False, True])
def test_the_preconditioner_is_the_ggn_of_few_rows_in_expectation(masked):
    model, (x, y) = seeded(smooth), images(12)
    matrix, weights = dense(model, x, y, "ggn")
    masks = some_masks(weights) if masked else {}
    small, _ = restricted(matrix, weights, masks)
    curvature, rng, damping, draws = Curvature(model, uneven(x, y)), generator(), 0.1, 400
    found = []
    for _ in range(draws):
        product = low_rank(curvature, rank=6, damping=damping, rng=rng, masks=masks)
        found.append(as_matrix(product, weights, masks).inverse() - damping * torch.eye(len(small)))
    assert int((torch.linalg.eigvalsh(found[0]) > 1e-9).sum()) <= 6
    assert torch.allclose(found[0], found[0].T, atol=1e-9)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    every = torch.stack(found)
    off = (every.mean(0) - small).abs() / (every.std(0) / draws**0.5).clamp(min=1e-12)
    assert float(off.max()) < 5  # of some 1,500 entries in standard errors


@pytest.mark.parametrize("rank", [36, 47])  # 12 rows, 3 classes
def test_with_a_gradient_for_each_row_and_class_it_is_the_ggn(rank):
    model, (x, y) = seeded(smooth), images(12)
    matrix, weights = dense(model, x, y, "ggn")
    masks = some_masks(weights)
    small, _ = restricted(matrix, weights, masks)
    curvature = Curvature(model, uneven(x, y))
    found = as_matrix(
        low_rank(curvature, rank=rank, damping=0.1, rng=generator(), masks=masks), weights, masks
    )
    system = small + 0.1 * torch.eye(len(small), dtype=torch.float64)
    assert torch.allclose(found @ system, torch.eye(len(small), dtype=torch.float64), atol=1e-10)


def test_the_preconditioner_of_a_confident_model_keeps_its_digits():
    model, (x, _) = seeded(smooth), images(6)
    model[-1].weight.data *= 2000
    matrix, weights = dense(model, x, torch.zeros(6, dtype=torch.long), "ggn")
    single = seeded(smooth).float()
    single.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    scale = float(torch.linalg.eigvalsh(matrix)[-1])
    parts = [
        low_rank(
            Curvature(net, [(rows_, torch.zeros(6, dtype=torch.long))]),
            rank=6,
            damping=scale,
            rng=generator(),
        )
        for net, rows_ in ((model, x), (single, x.float()))
    ]
    v = random_like(weights)
    true, found = flatten(parts[0](v)), flatten(parts[1]({n: w.float() for n, w in v.items()}))
    # single precision is kept as bfloat16, each entry to 2**-9 of itself
    assert float((found - true).norm()) <= 2**-8 * float((true - flatten(v) / scale).norm())


def test_the_signal_of_a_confident_row_keeps_its_digits():
    logits = torch.tensor([[40.0, 0.0, -3.0]], dtype=torch.float64)
    e = torch.randn(2, 3, generator=generator(), dtype=torch.float64)
    true, found = _signal(logits, e), _signal(logits.float(), e.float()).double()
    assert float((found - true).norm()) <= 1e-5 * float(true.norm())
    assert float(true[:, 0].abs().min()) > 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kind", "damping"), [("ggn", 1e-3), ("hessian", 2.0)])
def test_preconditioned_cg_is_the_dense_inverse(masked, kind, damping):
    model, (x, y) = seeded(smooth), images()
    matrix, weights = dense(model, x, y, kind)
    masks, v = some_masks(weights) if masked else {}, random_like(weights)
    small, kept = restricted(matrix, weights, masks)
    curvature = Curvature(model, uneven(x, y), kind)
    system = small + damping * torch.eye(len(small), dtype=torch.float64)
    expected = torch.linalg.solve(system, flatten(v)[kept])
    ease = low_rank(curvature, rank=20, damping=damping, rng=generator(), masks=masks)
    found = solve(
        curvature, v, damping=damping, masks=masks, tolerance=1e-12, iterations=500, preconditioner=ease
    )
    u = flatten(found.vector)[kept]
    assert float((u - expected).norm()) <= 1e-8 * float(expected.norm())
    true = float((system @ u - flatten(v)[kept]).norm() / flatten(v)[kept].norm())
    assert found.residual == pytest.approx(true, rel=1e-2, abs=1e-12)
    check_masked(found.vector, masks, weights)


def test_a_preconditioner_spares_steps():
    model, (x, y) = (
        seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 24), nn.Linear(24, 3))),
        images(200),
    )
    x = x * torch.logspace(1, -2, 32, dtype=torch.float64).view(
        2, 4, 4
    )  # few directions matter, as in a network
    curvature, v = Curvature(model, [(x, y)]), random_like(dict(model.named_parameters()))
    plain = solve(curvature, v, damping=1e-4, tolerance=1e-3, iterations=500)
    ease = low_rank(curvature, rank=200, damping=1e-4, rng=generator())
    eased = solve(curvature, v, damping=1e-4, tolerance=1e-3, iterations=500, preconditioner=ease)
    assert max(plain.residual, eased.residual) <= 1e-3
    assert eased.iterations <= 0.6 * plain.iterations


def test_a_preconditioner_that_cannot_be_is_refused():
    model, (x, y) = seeded(smooth), images()
    curvature, v = Curvature(model, [(x, y)]), random_like(dict(model.named_parameters()))
    for rank, damping in ((0, 1.0), (5, 0.0)):
        with untouched(model), pytest.raises(UsageError, match="rank of at least 1 and a damping above 0"):
            low_rank(curvature, rank=rank, damping=damping, rng=generator())
    small = Curvature(model, [(x, y)], budget=10_000)
    with untouched(model), pytest.raises(UsageError, match=r"got \d+ bytes for 60 of .* rank of at most"):
        low_rank(small, rank=100, damping=1.0, rng=generator())
    with pytest.raises(UsageError, match="expected a positive preconditioner"):
        solve(curvature, v, damping=1.0, preconditioner=lambda u: {n: -w for n, w in u.items()})
    ease = low_rank(curvature, rank=5, damping=1.0, rng=generator())
    with pytest.raises(UsageError, match='how="cg" beside a preconditioner, got "diagonal"'):
        solve(curvature, v, how="diagonal", damping=1.0, preconditioner=ease)


def test_cg_stops_early_and_says_how_far_it_came():
    model, (x, y) = seeded(smooth), rows()
    matrix, weights = dense(model, x, y, "ggn")
    v = random_like(weights)
    few = solve(Curvature(model, [(x, y)]), v, damping=1e-3, iterations=2, tolerance=1e-12)
    assert few.iterations == 2
    true = matrix @ flatten(few.vector) + 1e-3 * flatten(few.vector) - flatten(v)
    assert few.residual == pytest.approx(float(true.norm() / flatten(v).norm()), rel=1e-6)
    assert few.residual > 1e-6
    rough = solve(Curvature(model, [(x, y)]), v, damping=1e-3, tolerance=0.5)
    assert rough.residual <= 0.5
    nothing = solve(Curvature(model, [(x, y)]), {n: torch.zeros_like(w) for n, w in v.items()}, damping=1e-3)
    assert (nothing.residual, nothing.iterations) == (0.0, 0)


def scaled(values, dtype=torch.float64):
    """A product with these eigenvalues, in coordinates that hide them."""
    n = len(values)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator(), dtype=torch.float64))
    matrix = ((q * torch.as_tensor(values, dtype=torch.float64)) @ q.T).to(dtype)
    v = {"w": torch.randn(n, generator=generator(1), dtype=torch.float64).to(dtype)}
    return lambda u: {"w": matrix @ u["w"]}, matrix.double(), v


@pytest.mark.parametrize("damping", [1.0, 1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("top", [100.0, 1e4])
def test_cg_solves_what_is_damped_as_far_as_single_precision_goes(damping, top):
    product, matrix, v = scaled([top, 10.0, 1.0] + [0.0] * 97, torch.float32)
    found = solve(product, v, damping=damping, tolerance=1e-4, iterations=200)
    true = matrix @ found.vector["w"].double() + damping * found.vector["w"].double() - v["w"].double()
    measured = float(true.norm() / v["w"].double().norm())
    rounding = 10 * torch.finfo(torch.float32).eps * top * float(found.vector["w"].norm() / v["w"].norm())
    assert abs(found.residual - measured) <= 1e-3 * measured + rounding
    assert found.residual <= 1  # never worse than nothing
    if damping >= 1e-5 * top:
        assert found.residual <= 1e-2


def test_cg_only_gains_by_iterating():
    product, _, v = scaled(torch.logspace(2, -6, 100, dtype=torch.float64))
    reached = [solve(product, v, damping=1e-4, tolerance=0, iterations=n).residual for n in (1, 2, 5, 20, 80)]
    assert reached == sorted(reached, reverse=True)
    assert reached[0] < 1


def test_cg_of_a_tiny_vector():
    """Whose squares single precision does not know."""
    product, matrix, v = scaled(torch.logspace(0, -2, 40), torch.float32)
    found = solve(product, {"w": v["w"] * 1e-30}, damping=0.1, tolerance=1e-5)
    expected = torch.linalg.solve(matrix + 0.1 * torch.eye(40, dtype=torch.float64), v["w"].double())
    assert float((found.vector["w"].double() * 1e30 - expected).norm()) <= 1e-4 * float(expected.norm())
    assert 0 < found.residual <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cg_refuses_what_has_no_solution(dtype):
    product, _, v = scaled([100.0, 10.0, 1.0] + [0.0] * 17, dtype)
    with pytest.raises(UsageError, match=r"singular with damping 0.*raise damping above 0"):
        solve(product, v, damping=0.0)
    product, _, v = scaled([100.0, 10.0, -1.0] + [0.0] * 17, dtype)
    with pytest.raises(UsageError, match=r"negative curvature.*damping 0\.5 included"):
        solve(product, v, damping=0.5, tolerance=1e-6)
    assert solve(product, v, damping=1.5, tolerance=1e-3).residual <= 1e-3


def empirical(model, x, y, group):
    gradients = torch.stack([flatten(row_gradient(model, x[i], int(y[i]))) for i in range(len(y))])
    return torch.stack([part.mean(0) for part in torch.split(gradients, group)])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("block", [7, 10_000])
@pytest.mark.parametrize("case", ["smooth", "tied"])
def test_woodfisher_is_the_dense_sum_of_rank_one_updates(masked, group, block, case):
    model, (x, y) = seeded(NETS[case]), rows()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    masks, v, damping = some_masks(weights) if masked else {}, random_like(weights), 1e-2
    g = empirical(model, x, y, group)
    whole, kept = restricted(g.T @ g / len(g), weights, masks)
    small = min(block, len(whole))
    for budget in (16 * len(g) * small, 2**29):
        found = solve(
            Curvature(model, uneven(x, y), budget=budget),
            v,
            how="woodfisher",
            damping=damping,
            masks=masks,
            group=group,
            block=block,
        )
        right, u = flatten(v)[kept], flatten(found.vector)[kept]
        expected = torch.empty_like(right)
        for start in range(0, len(right), block):
            at = slice(start, start + block)
            inside = g[:, kept][:, at]
            inverse = torch.eye(inside.shape[1], dtype=torch.float64) / damping  # Sherman-Morrison, dense
            for row in inside:
                o = inverse @ row
                inverse = inverse - torch.outer(o, o) / (len(g) + row @ o)
            system = whole[at, at] + damping * torch.eye(len(inverse), dtype=torch.float64)
            assert torch.allclose(inverse @ system, torch.eye(len(inverse), dtype=torch.float64), atol=1e-10)
            expected[at] = inverse @ right[at]
        assert float((u - expected).norm()) <= 1e-10 * float(expected.norm())
        assert found.residual < 1e-10
        assert found.iterations == len(g)
        check_masked(found.vector, masks, weights)


@pytest.mark.parametrize("count", [1, 39, 40, 41, 100])
def test_rank_one_updates_give_the_dense_solution(count):
    g = torch.randn(count, 40, generator=generator(), dtype=torch.float64)
    v = torch.randn(40, generator=generator(1), dtype=torch.float64)
    system = g.T @ g / count + 0.1 * torch.eye(40, dtype=torch.float64)
    expected = torch.linalg.solve(system, v)
    assert float((rank_one_solve(g, v, 0.1) - expected).norm()) <= 1e-10 * float(expected.norm())


def test_woodfisher_of_a_single_precision_model_is_not_less_exact():
    model, (x, y) = seeded(smooth).float(), rows()
    v = random_like({name: p.detach() for name, p in model.named_parameters()})
    (each,) = sample_gradients(model, [(x.float(), y)])
    damping, g = 1e-6, torch.cat([value.flatten(1) for value in each.values()], 1).double()
    found = solve(Curvature(model, [(x.float(), y)]), v, how="woodfisher", damping=damping)
    system = g.T @ g / len(g) + damping * torch.eye(g.shape[1], dtype=torch.float64)
    expected, u = torch.linalg.solve(system, flatten(v).double()), flatten(found.vector)
    assert u.dtype == torch.float32
    assert float((u.double() - expected).norm()) <= 1e-6 * float(expected.norm())
    true = float((system @ u.double() - flatten(v).double()).norm() / flatten(v).double().norm())
    assert found.residual == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("damping", [1.0, 1e-2])
def test_the_published_recursion_would_fail(damping):
    """It keeps one o, which only ever shrinks: all of its correction is along the first row's gradient.

    With o = F_0^-1 g_0 and u = v / damping, for each later row u -= (u'g) / (N + o'g) o, and then
    o -= (o'g) / (N + o'g) o, where WoodFisher would take o = F_{n-1}^-1 g of that row.
    """
    model, (x, y) = seeded(smooth), rows()
    g = empirical(model, x, y, 1)
    v = flatten(random_like(dict(model.named_parameters())))
    u, o = v / damping, g[0] / damping
    for row in g[1:]:
        shrink = o @ row
        u = u - (u @ row) / (len(g) + shrink) * o
        o = o - shrink / (len(g) + shrink) * o
    system = g.T @ g / len(g) + damping * torch.eye(len(v), dtype=torch.float64)
    true = torch.linalg.solve(system, v)

    def along_the_first(solution):
        return float(functional.cosine_similarity(v / damping - solution, g[0], dim=0).abs())

    assert along_the_first(u) == pytest.approx(1.0, abs=1e-12)
    assert along_the_first(true) < 0.9
    # the oracle's demand, to 1e-10 of the correction: ours meets it, theirs leaves most of it undone
    size = float((true - v / damping).norm())
    assert float((rank_one_solve(g, v, damping) - true).norm()) <= 1e-10 * size
    assert float((u - true).norm()) > 0.5 * size


@pytest.mark.parametrize("masked", [False, True])
def test_diagonal_is_the_dense_inverse_of_the_diagonal(masked):
    model, (x, y) = seeded(convolution), rows()
    matrix, weights = dense(model, x, y, "ggn")
    masks, v = some_masks(weights) if masked else {}, random_like(weights)
    found = solve(Curvature(model, uneven(x, y)), v, how="diagonal", damping=1e-2, masks=masks)
    small, kept = restricted(matrix.diag().diag(), weights, masks)
    system = small + 1e-2 * torch.eye(len(small), dtype=torch.float64)
    expected = torch.linalg.solve(system, flatten(v)[kept])
    assert torch.allclose(flatten(found.vector)[kept], expected, rtol=1e-10, atol=1e-13)
    assert found.residual < 1e-12
    check_masked(found.vector, masks, weights)


# --------------------------------------------------------------------------------------------- eigenvalue


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_lanczos_is_the_dense_spectrum(masked, kind):
    model, (x, y) = seeded(smooth), rows()
    matrix, weights = dense(model, x, y, kind)
    masks = some_masks(weights) if masked else {}
    small, _ = restricted(matrix, weights, masks)
    values = torch.linalg.eigvalsh(small)
    top = float(values[values.abs().argmax()])
    product = Curvature(model, uneven(x, y), kind)
    found = top_eigenvalue(product, weights, masks=masks, rng=generator(), iterations=200, tolerance=1e-10)
    assert found.value == pytest.approx(top, rel=1e-10)
    assert found.residual <= 1e-10 * abs(top)
    assert found.iterations < 100
    rough = top_eigenvalue(product, weights, masks=masks, rng=generator(), iterations=3)
    assert rough.iterations <= 3
    assert float((values - rough.value).abs().min()) <= rough.residual


def test_lanczos_ends_on_matrices_that_it_exhausts():
    like = {"w": torch.zeros(5, dtype=torch.float64)}
    same = top_eigenvalue(lambda v: {"w": -3 * v["w"]}, like, rng=generator(), tolerance=0)
    assert (same.value, same.iterations) == (pytest.approx(-3.0), 1)
    assert 0 < same.residual < 1e-12
    assert top_eigenvalue(lambda v: {"w": 0 * v["w"]}, like, rng=generator()).value == 0.0
    scales = torch.arange(5, dtype=torch.float64)
    whole = top_eigenvalue(lambda v: {"w": scales * v["w"]}, like, rng=generator(), tolerance=0)
    assert whole.value == pytest.approx(4.0, rel=1e-12)
    assert whole.iterations == 5


def test_lanczos_does_not_claim_more_than_its_precision():
    product, matrix, v = scaled(torch.logspace(4, -2, 60), torch.float32)
    found = top_eigenvalue(product, v, rng=generator(), tolerance=0, iterations=60)
    values = torch.linalg.eigvalsh(matrix)
    assert float((values - found.value).abs().min()) <= found.residual <= 1e-6 * found.value


# ---------------------------------------------------------------------------------------------- bad input


def all_of(model, batches):
    """Everything that looks at rows, watched: a refusal leaves no trace either."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    works = {
        "mean": lambda: mean_gradient(model, batches),
        "gradients": lambda: list(sample_gradients(model, batches)),
        "fisher": lambda: diagonal_fisher(model, batches),
        "hessian": lambda: hessian_product(model, batches, weights),
        "ggn": lambda: ggn_product(model, batches, weights),
        "cg": lambda: solve(Curvature(model, batches), weights, damping=1.0),
        "woodfisher": lambda: solve(Curvature(model, batches), weights, damping=1.0, how="woodfisher"),
        "diagonal": lambda: solve(Curvature(model, batches), weights, damping=1.0, how="diagonal"),
    }

    def watched(work):
        with untouched(model):
            return work()

    return {name: partial(watched, work) for name, work in works.items()}


WORK = ["mean", "gradients", "fisher", "hessian", "ggn", "cg", "woodfisher", "diagonal"]


@pytest.mark.parametrize("work", WORK)
def test_batch_norm_in_training_mode(work):
    model, (x, y) = seeded(convolution).train(), rows()
    with pytest.raises(UsageError, match=r"batch norm in evaluation mode .* got \"1\" .* model\.eval\(\)"):
        all_of(model, [(x[:1], y[:1])])[work]()
    assert model.training


RANDOM = {
    "layer": lambda: nn.Dropout(0.5),
    "function": lambda: Parts(lambda m, x: functional.dropout(x)),
    "attention": lambda: nn.TransformerEncoderLayer(8, 1, 4, 0.5),
    "noise": lambda: Parts(lambda m, x: x + torch.randn_like(x)),
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("case", RANDOM)
def test_a_model_that_draws_random_numbers(work, case):
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), RANDOM[case](), nn.Linear(8, 3)).double().train()
    with pytest.raises(UsageError, match=r"answers the same twice.*dropout.*model\.eval\(\)"):
        all_of(model, [rows()])[work]()


@pytest.mark.parametrize("work", WORK)
def test_a_model_that_writes_into_its_parameters(work):
    embed = nn.Embedding(32, 4, max_norm=0.1)
    model = Parts(lambda m, x: m.head(m.embed(index(x)).mean(1)), embed=embed, head=nn.Linear(4, 3)).double()
    with pytest.raises(UsageError, match=r'"embed\.weight".*max_norm'):
        all_of(model, [rows()])[work]()


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("says", [lambda z: (z, z), lambda z: z[:, 0], lambda z: z.repeat(2, 1)])
def test_a_model_that_returns_no_logits(work, says):
    model = Parts(lambda m, x: says(m.head(x.flatten(1))), head=nn.Linear(32, 3)).double()
    with pytest.raises(DataError, match=r"expected logits \[\d+, classes\]"):
        all_of(model, [rows()])[work]()


@pytest.mark.parametrize("work", WORK)
def test_a_gradient_that_is_not_finite_is_named(work):
    model, (x, y) = seeded(convolution), rows()
    model[7].bias.data[0] = torch.inf
    with pytest.raises(NotFinite, match=r"\"\d\.(weight|bias)\""):
        all_of(model, [(x, y)])[work]()


@pytest.mark.parametrize("work", WORK)
def test_no_parameter_to_update(work):
    model, given = nn.Flatten(), [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(UsageError, match=r"parameter.* to update, got none"):
        all_of(model, given)[work]()
    frozen = seeded(smooth).requires_grad_(False)
    if work in ("mean", "gradients", "fisher"):
        with pytest.raises(UsageError, match="parameters to update, got none"):
            all_of(frozen, [rows()])[work]()


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("fault", ["none", "float", "class", "rows", "array", "bare"])
def test_rows_that_are_none(work, fault):
    model, (x, y) = seeded(smooth), rows()
    given = {"none": [], "float": [(x, y.double())], "class": [(x, y + 1)], "rows": [(x, y[:4])]}
    given = (given | {"array": [(x.numpy(), y)], "bare": [x]})[fault]
    with pytest.raises(DataError, match="expected"):
        all_of(model, given)[work]()


def test_unknown_names_and_knobs():
    model, (x, y) = seeded(smooth), rows()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.raises(UsageError, match=r'no parameter "0\.wieght", did you mean "0\.weight"'):
        diagonal_fisher(model, [(x, y)], names=["0.wieght"])
    with pytest.raises(UsageError, match="did you mean"):
        diagonal_fisher(model, [(x, y)], kind="expectd")
    with pytest.raises(UsageError, match="`rng`"):
        diagonal_fisher(model, [(x, y)], kind="sampled")
    with pytest.raises(UsageError, match="budget"):
        diagonal_fisher(model, [(x, y)], budget=0)
    with pytest.raises(UsageError, match="no curvature"):
        Curvature(model, [(x, y)], "gnn")
    matrix = Curvature(model, [(x, y)])
    with pytest.raises(UsageError, match="no solver"):
        solve(matrix, weights, how="gc", damping=1.0)
    for damping in (-1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="damping"):
            solve(matrix, weights, damping=damping)
    for tolerance in (-1.0, math.nan):
        with pytest.raises(UsageError, match="tolerance"):
            solve(matrix, weights, damping=1.0, tolerance=tolerance)
    with pytest.raises(UsageError, match="iterations"):
        solve(matrix, weights, damping=1.0, iterations=0)
    with pytest.raises(UsageError, match="budget"):
        solve(Curvature(model, [(x, y)], budget=100), weights, how="woodfisher", damping=1.0)
    with pytest.raises(UsageError, match="Curvature"):
        solve(lambda v: dict(v), weights, how="diagonal", damping=1.0)
    with pytest.raises(UsageError, match="shape"):
        solve(matrix, {"0.bias": torch.zeros(3, dtype=torch.float64)}, damping=1.0)
    with pytest.raises(UsageError, match="float32"):
        solve(matrix, {"0.bias": torch.zeros(2)}, damping=1.0)
    with pytest.raises(UsageError, match="boolean mask"):
        solve(matrix, weights, damping=1.0, masks={"0.bias": torch.ones(2)})
    with pytest.raises(UsageError, match="unmasked"):
        solve(matrix, {"0.bias": weights["0.bias"]}, damping=1.0, masks={"0.bias": torch.zeros(2) > 0})
    with pytest.raises(NotFinite, match=r"0\.bias"):
        solve(matrix, {"0.bias": weights["0.bias"] * torch.nan}, damping=1.0)


@pytest.mark.parametrize("how", ["cg", "woodfisher", "diagonal"])
def test_no_damping_on_a_singular_matrix(how):
    model, (x, y) = seeded(smooth), rows()
    model[3] = nn.Flatten()
    x = x.clone()
    model[4].weight.data.zero_()  # nothing reaches the convolution
    weights = {name: p.detach() for name, p in model.named_parameters()}
    with untouched(model), pytest.raises(UsageError, match=r"singular.*raise damping"):
        solve(Curvature(model, [(x, y)]), random_like(weights), how=how, damping=0.0)


def test_negative_curvature_is_refused():
    model, (x, y) = seeded(smooth), rows()
    matrix, weights = dense(model, x, y, "hessian")
    assert float(torch.linalg.eigvalsh(matrix)[0]) < -1e-3
    with untouched(model), pytest.raises(UsageError, match=r"negative curvature.*the GGN.*raise damping"):
        solve(Curvature(model, [(x, y)], "hessian"), random_like(weights), damping=1e-4, iterations=500)


def test_a_pass_that_changes_is_refused():
    model, (x, y) = seeded(smooth), rows()
    v = random_like({name: p.detach() for name, p in model.named_parameters()})
    rng = generator()

    def shuffled():
        order = torch.randperm(len(y), generator=rng)
        return [(x[order], y[order])]

    def noisy():
        return [(x + 1e-12 * torch.randn(x.shape, generator=rng, dtype=x.dtype), y)]

    def relabelled():
        return [(x, torch.randint(3, (len(y),), generator=rng))]

    def shrinking():
        return [(x[: (n := int(torch.randint(1, 9, (1,), generator=rng)))], y[:n])]

    for start in (shuffled, noisy, relabelled, shrinking):
        with (
            untouched(model),
            pytest.raises(DataError, match=r"same .* rows in the same order at every pass"),
        ):
            solve(Curvature(model, start), v, damping=1e-3, tolerance=1e-12)
        with untouched(model), pytest.raises(DataError, match="shuffling and augmentation"):
            solve(Curvature(model, start), v, how="woodfisher", damping=1e-3)
    with pytest.raises(UsageError, match="spent after one pass"):
        hessian_product(model, iter([(x, y)]), v)


def test_a_pass_may_be_cut_otherwise_and_hold_other_types():
    x, y = rows()
    cuts = iter([[(x, y)], uneven(x, y), [(x[:2], y[:2]), (x[2:], y[2:])]])
    fixed = Pass(lambda: next(cuts))
    assert fixed.rows == ROWS
    assert sum(len(chunk[1]) for chunk in fixed) == ROWS
    assert sum(len(chunk[1]) for chunk in fixed) == ROWS
    for kind in (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool):
        given = (x > 0).to(kind)
        changed = given.clone()
        changed[3, 1, 2, 0] = ~given[3, 1, 2, 0] if kind == torch.bool else 1 - given[3, 1, 2, 0]
        passes = iter([[(given, y)], [(given, y)], [(changed, y)]])
        watched = Pass(partial(next, passes))
        list(watched)
        list(watched)
        with pytest.raises(DataError):
            list(watched)
