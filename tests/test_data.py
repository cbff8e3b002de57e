from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from secateur.data import Loader, View, crop_flip, paired
from secateur.errors import ClosedView, DataError, UsageError
from secateur.rows import holdout_rows
from secateur.split import Split
from secateur.table import Table

X, Y = np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20) % 4


def rng(seed=0):
    return Generator().manual_seed(seed)


def view(rows=7, **kwargs):
    table = Table.read(np.arange(rows + 3.0), np.arange(rows + 3) % 3, what="rows")
    return View("retain", table, torch.arange(3, rows + 3), **kwargs)


def toy(**kwargs):
    return Split.of(X, Y, **{"forget": [0, 5], **kwargs})


# ---------------------------------------------------------------------------------------------------- split


def test_a_split_gives_every_row_one_role():
    split = toy(holdout=[3, 4], test=(X[:6], Y[:6]))
    assert list(split) == ["forget", "retain", "holdout", "test"]
    assert split.forget.rows.tolist() == [0, 5]
    assert split["holdout"].rows.tolist() == [3, 4]
    assert split.pool.rows.tolist() == sorted([*split.forget.rows, *split.retain.rows])
    assert sorted([*split.pool.rows, *split["holdout"].rows]) == list(range(20))
    assert split["test"].rows.tolist() == list(range(6))
    assert split.classes == 4
    assert split.retain.labels.tolist() == [i % 4 for i in split.retain.rows]
    assert {role: len(rows) for role, rows in split.rows.items()} == {
        name: len(v) for name, v in split.items()
    }


def test_a_further_view_is_there_for_judges_alone():
    split = toy(test=(X[:6], Y[:6]), views={"trigger": (X[:6] + 1, Y[:6] * 0), "empty": (X[:0], Y[:0])})
    assert list(split) == ["forget", "retain", "test", "trigger"]
    assert split["trigger"].rows.tolist() == split["test"].rows.tolist()
    assert split["trigger"].labels.tolist() == [0] * 6
    assert split.pool.fingerprint == toy().pool.fingerprint
    assert split.hash != toy(test=(X[:6], Y[:6])).hash
    rows = list(zip(X, Y, strict=True))
    assert toy(views={"more": rows}).hash == toy(views={"more": (X, Y)}).hash


@pytest.mark.parametrize("name", ["pool", "forget", "retain", "holdout", "test"])
def test_a_further_view_has_a_name_of_its_own(name):
    with pytest.raises(DataError, match=f'a name of its own, got "{name}", which a split gives itself'):
        toy(views={name: (X, Y)})


def test_forget_as_positions_or_as_a_mask():
    mask = np.isin(np.arange(20), [0, 5])
    assert toy(forget=mask).hash == toy(forget=[5, 0]).hash == toy(forget=torch.tensor([0, 5])).hash
    assert toy(forget=[0, 6]).hash != toy().hash


def test_empty_views_are_left_out():
    split = toy(test=(X[:0], Y[:0]))
    assert list(split) == ["forget", "retain"]
    assert not split.drawn_holdout
    with pytest.raises(KeyError):
        split["holdout"]


def test_a_holdout_share_is_drawn_before_and_besides_what_is_forgotten():
    drawn = toy(holdout=0.25, seed=1)
    assert drawn.drawn_holdout
    assert len(drawn["holdout"]) == 5
    free = toy(holdout=0.25, seed=1, forget=[int(drawn["holdout"].rows[0])])
    # the row asked for leaves the holdout, the next of the order takes its place, the others stay
    assert len(np.intersect1d(free["holdout"].rows, drawn["holdout"].rows)) == 4
    assert len(free["holdout"]) == 5
    named = toy(holdout=drawn["holdout"].rows)
    assert not named.drawn_holdout
    assert named.hash == drawn.hash


def test_forget_sets_share_the_holdout_of_a_plan_and_so_the_pool():
    held = holdout_rows(Y, 0.25, seed=0)
    rest = np.setdiff1d(np.arange(20), held)
    first, other = toy(holdout=0.25, forget=rest[:3]), toy(holdout=0.25, forget=rest[-3:])
    assert first["holdout"].rows.tolist() == other["holdout"].rows.tolist() == held.tolist()
    assert first.pool.fingerprint == other.pool.fingerprint
    assert first.forget.fingerprint != other.forget.fingerprint


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"forget": []}, "at least one row to forget"),
        ({"forget": np.zeros(20, dtype=bool)}, "at least one row to forget"),
        ({"forget": [20]}, "positions in 0..19 in `forget`"),
        ({"forget": [1, 1]}, "row 1 is named 2 times"),
        ({"holdout": [5, 6]}, r"1 are both \(the first: 5\)"),
        ({"holdout": 0.99}, "18 are not forgotten"),
        ({"holdout": 1.0}, r"share in \[0, 1\)"),
        ({"forget": range(10), "holdout": range(10, 20)}, "name all 20"),
        ({"test": (X, Y[:3])}, "one label for each row of the test data"),
        ({"test": (X - np.inf, Y)}, "finite values in the test data"),
    ],
)
def test_splits_that_are_refused(given, words):
    with pytest.raises(DataError, match=words):
        toy(**given)


