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
    assert math.isnan(prune.seconds)
    assert 0 < train.seconds < unlearn.seconds < 60
    assert unlearn.seconds / train.seconds == pytest.approx(unlearn.updates / train.updates)


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
