"""Training models together does what a loop over them does, one ``torch.optim.SGD`` each."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional

from secateur.maths.augment import crop_flip
from secateur.maths.ensemble import balanced_halves, train_together
from secateur.maths.schedules import constant, cosine, step
from secateur.optimize import Sgd, cross_entropy, optimize
from secateur.run import Run
from secateur.split import Split
from secateur.state import State
from secateur.zoo import mlp, small_cnn

MODELS, ROWS, EPOCHS, BATCH = 4, 81, 10, 8  # odd: two models have 40 rows and two 41, so 5 or 6 updates
BUILDS = {
    "mlp": partial(mlp, classes=4, size=6, width=12, depth=2),
    "cnn": partial(small_cnn, classes=4, width=4),
}
CASES = [
    {"momentum": 0.0, "schedule": constant},
    {"momentum": 0.9, "decay": 0.01, "schedule": step()},
    {"momentum": 0.9, "nesterov": True, "decay": 0.01, "schedule": cosine},
]


def rng(use, model=0, epoch=0):
    return Generator().manual_seed(10_000 * use + 100 * model + epoch)


X = torch.rand(ROWS, 1, 6, 6, generator=rng(0), dtype=torch.float64)
Y = (X.flatten(1)[:, :4] * 1.5).argmax(1)
HALVES = balanced_halves(MODELS, ROWS, rng(1))


def order(model, epoch):
    rows = HALVES[model].nonzero()[:, 0]
    return rows[torch.randperm(len(rows), generator=rng(2, model, epoch))]


def fresh(kind, dtype, seed=0):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return [BUILDS[kind]().to(dtype) for _ in range(MODELS)]


def looped(models, *, lr, schedule, smoothing=0.0, masks=None, augment=None, decay=0.0, **sgd):
    """Each by itself, by torch alone."""
    means = torch.zeros(len(models), EPOCHS, dtype=torch.float64)
    for k, model in enumerate(models):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=decay, **sgd)
        gone = {name: ~(mask[k] if mask.ndim == 3 else mask) for name, mask in (masks or {}).items()}
        total, done = EPOCHS * math.ceil(int(HALVES[k].sum()) / BATCH), 0
        for epoch in range(EPOCHS):
            parts = order(k, epoch).tensor_split(total // EPOCHS)
            op = augment(k, epoch) if augment else lambda x: x
            for part in parts:
                optimizer.param_groups[0]["lr"] = lr * schedule(done / total)
                x = op(X[part].to(next(model.parameters()).dtype))
                loss = functional.cross_entropy(model(x), Y[part], label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for name, where in gone.items():
                    model.get_parameter(name).data[where] = 0.0
                means[k, epoch] += loss.item() / len(parts)
                done += 1
        model.eval()
    return means


def worst(one, other):
    """The largest relative error of any tensor; counts must be the same."""
    found = 0.0
    for a, b in zip(one, other, strict=True):
        assert not a.training
        assert not b.training
        expected, tensors = a.state_dict(), b.state_dict()
        for name, want in expected.items():
            assert tensors[name].dtype == want.dtype
            if want.is_floating_point():
                found = max(found, float((tensors[name] - want).norm() / want.norm()))
            else:
                assert torch.equal(tensors[name], want), name
    return found


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize("given", CASES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_weights_buffers_and_losses_are_those_of_the_loop(kind, given, dtype, most):
    start, again, before = (fresh(kind, dtype) for _ in range(3))
    given = {"lr": 0.02, "smoothing": 0.1, **given}
    expected = looped(start, **given)
    found = train_together(again, X, Y, order, epochs=EPOCHS, batch=BATCH, chunk=2, **given)
    assert worst(start, again) < most
    assert torch.allclose(found, expected, rtol=most)
    moved = [
        p.detach() - q.detach() for p, q in zip(again[0].parameters(), before[0].parameters(), strict=True)
    ]
    assert all(float(step.norm()) > 0.01 for step in moved)
    if kind == "cnn":
        counts = [int(model[2].num_batches_tracked) for model in again]
        assert counts == [EPOCHS * math.ceil(int(half.sum()) / BATCH) for half in HALVES]
        assert set(counts) == {50, 60}


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_the_chunk_does_not_matter(chunk):
    one, other = fresh("cnn", torch.float64), fresh("cnn", torch.float64)
    settings = {"epochs": 2, "batch": BATCH, "lr": 0.05, "decay": 0.01}
    train_together(one, X, Y, order, chunk=2, **settings)
    train_together(other, X, Y, order, chunk=chunk, **settings)
    assert worst(one, other) < 1e-12


@pytest.mark.parametrize("shared", [True, False])
def test_masks_hold_and_the_rest_learns_as_in_the_loop(shared):
    start, again = fresh("mlp", torch.float64), fresh("mlp", torch.float64)
    shape = (12, 36) if shared else (MODELS, 12, 36)
    masks = {"2.weight": torch.rand(shape, generator=rng(3)) < 0.3}
    for k, model in enumerate(start):
        model.get_parameter("2.weight").data[~(masks["2.weight"] if shared else masks["2.weight"][k])] = 0.0
    given = {"lr": 0.05, "decay": 0.01, "momentum": 0.9, "schedule": cosine, "masks": masks}
    looped(start, **given)
    train_together(again, X, Y, order, epochs=EPOCHS, batch=BATCH, chunk=2, **given)
    assert worst(start, again) < 1e-10
    for k, model in enumerate(again):
        pruned = model.get_parameter("2.weight")[~(masks["2.weight"] if shared else masks["2.weight"][k])]
        assert pruned.detach().numpy().tobytes() == bytes(8 * len(pruned))  # +0.0, not -0.0


def test_augmentation_is_each_model_s_own():
    start, again, plain = (fresh("cnn", torch.float64) for _ in range(3))

    def augment(model, epoch):
        return partial(crop_flip(1), rng=rng(4, model, epoch))

    given = {"lr": 0.05, "momentum": 0.9, "schedule": constant}
    looped(start, augment=augment, **given)
    train_together(again, X, Y, order, epochs=EPOCHS, batch=BATCH, chunk=3, augment=augment, **given)
    train_together(plain, X, Y, order, epochs=EPOCHS, batch=BATCH, chunk=3, **given)
    assert worst(start, again) < 1e-10
    assert worst(start, plain) > 0.01


def test_parameters_that_stay_out_of_the_loss_or_are_frozen_do_not_decay():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(36, 4).double(), nn.Linear(36, 4).double()
            self.used.bias.requires_grad_(False)

        def forward(self, x):
            return self.used(x.flatten(1))

    start = [Odd() for _ in range(MODELS)]
    again = copy.deepcopy(start)
    given = {"lr": 0.05, "momentum": 0.9, "decay": 0.1, "schedule": constant}
    looped(start, **given)
    idle = [model.idle.weight.clone() for model in again]
    train_together(again, X, Y, order, epochs=EPOCHS, batch=BATCH, chunk=4, **given)
    assert worst(start, again) < 1e-10
    assert all(torch.equal(model.idle.weight, was) for model, was in zip(again, idle, strict=True))
    assert [p.requires_grad for p in again[0].parameters()] == [True, False, True, True]


def test_it_is_what_optimize_does_on_a_view_uint8_and_order_included():
    run = Run(seed=3, precision="fp32", device="cpu")
    pixels = (X * 255).to(torch.uint8)
    split = Split.of(pixels, Y, forget=[0, 5, 7])
    states = [State.of(BUILDS["cnn"], split, run.at(depth)) for depth in range(2)]
    models = [copy.deepcopy(state.model) for state in states]
    seeds = []
    for state in states:
        loader = state.retain.loader(epochs=3, batch=BATCH, rng=run.rng("order"))
        seeds.append(torch.randint(2**62, (3, 2), generator=run.rng("order"))[:, 0].tolist())
        sgd = Sgd(lr=0.05, decay=5e-4, schedule=cosine)
        optimize(state, loader, cross_entropy, optimizer=sgd, run=run)
    rows = torch.from_numpy(split.retain.rows)

    def view_order(model, epoch):
        return rows[torch.randperm(len(rows), generator=Generator().manual_seed(seeds[model][epoch]))]

    train_together(
        models, pixels, Y, view_order, epochs=3, batch=BATCH, chunk=2, lr=0.05, decay=5e-4, schedule=cosine
    )
    assert worst([state.model for state in states], models) < 1e-5


def test_masking_the_loss_of_a_shared_batch_would_be_another_thing():
    """What must never be done: all models see all rows, and each leaves the others' out of its loss."""
    models, masked = fresh("cnn", torch.float64), fresh("cnn", torch.float64)
    pair, epochs = [0, 1], 3

    def all_of_mine(model, epoch):
        return HALVES[pair[model]].nonzero()[:, 0]

    train_together(models[:2], X, Y, all_of_mine, epochs=epochs, batch=ROWS, chunk=2, lr=0.05, momentum=0.0)
    alone = fresh("cnn", torch.float64)
    for k in pair:
        for model, own in ((masked[k], False), (alone[k], True)):
            optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05)
            for _ in range(epochs):
                logits = model(X[HALVES[k]]) if own else model(X)[HALVES[k]]
                optimizer.zero_grad()
                functional.cross_entropy(logits, Y[HALVES[k]]).backward()
                optimizer.step()
            model.eval()
    assert worst(alone[:2], models[:2]) < 1e-10
    assert worst(alone[:2], masked[:2]) > 1e-3
    # and of what two models share in one stack, nothing is shared
    means = [model.get_buffer("2.running_mean") for model in models[:2]]
    assert float((means[0] - means[1]).norm() / means[0].norm()) > 1e-3