def test_augmentation_of_a_mapping_is_refused():
    with pytest.raises(DataError, match="no `augment` where x is a mapping"):
        Split.of({"a": X}, Y, forget=[0], augment=crop_flip(1))


# ----------------------------------------------------------------------------------------------------- view


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 3))
def test_an_epoch_is_a_permutation_in_even_parts(rows, batch, epochs):
    one = view(rows)
    loader = one.loader(epochs=epochs, batch=batch, rng=rng())
    assert (loader.epochs, loader.updates, len(loader)) == (
        epochs,
        math.ceil(rows / batch),
        epochs * loader.updates,
    )
    batches = list(loader)
    assert len(batches) == len(loader)
    for epoch in range(epochs):
        parts = batches[epoch * loader.updates : (epoch + 1) * loader.updates]
        sizes = [len(part.y) for part in parts]
        assert max(sizes) <= batch
        assert max(sizes) - min(sizes) <= 1
        assert sorted(torch.cat([part.row for part in parts]).tolist()) == list(range(3, rows + 3))
    assert one.drawn == rows * epochs


def test_ids_labels_and_contents_stay_together():
    for part in [*view().loader(epochs=2, batch=3, rng=rng()), *view().once(batch=2)]:
        assert part.x.tolist() == part.row.tolist()
        assert part.y.tolist() == [row % 3 for row in part.row.tolist()]


def test_the_generator_decides_the_order_and_nothing_else_does():
    def order(seed):
        return torch.cat([part.row for part in view(20).loader(epochs=2, batch=6, rng=rng(seed))]).tolist()

    torch.rand(3)
    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:20] != order(1)[20:]


def test_the_order_does_not_depend_on_the_augmentation():
    def jump(x, rng):
        return x + torch.rand(len(x), generator=rng)

    plain = list(view(20).loader(epochs=2, batch=6, rng=rng()))
    jumped = list(view(20, augment=jump).loader(epochs=2, batch=6, rng=rng()))
    not_asked = list(view(20, augment=jump).loader(epochs=2, batch=6, rng=rng(), augment=False))
    assert [p.row.tolist() for p in plain] == [p.row.tolist() for p in jumped]
    assert not any(torch.equal(a.x, b.x) for a, b in zip(plain, jumped, strict=True))
    assert all(torch.equal(a.x, b.x) for a, b in zip(plain, not_asked, strict=True))
    assert all(
        torch.equal(a.x, b.x) for a, b in zip(view(20, augment=jump).once(), view(20).once(), strict=True)
    )


def test_once_gives_every_row_in_order_in_even_parts():
    sizes = [len(part.y) for part in view(7).once(batch=3)]
    assert sizes == [3, 2, 2]
    assert torch.cat([part.row for part in view(7).once(batch=3)]).tolist() == list(range(3, 10))
    assert list(view(0).once()) == []


def test_what_a_loader_refuses():
    with pytest.raises(DataError, match="got an empty view"):
        view(0).loader(epochs=1, batch=1, rng=rng())
    for epochs, batch in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="at least one epoch and one row"):
            view().loader(epochs=epochs, batch=batch, rng=rng())
    with pytest.raises(UsageError, match="at least one row per batch"):
        view().once(batch=0)
    loader = view().loader(epochs=1, batch=3, rng=rng())
    list(loader)
    with pytest.raises(UsageError, match="one pass"):
        list(loader)


def test_a_closed_view_raises_at_every_touch_and_at_once():
    closed = view().closed("Step touched retain")
    touches = [
        lambda: len(closed),
        lambda: closed.rows,
        lambda: closed.labels,
        lambda: closed.fingerprint,
        lambda: closed.once(),
        lambda: closed.loader(epochs=1, batch=1, rng=rng()),
        lambda: closed.on(torch.device("cpu"), torch.float32, torch.contiguous_format),
        lambda: closed.fresh().rows,
    ]
    for touch in touches:
        with pytest.raises(ClosedView, match="Step touched retain"):
            touch()
    assert repr(closed) == "View('retain', closed)"
    assert len(view()) == 7


