from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn

from secateur.errors import DataError, NotFinite, UsageError
from secateur.maths import ensemble
from secateur.maths.ensemble import balanced_halves, best_chunk, obstacle, train_together

K, N = 4, 24
X = torch.rand(N, 5, generator=Generator().manual_seed(0))
Y = torch.arange(N) % 3
KNOBS = {"epochs": 2, "batch": 6, "chunk": 3, "lr": 0.1}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        yield


def order(model, epoch):
    return torch.randperm(12, generator=Generator().manual_seed(10 * model + epoch))


def linear():
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def fresh(build=linear, count=K):
    return [build() for _ in range(count)]


def states(models):
    return [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 99))
def test_each_row_is_in_half_of_the_models_and_each_model_has_half_of_the_rows(pairs, rows, seed):
    halves = balanced_halves(2 * pairs, rows, Generator().manual_seed(seed))
    assert halves.shape == (2 * pairs, rows)
    assert halves.dtype == torch.bool
    assert set(halves.sum(0).tolist()) == {pairs}
    counts = halves.sum(1)
    assert int(counts.max() - counts.min()) == rows % 2
    assert torch.equal(halves, balanced_halves(2 * pairs, rows, Generator().manual_seed(seed)))


def test_halves_are_the_known_draw_but_for_few_places_and_treat_rows_alike():
    models, rows = 32, 900
    halves = balanced_halves(models, rows, Generator().manual_seed(1))
    draw = torch.rand(models, rows, generator=Generator().manual_seed(1)).argsort(0) < models // 2
    # a model's count strays by sqrt(rows) / 2 * sqrt(2 / pi) on average: 12 of 900 rows
    assert 0.005 < float((halves != draw).double().mean()) < 0.025
    # two rows share a quarter of the models on average, and no pair is tied to each other
    together = (halves.double().T @ halves.double())[*torch.triu_indices(rows, rows, 1)] / models
    assert float(together.mean()) == pytest.approx(0.25, abs=0.001)
    assert 0.02 < float(together.min()) < float(together.max()) < 0.48


@pytest.mark.parametrize(("models", "rows"), [(3, 10), (0, 10), (-2, 10), (4, 0)])
def test_halves_that_cannot_be(models, rows):
    with pytest.raises(UsageError, match=f"even number of models.*got {models} and {rows}"):
        balanced_halves(models, rows, Generator())


def test_what_it_gives_back_and_tells():
    models, told = fresh(), []
    losses = train_together(models, X, Y, order, **KNOBS, advance=told.append)
    assert losses.shape == (K, 2)
    assert losses.dtype == torch.float64
    assert told == [3, 3, 1, 1]
    assert not any(module.training for model in models for module in model.modules())
    assert all(p.requires_grad and p.grad is None for model in models for p in model.parameters())


def test_the_same_call_gives_the_same_bits_and_leaves_chance_alone():
    models = fresh()
    again, before = copy.deepcopy(models), torch.get_rng_state()
    for these in (models, again):
        train_together(these, X, Y, order, **KNOBS)
    assert same(states(models), states(again))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_drawn_for_each_model():
    first = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))
    models = [first, copy.deepcopy(first)]
    train_together(models, X, Y, lambda model, epoch: order(0, epoch), **KNOBS)
    assert not torch.equal(models[0][1].weight, models[1][1].weight)


def test_tied_weights_stay_tied():
    def tied():
        model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
        model[2].weight = model[0].weight
        return model

    models = fresh(tied)
    train_together(models, X, Y, order, **KNOBS)
    assert models[1][2].weight is models[1][0].weight


class Reads(nn.Module):
    """Looks at what it is given."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(x if float(x.sum()) > 0 else -x)


class Replaces(nn.Module):
    """Replaces a buffer instead of changing it; vmap would lose the change without a word."""

    def __init__(self, drop=0.0):
        super().__init__()
        self.head, self.drop = nn.Linear(5, 3), nn.Dropout(drop)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + len(x)
        return self.head(self.drop(x))


class Hides(nn.Module):
    """Holds numbers of its own that are neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.head, self.scale = nn.Linear(5, 3), torch.rand(5)

    def forward(self, x):
        return self.head(x * self.scale)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Reads, r"vmap cannot run them \(RuntimeError: .*item"),
        (lambda: nn.Sequential(nn.BatchNorm1d(5, momentum=None), nn.Linear(5, 3)), "vmap cannot run them"),
        (Replaces, '"seen" does not come out'),
        (lambda: Replaces(drop=0.5), '"seen" does not come out'),
        (Hides, '"loss" does not come out'),
    ],
)
def test_what_cannot_be_trained_together_is_told_before_anything_is_changed(build, reason):
    models = fresh(build)
    before, chance = states(models), torch.get_rng_state()
    told = obstacle(models, X, Y)
    for call in (
        lambda: train_together(models, X, Y, order, **KNOBS),
        lambda: best_chunk(models, X, Y, batch=4),
    ):
        with pytest.raises(UsageError, match=f"{reason}.*train them one by one") as caught:
            call()
        assert told in str(caught.value)
    assert same(states(models), before)
    assert all(model.training for model in models)
    assert torch.equal(torch.get_rng_state(), chance)


