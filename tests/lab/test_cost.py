"""Estimates: what a grid needs, counted without training or writing anything."""

import math

import pytest

from secateur.data import View
from secateur.lab import cost, estimate, expand, run_grid


@pytest.fixture
def table(tiny):
    tiny["step"].insert(1, {"use": "magnitude", "as": "prune", "sparsity": 0.5})
    tiny["audit"] = [{"use": "retrain-gap", "references": 1}]
    tiny["grid"] = {
        "seed": [0, 1],
        "prune": [[], {"use": "magnitude", "sparsity": 0.5}],
        "unlearn": [{"use": "fine-tune", "epochs": 2, "batch": 64}, {"use": "retrain", "epochs": 1}],
    }
    return tiny


def counted(found):
    return {one.step: (one.times, one.stored) for one in found}


def test_it_counts_what_the_grid_will_take(table, tmp_path):
    store = tmp_path / "store"
    plans = expand(table)
    found = estimate(plans, store)
    assert not store.exists()
    ended = run_grid(plans, store)
    assert not ended.failures
    assert counted(found) == {use: (ended.taken.count(use), 0) for use in dict.fromkeys(ended.taken)}
    # and afterwards it knows that all of it is there, sparse references included
    assert counted(estimate(plans, store)) == {use: (ended.taken.count(use),) * 2 for use in set(ended.taken)}


def test_updates_are_counted_and_timed(table, tmp_path):
    del table["grid"]
    table["audit"] = [{"use": "accuracy"}]
    table["step"][2]["epochs"] = 3
    train, prune, unlearn = estimate(expand(table), tmp_path)
    assert (train.step, train.updates) == ("train", math.ceil(359 / 64))
    assert (unlearn.step, unlearn.updates) == ("fine-tune", 3 * math.ceil(322 / 64))
    assert prune.updates is None
    assert prune.seconds == 0  # compares weights, and looks at no row
    assert 0 < train.seconds < unlearn.seconds < 60
    assert unlearn.seconds / train.seconds == pytest.approx(unlearn.updates / train.updates)


def seconds(table, store, **step):
    table["step"][-1] = {"as": "unlearn", **step}
    return {one.step: one.seconds for one in estimate(expand(table), store)}[step["use"]]


@pytest.mark.parametrize(
    ("more", "less", "times"),
    [
        # 359 rows in the pool, 322 of them retained, 10 classes
        ({"use": "fisher", "kind": "expected"}, {"use": "fisher", "kind": "sampled"}, 14 / 1.6),
        (
            {"use": "influence", "products": 20, "tolerance": 0.5, "rows": 100},
            {"use": "influence", "products": 5, "tolerance": 0.1, "rows": 100},
            (359 + 1.8 * 21 * 100) / (359 + 1.8 * 6 * 100),
        ),
        ({"use": "influence", "rows": 10_000}, {"use": "influence"}, 1),
        (
            {"use": "influence", "curvature": "hessian", "products": 9},
            {"use": "influence", "products": 9},
            (359 + 46 * 322) / (359 + 18 * 322),
        ),
        ({"use": "influence", "solver": "diagonal"}, {"use": "fisher"}, (359 + 14 * 322) / (14 * 322)),
        ({"use": "snip", "samples": 100}, {"use": "snip", "samples": 10}, 10),
        ({"use": "snip", "samples": 10_000}, {"use": "snip", "samples": 359}, 1),
        ({"use": "grasp", "samples": 100}, {"use": "snip", "samples": 100}, 5.6),
        ({"use": "synflow", "rounds": 100}, {"use": "snip", "samples": 100}, 1),
    ],
)
def test_steps_without_epochs_are_timed_by_the_gradients_they_take(
    tiny, tmp_path, monkeypatch, more, less, times
):
    monkeypatch.setattr(cost, "_gradients", lambda ground, rows, times: 0.001 * rows)
    found = [seconds(tiny, tmp_path, **step) for step in (more, less)]
    assert found[0] / found[1] == pytest.approx(times)
    assert found[0] > 0.01


def test_a_gradient_is_really_timed(tiny, tmp_path, drawn):
    assert 0 < seconds(tiny, tmp_path, use="fisher") < 60
    assert max(drawn) == 256
    assert len(drawn) < 32


@pytest.mark.parametrize("use", ["newton", "influence"])
def test_what_nobody_can_say_is_not_made_up(tiny, tmp_path, use):
    step = {"use": use} | ({"solver": "woodfisher"} if use == "influence" else {})
    assert math.isnan(seconds(tiny, tmp_path, **step))


def test_nothing_is_pruned_for_nothing(tiny, tmp_path):
    for use in ("magnitude", "random", "snip", "synflow"):
        assert seconds(tiny, tmp_path, use=use, sparsity=0) == 0


def test_a_started_schedule_counts_from_its_start(tiny, tmp_path):
    tiny["step"][0] |= {"epochs": 5, "start": 3}
    assert estimate(expand(tiny), tmp_path)[0].updates == 2 * math.ceil(359 / 64)


def test_a_part_of_the_store_is_known(table, tmp_path):
    plans = expand(table)
    run_grid(plans[:1], tmp_path)
    assert counted(estimate(plans, tmp_path)) == {
        "train": (2, 1), "fine-tune": (4, 1), "retrain": (7, 1), "magnitude": (2, 0),
    }  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """How many rows each batch that was drawn had."""
    sizes = []
    draw = View._draw

    def seen(view, *given):
        for batch in draw(view, *given):
            sizes.append(len(batch.y))
            yield batch

    monkeypatch.setattr(View, "_draw", seen)
    return sizes


def test_a_large_set_costs_the_estimate_no_more_than_a_few_batches(tiny, tmp_path, drawn):
    """An epoch of it may take minutes."""
    tiny["data"]["test"] = 0.1
    tiny["step"][0]["batch"] = tiny["step"][1]["batch"] = 64
    (train, _) = estimate(expand(tiny), tmp_path)
    assert train.updates == math.ceil(1617 / 64)
    # one batch that shows that the model fits, few rows twice and then more of them, and whole ones
    assert [size for size in drawn if size > 16][1:] == drawn[-cost.PROBES :]
    assert len(drawn) <= cost.PROBES + 5
    assert max(drawn) <= 64


def test_without_patience_a_few_rows_stand_for_a_batch(tiny, tmp_path, drawn):
    tiny["step"][0]["batch"] = tiny["step"][1]["batch"] = 128
    (train, unlearn) = estimate(expand(tiny), tmp_path, patience=0)
    assert max(drawn) == cost.FEWEST
    assert len(drawn) == 2  # and the batch that shows that the model fits
    assert 0 < train.seconds < 60
    assert unlearn.seconds / train.seconds == pytest.approx(unlearn.updates / train.updates)


def test_seeds_share_one_network_and_keep_their_own_keys(table, tmp_path, drawn):
    grids = [{**table["grid"], "seed": [seed]} for seed in (0, 1)]
    alone = [estimate(expand({**table, "grid": grid}), tmp_path) for grid in grids]
    before = len(drawn)
    both = estimate(expand(table), tmp_path)
    assert len(drawn) - before == before // 2
    for one, other, together in zip(*alone, both, strict=True):
        # references have seeds of their own: that of the dense model serves both, a mask is each seed's own
        assert together.times == one.times + other.times - (one.step == "retrain")


def test_a_set_smaller_than_a_batch_is_timed_too(tiny, tmp_path):
    tiny["data"] |= {"test": 0.97, "forget": {"how": "rows", "rows": [1]}}
    (train, _) = estimate(expand(tiny), tmp_path)
    assert train.updates == 1
    assert 0 < train.seconds < 60