def test_a_count_goes_along_with_a_device_and_starts_anew_when_asked():
    one = view()
    list(one.once())
    list(one.on(torch.device("cpu"), torch.float64, torch.contiguous_format).once())
    assert one.drawn == 14
    fresh = one.fresh()
    list(fresh.once())
    assert (fresh.drawn, one.drawn) == (7, 14)


def test_the_fingerprint_is_of_contents_labels_and_ids_in_order():
    table = Table.read(X, Y, what="rows")
    base = View("a", table, torch.arange(5)).fingerprint
    assert View("b", table, torch.arange(5)).fingerprint == base
    other_x, other_y = X.copy(), Y.copy()
    other_x[2, 1], other_y[2] = -1, 0
    changed = [
        View("a", Table.read(other_x, Y, what="rows"), torch.arange(5)),
        View("a", Table.read(X, other_y, what="rows"), torch.arange(5)),
        View("a", Table.read(X.astype(np.float64), Y, what="rows"), torch.arange(5)),
        View("a", Table.read({"": X, "b": X}, Y, what="rows"), torch.arange(5)),
        View("a", Table(table.x, table.y, table.ids + 1), torch.arange(5)),
        View("a", table, torch.arange(5).flip(0)),
    ]
    prints = {v.fingerprint for v in changed}
    assert len(prints) == len(changed)
    assert base not in prints
    far = Table.read(np.concatenate([X[:5], X[5:] + 1]), Y, what="rows")
    assert View("a", far, torch.arange(5)).fingerprint == base


def test_bytes_become_floats_in_0_1_and_the_type_of_the_run():
    images = np.array([[[[0, 51], [102, 255]]]], dtype=np.uint8)
    split = Split.of(np.repeat(images, 3, 0), [0, 0, 1], forget=[0])
    for dtype in (torch.float32, torch.float64):
        x = next(iter(split.retain.on(torch.device("cpu"), dtype, torch.contiguous_format).once())).x
        assert x.dtype == dtype
        assert torch.equal(x[0, 0], torch.tensor([[0, 51], [102, 255]], dtype=dtype) / 255)
    floats = Split.of(X, Y, forget=[0]).retain.on(torch.device("cpu"), torch.float64, torch.contiguous_format)
    assert next(iter(floats.once())).x.dtype == torch.float64
    tokens = Split.of(Y[:, None], Y, forget=[0]).retain.on(
        torch.device("cpu"), torch.float64, torch.contiguous_format
    )
    assert next(iter(tokens.once())).x.dtype == torch.int64


def test_a_mapping_is_drawn_by_name():
    split = Split.of({"a": X, "b": Y[:, None]}, Y, forget=[1])
    for batch in split.retain.loader(epochs=1, batch=4, rng=rng()):
        assert torch.equal(batch.x["a"], torch.from_numpy(X)[batch.row])
        assert torch.equal(batch.x["b"][:, 0], batch.y)
        assert batch.x["b"].dtype == torch.int64


def test_images_are_drawn_in_the_layout_that_is_asked_for():
    split = Split.of(
        np.zeros((6, 3, 4, 4), dtype=np.float32), [0, 1, 0, 1, 0, 1], forget=[0], augment=crop_flip(1)
    )
    for layout in (torch.channels_last, torch.contiguous_format):
        laid = split.retain.on(torch.device("cpu"), torch.float32, layout)
        for batch in [*laid.once(), *laid.loader(epochs=1, batch=2, rng=rng())]:
            assert batch.x.is_contiguous(memory_format=layout)


# --------------------------------------------------------------------------------------------------- paired


def test_paired_loaders_go_side_by_side_for_the_epochs_of_the_first():
    def two():
        first = view(7).loader(epochs=2, batch=3, rng=rng(1))
        return first, view(5).loader(epochs=3, batch=2, rng=rng(2))

    first, second = two()
    both = paired(first, second)
    assert (both.epochs, both.updates, len(both)) == (2, 3, 6)
    for pair, one, other in zip(both, *two(), strict=False):
        assert torch.equal(pair[0].row, one.row)
        assert torch.equal(pair[1].row, other.row)
    with pytest.raises(UsageError, match="ask for epochs=2"):
        paired(view(6).loader(epochs=2, batch=3, rng=rng()), view(4).loader(epochs=1, batch=2, rng=rng()))