@pytest.mark.parametrize(
    "build",
    [
        linear,
        lambda: nn.Sequential(nn.Dropout(0.5), *linear()),
        lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten()),
    ],
)
def test_what_can_be_has_no_obstacle(build):
    assert not obstacle(fresh(build), X, Y)


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3)),
        nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, momentum=0.2), nn.ReLU(), nn.Linear(8, 3)),
        linear().double(),
        linear().requires_grad_(False),
    ],
)
def test_one_architecture(other):
    assert obstacle([*fresh(), other], X, Y) == "model 4 is not built like model 0"


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch": 0}, "batch=0"),
        ({"chunk": 0}, "chunk=0"),
        ({"lr": 0.0}, r"lr=0\.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"momentum": 1.0}, r"momentum=1\.0"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov only with momentum"),
        ({"decay": -1.0}, r"decay=-1\.0"),
        ({"smoothing": 1.0}, r"smoothing=1\.0"),
    ],
)
def test_knobs_out_of_bounds(knobs, told):
    with pytest.raises(UsageError, match=told):
        train_together(fresh(), X, Y, order, **{**KNOBS, **knobs})


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        (X[:0], Y[:0], "expected rows"),
        (X, Y[:-1], "expected rows"),
        (X, Y.int(), "torch.int32"),
        (X, Y - 1, "from 0 on"),
        (X, Y + 1, "classes up to 3"),
        (X[:, :4], Y, "take these rows"),
    ],
)
def test_rows_that_do_not_fit(x, y, told):
    with pytest.raises(DataError, match=told):
        train_together(fresh(), x, y, order, **KNOBS)


def test_models_that_do_not_fit():
    with pytest.raises(UsageError, match="each once, got 0"):
        obstacle([], X, Y)
    with pytest.raises(UsageError, match="each once, got 2"):
        obstacle([linear()] * 2, X, Y)
    with pytest.raises(DataError, match="thaw some"):
        obstacle([linear().requires_grad_(False)], X, Y)
    with pytest.raises(DataError, match="expected logits"):
        obstacle([nn.Sequential(nn.Linear(5, 3), nn.Unflatten(1, (3, 1)))], X, Y)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda model, epoch: torch.arange(12 + epoch), "as many"),
        (lambda model, epoch: torch.arange(0), "more than none"),
        (lambda model, epoch: torch.arange(12.0), "int64"),
        (lambda model, epoch: torch.arange(12) + 13, "from 0 to 23, got 13 to 24"),
        (lambda model, epoch: torch.arange(12) - 1, "got -1 to 10"),
    ],
)
def test_orders_that_cannot_be(wrong, told):
    with pytest.raises(DataError, match=told):
        train_together(fresh(), X, Y, wrong, **KNOBS)


@pytest.mark.parametrize(
    ("masks", "told"),
    [
        ({"0.wieght": torch.ones(8, 5, dtype=torch.bool)}, 'did you mean "0.weight"'),
        ({"0.weight": torch.ones(8, 5)}, "boolean mask"),
        ({"0.weight": torch.ones(3, 8, 5, dtype=torch.bool)}, r"\[8, 5\].*or 4 of them, got \[3, 8, 5\]"),
    ],
)
def test_masks_that_do_not_fit(masks, told):
    with pytest.raises(DataError, match=told):
        train_together(fresh(), X, Y, order, **KNOBS, masks=masks)


def test_a_loss_that_is_not_finite_names_model_and_epoch():
    bad = X.clone()
    bad[20] = torch.nan

    def meets(model, epoch):
        return torch.arange(12) + 10 * (model == 2 and epoch == 1)

    models = fresh()
    before = states(models)
    with pytest.raises(NotFinite, match=r"got nan for model 2 .* epoch 2 of 3: lower lr"):
        train_together(models, bad, Y, meets, **{**KNOBS, "epochs": 3, "chunk": 2})
    after = states(models)
    assert same(after[2:], before[2:])
    assert not same(after[:1], before[:1])


def test_the_chunk_is_the_one_with_the_least_seconds_per_model(monkeypatch):
    models = fresh(count=20)
    before, chance = states(models), torch.get_rng_state()
    sizes = []

    def pretend(stack, size, *rest):
        sizes.append(size)
        return {1: 4.0, 2: 5.0, 4: 6.0, 8: 28.0, 16: 99.0}[size]

    monkeypatch.setattr(ensemble, "_seconds", pretend)
    assert best_chunk(models, X, Y, batch=6) == 4
    assert sizes == [1, 2, 4, 8]  # 3.5 s a model at 8 is clearly slower than 1.5 at 4: no need to go on
    monkeypatch.undo()
    assert best_chunk(models, X, Y, batch=40, updates=1) in {1, 2, 4, 8, 16}
    assert same(states(models), before)
    assert all(model.training for model in models)
    assert torch.equal(torch.get_rng_state(), chance)


def test_where_memory_is_spent_the_search_ends(monkeypatch):
    def pretend(stack, size, *rest):
        if size > 2:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(ensemble, "_seconds", pretend)
    assert best_chunk(fresh(), X, Y, batch=6) == 2


@pytest.mark.parametrize("knobs", [{"batch": 0}, {"batch": 4, "updates": 0}])
def test_nothing_to_time(knobs):
    with pytest.raises(UsageError, match="at least one row and one update"):
        best_chunk(fresh(), X, Y, **knobs)
