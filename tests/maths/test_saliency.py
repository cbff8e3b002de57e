from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import NotFinite, UsageError
from secateur.maths.saliency import keep_largest

# few different scores: ties are the rule
TENSORS = st.lists(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=9), min_size=1, max_size=4
)


def by_hand(scores, count, gone=()):
    """Names and positions of the ``count`` lowest scores: pruned ones first, then by score, then by place."""
    flat = [(key, i, value) for key, row in scores.items() for i, value in enumerate(row)]
    order = sorted(range(len(flat)), key=lambda at: (flat[at][:2] not in gone, flat[at][2], at))
    return {flat[at][:2] for at in order[:count]}


def pruned(masks):
    return {
        (key, i) for key, mask in masks.items() for i, kept in enumerate(mask.flatten().tolist()) if not kept
    }


@given(TENSORS, st.floats(0, 0.99))
def test_exactly_the_lowest_round_s_n_go_ties_by_position(rows, sparsity):
    scores = {str(i): row for i, row in enumerate(rows)}
    total = sum(map(len, rows))
    masks = keep_largest({key: torch.tensor(row) for key, row in scores.items()}, sparsity)
    assert pruned(masks) == by_hand(scores, round(sparsity * total))
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * total)


@given(TENSORS, st.floats(0, 0.99), st.data())
def test_what_is_pruned_stays_pruned(rows, sparsity, data):
    scores = {str(i): torch.tensor(row) for i, row in enumerate(rows)}
    first = data.draw(st.floats(0, 0.99))
    before = keep_largest({key: -score for key, score in scores.items()}, first)
    count, gone = round(sparsity * sum(map(len, rows))), pruned(before)
    if count < len(gone):
        with pytest.raises(UsageError, match=f"at least the {len(gone)} of"):
            keep_largest(scores, sparsity, kept=before)
        return
    masks = keep_largest(scores, sparsity, kept=before)
    assert gone <= pruned(masks)
    assert pruned(masks) == by_hand({str(i): row for i, row in enumerate(rows)}, count, gone)


@given(TENSORS, st.integers(0, 30), st.floats(0, 0.99))
def test_a_share_of_more_than_can_be_pruned(rows, extra, sparsity):
    scores = {str(i): torch.tensor(row) for i, row in enumerate(rows)}
    total = sum(map(len, rows))
    count = round(sparsity * (total + extra))
    if count > total:
        with pytest.raises(UsageError, match=f"at most the {total} of {total + extra} .*ask for at most"):
            keep_largest(scores, sparsity, of=total + extra)
        return
    masks = keep_largest(scores, sparsity, of=total + extra)
    assert pruned(masks) == by_hand({str(i): row for i, row in enumerate(rows)}, count)


def test_what_it_says_can_be_asked_for_can_be():
    scores = {"a": torch.rand(37)}
    with pytest.raises(UsageError, match=r"ask for at most 0\.9736$"):
        keep_largest(scores, 0.99, of=38)
    assert len(pruned(keep_largest(scores, 0.9736, of=38))) == 37


def webster(sizes, count):
    """Seats one by one, each to whoever has most votes for the next half seat; of equals the first."""
    given = dict.fromkeys(sizes, 0)
    for _ in range(count):
        free = [key for key in sizes if given[key] < sizes[key]]
        given[min(free, key=lambda key: (given[key] + 0.5) / sizes[key])] += 1
    return given


@given(TENSORS, st.floats(0, 0.99))
def test_per_layer_each_gives_its_share_and_the_total_is_exact(rows, sparsity):
    scores = {str(i): row for i, row in enumerate(rows)}
    sizes = {key: len(row) for key, row in scores.items()}
    total = sum(sizes.values())
    masks = keep_largest({key: torch.tensor(row) for key, row in scores.items()}, sparsity, per="layer")
    counts = {key: int((~mask).sum()) for key, mask in masks.items()}
    assert counts == webster(sizes, round(sparsity * total))
    # one share for all, rounded in each: the ranges of shares that give these counts overlap
    low = max((count - 0.5) / sizes[key] for key, count in counts.items())
    high = min((count + 0.5) / sizes[key] for key, count in counts.items())
    assert low <= high
    expected = [by_hand({key: scores[key]}, count) for key, count in counts.items()]
    assert pruned(masks) == set().union(*expected)


@given(TENSORS, st.lists(st.floats(0, 0.99), min_size=2, max_size=5))
def test_per_layer_in_rounds_nothing_ever_has_to_grow_back(rows, sparsities):
    scores = {str(i): torch.tensor(row) for i, row in enumerate(rows)}
    masks = None
    for sparsity in sorted(sparsities):
        new = keep_largest(scores, sparsity, per="layer", kept=masks)
        assert masks is None or pruned(masks) <= pruned(new)
        masks = new


def test_per_layer_a_layer_that_gave_more_is_refused():
    scores = {"a": torch.rand(10), "b": torch.rand(10)}
    before = {"a": torch.arange(10) >= 8}
    with pytest.raises(UsageError, match='8 of 10 weights of "a" are pruned already'):
        keep_largest(scores, 0.5, per="layer", kept=before)
    masks = keep_largest(scores, 0.8, per="layer", kept=before)
    assert [int((~mask).sum()) for mask in masks.values()] == [8, 8]
    assert torch.equal(masks["a"], before["a"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers(bad):
    with pytest.raises(NotFinite, match='"b"'):
        keep_largest({"a": torch.ones(3), "b": torch.tensor([0.0, bad])}, 0.5)


def test_masks_have_the_shapes_of_the_scores_and_share_no_memory():
    scores = {"a": torch.rand(2, 3, 1), "b": torch.rand(4).double()}
    masks = keep_largest(scores, 0.5, kept={"b": torch.ones(4, dtype=torch.bool)})
    assert {key: mask.shape for key, mask in masks.items()} == {key: s.shape for key, s in scores.items()}
    assert all(mask.dtype == torch.bool for mask in masks.values())
    assert len({mask.untyped_storage().data_ptr() for mask in masks.values()}) == 2


def test_scores_of_any_memory_order():
    scores = torch.arange(24.0).view(2, 3, 2, 2)
    laid = keep_largest({"a": scores.to(memory_format=torch.channels_last)}, 0.5)["a"]
    assert torch.equal(laid, scores >= 12)
