from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import DataError
from secateur.rows import holdout_rows, positions, stratified_order

LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=40).map(np.array)


@given(LABELS, st.integers(0, 5))
def test_the_order_is_a_permutation_that_the_seed_fixes(y, seed):
    order = stratified_order(y, seed=seed)
    assert sorted(order) == list(range(len(y)))
    assert np.array_equal(order, stratified_order(y, seed=seed))


def test_every_prefix_of_the_order_has_the_classes_in_their_shares():
    y = np.repeat([0, 1, 2], [50, 30, 20])
    order = stratified_order(y, seed=3)
    for stop in range(1, 101):
        counts = np.bincount(y[order[:stop]], minlength=3)
        assert np.abs(counts - stop * np.array([0.5, 0.3, 0.2])).max() <= 1.5
    assert not np.array_equal(order, stratified_order(y, seed=4))


@given(LABELS, st.floats(0, 0.99), st.sets(st.integers(0, 39)), st.integers(0, 3))
def test_a_holdout_share_is_the_first_rows_of_the_order_that_are_free(y, share, without, seed):
    gone = np.array(sorted(i for i in without if i < len(y)), dtype=np.int64)
    count = round(share * len(y))
    if count > len(y) - len(gone):
        with pytest.raises(DataError, match="are not forgotten: take a smaller share"):
            holdout_rows(y, share, seed=seed, without=gone)
        return
    expected = [i for i in stratified_order(y, seed=seed) if i not in set(gone.tolist())][:count]
    assert holdout_rows(y, share, seed=seed, without=gone).tolist() == sorted(expected)


@pytest.mark.parametrize("share", [1.0, 1.5, -0.1, float("nan")])
def test_a_share_outside_its_range(share):
    with pytest.raises(DataError, match=r"in \[0, 1\)"):
        holdout_rows(np.arange(10), share, seed=0)


@given(st.sets(st.integers(0, 9)))
def test_positions_and_masks_name_the_same_rows(rows):
    mask = np.isin(np.arange(10), list(rows))
    expected = sorted(rows)
    assert positions(list(rows), 10, "forget").tolist() == expected
    assert positions(mask, 10, "forget").tolist() == expected
    assert positions(torch.from_numpy(mask), 10, "forget").tolist() == expected
    assert positions(torch.tensor(sorted(rows, reverse=True)), 10, "forget").tolist() == expected


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([3, 1, 3], "row 3 is named 2 times"),
        ([0, 10], "positions in 0..9"),
        ([-1], "positions in 0..9"),
        ([True] * 9, r"shape \(10,\), got \(9,\)"),
        ([[1], [2]], r"got int64 of shape \(2, 1\)"),
        ([0.5], "got float64"),
        (["a"], "row positions or a boolean mask"),
    ],
)
def test_what_names_no_rows(rows, words):
    with pytest.raises(DataError, match=words):
        positions(rows, 10, "forget")
