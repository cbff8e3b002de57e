"""Rows to forget that stand in retain once more."""

import numpy as np
import pytest

from secateur.lab.duplicates import duplicates
from secateur.split import Split


def count(x, forget=(0, 1, 2, 3)):
    found = duplicates(Split.of(x, np.arange(len(x)) % 3, forget=list(forget)))
    return found["duplicates.near"], found["duplicates.exact"]


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(3000, 2, 8)).astype(np.float32)


def test_rows_that_differ_are_none(x):
    assert count(x) == (0, 0)


def test_copies_are_counted_once_each(x):
    x[[10, 2500]] = x[1]
    x[11] = x[3]
    assert count(x) == (2, 2)


def test_a_row_nearly_the_same_is_near_and_not_exact(x):
    x[10] = x[1] + 0.01
    x[11] = x[2] + 1.0
    assert count(x) == (1, 0)


def test_bytes_count_as_the_pictures_that_they_are(x):
    pictures = (np.abs(x) * 80).clip(0, 255).astype(np.uint8)
    pictures[10] = pictures[1]
    assert count(pictures) == (1, 1)


def test_against_the_slow_way(x):
    rng = np.random.default_rng(1)
    x[100:104] = x[:4] + rng.uniform(0, 0.12, (4, 1, 1)).astype(np.float32) * rng.normal(size=(4, 2, 8))
    flat = x.reshape(len(x), -1).astype(np.float64)
    mean = flat[4:].mean(0)
    near = sum(
        np.linalg.norm(flat[4:] - row, axis=1).min() <= 0.05 * np.linalg.norm(row - mean) for row in flat[:4]
    )
    assert 0 < near < 4
    assert count(x) == (near, 0)


def test_a_mapping_cannot_be_compared():
    split = Split.of({"a": np.zeros((6, 2), np.float32)}, np.arange(6) % 2, forget=[0])
    assert duplicates(split) == {}
