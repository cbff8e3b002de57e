from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from secateur.errors import DataError
from secateur.table import Table

X, Y = np.arange(12, dtype=np.float32).reshape(4, 3), [0, 1, 2, 1]


@pytest.mark.parametrize(
    "given",
    [
        (X, Y),
        (torch.from_numpy(X), torch.tensor(Y, dtype=torch.uint8)),
        (X.tolist(), np.array(Y, dtype=np.uint16)),
        (TensorDataset(torch.from_numpy(X), torch.tensor(Y)), None),
        (list(zip(X, Y, strict=True)), None),
    ],
    ids=["arrays", "tensors", "lists", "data set", "pairs"],
)
def test_rows_are_read_from_anything(given):
    table = Table.read(*given, what="the data")
    assert table.x.tolist() == X.tolist()
    assert table.y.tolist() == Y
    assert table.y.dtype == table.ids.dtype == torch.int64
    assert table.ids.tolist() == [0, 1, 2, 3]


def test_a_mapping_keeps_its_names_and_types():
    given = {"text": np.array([[1, 2], [3, 4]]), "mask": np.array([[True], [False]])}
    table = Table.read(given, [0, 1], what="the data")
    pairs = [({key: part[i] for key, part in given.items()}, i) for i in range(2)]
    for read in (table, Table.read(pairs, None, what="the data")):
        assert {key: part.dtype for key, part in read.x.items()} == {"text": torch.int64, "mask": torch.bool}
        assert read.x["text"].tolist() == [[1, 2], [3, 4]]


def test_what_was_read_stays_when_the_caller_writes():
    x, y = torch.ones(3, 2), torch.zeros(3, dtype=torch.int64)
    array = np.ones((3, 2))
    tables = Table.read(x, y, what="the data"), Table.read(array, y, what="the data")
    x.zero_()
    y.fill_(7)
    array[:] = 0
    assert all(bool((table.x == 1).all()) and bool((table.y == 0).all()) for table in tables)


class OneBuffer:
    """Hands out the same memory for every item."""

    def __init__(self):
        self.buffer = np.zeros(2)

    def __len__(self):
        return 5

    def __getitem__(self, i):
        self.buffer[:] = i
        return self.buffer, i


def test_a_data_set_that_reuses_its_memory():
    assert Table.read(OneBuffer(), None, what="the data").x.tolist() == [[i, i] for i in range(5)]


class Changing:
    def __init__(self, which):
        self.which, self.reads = which, 0

    def __len__(self):
        return 300

    def __getitem__(self, i):
        self.reads += i == 299
        moved = int(i == 299 and self.reads > 1)
        if self.which == "name":
            return {"ab"[moved]: np.zeros(2)}, i
        return (np.full(2, i + moved), i) if self.which == "x" else (np.full(2, i), i + moved)


@pytest.mark.parametrize("which", ["x", "y", "name"])
def test_a_data_set_that_changes_between_two_reads(which):
    with pytest.raises(DataError, match="item 299 of the data to be the same on a second read"):
        Table.read(Changing(which), None, what="the data")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((X, [0, 1]), "one label for each row"),
        ((np.float32(3), [0]), "one label for each row"),
        ((X, [0.0, 1.0, 2.0, 1.0]), "labels of the data as integers"),
        ((X, [True] * 4), "labels of the data as integers"),
        ((X, [[0], [1], [2], [1]]), "labels of the data as integers"),
        ((X, ["a", "b", "c", "b"]), "labels of the data as numbers"),
        ((X, [0, -1, 2, 1]), "got label -1"),
        ((np.where(X == 5, np.nan, X), Y), "finite values"),
        ((np.where(X == 5, np.inf, X), Y), "finite values"),
        (({"a": X, "b": X[:2]}, Y), r"got x b of shape \(2, 3\)"),
        (([["a"], ["b"]], [0, 1]), "the data as numbers"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "the data as numbers"),
        ((X, None), "item 0 of the data to be a pair"),
        ((3, None), "map-style data set"),
        (([], None), "got an empty data set"),
        (([(X[0], 0.5)], None), "label of item 0 of the data as an integer, got 0.5"),
        (([(X[0], 0), (X[0][:2], 1)], None), "in one shape"),
        (([({"a": X[0]}, 0), ({"b": X[0]}, 1)], None), "in one shape"),
    ],
)
def test_what_cannot_be_read(given, words):
    with pytest.raises(DataError, match=words):
        Table.read(*given, what="the data")


def test_one_copy_on_each_device():
    table = Table.read({"a": X}, Y, what="the data")
    assert table.to(torch.device("cpu")) is table
    away = table.to(torch.device("meta"))
    assert away.x["a"].device.type == away.y.device.type == away.ids.device.type == "meta"
    assert table.to(torch.device("meta")) is away


def sampled(ids=(3, 10, 50, 2**40)):
    return Table.read(X, Y, what="the data", ids=ids)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda ids: np.array(ids, dtype=np.uint64)])
def test_ids_are_kept(kind):
    table = sampled(kind([3, 10, 50, 2**40]))
    assert (table.ids.tolist(), table.ids.dtype) == ([3, 10, 50, 2**40], torch.int64)
    assert table.positions(np.array([2**40, 3]), "it").tolist() == [3, 0]
    assert table.positions(np.array([], dtype=np.int64), "it").tolist() == []


@pytest.mark.parametrize(
    ("ids", "got"),
    [
        ([0, 1, 2], r"torch\.int64 of shape \(3,\): an id"),
        ([0, 1, 2, 2], r"torch\.int64 of shape \(4,\), not ascending: an id names one row for good"),
        ([0, 2, 1, 3], "not ascending"),
        ([0.0, 1.0, 2.0, 3.0], r"torch\.float64"),
        ([False, True, True, True], r"torch\.bool"),
        ([[0, 1, 2, 3]], r"shape \(1, 4\): an id"),
    ],
)
def test_ids_that_identify_nothing(ids, got):
    with pytest.raises(DataError, match=rf"the ids of the data as integers \[4\], ascending, .* got .*{got}"):
        sampled(ids)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (
            [3, 4],
            r"rows of the training data in it, ids 3\.\.1099511627776, of which 4 are here, got 4: name",
        ),
        ([2], "got 2"),
        ([2**62], "got 4611686018427387904"),
        ([-1], "got -1"),
        ([3, 50, 3], "each row once in it, but row 3 is named 2 times"),
    ],
)
def test_rows_that_are_not_there_or_twice(ids, says):
    with pytest.raises(DataError, match=says):
        sampled().positions(np.array(ids), "it")


def test_without_ids_positions_are_themselves():
    table = Table.read(X, Y, what="the data")
    assert table.positions(np.array([3, 0]), "it").tolist() == [3, 0]
    with pytest.raises(DataError, match=r"in it, ids 0\.\.3, got 4: name rows that are there"):
        table.positions(np.array([4]), "it")
