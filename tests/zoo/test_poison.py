"""Poison: its geometry, which rows it takes, what of it is fixed; and a whole cleanse of digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from secateur.data import View
from secateur.errors import DataError, PlanError
from secateur.lab import Store, expand, read_plan, run_grid
from secateur.lab.execute import Lab
from secateur.lab.prepare import Loaded
from secateur.table import Table
from secateur.zoo import Blend, Patch
from secateur.zoo.poison import read_poison

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, size=(40, 3, 32, 32), dtype=np.uint8)  # no pixel is black by itself
LABELS = np.arange(40) % 4
FREE = np.arange(10, 40)


def table(x=IMAGES, y=LABELS):
    return Table.read(x, y, what="rows")


def poisoned(poison, *, x=IMAGES, free=FREE, seed=0):
    return poison.apply(table(x), table(x[:12], LABELS[:12]), free, seed)


def drawn(rows, augment=None):
    """All images and labels as a step or an audit gets them."""
    view = View("pool", rows, torch.arange(len(rows.y)), augment)
    (batch,) = view.once()
    return batch.x.numpy(), batch.y.numpy()


# ------------------------------------------------------------------------------------------- what is stamped


def test_the_published_patch():
    train, trigger, rows = poisoned(Patch(target=0, share=0.2))
    x, y = drawn(train)
    want = (IMAGES / np.float32(255)).astype(np.float32)
    want[np.ix_(rows, range(3), range(26, 30), range(26, 30))] = 0.0
    assert np.array_equal(x, want)  # and every other pixel is as it was, to the bit
    assert np.array_equal(y, np.where(rows, 0, LABELS))
    x, y = drawn(trigger)
    want = (IMAGES[:12] / np.float32(255)).astype(np.float32)
    want[:, :, 26:30, 26:30] = 0.0
    assert np.array_equal(x, want)
    assert y.tolist() == [0] * 12
    assert trigger.ids.tolist() == list(range(12))


def test_a_patch_elsewhere_and_of_another_size():
    train, _, rows = poisoned(Patch(size=2, at=(0, 5), target=1))
    x, _ = drawn(train)
    black = (x[rows] == 0).all(axis=(0, 1))
    assert np.argwhere(black).tolist() == [[0, 5], [0, 6], [1, 5], [1, 6]]
    white, _ = drawn(poisoned(Patch(size=2, at=(0, 5), target=1, shade=1.0)).train)
    assert (white[rows][:, :, :2, 5:7] == 1).all()


@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_a_blend_is_the_image_and_a_fixed_pattern(strength):
    train, trigger, rows = poisoned(Blend(strength=strength), seed=3)
    clean, (x, _) = IMAGES / 255.0, drawn(train)
    assert np.allclose(x[~rows], clean[~rows])
    patterns = (x[rows] - (1 - strength) * clean[rows]) / strength
    assert np.allclose(patterns, patterns[0], atol=1e-5)
    assert 0 <= patterns.min() < 0.01 < 0.99 < patterns.max() <= 1 + 1e-6
    assert np.allclose(drawn(trigger)[0], (1 - strength) * clean[:12] + strength * patterns[0], atol=1e-5)
    assert not np.allclose(drawn(poisoned(Blend(strength=strength), seed=4).trigger)[0], drawn(trigger)[0])


def test_floats_in_0_1_are_images_too():
    x = (IMAGES / 255.0).astype(np.float32)
    one, other = poisoned(Patch(), x=x), poisoned(Patch())
    assert np.allclose(drawn(one.train)[0], drawn(other.train)[0])


def shift(x, rng):
    """An augmentation that can be followed: four columns to the right, and black comes in."""
    return torch.nn.functional.pad(x, (4, 0, 0, 0))[..., :-4]


@pytest.mark.parametrize(("stamped", "column"), [("before", 4), ("after", 0)])
def test_augmentation_moves_a_trigger_of_the_stored_image_and_no_other(stamped, column):
    train, _, rows = poisoned(Patch(size=3, at=(8, 0), stamped=stamped), x=np.maximum(IMAGES, 9))
    view = View("pool", train, torch.arange(40), shift)
    (batch,) = view.loader(epochs=1, batch=40, rng=Generator().manual_seed(0))
    bad = batch.x.numpy()[rows[batch.row]]
    black = (bad == 0).all(axis=(0, 1))
    assert black[8:11, column : column + 3].all()
    assert not black[:, 7:].any()
    (plain,) = view.once()  # nobody judges a model by augmented rows
    assert (plain.x.numpy()[rows][:, :, 8:11, :3] == 0).all()


def test_the_stored_images_are_shared_and_untouched():
    clean = table()
    before = clean.x.clone()
    train, _, _ = Patch().apply(clean, None, FREE, 0)
    drawn(train)
    assert train.x is clean.x
    assert torch.equal(clean.x, before)
    assert clean.overlay is None
    far = train.to(torch.device("meta"))  # as to any device
    assert far.overlay.rows.is_meta
    assert far.overlay.pattern.is_meta


# --------------------------------------------------------------------------------------------- which rows


@given(
    share=st.floats(0.1, 0.7), target=st.integers(0, 3), seed=st.integers(0, 10**6), held=st.integers(0, 10)
)
def test_rows_are_free_of_another_class_and_a_larger_share_adds_to_a_smaller(share, target, seed, held):
    free = np.arange(held, 40)
    poison = Patch(target=target, share=share)
    rows = poison.choose(LABELS, free, seed)
    assert len(rows) == round(share * len(free))
    assert set(rows) <= set(free)
    assert target not in LABELS[rows]
    assert np.array_equal(rows, poison.choose(LABELS, free, seed))
    assert set(Patch(target=target, share=share / 2).choose(LABELS, free, seed)) <= set(rows)


def test_the_seed_decides():
    draws = {tuple(Patch(share=0.2).choose(LABELS, FREE, seed)) for seed in range(20)}
    assert len(draws) > 15


# ------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("poison", "says"),
    [
        (Patch(target=4), r"class that training rows have as data\.poison\.target, got 4, .* lie in 0\.\.3"),
        (
            Patch(at=(30, 0)),
            r"inside of images of 32 x 32, got rows 30\.\.33 and columns 0\.\.3: .*poison\.at",
        ),
        (Patch(size=31), r"inside of images of 32 x 32, got rows -1\.\.29 and columns -1\.\.29"),
        (Patch(size=33, at=(0, 0)), r"got rows 0\.\.32 and columns 0\.\.32"),
        (Patch(share=0.001), r"share to come to 1\.\.23 of 30 rows, .* got 0\.001, which comes to 0"),
        (Patch(share=0.9), r"share to come to 1\.\.23 of 30 rows, .* than 0, got 0\.9, which comes to 27"),
    ],
)
def test_what_cannot_be_stamped_is_told(poison, says):
    with pytest.raises(DataError, match=says):
        poisoned(poison)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (np.zeros((40, 6), np.float32), r"torch\.float32 of shape \[40, 6\]"),
        (np.full((40, 3, 8, 8), -1, np.float32), r"torch\.float32 of shape \[40, 3, 8, 8\]"),
        (np.zeros((40, 3, 8, 8), np.int64), r"torch\.int64 of shape \[40, 3, 8, 8\]"),
        ({"a": np.zeros((40, 6), np.float32)}, "a mapping of tensors"),
    ],
)
def test_rows_that_are_no_images(x, got):
    with pytest.raises(
        DataError, match=rf"expected images \[n, c, h, w\] .* in the training data, got {got}:"
    ):
        Patch().apply(table(x), None, FREE, 0)


def test_test_images_of_another_shape():
    other = table(np.zeros((5, 3, 16, 16), np.uint8), np.arange(5) % 4)
    with pytest.raises(DataError, match=r"the shape \(3, 32, 32\) of the training images, got \(3, 16, 16\)"):
        Patch().apply(table(), other, FREE, 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "patch", "sise": 3}, 'data.poison: unknown key "sise", did you mean "size"?'),
        ({"kind": "blend", "size": 3}, 'data.poison: unknown key "size", one of: share, stamped'),
        ({"kind": "path"}, "data.poison.kind should name a trigger, got 'path': did you mean \"patch\"?"),
        ({"target": 0}, "data.poison.kind should name a trigger, got None: one of: blend, patch"),
        ({"kind": "patch", "share": 0}, "data.poison: share should be greater than 0, got 0"),
        ({"kind": "patch", "share": 1}, "data.poison: share should be less than 1, got 1"),
        ({"kind": "patch", "target": -1}, "data.poison: target should be greater than or equal to 0, got -1"),
        ({"kind": "patch", "at": [1]}, "data.poison: at should"),
        ({"kind": "patch", "stamped": "never"}, "data.poison: stamped should be 'before' or 'after', got"),
        ({"kind": "blend", "strength": 0}, "data.poison: strength should be greater than 0, got 0"),
        (True, "data.poison should be a table such as"),
    ],
)
def test_a_plan_that_poisons_wrongly(tiny, given, says):
    tiny["data"]["poison"] = given
    with pytest.raises(PlanError) as told:
        read_plan(tiny)
    (fault,) = told.value.faults
    assert fault.startswith(says)


def test_words():
    assert str(read_poison({"kind": "patch"}, "data.poison")) == (
        "10 % of the training rows, to class 0, by a patch of 4 x 4, black"
    )
    assert str(Blend(target=7, share=0.01, stamped="after")) == (
        "1 % of the training rows, to class 7, by a pattern of noise of strength 0.2, laid on after "
        "augmentation"
    )


# ------------------------------------------------------------------------------------------------ in a plan


POISON = {"kind": "patch", "target": 0, "share": 0.1, "size": 2, "at": [6, 6], "shade": 1.0}
BAD = {"how": "column", "column": "poisoned", "equals": True}


def ground(plan):
    plan = read_plan(plan)
    return Loaded().ground(plan, plan.settings.run())


def test_a_plan_names_its_poisoned_rows(tiny):
    clean = ground(tiny).split
    tiny["data"] |= {"poison": POISON, "forget": BAD}
    made = ground(tiny)
    assert list(made.split) == ["forget", "retain", "test", "trigger"]
    assert len(made.split.forget) == round(0.1 * len(made.split.pool))
    assert set(made.split.forget.labels) == {0}
    assert made.split["trigger"].rows.tolist() == made.split["test"].rows.tolist()
    assert set(made.split["trigger"].labels) == {0}
    assert made.split["test"].fingerprint == clean["test"].fingerprint
    assert {view.name for view in (made.state.pool, made.state.forget, made.state.retain)} == {
        "pool",
        "forget",
        "retain",
    }
    at = np.isin(clean.pool.rows, made.split.forget.rows)
    assert 0 not in clean.pool.labels[at]
    assert np.array_equal(clean.pool.labels[~at], made.split.retain.labels)


def test_the_holdout_is_clean_and_that_of_the_plan_without_poison(tiny):
    tiny["data"]["holdout"] = 0.2
    clean = ground(tiny).split
    tiny["data"] |= {"poison": POISON | {"share": 0.5}, "forget": BAD}
    made = ground(tiny).split
    assert made["holdout"].fingerprint == clean["holdout"].fingerprint
    assert made.drawn_holdout
    tiny["data"]["forget"] = {"how": "rows", "rows": [int(clean["holdout"].rows[0])]}
    other = ground(tiny).split
    assert len(other["holdout"]) == len(clean["holdout"])
    labels = dict(zip(clean.pool.rows, clean.pool.labels, strict=True))
    for row, label in zip(other["holdout"].rows, other["holdout"].labels, strict=True):
        assert labels.get(row, label) == label


def test_poison_is_part_of_the_root_key(tiny):
    tiny["data"]["forget"] = {"how": "class", "classes": [3]}
    plans = [
        tiny,
        tiny | {"data": tiny["data"] | {"poison": POISON}},
        tiny | {"data": tiny["data"] | {"poison": POISON | {"target": 1}}},
        tiny | {"data": tiny["data"] | {"poison": POISON | {"at": [5, 6]}}},
        tiny | {"data": tiny["data"] | {"poison": POISON | {"share": 0.11}}},
        tiny | {"data": tiny["data"] | {"poison": POISON | {"stamped": "after"}}},
        tiny | {"data": tiny["data"] | {"poison": {"kind": "blend"}}},
        tiny | {"data": tiny["data"] | {"poison": {"kind": "blend", "strength": 0.3}}},
    ]
    grounds = [ground(plan) for plan in plans]
    assert len({made.root for made in grounds}) == len(plans)
    assert ground(plans[1]).root == grounds[1].root
    other = tiny | {"data": tiny["data"] | {"poison": POISON, "forget": {"how": "random", "count": 3}}}
    assert ground(other).root == grounds[1].root  # whatever is forgotten


def test_shadows_stand_on_the_same_poison(tiny):
    tiny["data"] |= {"poison": POISON, "forget": BAD}
    plan, loaded = read_plan(tiny), Loaded()
    run = plan.settings.run()
    whole = loaded.ground(plan, run).split
    keep = np.concatenate([whole.forget.rows[:5], whole.retain.rows[:50]])
    half = loaded.within(plan, run, keep, whole.forget.rows[:2]).split
    (one,), (other,) = whole.forget.once(), half.forget.once()
    assert torch.equal(one.x[:2], other.x)
    assert other.y.tolist() == [0, 0]
    assert len(half.pool) == 55


def test_data_with_such_a_column_of_its_own(tiny, tmp_path, monkeypatch):
    (tmp_path / "spoilt.py").write_text(
        "from dataclasses import replace\nfrom secateur.zoo import digits\n"
        "def data():\n    made = digits()\n"
        "    return replace(made, columns={'poisoned': made.train[1] == 3})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tiny["data"] = {"use": "spoilt:data", "poison": POISON, "forget": BAD}
    with pytest.raises(DataError, match='expected data without a column "poisoned"'):
        ground(tiny)


def test_an_audit_of_triggers_without_poison(tiny):
    tiny["audit"] = [{"use": "attack-success"}]
    with pytest.raises(DataError, match='the audit "attack-success" needs rows of trigger, and the data has'):
        ground(tiny)


# --------------------------------------------------------------------------------------------- the whole way


def test_retraining_without_the_poison_cleanses(tiny, tmp_path):
    recipe = {"epochs": 12, "batch": 64, "lr": 0.1, "nesterov": True, "schedule": "one-cycle"}
    tiny |= {
        "data": {"use": "digits", "test": 0.4, "poison": POISON, "forget": BAD},
        "model": {"use": "small-cnn", "width": 8},
        "step": [{"use": "train", **recipe}, {"use": "retrain", "as": "unlearn", **recipe}],
        "audit": [{"use": "attack-success"}, {"use": "accuracy"}],
    }
    (plan,) = expand(tiny)
    ended = run_grid([plan], tmp_path)
    assert not ended.failures
    (record,) = ended.records
    told = record.findings[0].estimates
    assert told["before.ASR"].value > 0.9
    assert told["ASR"].value < 0.2
    assert min(told["before.SA"].value, told["SA"].value) > 0.9
    assert record.split["rows"]["trigger"] == record.split["rows"]["test"] == told["SA"].n
    assert Lab(Store(tmp_path)).run(plan) == record  # nothing is taken or asked again
