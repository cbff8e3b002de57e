from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import UsageError
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
