"""Data sets. Each is a function of keyword knobs to a Collection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.data import Augment
from secateur.rows import stratified_order


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A data set, before anyone asked to forget some of it.

    Attributes:
        train: ``(x, y)`` arrays, or a map-style data set.
        test: The same, from rows that no step sees.
        augment: Of training batches.
        names: Of the classes, in order.
    """

    train: Any
    test: Any
    augment: Augment | None = None
    names: tuple[str, ...] = ()


def digits(*, noise: float = 0.0, test: float = 0.2) -> Collection:
    """Handwritten digits (1,797 images of 8 x 8, from the UCI repository by way of scikit-learn).

    Args:
        noise: Share of training labels that is replaced by another class, drawn once: rows that only memory
            can learn.
        test: Share of the rows that is kept for testing, stratified; its labels are never changed.

    Returns:
        Images [n, 1, 8, 8] as uint8 in 0..255, labels [n].
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = np.round(x.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = stratified_order(y, seed=0)
    held, rest = np.sort(order[: round(test * len(y))]), np.sort(order[round(test * len(y)) :])
    labels = y[rest].copy()
    rng = np.random.default_rng(0)
    wrong = rng.choice(len(labels), round(noise * len(labels)), replace=False)
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    names = tuple(str(digit) for digit in range(10))
    return Collection(train=(images[rest], labels), test=(images[held], y[held]), names=names)
