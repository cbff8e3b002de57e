"""Surrogates: of the same kind and number, from the rows that stay, and refused where there are too few."""

import numpy as np
import pytest

from secateur.errors import DataError
from secateur.lab.request import AtRandom, ByClass, ByColumn, ByRows, Known
from secateur.lab.surrogate import surrogate
from secateur.split import Split


def split_of(request, classes=4, each=10):
    y = np.repeat(np.arange(classes), each)
    ids = np.arange(len(y))
    known = Known(y, ids, {"writer": (ids % 5).astype(np.int64)})
    return Split.of(np.zeros((len(y), 2), dtype="float32"), y, forget=request.choose(known, ids, 0))


def rows_of(table, split):
    if table["how"] == "class":
        return split.retain.rows[np.isin(split.retain.labels, table["classes"])]
    assert table["how"] == "rows"
    return np.asarray(table["rows"])


@pytest.mark.parametrize(
    "request_",
    [
        ByClass(classes=(1,)),
        ByClass(classes=(0, 3)),
        AtRandom(share=0.2),
        AtRandom(count=13),
        ByRows(rows=(0, 1, 2, 11, 39)),
        ByColumn(column="writer", equals=2),
    ],
    ids=str,
)
def test_it_is_of_the_same_kind_and_number(request_):
    split = split_of(request_)
    for seed in range(5):
        table = surrogate(request_, split, seed)
        rows = rows_of(table, split)
        assert len(rows) == len(split.forget)
        assert len(set(rows.tolist())) == len(rows)
        assert set(rows.tolist()) <= set(split.retain.rows.tolist())
        labels = split.pool.labels[np.searchsorted(split.pool.rows, rows)]
        if isinstance(request_, ByClass):
            assert len(table["classes"]) == len(request_.classes)
        elif not isinstance(request_, AtRandom):
            assert (
                np.bincount(labels, minlength=4).tolist()
                == np.bincount(split.forget.labels, minlength=4).tolist()
            )
        assert table == surrogate(request_, split, seed)
    several = {str(surrogate(request_, split, seed)) for seed in range(20)}
    # two classes of four leave two: there is no choice then
    assert len(several) > 1 or request_ == ByClass(classes=(0, 3))


def test_with_one_other_class_there_is_nothing_to_tell_apart():
    request = ByClass(classes=(1,))
    with pytest.raises(DataError, match=r"enough other classes for a surrogate of class 1, got 1: .*oracle"):
        surrogate(request, split_of(request, classes=2), 0)
    assert surrogate(request, split_of(request, classes=3), 0)["how"] == "class"


def test_more_classes_than_are_left():
    request = ByClass(classes=(0, 1, 2))
    with pytest.raises(DataError, match=r"surrogate of classes 0, 1, 2, got 1"):
        surrogate(request, split_of(request), 0)


def test_a_request_for_most_rows_leaves_too_few():
    request = AtRandom(share=0.6)
    with pytest.raises(
        DataError, match=r"as many retained rows .* random 60 % forgets, got too few \(24 where "
    ):
        surrogate(request, split_of(request), 0)


def test_too_few_of_some_classes_are_told_together():
    request = ByRows(rows=(*range(8), *range(10, 17), 20))
    with pytest.raises(
        DataError, match=r"\(8 of class 0 where retain has 2, 7 of class 1 where retain has 3\)"
    ):
        surrogate(request, split_of(request), 0)
