"""Requests: the rows they name, drawn from those that are not held out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import DataError, PlanError
from secateur.lab.request import read_request

Y = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 5])
FREE = np.array([0, 1, 2, 3, 5, 8, 9])


def choose(seed=0, **table):
    return read_request(table, "data.forget").choose(Y, FREE, seed).tolist()


def test_a_class_goes_whole_but_for_held_out_rows():
    assert choose(how="class", classes=[2]) == [2, 5, 8]
    assert choose(how="class", classes=[5, 0]) == [0, 3, 9]


def test_named_rows_are_taken_as_they_are():
    assert choose(how="rows", rows=[8, 1]) == [8, 1]


@given(count=st.integers(1, len(FREE)), seed=st.integers(0, 10**6))
def test_random_rows_are_free_rows_fixed_by_the_seed(count, seed):
    rows = choose(seed, how="random", count=count)
    assert len(rows) == count
    assert rows == sorted(set(rows) & set(FREE.tolist()))
    assert rows == choose(seed, how="random", count=count)


def test_a_share_is_of_the_free_rows():
    assert len(choose(how="random", share=0.43)) == 3
    draws = {tuple(choose(seed, how="random", share=0.43)) for seed in range(20)}
    assert len(draws) > 5


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"how": "class", "classes": [3]}, "class 3"),
        ({"how": "class", "classes": [3, 5]}, "classes 3, 5"),
        ({"how": "random", "share": 0.1}, "random 10 %"),
        ({"how": "random", "count": 4}, "4 random rows"),
        ({"how": "rows", "rows": [7]}, "row 7"),
        ({"how": "rows", "rows": [7, 9]}, "2 named rows"),
    ],
)
def test_it_says_what_it_asks(table, words):
    assert str(read_request(table, "data.forget")) == words


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("class 3", r"data\.forget should be a table such as"),
        ({}, r"data\.forget\.how should name a way .* got None: one of: class, random, rows"),
        ({"how": "clas"}, r"got 'clas': did you mean \"class\"\?"),
        ({"how": ["class"]}, r"how should name a way to choose rows, got \['class'\]"),
        ({"how": "class"}, '"classes" is missing'),
        ({"how": "class", "classes": []}, r"classes = \[\] names none: name at least one class"),
        ({"how": "class", "classes": [3, 3]}, "class 3 is named 2 times: name each class once"),
        ({"how": "class", "classes": [-1]}, "greater than or equal to 0"),
        ({"how": "class", "classes": [2.0]}, "valid integer"),
        ({"how": "class", "classes": [True]}, "valid integer"),
        ({"how": "class", "classes": 3}, r"classes should be .*got 3"),
        ({"how": "class", "clases": [3]}, r'unknown key "clases", did you mean "classes"\?'),
        ({"how": "random"}, 'either "share" or "count"'),
        ({"how": "random", "share": 0.1, "count": 3}, 'either "share" or "count"'),
        ({"how": "random", "share": 0.0}, "greater than 0"),
        ({"how": "random", "share": 1}, "less than 1"),
        ({"how": "random", "count": 0}, "greater than or equal to 1"),
        ({"how": "rows", "rows": []}, r"rows = \[\] names none: name at least one row"),
        ({"how": "rows", "rows": [2**63]}, "less than 9223372036854775808"),
        ({"how": "rows", "rows": ["1"]}, "valid integer"),
    ],
)
def test_what_means_nothing_is_refused(table, fault):
    with pytest.raises(PlanError, match=fault) as caught:
        read_request(table, "data.forget")
    assert all(one.startswith("data.forget") for one in caught.value.faults)


def test_absent_classes_and_too_many_rows_show_with_the_data():
    with pytest.raises(DataError, match=r"classes to forget in 0\.\.5, got 4: no training row has it"):
        choose(how="class", classes=[0, 4])
    with pytest.raises(DataError, match="at most 7 rows to forget, got 8: the others are held out"):
        choose(how="random", count=8)
