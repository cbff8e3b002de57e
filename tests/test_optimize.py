from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from secateur.data import paired
from secateur.errors import DataError, NotFinite, UsageError
from secateur.maths.saliency import keep_largest
from secateur.maths.schedules import cosine
from secateur.network import fill
from secateur.optimize import Sgd, cross_entropy, optimize
from secateur.testing import toy_problem

PROBLEM = toy_problem()
RUN = PROBLEM.run


def loader(state, *, epochs=2, batch=16):
    return state.retain.loader(epochs=epochs, batch=batch, rng=RUN.rng("order"))


def test_it_learns_and_notes_the_mean_loss_of_each_epoch():
    run = RUN.at(0)
    state = PROBLEM.state(trained=False)
    said = []

    def loss(model, batch, progress):
        value = cross_entropy(model, batch, progress)
        said.append(value.item())
        return value

    optimize(state, loader(state, epochs=6), loss, optimizer=Sgd(lr=0.1), run=run)
    means = torch.tensor(said, dtype=torch.float64).view(6, -1).mean(1)
    assert run.notes["loss"] == pytest.approx(means.tolist())
    assert run.notes["loss"][-1] < 0.3 < run.notes["loss"][0]
    assert not state.model.training


def test_progress_is_updates_done_over_updates_to_do():
    state, seen = PROBLEM.state(trained=False), []

    def loss(model, batch, progress):
        seen.append(progress)
        assert model.training
        return cross_entropy(model, batch, progress)

    optimize(state, loader(state, epochs=3), loss, optimizer=Sgd(lr=0.01), run=RUN)
    assert seen == [i / 9 for i in range(9)]


def test_pruned_weights_are_zero_at_every_look():
    state = PROBLEM.state(sparsity=0.5)
    with torch.no_grad():
        for p in state.model.parameters():
            p.fill_(-1.0)  # as a fresh initialisation: nobody filled it yet

    def clean(when):
        for key, mask in state.masks.items():
            pruned = dict(state.model.named_parameters())[key].detach()[~mask]
            assert pruned.numpy().tobytes() == bytes(4 * len(pruned)), when

    def loss(model, batch, progress):
        clean(progress)
        return cross_entropy(model, batch, progress)

    def penalty(weight, step, progress):
        return weight - 0.1  # pushes pruned weights off zero

    optimize(
        state, loader(state), loss, optimizer=Sgd(lr=0.1, decay=0.1), proximal=penalty, clip=1.0, run=RUN,
        after_epoch=lambda now, epoch: clean(epoch),
    )  # fmt: skip
    clean("the end")


def test_masks_can_change_after_an_epoch():
    state, counts = PROBLEM.state(), []

    def prune(now, epoch):
        counts.append(int((state.model[4].weight == 0).sum()))
        if epoch < 3:
            masks = keep_largest({"4.weight": now.model[4].weight.abs()}, 0.25 * epoch, kept=now.masks)
            return replace(now, masks=masks)  # not filled here: optimize does it
        return None

    after = optimize(
        state, loader(state, epochs=4), cross_entropy, optimizer=Sgd(lr=0.1), after_epoch=prune, run=RUN
    )
    assert counts == [0, 27, 54, 54]
    assert int((~after.masks["4.weight"]).sum()) == 54


def test_the_proximal_step_is_lr_over_one_minus_momentum():
    state, steps = PROBLEM.state(), []

    def spy(weight, step, progress):
        steps.append((weight.ndim, step, progress))
        return weight

    before = [p.clone() for p in state.model.parameters()]
    sgd = Sgd(lr=0.2, momentum=0.75, schedule=cosine)
    optimize(state, loader(state, epochs=1), cross_entropy, optimizer=sgd, proximal=spy, run=RUN)
    trainable = [p for p in state.model.parameters() if p.requires_grad]
    assert [s for _, s, _ in steps] == [0.2 * cosine(i / 3) / 0.25 for i in range(3) for _ in trainable]
    assert [n for n, _, _ in steps] == [p.ndim for p in trainable] * 3
    moved = [not torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True)]
    assert moved == [p.requires_grad for p in state.model.parameters()]


def test_frozen_norms_use_their_statistics_and_keep_them():
    state = PROBLEM.state()
    mean, var = state.model[1].running_mean.clone(), state.model[1].running_var.clone()
    seen = []

    def loss(model, batch, progress):
        seen.append((model[1].training, model.training))
        return cross_entropy(model, batch, progress)

    optimize(state, loader(state), loss, optimizer=Sgd(lr=0.01), norms="frozen", run=RUN)
    assert set(seen) == {(False, True)}
    assert torch.equal(state.model[1].running_mean, mean)
    assert torch.equal(state.model[1].running_var, var)
    optimize(state, loader(state), cross_entropy, optimizer=Sgd(lr=0.01), run=RUN)
    assert not torch.equal(state.model[1].running_mean, mean)


