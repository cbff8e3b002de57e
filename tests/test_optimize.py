from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from secateur.data import Batch, paired
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
        {"sharpness": -1.0},
        {"sharpness": float("inf")},
        {"sharpness": "x"},
        {"sharpness": 2.0, "ascend": True},
    ],
)
def test_sgd_refuses_what_cannot_descend(given):
    with pytest.raises(UsageError):
        Sgd(**{"lr": 0.1, **given})


def test_smoothed_cross_entropy_by_hand():
    model = nn.Identity()
    batch = Batch(torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.25, 3.0]]), torch.tensor([0, 1]), torch.arange(2))
    logs = torch.log(torch.exp(batch.x) / torch.exp(batch.x).sum(1, keepdim=True))
    true, uniform = -logs[[0, 1], [0, 1]], -logs.mean(1)
    expected = (0.9 * true + 0.1 * uniform).mean()
    assert cross_entropy(model, batch, 0.0, smoothing=0.1).item() == pytest.approx(expected.item())
    assert cross_entropy(model, batch, 0.0).item() == pytest.approx(true.mean().item())
    assert not torch.isclose(expected, true.mean())


DOUBLE = toy_problem(precision="fp64")


def test_one_sharpness_aware_update_by_hand():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))

    def quadratic(model, batch, progress):
        return (torch.tensor([3.0, 1.0]) * model.w.square()).sum() / 2

    state = replace(DOUBLE.state(), model=Two())
    one = loader(state, epochs=1, batch=1000)
    optimize(state, one, quadratic, optimizer=Sgd(lr=0.1, momentum=0.0, sharpness=0.5), run=DOUBLE.run)
    # g = (3, -2), |w| g = (3, -4) of length 5, e = 0.5 (3, -8) / 5 = (0.3, -0.8), g(w + e) = (3.9, -2.8)
    assert state.model.w.tolist() == pytest.approx([1 - 0.39, -2 + 0.28], abs=1e-15)


def sharpness_aware(start, sgd, *, clip, batches):
    """The slow and obvious way, a parameter at a time."""
    model = start.model.train()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    momenta = {name: torch.zeros_like(p) for name, p in named.items()}

    def gradients(batch):
        values = torch.autograd.grad(functional.cross_entropy(model(batch.x), batch.y), list(named.values()))
        return dict(zip(named, values, strict=True))

    for batch in batches:
        at = {name: p.detach().clone() for name, p in named.items()}
        g = gradients(batch)
        buffers = {name: b.clone() for name, b in model.named_buffers()}
        length = sum(float((at[name] * g[name]).square().sum()) for name in named) ** 0.5
        with torch.no_grad():
            for name, p in named.items():
                p += sgd.sharpness * at[name] ** 2 * g[name] / length
        g = gradients(batch)
        norm = sum(float(value.square().sum()) for value in g.values()) ** 0.5
        scale = min(1.0, clip / (norm + 1e-6))  # as torch clips
        with torch.no_grad():
            for name, b in model.named_buffers():
                b.copy_(buffers[name])
            for name, p in named.items():
                momenta[name].mul_(sgd.momentum).add_(g[name] * scale + sgd.decay * at[name])
                p.copy_(at[name] - sgd.lr * momenta[name])
                if name in start.masks:
                    p.masked_fill_(~start.masks[name], 0.0)
    return model.eval()


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_sharpness_is_the_obvious_loop(sparsity):
    state, start = DOUBLE.state(sparsity=sparsity), DOUBLE.state(sparsity=sparsity)
    sgd, run, said = Sgd(lr=0.05, decay=1e-3, sharpness=0.5), DOUBLE.run.at(0), []

    def watched(model, batch, progress):
        for name, mask in state.masks.items():
            assert not model.get_parameter(name).detach()[~mask].any()
        said.append(cross_entropy(model, batch, progress))
        return said[-1]

    optimize(state, loader(state, epochs=3), watched, optimizer=sgd, clip=0.3, run=run)
    expected = sharpness_aware(start, sgd, clip=0.3, batches=loader(start, epochs=3))
    for (name, a), b in zip(expected.state_dict().items(), state.model.state_dict().values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-12, atol=1e-14), name
    here, there = torch.stack(said).view(-1, 2).T.detach()
    assert (there > here).all()
    assert run.notes["loss"] == pytest.approx(here.view(3, -1).mean(1).tolist())


def test_the_second_pass_leaves_no_trace():
    # at this lr no weight moves by a bit, so whatever differs was left behind by looking around
    sgd = Sgd(lr=1e-60, momentum=0.0)
    plain, sharp = PROBLEM.state(), PROBLEM.state()
    optimize(plain, loader(plain), cross_entropy, optimizer=sgd, run=RUN)
    optimize(sharp, loader(sharp), cross_entropy, optimizer=replace(sgd, sharpness=2.0), run=RUN)
    for (name, a), b in zip(plain.model.state_dict().items(), sharp.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert plain.model[1].num_batches_tracked == 4 * 4 + 2 * 3  # the toy problem's own training, and this
    assert all(p.grad is None for p in sharp.model.parameters())


def test_frozen_norms_stay_frozen_in_the_second_pass():
    state, seen = PROBLEM.state(), []
    before = {name: b.clone() for name, b in state.model.named_buffers()}

    def loss(model, batch, progress):
        seen.append(model[1].training)
        return cross_entropy(model, batch, progress)

    optimize(state, loader(state), loss, optimizer=Sgd(lr=0.01, sharpness=1.0), norms="frozen", run=RUN)
    assert seen == [False] * 12
    assert all(torch.equal(b, before[name]) for name, b in state.model.named_buffers())


def test_where_the_loss_is_flat_sharpness_stays():
    state = PROBLEM.state()
    before = [p.clone() for p in state.model.parameters()]

    def flat(model, batch, progress):
        return 0.0 * cross_entropy(model, batch, progress)

    optimize(state, loader(state), flat, optimizer=Sgd(lr=0.1, sharpness=2.0), run=RUN)
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))


def test_bf16_looks_around_in_bf16():
    problem = replace(PROBLEM, run=replace(RUN, precision="bf16"))
    state, seen = problem.state(), []

    def loss(model, batch, progress):
        logits = model(batch.x)
        seen.append(logits.dtype)
        return functional.cross_entropy(logits, batch.y)

    sgd, run = Sgd(lr=0.05, sharpness=0.5), problem.run.at(0)
    optimize(state, loader(state, epochs=6), loss, optimizer=sgd, run=run)
    assert set(seen) == {torch.bfloat16}
    assert run.notes["loss"][-1] < run.notes["loss"][0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own compiler, as it loads
def test_a_compiled_model_trains_to_the_same_weights():
    state, again = PROBLEM.state(trained=False), PROBLEM.state(trained=False)
    optimize(state, loader(state), cross_entropy, optimizer=Sgd(lr=0.1), run=RUN)
    optimize(again, loader(again), cross_entropy, optimizer=Sgd(lr=0.1), run=replace(RUN, compile=True))
    pairs = zip(state.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
    # it is another computation, and its results have another key
    assert replace(RUN, compile=True).describe() == {**RUN.describe(), "compile": True}