def test_a_loader_says_how_much_it_gives():
    assert list(Loader(2, 3, lambda epoch: iter([epoch] * 3))) == [0, 0, 0, 1, 1, 1]


# ----------------------------------------------------------------------------------------------- crop, flip


def by_hand(x, pad, generator):
    """One image at a time, from the same draws."""
    b, c, h, w = x.shape
    offset = torch.randint(0, 2 * pad + 1, (2, b, 1), generator=generator)
    flip = torch.randint(0, 2, (b, 1), generator=generator, dtype=torch.bool)
    images = []
    for i in range(b):
        padded = torch.zeros(c, h + 2 * pad, w + 2 * pad, dtype=x.dtype)
        padded[:, pad : pad + h, pad : pad + w] = x[i]
        top, left = int(offset[0, i]), int(offset[1, i])
        image = padded[:, top : top + h, left : left + w]
        images.append(image.flip(2) if flip[i] else image)
    return torch.stack(images)


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 4),
    st.integers(0, 99),
)
def test_crop_flip_equals_one_image_at_a_time(b, c, h, w, pad, seed):
    x = torch.rand(b, c, h, w, generator=rng(seed + 1000), dtype=torch.float64)
    augmented = crop_flip(pad)(x, rng(seed))
    assert augmented.shape == x.shape
    assert torch.equal(augmented, by_hand(x, pad, rng(seed)))


def test_crop_flip_draws_every_offset_and_both_sides_equally_often():
    n = 18_000
    x = torch.arange(1.0, 10).view(1, 1, 3, 3).expand(n, 1, 3, 3)
    found = crop_flip(1)(x, rng()).reshape(n, 9)
    kinds, counts = found.unique(dim=0, return_counts=True)
    assert len(kinds) == 18  # nine offsets, flipped or not
    assert (counts - n / 18).abs().max() < 5 * math.sqrt(n / 18)


def test_crop_flip_without_padding_only_flips():
    x = torch.rand(50, 1, 2, 4)
    out = crop_flip(0)(x, rng())
    same = (out == x).flatten(1).all(1)
    turned = (out == x.flip(3)).flatten(1).all(1)
    assert bool((same | turned).all())
    assert 0 < int(same.sum()) < 50
    assert repr(crop_flip(0)) == "crop_flip(0)"


def test_an_augmentation_of_another_signature_is_refused_before_training():
    with pytest.raises(UsageError, match=r"expected augment\(x, rng\) -> x"):
        Split.of(np.zeros((6, 2), dtype=np.float32), [0, 1] * 3, forget=[0], augment=lambda x: x)


def test_a_set_of_rows_can_be_forgotten():
    split = Split.of(np.zeros((6, 2), dtype=np.float32), [0, 1] * 3, forget={4, 1})
    assert split.forget.rows.tolist() == [1, 4]


# --------------------------------------------------------------------------------------------------- sample


def test_a_sample_is_of_distinct_rows_drawn_from_the_stream_and_counted_where_it_came_from():
    pool = view(50)
    some = pool.sample(25, rng())
    assert len(some) == len(set(some.rows.tolist())) == 25
    assert set(some.rows.tolist()) < set(pool.rows.tolist())
    assert [len(part.y) for part in some.once(batch=10)] == [9, 8, 8]
    assert pool.drawn == some.drawn == 25
    assert [part.row.tolist() for part in some.once(batch=25)] == [some.rows.tolist()]  # the same again
    assert pool.sample(25, rng()).rows.tolist() == some.rows.tolist()
    assert pool.sample(25, rng(1)).rows.tolist() != some.rows.tolist()
    assert pool.sample(9, rng()).rows.tolist() == some.rows.tolist()[:9]
    assert sorted(pool.sample(50, rng()).rows.tolist()) == pool.rows.tolist()


@pytest.mark.parametrize("rows", [0, 51])
def test_a_sample_of_more_rows_than_there_are(rows):
    with pytest.raises(DataError, match=f'between 1 and 50 rows from "retain", got {rows}'):
        view(50).sample(rows, rng())


def test_no_sample_of_a_closed_view():
    with pytest.raises(ClosedView, match="not yours"):
        view().closed("not yours").sample(1, rng())


def test_a_loader_begins_anywhere():
    def epoch(number):
        return iter([10 * number + i for i in range(3)])

    passed = []
    for update in range(7):
        assert list(Loader(2, 3, epoch, passed.append).begin(update)) == [0, 1, 2, 10, 11, 12][update:]
    assert passed == [0, 0, 0, 1, 1, 1, 2]