def test_clipping_bounds_the_whole_gradient():
    def moved(clip):
        state = PROBLEM.state()
        before = [p.clone() for p in state.model.parameters()]

        def loss(model, batch, progress):
            return 1000 * cross_entropy(model, batch, progress)

        sgd = Sgd(lr=1.0, momentum=0.0)
        optimize(state, loader(state, epochs=1, batch=64), loss, optimizer=sgd, clip=clip, run=RUN)
        pairs = zip(before, state.model.parameters(), strict=True)
        return float(sum((a - b).detach().square().sum() for a, b in pairs).sqrt())

    assert moved(0.5) == pytest.approx(0.5, rel=1e-4)
    assert moved(None) > 5


def test_ascending_climbs():
    run, state = RUN.at(0), PROBLEM.state()
    sgd = Sgd(lr=0.1, momentum=0.0, ascend=True)
    optimize(state, loader(state, epochs=4, batch=64), cross_entropy, optimizer=sgd, run=run)
    assert run.notes["loss"] == sorted(run.notes["loss"])
    assert run.notes["loss"][-1] > run.notes["loss"][0]


def test_no_gradient_is_left():
    state = PROBLEM.state()
    optimize(state, loader(state), cross_entropy, optimizer=Sgd(lr=0.01), run=RUN)
    assert all(p.grad is None for p in state.model.parameters())


def test_pairs_of_batches_reach_the_loss():
    state = PROBLEM.state()
    both = paired(loader(state), state.forget.loader(epochs=6, batch=16, rng=RUN.rng("forget")))

    def loss(model, pair, progress):
        kept, gone = pair
        assert set(gone.row.tolist()) <= set(state.forget.rows.tolist())
        return functional.cross_entropy(model(kept.x), kept.y) - 0.1 * functional.cross_entropy(
            model(gone.x), gone.y
        )

    optimize(state, both, loss, optimizer=Sgd(lr=0.01), run=RUN)


def test_a_loss_that_becomes_nan_is_refused_in_its_epoch():
    state = PROBLEM.state()

    def loss(model, batch, progress):
        return cross_entropy(model, batch, progress) * (torch.nan if progress > 0.4 else 1.0)

    with pytest.raises(NotFinite, match=r"got nan in epoch 2 of 3: lower lr \(now 0.01\)"):
        optimize(state, loader(state, epochs=3), loss, optimizer=Sgd(lr=0.01), run=RUN)


def test_a_model_with_nothing_to_train_is_refused():
    state = PROBLEM.state()
    state.model.requires_grad_(False)
    with pytest.raises(DataError, match="requires_grad is False for all"):
        optimize(state, loader(state), cross_entropy, optimizer=Sgd(lr=0.01), run=RUN)


def test_bf16_trains_fp32_weights_in_channels_last():
    run = replace(RUN, precision="bf16")
    problem = replace(PROBLEM, run=run)
    state, seen = problem.state(trained=False), []

    def loss(model, batch, progress):
        logits = model(batch.x)
        seen.append((
            logits.dtype,
            batch.x.dtype,
            model[0].weight.is_contiguous(memory_format=torch.channels_last),
        ))
        return functional.cross_entropy(logits, batch.y)

    optimize(state, loader(state), loss, optimizer=Sgd(lr=0.05), run=run)
    assert set(seen) == {(torch.bfloat16, torch.float32, True)}
    assert all(p.dtype == torch.float32 for p in state.model.parameters())


def test_dropout_repeats_under_a_seeded_run():
    def build():
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3))

    def train():
        state = replace(PROBLEM, build=build).state(trained=False)
        with RUN.seeded("torch"):
            optimize(state, loader(state), cross_entropy, optimizer=Sgd(lr=0.1), run=RUN)
        return state.model[2].weight.detach()

    first = train()
    torch.rand(3)
    assert torch.equal(first, train())


def test_progress_is_shown_in_updates():
    told = []

    class Bar:
        @contextmanager
        def bar(self, label, total):
            told.append((label, total))
            yield told.append

    state = PROBLEM.state()
    optimize(state, loader(state), cross_entropy, optimizer=Sgd(lr=0.01), run=replace(RUN, progress=Bar()))
    assert told == [("training", 6), 3, 3]


def test_a_model_in_channels_last_keeps_its_masks():
    run = replace(RUN, precision="bf16")
    state = replace(PROBLEM, run=run).state()
    masks = keep_largest({"0.weight": state.model[0].weight.abs()}, 0.5)
    fill(state.model, masks)
    state = optimize(
        replace(state, masks=masks), loader(state), cross_entropy, optimizer=Sgd(lr=0.1), run=run
    )
    assert torch.equal(state.model[0].weight.detach() != 0, masks["0.weight"])


def test_each_epoch_trains_in_training_mode():
    state, modes = PROBLEM.state(), []

    def watched(model, batch, progress):
        modes.append(model.training)
        return cross_entropy(model, batch, progress)

    def look(now, epoch):
        now.model.eval()

    three = loader(state, epochs=3, batch=1000)
    optimize(state, three, watched, optimizer=Sgd(lr=0.1), after_epoch=look, run=RUN)
    assert modes == [True, True, True]


@pytest.mark.parametrize(
    "given",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"momentum": 1.0},
        {"decay": -1.0},
        {"lr": "x"},
        {"schedule": "cosine"},
        {"nesterov": True, "momentum": 0.0},
    ],
)
def test_sgd_refuses_what_cannot_descend(given):
    with pytest.raises(UsageError):
        Sgd(**{"lr": 0.1, **given})
