"""Two processes that train one model against one process, or against the two shards written out."""

import copy
import math

import pytest
import torch
from torch.nn import functional

import secateur as sc
from secateur import ranks
from secateur.errors import SecateurError

from . import two_processes

pytestmark = pytest.mark.slow  # real processes, over gloo


def all_steps():
    return {name: two_processes.take(name) for name in two_processes.TAKEN}


def normed():
    state = two_processes.start(two_processes.normed)
    after = sc.apply(sc.steps.Train(epochs=17, batch=32, lr=0.1), state, two_processes.run()).state
    return dict(after.model.state_dict())


def unused():
    state = two_processes.start(two_processes.unused)
    after = sc.apply(sc.steps.Train(epochs=2, batch=32, lr=0.1), state, two_processes.run()).state
    return dict(after.model.state_dict())


def in_parts():
    run = sc.Run(seed=3, device="cpu", precision="fp64", threads=1, accumulate=3)
    state = sc.State.of(two_processes.plain, sc.Split.of(*two_processes.rows(), forget=range(20)), run)
    return dict(sc.apply(sc.steps.Train(epochs=17, batch=32, lr=0.1), state, run).state.model.state_dict())


def odd_batch():
    step = sc.steps.Train(epochs=1, batch=33, lr=0.1)
    return dict(sc.apply(step, two_processes.start(), two_processes.run()).state.model.state_dict())


def few_rows():
    x, y = two_processes.rows(33)  # two batches of 17 and 16 are fine; the forget set of one row is not
    state = sc.State.of(two_processes.plain, sc.Split.of(x, y, forget=[0]), two_processes.run())
    step = sc.steps.GradientAscent(epochs=1, batch=32, lr=1e-3)
    return dict(sc.apply(step, state, two_processes.run()).state.model.state_dict())


def dropping():
    def build():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(36, 3))

    state = sc.State.of(build, sc.Split.of(*two_processes.rows(), forget=[0]), two_processes.run())
    after = sc.apply(sc.steps.Train(epochs=2, batch=32, lr=0.1), state, two_processes.run()).state
    return dict(after.model.state_dict())


def said():
    return {
        "world": ranks.world(),
        "text": ranks.told(f"é says {ranks.rank()}"),
        "empty": ranks.told(""),
        "described": two_processes.run().describe()["world_size"],
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Everything that two processes do, by what: starting them takes longer than most of it."""
    return two_processes.both(everything, tmp_path_factory.mktemp("ranks"))


def everything():
    works = (all_steps, normed, unused, in_parts, odd_batch, few_rows, dropping, said)
    return {work.__name__: caught(work) for work in works}


def caught(work):
    try:
        return work()
    except SecateurError as error:
        return f"{type(error).__name__}: {error}"


def test_they_are_two_and_hear_what_the_first_says(found):
    for rank in range(2):
        assert found[rank]["said"] == {"world": 2, "text": "é says 0", "empty": "", "described": 2}


@pytest.mark.parametrize("name", two_processes.TAKEN)
def test_a_step_in_two_processes_is_the_step_in_one(found, name):
    weights, notes, drawn = two_processes.take(name)
    for rank in range(2):
        got, told, seen = found[rank]["all_steps"][name]
        for key, value in weights.items():
            torch.testing.assert_close(got[key], value, rtol=0, atol=1e-10)
        assert seen == drawn
        assert told.keys() == notes.keys()
        for key, values in notes.items():
            if key != "residual":
                assert told[key] == pytest.approx(values, rel=1e-8, abs=1e-10)
    one, other = (found[rank]["all_steps"][name][0] for rank in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_at_least_fifty_updates_were_compared():
    for name in ("train", "l1-sparse", "gradient-ascent"):
        begin, step = two_processes.TAKEN[name]
        role = next(iter(step.reads))
        assert step.epochs * math.ceil(len(getattr(begin(), role)) / step.batch) >= 50


def test_batch_norm_sees_the_rows_of_its_own_process_and_keeps_the_statistics_of_the_first(found):
    state, run = two_processes.start(two_processes.normed), two_processes.run()
    model, lr, momentum = copy.deepcopy(state.model).train(), 0.1, 0.9
    params = list(model.parameters())
    speed = [torch.zeros_like(p) for p in params]
    step = sc.steps.Train(epochs=17, batch=32, lr=lr)
    sgd = step.sgd()
    loader = state.pool.loader(epochs=17, batch=32, rng=run.at(0).rng("order"))
    for done, batch in enumerate(loader):
        n = len(batch.y)
        slopes = [torch.zeros_like(p) for p in params]
        for shard in range(2):
            at = slice(n * shard // 2, n * (shard + 1) // 2)
            twin = copy.deepcopy(model)
            loss = functional.cross_entropy(twin(batch.x[at]), batch.y[at]) * (at.stop - at.start) / n
            for slope, got in zip(slopes, torch.autograd.grad(loss, list(twin.parameters())), strict=True):
                slope += got
            if shard == 0:
                kept = twin
        for buffer, moved in zip(model.buffers(), kept.buffers(), strict=True):
            buffer.copy_(moved)
        rate = sgd.lr * sgd.schedule(done / len(loader))
        with torch.no_grad():
            for p, slope, v in zip(params, slopes, speed, strict=True):
                v.mul_(sgd.momentum).add_(slope + sgd.decay * p)
                p.sub_(rate * v)
    assert sgd.momentum == momentum
    for rank in range(2):
        for key, value in model.state_dict().items():
            torch.testing.assert_close(found[rank]["normed"][key], value, rtol=0, atol=1e-10)


def test_a_part_of_the_network_that_no_loss_reaches_stays_as_it_is(found):
    want = unused()
    for key, value in want.items():
        torch.testing.assert_close(found[0]["unused"][key], value, rtol=0, atol=1e-10)
    begun = two_processes.start(two_processes.unused).model.state_dict()
    assert torch.equal(found[0]["unused"]["spare.weight"], begun["spare.weight"])


def test_parts_one_after_the_other_in_two_processes_are_the_whole_batch(found):
    step = sc.steps.Train(epochs=17, batch=32, lr=0.1)
    want = sc.apply(step, two_processes.start(), two_processes.run()).state.model.state_dict()
    for key, value in want.items():
        torch.testing.assert_close(found[0]["in_parts"][key], value, rtol=0, atol=1e-10)


def test_dropout_draws_for_other_rows_in_another_process(found):
    one = dropping()
    assert not torch.allclose(found[0]["dropping"]["2.weight"], one["2.weight"])
    assert torch.equal(found[0]["dropping"]["2.weight"], found[1]["dropping"]["2.weight"])


def test_a_batch_that_the_processes_do_not_divide_is_refused(found):
    for rank in range(2):
        assert found[rank]["odd_batch"] == (
            "UsageError: expected batches that 2 processes can share evenly, got batch=33: each takes its "
            "part of every batch; set batch to a multiple of 2"
        )


def test_fewer_rows_than_processes_are_refused(found):
    for rank in range(2):
        assert (
            "expected at least one row of a batch for each of 2 processes, got 1" in found[rank]["few_rows"]
        )
